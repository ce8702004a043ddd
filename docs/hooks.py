"""Hooks of the site: pages made from code (configuration keys, schemes) and of the notebook; links out of docs/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from spfl.config.schema import Config
from spfl.schemes import SCHEMES

ROOT = Path(__file__).parents[1]
NOTEBOOK = "examples/first_steps.ipynb"
REPOSITORY_FILES = re.compile(r"\[([^\]]*)\]\((?:\.\./)+((?:examples|configs|src|benchmarks|tests)[^)]*|[A-Z]+\.md)\)")


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "configuration.md", content=configuration_page()))
    files.append(File.generated(config, "schemes.md", content=schemes_page()))
    files.append(File.generated(config, "notebook.md", content=notebook_page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in the files that `# include: FILE` names; links to files that the site does not have become their names."""
    markdown = re.sub(r"^# include: (.*)$", lambda found: (ROOT / found[1]).read_text(), markdown, flags=re.MULTILINE)
    return REPOSITORY_FILES.sub(_name_of, markdown.replace(f"../{NOTEBOOK}", "notebook.md"))


def _name_of(link: re.Match[str]) -> str:
    text, file = link.groups()
    return f"`{file}`" if text in file else f"{text} (`{file}`)"


def schemes_page() -> str:
    rows = [f"| `{scheme.name}` | {scheme.source} | {scheme.summary} |" for scheme in SCHEMES.values()]
    about = "All schemes, as `spfl info` lists them. [Choosing a scheme](choosing.md) says which to take."
    return "\n".join(["# Schemes", "", about, "", "| name | source | what it does |", "|---|---|---|", *rows]) + "\n"


def configuration_page() -> str:
    schema = Config.model_json_schema()
    lines = ["# Configuration", "", INTRODUCTION, "", "## At the top", "", *_table(schema, schema["properties"])]
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = schema["$defs"][field.annotation.__name__]
            lines += ["", f"## [{name}]", "", section["description"], "", *_table(schema, section["properties"])]
    return "\n".join(lines) + "\n"


def notebook_page() -> str:
    """The notebook of the examples as a page: its text, its code, and what it showed when it was executed."""
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    about = f"This page is a notebook: `spfl init .` writes it to `{NOTEBOOK}`.\n"
    title, *rest = [part for cell in cells for part in _cell(cell)]
    return "\n\n".join([title, about, *rest])


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    shown = [_output(output) for output in cell["outputs"]]
    return [f"```python\n{source}\n```", *(text for text in shown if text)]


def _output(output: dict[str, Any]) -> str:
    """What a cell put out: a table or picture where there is one, else text."""
    kinds = {kind: "".join(lines) for kind, lines in output.get("data", {}).items()}
    if "image/png" in kinds:
        return f'<img alt="figure" src="data:image/png;base64,{kinds["image/png"].strip()}">'
    text = "".join(output.get("text", kinds.get("text/plain", "")))
    return kinds.get("text/html") or (f"```text\n{text.rstrip()}\n```" if text else "")


INTRODUCTION = (
    "A TOML file; a key left out takes its default. `--set section.key=value` overrides a key, `spfl config show` "
    "prints the result, and `spfl config schema` this page as a JSON Schema, with which editors complete and check."
)


def _table(schema: dict[str, Any], properties: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{key}` | {_default(about)} | {_values(about)} | {about['description']} |"
        for key, about in properties.items()
        if "$ref" not in about
    ]
    return ["| key | default | values | meaning |", "|---|---|---|---|", *rows]


def _default(about: dict[str, Any]) -> str:
    value = about.get("default")
    return "absent" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(about: dict[str, Any]) -> str:
    kinds = [about, *about.get("anyOf", [])]
    choices = [str(value) for kind in kinds for value in kind.get("enum", [kind["const"]] if "const" in kind else [])]
    bounds = [
        f"{sign} {kind[name]:g}"
        for kind in kinds
        for name, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if name in kind and abs(kind[name]) < 1e18
    ]
    types = [kind["type"] for kind in kinds if kind.get("type") not in (None, "null", "string")]
    return ", ".join([*choices, *dict.fromkeys(types), *bounds]).replace("|", "\\|")
