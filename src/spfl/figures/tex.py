"""Text of a user's, such as the name of a scheme, as LaTeX prints it letter by letter."""

from __future__ import annotations

SYMBOLS = {
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
    """Text with every sign escaped that LaTeX would take for its own, and without the ligatures of f."""
    escaped = "".join(SYMBOLS.get(sign, sign) for sign in text)
    return escaped.replace("fl", "f{}l").replace("fi", "f{}i").replace("ff", "f{}f")
