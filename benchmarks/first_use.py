"""The usual ways through the docs, walked as a new user: an installed wheel, an empty folder, the commands as written.

    python -m build --wheel
    python benchmarks/first_use.py dist/*.whl --out docs/results/first-use.md

Makes a virtual environment (`--venv` takes one that is there), walks each way in a folder of its own, and writes a
table of the times. A way is a page, or sections of it: its TOML and titled blocks become files, its `spfl` lines and
its Python are run in order. `--pages` walks other pages, `--rounds 3` shortens whatever trains.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
TORCH = "torch==2.13.0"
EXTRAS = "all,flower,tensorboard,udp"  # all that the pages ask for
NOT_RUN = ("spfl radio calibrate",)  # takes half an hour


class Way(NamedTuple):
    """A way by its name, the page, and the headings of the sections that it has; all when there are none."""

    name: str
    page: str
    sections: tuple[str, ...] = ()


WAYS = (
    Way("README, top to bottom", "README.md"),
    Way("a first sweep", "docs/first-sweep.md"),
    Way("a scheme of one's own", "docs/own-parts.md"),
    Way("data of one's own", "docs/inputs.md"),
    Way("a network of one's own", "docs/networks.md"),
    Way("figures for a paper", "docs/paper-figures.md", ("1. A sweep", "2. Figures")),
    Way("tables", "docs/paper-figures.md", ("3. Tables", "4. From Python")),
    Way("an archive", "docs/paper-figures.md", ("5. An archive",)),
    Way("the notebook", "examples/first_steps.ipynb"),
    Way("the report", "docs/report.md"),
    Way("the deployment page", "docs/deploy.md"),
)


class Step(NamedTuple):
    """A command line with its seconds and, when it failed, what it said."""

    line: str
    seconds: float
    fault: str


class Place(NamedTuple):
    """Where a page is walked: an environment, a folder, and how many rounds whatever trains is cut to."""

    bin: Path
    folder: Path
    rounds: int | None

    def run(self, line: str) -> Step:
        """A line as a shell runs it, with this environment alone on the path."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
        variables |= {"PATH": f"{self.bin}:/usr/bin:/bin", "SPFL_CA_PASSPHRASE": "of a walk through the docs"}
        began = time.perf_counter()
        done = subprocess.run(line, shell=True, cwd=self.folder, env=variables, capture_output=True, text=True)
        said = (done.stdout + done.stderr)[-2000:] if done.returncode else ""
        return Step(line, time.perf_counter() - began, said)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")


def sections(text: str, wanted: tuple[str, ...]) -> str:
    """The parts of a page under these headings of the second rank; the whole page when none is named."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    if missing := [name for name in wanted if not any(part.startswith(f"{name}\n") for part in parts)]:
        raise SystemExit(f"no such sections: {', '.join(missing)}")
    return "".join(part for part in parts if not wanted or part.startswith(tuple(f"{name}\n" for name in wanted)))


def included(body: str) -> str:
    """A block with the files put in that it includes, as the site shows it."""
    return re.sub(r"# include: (.*)", lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), body)


def lines(body: str, rounds: int | None) -> Iterator[str]:
    """The `spfl` lines of a block of shell, and of the text in backticks where a page has its commands in tables."""
    for line in body.replace("\\\n", " ").splitlines():
        if line.startswith("spfl ") and not line.startswith(NOT_RUN) and " DIR" not in line:
            trains = re.match(r"spfl (run(?!.* --resume)|compare|sweep|radio udp|flower run)", line)
            yield f"{line} --set training.rounds={rounds}" if trains and rounds else line


def walk(way: Way, place: Place) -> Iterator[Step]:
    """Every step of a way, in the order of the page; it goes on after one that fails."""
    if way.page.endswith(".ipynb"):
        yield place.run(f"jupyter execute {way.page}")
        return
    told = sections((ROOT / way.page).read_text(encoding="utf-8"), way.sections)
    scripts = 0
    for kind, title, body in FENCE.findall(told):
        if title:
            place.write(title, included(body))
        elif kind == "python":
            scripts += 1
            place.write(f"block_{scripts}.py", included(body))
            yield place.run(f"python block_{scripts}.py")
        elif kind == "sh":
            yield from (place.run(line) for line in lines(body, place.rounds))
    if way.page == "docs/known-as.md":
        for line in lines("\n".join(re.findall(r"`(spfl [^`]+)`", told)), place.rounds):
            yield place.run(line)


def install(wheel: Path, folder: Path) -> tuple[Path, list[Step]]:
    """A virtual environment with the wheel; PyTorch first and alone, so that nothing else chooses its build."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    place = Place(folder / "bin", folder, None)
    packages = f"'{wheel.resolve()}[{EXTRAS}]' nbclient ipykernel"
    steps = [place.run(f"pip install -q {what}") for what in (TORCH, f"{TORCH} {packages}")]
    if fault := "".join(step.fault for step in steps):
        raise SystemExit(fault)
    return folder / "bin", steps


