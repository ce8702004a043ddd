"""The last section of a report: how to run it all again, or why no command can."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from spfl.config.files import dotted, to_toml
from spfl.errors import SpflError
from spfl.files import LARGEST_TEXT, check_own, is_file, read_file
from spfl.report.parts import PageSection, PageTable, Panel
from spfl.runs.experiment import ENVIRONMENT, read_json
from spfl.runs.jsons import Json
from spfl.runs.past import CONFIG
from spfl.runs.results import Group, Run, differing
from spfl.schemes import SCHEMES
from spfl.studies.plan import PLAN
from spfl.version import __version__

SWEEP_FILE = "sweep.toml"
PLAIN = re.compile(r"[0-9A-Za-z.+-]{1,80}")  # what a version or a commit looks like
EMBEDDED = "digits"  # the data that need no folder
NOTE = (
    "The commands are for the folder in which the report was made. Equal configurations give equal digests on the same "
    "machine and versions."
)


def reproduction(folder: Path, groups: Sequence[Group]) -> PageSection:
    """Commands, environment and digests."""
    environment = read_json(folder / ENVIRONMENT) if is_file(folder / ENVIRONMENT) else {}
    if not environment and groups:
        environment = groups[0].runs[0].environment
    listings = [("Commands", "\n".join(commands(folder, groups, environment)))]
    listings += [(name, text) for name, text in sources(folder, groups) if name in (SWEEP_FILE, PLAN)]
    facts = {key: value for key, value in dotted(environment).items() if value not in (None, "", [])}
    listings.append(("Environment", "\n".join(f"{key} = {value}" for key, value in facts.items())))
    digests = [[g.label, str(run.config.seed), run.summary["digest"]] for g in groups for run in g.runs]
    tables = [PageTable(["run", "seed", "SHA-256 of its metrics"], digests)] if digests else []
    return PageSection("Do it again", NOTE, [Panel(listings=listings, tables=tables)])


def check_shown(folder: Path, groups: Sequence[Group]) -> None:
    """Raises RunFolderError for a file that a report shows whole, and that may be another file of the user's."""
    for place in (folder, *(run.folder for group in groups for run in group.runs)):
        for name in (PLAN, SWEEP_FILE, CONFIG, ENVIRONMENT):
            check_own(place / name)


def sources(folder: Path, groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The files that configure all this, by name: a sweep's, a comparison's, or the run's."""
    found = [name for name in (PLAN, SWEEP_FILE, CONFIG) if is_file(folder / name)]
    told = [(name, read_file(folder / name, LARGEST_TEXT).decode(errors="replace")) for name in found]
    return told or [(f"{run.folder.name}.toml", to_toml(run.config)) for group in groups for run in group.runs[:1]]


def commands(folder: Path, groups: Sequence[Group], environment: Json) -> list[str]:
    """Lines for a shell. The folder may be of somebody else: what is no plain word in it is quoted, or left out."""
    versions, commit = environment.get("versions"), _plain(environment.get("commit"))
    version = _plain(versions.get("spfl")) if isinstance(versions, dict) else None
    lines = [f"# spfl {version or __version__}" + (f", commit {commit}" if commit else "")]
    runs = [run for group in groups for run in group.runs]
    if (hindrance := _hindrance(folder, runs)) is not None:
        return [*lines, f"# No command runs this again: {hindrance}."]
    names = {run.config.data.name for run in runs} | set(environment.get("datasets", {}))
    if any(name != EMBEDDED for name in names):
        lines.append("# Needs the data: SPFL_DATA_DIR or --data-dir names their folder.")
    plugins = {
        str(run.config.plugin.path): str(run.config.plugin.sha256)[:12] for run in runs if run.config.plugin.path
    }
    lines += [f"# Needs {shlex.quote(path)}, whose SHA-256 begins with {digest}." for path, digest in plugins.items()]
    if is_file(folder / PLAN):
        return [*lines, _words("sweep", folder / PLAN, "--out", "runs/again"), _words("verify", folder)]
    if len(runs) == 1:
        return [*lines, _run_again(runs[0].folder, "again"), _words("verify", runs[0].folder)]
    if _is_product(folder, groups):
        seeds = ",".join(str(run.config.seed) for run in groups[0].runs)
        schemes = ",".join(group.scheme for group in groups)
        options = ("--schemes", schemes, "--seeds", seeds, "--out", "runs/again")
        return [*lines, _words("compare", folder / CONFIG, *options)]
    return lines + [_run_again(run.folder, run.folder.name) for run in runs]


def _hindrance(folder: Path, runs: Sequence[Run]) -> str | None:
    """Why no command can run it again; None when one can."""
    own = {part: name for run in runs for part, name in run.environment.get("custom", {}).items()}
    if own:
        parts = ", ".join(f"{part} = {name}" for part, name in own.items())
        return f"it has parts of its caller's own ({parts}), whose code is not in the folder; the same Python call does"
    strange = {run.config.scheme.name for run in runs if run.config.plugin.path is None} - SCHEMES.keys()
    if strange:
        return f"the scheme {', '.join(sorted(strange))} is not one of this version"
    if is_file(folder / SWEEP_FILE) and not is_file(folder / PLAN):
        return f"an older version wrote it, without {PLAN}; spfl sweep --resume with the authors' file writes one"
    return None


def _is_product(folder: Path, groups: Sequence[Group]) -> bool:
    """Whether one comparison of the folder's configuration makes all runs: each scheme with the same seeds."""
    if not is_file(folder / CONFIG) or len({group.scheme for group in groups}) < len(groups):
        return False
    seeds = {tuple(run.config.seed for run in group.runs) for group in groups}
    try:
        keys = {key for key, _ in differing(groups)}
    except SpflError:
        return False
    return len(seeds) == 1 and keys <= {"scheme.name"}


def _run_again(folder: Path, name: str) -> str:
    return _words("run", folder / CONFIG, "--out", f"runs/{name}")


def _words(*words: object) -> str:
    return shlex.join(["spfl", *map(str, words)])


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) and PLAIN.fullmatch(value) else None
