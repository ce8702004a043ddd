"""Text of a user's, such as the name of a scheme, as LaTeX prints it letter by letter."""

from __future__ import annotations

import re

JOINT = "\N{ZERO WIDTH NON-JOINER}"  # between letters that are not to be drawn as one
SYMBOLS = {
    JOINT: "{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\ensuremath{<}",
    ">": "\\ensuremath{>}",
    "\N{PLUS-MINUS SIGN}": "\\ensuremath{\\pm}",
    "\N{MINUS SIGN}": "\\ensuremath{-}",
    "\N{GREEK SMALL LETTER ALPHA}": "\\ensuremath{\\alpha}",
    "\N{GREATER-THAN OR EQUAL TO}": "\\ensuremath{\\geq}",
    "\N{DOUBLE VERTICAL LINE}": "\\ensuremath{\\|}",
    "\N{INFINITY}": "\\ensuremath{\\infty}",
}


def tex_text(text: str) -> str:
    """Text with every sign escaped that LaTeX would take for its own; names (sp_fl) have no ligatures of f."""
    apart = re.sub(r"\w*_\w*", lambda name: re.sub(r"f(?=[fil])", f"f{JOINT}", name[0]), text)
    return "".join(SYMBOLS.get(sign, sign) for sign in apart)