def row(name: str, page: str, steps: list[Step]) -> str:
    slowest = max(steps, key=lambda step: step.seconds)
    words = " ".join(shlex.split(slowest.line)[:3])
    total = sum(step.seconds for step in steps)
    return f"| {name} | {page} | {len(steps)} | {total:.0f} | `{words}`, {slowest.seconds:.0f} |"


def machine() -> str:
    """Processor, cores, memory, Python, day and commit of the numbers."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return (
        f"{os.cpu_count()} cores of {model[1] if model else platform.processor()}, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, {date.today()}, commit {commit.strip()}"
    )


def table(found: Mapping[Way, list[Step]], installed: list[Step]) -> str:
    head = ["| way | page | commands | seconds | slowest command, seconds |", "|---|---|---:|---:|---|"]
    body = [row("install the wheel", "README.md", installed)] if installed else []
    for way, steps in found.items():
        name = Path(way.page).name
        body.append(row(way.name, f"[{name}]({name})" if way.page.startswith("docs/") else name, steps))
    return "\n".join([*head, *body, "", f"On {machine()}."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path, nargs="?", help="built wheel; needed without --venv")
    parser.add_argument("--venv", type=Path, help="environment with spfl and the extras in it, in place of a new one")
    parser.add_argument("--ways", nargs="+", choices=[way.name for way in WAYS], metavar="NAME", help="these ways only")
    parser.add_argument("--pages", nargs="+", default=[], help="pages to walk in place of the eleven ways")
    parser.add_argument("--rounds", type=int, help="cut whatever trains to so many rounds")
    parser.add_argument("--folder", type=Path, help="where to walk; a temporary folder when left out")
    parser.add_argument("--out", type=Path, help="file for the table")
    asked = parser.parse_args()
    base = asked.folder or Path(tempfile.mkdtemp(prefix="first-use-"))
    bin_, installed = (asked.venv.resolve() / "bin", []) if asked.venv else install(asked.wheel, base / "venv")
    found: dict[Way, list[Step]] = {}
    chosen = [way for way in WAYS if not asked.ways or way.name in asked.ways]
    ways = [Way(page, page) for page in asked.pages] or chosen
    for way in ways:
        folder = base / Path(way.page).stem  # sections of one page follow each other in one folder
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(bin_, folder.resolve(), asked.rounds)
        found[way] = [place.run("spfl init .")]
        for step in walk(way, place):
            print(f"{step.seconds:6.1f} s  {step.line}", *([step.fault] if step.fault else []), sep="\n", flush=True)
            found[way].append(step)
    text = table(found, installed)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    if not asked.folder:
        shutil.rmtree(base)
    return int(any(step.fault for steps in found.values() for step in steps))


if __name__ == "__main__":
    sys.exit(main())
