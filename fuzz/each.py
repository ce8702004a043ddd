"""Each situation by itself: every command with every strange path, stream and encoding, and every strange part once.

`python fuzz/situations.py` composes them at random; this walks over all of them, one at a time. Where it can, it first
gives up root's right to pass over permissions, so that folders of another user are really closed.

python fuzz/each.py [PART/OF ...]    parts of all, such as 0/4
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import situations
from situations import COMMANDS, MACHINE, OPTIONS, PATHS, PLACES, SETTINGS, STREAMS, TAKES_SET, Situation
from strange_inputs import DATASETS, FILES, NETWORKS, PLUGINS, write_inputs

NOBODY = 65534
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


def others(base: Path) -> dict[str, str]:
    """Real paths of another user, by what is strange about them; none unless root makes them."""
    if os.getuid():
        return {}
    for name, mode in (("closed", 0o700), ("readable", 0o755)):
        (base / name).mkdir()
        for file, closed in (("file", 0o644), ("secret", 0o600)):
            (base / name / file).write_text("x\n")
            (base / name / file).chmod(closed)
            os.chown(base / name / file, NOBODY, NOBODY)
        (base / name).chmod(mode)
        os.chown(base / name, NOBODY, NOBODY)
    base.chmod(0o755)
    return {
        "another's closed folder": f"{base}/closed",
        "below another's closed folder": f"{base}/closed/x",
        "another's folder": f"{base}/readable",
        "below another's folder": f"{base}/readable/x",
        "another's file": f"{base}/readable/file",
        "another's secret": f"{base}/readable/secret",
    }


def every(paths: dict[str, str]) -> Iterator[Situation]:
    """All of them, in an order that is always the same."""
    seen = set[str]()
    for words in COMMANDS:
        name = " ".join(words[:2]) if words[0] in ("config", "flower", "radio") else words[0]
        yield from _at_each_place(name, words, paths)
        yield from _at_each_stream(name, words)
        for option in OPTIONS.get(name, ()):
            yield _made(name, [*words, *option], f"option: {' '.join(option)}")
        if name in seen:
            continue
        seen.add(name)
        for machine in MACHINE:
            yield _made(name, words, f"machine: {machine}", machine=machine)
        for setting in SETTINGS if name in TAKES_SET else ():
            yield _made(name, [*words, "--set", setting], f"setting: {setting[:40]}")
        for kind, added in _parts() if name in ("run", "flower run") else ():
            yield _made(name, [*words, *added], kind)


def _at_each_place(name: str, words: list[str], paths: dict[str, str]) -> Iterator[Situation]:
    for at, word in enumerate(words):
        for kind, path in paths.items() if word.partition(".")[0] in PLACES else ():
            if kind != "a pipe" or word not in ("CONFIG", "SWEEP", "CSV"):  # these may come by one: spfl run <(...)
                what = f"path: {kind}{', a plugin' if word == 'PLUGIN' else ''}"
                yield _made(name, [*words[:at], path, *words[at + 1 :]], what)


def _at_each_stream(name: str, words: list[str]) -> Iterator[Situation]:
    for stream in ("stdout", "stderr"):
        for way in STREAMS:
            yield _made(name, words, f"stream: {stream} {way}", streams={stream: way})
    for encoding in ("ascii", "cp437", "latin-1"):
        strange = [os.fsdecode(b"r\xe9sum\xe9") + "é模" if word == "OUT" else word for word in words]
        yield _made(name, strange, f"stream: {encoding}", encoding=encoding)


def _parts() -> Iterator[tuple[str, list[str]]]:
    """Networks, datasets, files and own parts that are not what they seem."""
    yield from ((f"network: {name}", ["--set", f"model.factory=networks.py:{name}"]) for name in NETWORKS)
    yield from ((f"dataset: {name}", ["--set", f"data.name=datasets.py:{name}"]) for name in DATASETS)
    yield from ((f"file: {name}", ["--set", f"data.name=./{name}", *more]) for name, more in FILES.items())
    yield from ((f"part: {name}", ["--set", f"plugin.path={name}.py"]) for name in PLUGINS)


def _made(name: str, words: list[str], kind: str, **strange: object) -> Situation:
    filled = [situations._filled(word) for word in words]
    return Situation(kind, name, filled, kinds=[kind], **strange)  # type: ignore[arg-type]


def walk(parts: Sequence[tuple[int, int]]) -> Counter[str]:
    """Try parts of all; returns how they ended, and prints those that ended badly, and how far it is."""
    found, base = Counter[str](), Path(tempfile.mkdtemp())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (base / "inputs").mkdir()
        write_inputs(base / "inputs")
        situations.as_python_shows_them()
        situations.make_ready(base)
        ways = list(every(PATHS | others(base)))
        for part, of in parts:
            for made in ways[part::of]:
                ended = situations.attempt(made, base / "inputs", base / "here")
                found["bad" if ended.bad else f"exit code {ended.code}"] += 1
                if ended.bad:
                    print(f"{ended.bad}: spfl {made.arguments}; {made.kinds}")
                    print(f"    {ended.out[-300:]!r} {ended.err[-800:]!r}", flush=True)
            print(f"after part {part}/{of}, of {len(ways)}: {dict(sorted(found.items()))}", flush=True)
    shutil.rmtree(base, ignore_errors=True)
    return found


if __name__ == "__main__":
    if os.getuid() == 0 and shutil.which("setpriv") and "SPFL_UNPRIVILEGED" not in os.environ:
        again = [*UNPRIVILEGED, sys.executable, __file__, *sys.argv[1:]]
        os.execvpe(again[0], again, os.environ | {"SPFL_UNPRIVILEGED": "1"})
    asked = [tuple(map(int, word.split("/"))) for word in sys.argv[1:] or ["0/1"]]
    counts = walk(asked)
    print(f"{counts.total()} situations: {dict(sorted(counts.items()))}")
    raise SystemExit(1 if counts["bad"] else 0)
