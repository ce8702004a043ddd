"""The order of the folders of the package, held by the imports themselves (CONTRIBUTING.md, "The house")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import spfl

HOUSE = Path(spfl.__file__).parent
# A folder or file imports only from those after it in this list.
ORDER = (
    "__main__", "cli", "report", "flower", "api", "studies", "udp", "testing", "runs", "training", "fleet", "world",
    "plugins", "presets", "custom", "uplink", "schemes", "scheme", "compensation", "learning", "models",
    "sequence_models", "flat_model", "tasks", "allocation", "data",
    "packets", "radio", "config", "figures", "terminal", "own_code", "files", "errors", "machine",
    "compiled", "private_folder", "units", "rng", "arrays", "version",
)  # fmt: skip
MOST_FILES = 16  # in one folder


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below `spfl`."""
    return {
        ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(HOUSE.rglob("*.py"))
        if path != HOUSE / "__init__.py"  # the list of public names: lazy, and above all
    }


def imported(path: Path) -> Iterator[str]:
    """The modules below `spfl` that a file imports anywhere in it: at the top, in functions, for types only."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (n.name.removeprefix("spfl.") for n in node.names if n.name.startswith("spfl."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spfl":
            base = node.module.removeprefix("spfl").removeprefix(".")
            for name in node.names:
                inner = f"{base}.{name.name}".removeprefix(".")
                yield inner if inner in known else base


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_folder_and_file_has_its_place_in_the_order() -> None:
    assert {room(name) for name in modules()} == set(ORDER)


@pytest.mark.parametrize("name", modules())
def test_imports_point_down(name: str) -> None:
    place = ORDER.index(room(name))
    up = [other for other in imported(modules()[name]) if other and ORDER.index(room(other)) < place]
    assert not up, f"{name} imports from above: {', '.join(up)}"


def test_nothing_imports_the_public_names() -> None:
    wrong = [name for name, path in modules().items() if "" in set(imported(path))]
    assert wrong == [], "import from the module that defines a name"


def test_no_circle() -> None:
    """Modules can be laid in a row in which each imports only from those after it."""
    left = {name: set(imported(path)) - {name, ""} for name, path in modules().items()}
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        assert free, f"these import each other in a circle, or stand above one: {', '.join(left)}"
        for name in free:
            del left[name]


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in modules().values()} - {HOUSE}
    counts = {f.name: len([p for p in f.glob("*.py") if p.name != "__init__.py"]) for f in folders}
    assert not {name: count for name, count in counts.items() if count > MOST_FILES}


def test_an_import_that_points_up_is_found(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from spfl.cli import commands\nimport spfl.units\nfrom spfl import rng, run\n")
    assert sorted(imported(file)) == ["", "cli.commands", "rng", "units"]


def types_of(path: Path) -> Iterator[str]:
    """Names of classes and of aliases of types (capitals first) that a module defines."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name[0].isupper() and not name.isupper():
                yield name


def test_a_type_has_a_name_of_its_own() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        for name in types_of(path):
            homes.setdefault(name, []).append(module)
    assert not {name: where for name, where in homes.items() if len(where) > 1}


# What a user calls once, all but the first few by keyword: each option has its name there (docs/decisions.md).
KEYWORDS = {"api.run", "runs.experiment.run_experiment", "runs.comparison.compare", "studies.runner.sweep"}
MOST_PARAMETERS = 6


def kernel(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).startswith(("njit", "vectorize"))


def crowded(name: str, path: Path) -> Iterator[str]:
    """The functions of a module with too many parameters, compiled kernels left out, and those with flags by place."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef) or any(kernel(d) for d in node.decorator_list):
            continue
        places = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
        if len(places) + len(node.args.kwonlyargs) > MOST_PARAMETERS and f"{name}.{node.name}" not in KEYWORDS:
            yield f"{name}.{node.name}: {len(places) + len(node.args.kwonlyargs)} parameters"
        for flag in places[len(places) - len(node.args.defaults) :]:
            if flag.annotation is not None and ast.unparse(flag.annotation) == "bool":
                yield f"{name}.{node.name}: {flag.arg} is a flag that can be given by place"


def test_functions_take_few_parameters_and_no_flag_by_place(tmp_path: Path) -> None:
    found = [line for name, path in modules().items() if not name.startswith("cli") for line in crowded(name, path)]
    assert found == []
    (tmp_path / "x.py").write_text("def f(a, b, c, d, *, e, f, g): ...\ndef g(a, plain: bool = False): ...\n")
    assert len(list(crowded("x", tmp_path / "x.py"))) == 2


def test_scripts_import_names_that_there_are() -> None:
    """Benchmarks, fuzzers and examples, most of which no other test runs."""
    root, missing = HOUSE.parents[1], []
    scripts = [path for folder in ("benchmarks", "fuzz", "examples") for path in sorted((root / folder).rglob("*.py"))]
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "spfl"):
                continue
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                if not hasattr(import_module(node.module), name.name) and whole.removeprefix("spfl.") not in modules():
                    missing.append(f"{path.relative_to(root)}: {whole}")
    assert len(scripts) > 40
    assert not missing
