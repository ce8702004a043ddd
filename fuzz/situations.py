"""Situations that users meet, composed: each ends in exit code 0, 1, 2, 130 or 143 and in words of spfl's own.

A situation is a command with up to four things out of the ordinary: a path that the machine refuses, a stream that
cannot take what is printed, a setting that nobody means, data or a network that are not what they seem, a machine that
is not ours, a signal. `python fuzz/situations.py COUNT [SEED]` makes and tries so many; `--only SEED:NUMBER` tries one
again and shows what it printed. One process imports everything and forks a child for each situation, with streams,
a working directory and an environment of its own.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import faulthandler
import functools
import gc
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # threads of OpenMP do not survive a fork
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import typer.main
from strange_inputs import DATASETS, FILES, NETWORKS, PLUGINS, write_inputs

from spfl.cli import commands
from strange_paths import STRANGE_PATHS

PATIENCE_S = 60.0  # more than any of them takes; a situation that takes longer hangs
CODES = (0, 1, 2, 130, 143)

# Words in capitals are places of paths: OUT is written, the others are read (BOTH: a comparison).
COMMANDS: list[list[str]] = [
    ["run", "CONFIG", "--out", "OUT"],
    ["run", "CONFIG", "--resume", "--out", "OUT"],
    ["run", "CONFIG", "--out", "OUT", "--json"],
    ["run", "CONFIG", "--data-dir", "DATA", "--out", "OUT"],
    ["run", "CONFIG", "--plugin", "PLUGIN", "--out", "OUT"],
    ["run", "--preset", "demo", "--resume", "--out", "RUN"],
    ["run", "CONFIG", "--overwrite", "--out", "RUN"],
    ["run", "--resume", "--out", "RUN"],
    ["run", "CONFIG", "--profile"],
    ["compare", "CONFIG", "--schemes", "sp_fl,single_packet", "--out", "OUT"],
    ["compare", "CONFIG", "--schemes", "sp_fl", "--seeds", "0-1", "--resume", "--out", "BOTH"],
    ["sweep", "SWEEP", "--workers", "1", "--out", "OUT"],
    ["sweep", "SWEEP", "--workers", "2", "--keep-runs", "--out", "OUT"],
    ["sweep", "SWEEP", "--resume", "--workers", "1", "--out", "STUDY"],
    ["sweep", "SWEEP", "--tune", "--out", "OUT"],
    ["init", "OUT"],
    ["archive", "STUDY", "--out", "OUT"],
    ["export", "RUN", "--out", "OUT"],
    ["export", "STUDY"],
    ["export", "BOTH", "--format", "tex"],
    ["plot", "RUN", "--out", "OUT.png"],
    ["plot", "BOTH", "--importance"],
    ["figures", "STUDY", "--out", "OUT"],
    ["figures", "BOTH"],
    ["report", "RUN"],
    ["report", "STUDY", "--out", "OUT"],
    ["report", "BOTH"],
    ["watch", "RUN", "--once"],
    ["watch", "BOTH", "--once"],
    ["verify", "RUN"],
    ["verify", "STUDY", "--points", "1"],
    ["info"],
    ["info", "--data-dir", "DATA", "--json"],
    ["config", "show", "CONFIG"],
    ["config", "schema"],
    ["allocate", "CSV"],
    ["allocate", "CSV", "--plot", "OUT.png"],
    ["allocate", "CSV", "--json"],
    ["flower", "init", "OUT", "CONFIG"],
    ["flower", "keys", "OUT", "--host", "fl.example.org"],
    ["flower", "health", "127.0.0.1:9"],
    ["flower", "run", "CONFIG", "--nodes", "2", "--out", "OUT"],
    ["link", "CONFIG"],
    ["link", "CONFIG", "--out", "OUT.png"],
    ["radio", "udp", "CONFIG"],
    ["radio", "trace", "CONFIG", "--out", "OUT.csv"],
    ["radio", "trace", "--from", "RUN", "--out", "OUT.csv"],
]
PLACES = ("CONFIG", "SWEEP", "CSV", "RUN", "STUDY", "BOTH", "DATA", "PLUGIN", "OUT")
TRAINS = ("run", "compare", "sweep", "flower run", "radio udp")
TAKES_SET = (*TRAINS, "config show", "flower init", "link", "radio trace")

PATHS: dict[str, str] = STRANGE_PATHS | {
    "a line break": "a\nb",
    "a terminal's controls": "\x1b[2Jx\x07",
    "the working directory": ".",
    "the device that is full": "/dev/full",
    "nothing": "/dev/null",
    "zeros": "/dev/zero",
    "a pipe": "pipe",
    "a link to itself": "loop",
    "a dangling link": "dangling",
    "the root": "/",
    "a read-only place": "/proc/x",
    "an option": "-x",
    "spaces": " x ",
    "a file of bytes": "bytes",
    "an empty file": "empty_file",
    "an empty folder": "empty_folder",
    "not there": "nowhere/at/all",
    "a file of JSON": "a.json",
    "a deep one": "d/" * 500,
    "wide characters": "模型é😀",
}
SETTINGS: list[str] = [
    "training.rate=1e30",
    "training.rate=nan",
    "training.rate=-1",
    "training.rate=0",
    "training.rounds=0",
    "training.rounds=true",
    "training.batch_size=1000000000",
    "training.batch_size=x",
    "training.momentum=0.99",
    "training.clip_norm=1e-300",
    "training.local_steps=3",
    "training.eval_every=100",
    "data.devices=1",
    "data.devices=1000000000",
    "data.devices=2000",
    "data.devices=1e3",
    "data.cohort_size=1",
    "data.cohort_size=99",
    "data.name=nosuch",
    "data.name=mnist",
    "data.name=user/nosuch",
    "data.name=wine",
    "data.name=sentences",
    "data.partition=column",
    "data.partition=sampled",
    "data.partition=files",
    "data.samples_per_device=100000",
    "data.dirichlet_alpha=1e-9",
    "data.dirichlet_alpha=1e9",
    "data.validation_fraction=0.2",
    "data.validation_fraction=1",
    "data.task=regression",
    "data.task=next_token",
    "data.normalise=none",
    "data.std=[0]",
    "data.mean=[1e308]",
    'data.split=["train","valid"]',
    "data.label_column=nosuch",
    "model.name=lstm",
    "model.name=small_cnn",
    "model.name=transformer",
    "model.name=nosuch",
    "model.width=100000000",  # with a million, a round may take longer than we wait
    "model.width=0",
    "model.batch_norm=true",
    "model.factory=os:getcwd",
    "model.factory=nosuch.module:f",
    "model.factory=:",
    "model.factory=math:pi",
    "model.factory=builtins:dict",
    "codec.bits=1",
    "codec.bits=64",
    "codec.bits=99999999999999999999",
    "channel.median_snr_db=-300",
    "channel.median_snr_db=300",
    "channel.median_snr_db=none",
    "channel.bandwidth_hz=1e-300",
    "channel.bandwidth_hz=1e300",
    "channel.model=trace",
    "channel.model=nosuch",
    "channel.movement=waypoint",
    "channel.fading=rician",
    "channel.multiplex=superposed",
    "channel.power_dbm=inf",
    "channel.power_dbm=1e5",
    "channel.side_information=in_packet",
    "channel.recovery=segment",
    "scheme.name=error_free",
    "scheme.name=sp_fl_plus",
    "scheme.name=sp_fl_ladder",
    "scheme.name=mifa",
    "scheme.name=over_the_air",
    "scheme.name=drive",
    "scheme.aggregation=median",
    "scheme.max_share=1e-9",
    "scheme.device_clip=1.5",
    "scheme.compensation=last",
    "scheme.weights=normalized",
    "scheme.auxiliary=labels",
    "scheme.error_feedback=true",
    "attack.kind=nan",
    "attack.devices=2",
    "attack.kind=scale",
    "attack.scale=1e308",
    "device.flops=0",
    "seed=-1",
    "seed=18446744073709551616",
    "seed=1.5",
    "seed=007",
    "workers=0",
    "workers=-1",
    "workers=100000",
    "workers=true",
    "processes=2",
    "processes=99999",
    "torch_device=cpu",
    "torch_device=hpu",
    "torch_device=cuda",
    "torch_device=meta",
    "torch_device=cpu:99",
    "torch_device=",
    "training=1",
    "nosuch=1",
    "scheme.nosuch=1",
    "=",
    "a",
    "a.b.c.d.e=1",
    "training.rate=[[[[[[]]]]]]",
    "data.devices={}",
    "plugin.path=file",
    "plugin.path=/dev/zero",
    "flower.nodes=-1",
    "flower.min_nodes=99",
    "training.rate=" + "9" * 5000,
    "data.name=" + "[" * 3000,
    "scheme.name=\x1b[2J",
    "data.name=./" + "é" * 90,
    "training.server=adam",
    "scheme.name=fedtoe",
]
OPTIONS: dict[str, list[list[str]]] = {
    "plot": [
        ["--title", r"$\foo$ costs $5"],
        ["--width", "1e9"],
        ["--width", "nan"],
        ["--height", "-1"],
        ["--font-size", "0"],
        ["--labels", "x"],
        ["--labels", r"sp_fl=$\bad{"],
        ["--colours", "sp_fl=nosuch"],
        ["--style", "x"],
        ["--order", ","],
    ],
    "figures": [
        ["--reference", "nosuch"],
        ["--target", "1"],
        ["--format", "exe"],
        ["--format", "pgf"],
        ["--width", "inf"],
    ],
    "export": [
        ["--format", "exe"],
        ["--format", "mat"],
        ["--format", "xlsx"],
        ["--format", "parquet"],
        ["--reference", "[x]"],
    ],
    "allocate": [
        ["--bandwidth-hz", "0"],
        ["--bandwidth-hz", "nan"],
        ["--tau-s", "1e-300"],
        ["--bits", "0"],
        ["--bits", "999"],
        ["--dim", "0"],
        ["--rho", "x"],
        ["--rho", "2"],
        ["--theta", "nan"],
        ["--kappa", "1e308"],
        ["--max-share", "0.1"],
        ["--min-success", "1"],
        ["--max-scheduled", "0"],
        ["--solver", "exact", "--optimise-rho"],
    ],
    "compare": [
        ["--seeds", "x"],
        ["--seeds", "0-99999999999"],
        ["--seeds", "3-1"],
        ["--seeds", "1,,2"],
        ["--schemes", ""],
        ["--schemes", "sp_fll"],
        ["--json"],
        ["--checkpoint-every", "0"],
        ["--seed", "1"],
    ],
    "run": [
        ["--checkpoint-every", "-1"],
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--workers", "-1"],
        ["--device", "hpu"],
        ["--tracker", "nosuch"],
        ["--scheme", "x"],
        ["--rounds", "3"],
        ["--overwrite", "--resume"],
        ["--preset", "x"],
    ],
    "sweep": [["--workers", "-1"], ["--json"], ["--tune"]],
    "watch": [["--every", "0"], ["--every", "nan"]],
    "verify": [
        ["--tolerance", "nan"],
        ["--tolerance", "-1"],
        ["--workers", "99999"],
        ["--points", "-1"],
        ["--own-code"],
        ["--json"],
    ],
    "archive": [["--out", "x.zip"]],
    "flower run": [
        ["--nodes", "0"],
        ["--nodes", "-3"],
        ["--nodes", "999"],
        ["--engine", "x"],
        ["--node-data", "a,b"],
        ["--json"],
    ],
    "flower keys": [["--host", "a:b:c"], ["--host", ""], ["--host", "http://x"], ["--nodes", "-1"]],
    "radio udp": [["--mtu", "1"], ["--parity", "9999"], ["--rate-mbit", "nan"], ["--rate-mbit", "0.01"]],
}
ENCODINGS = ("utf-8", "ascii", "cp437", "latin-1", "utf-16")
STREAMS = ("full", "gone", "closed")


@dataclass
class Situation:
    """What is typed, and what is out of the ordinary."""

    number: str
    command: str
    arguments: list[str]
    streams: dict[str, str] = field(default_factory=dict)  # stdout, stderr -> full, gone, closed
    encoding: str = "utf-8"
    machine: str = ""
    signals: tuple[tuple[float, int], ...] = ()
    kinds: list[str] = field(default_factory=list)


@dataclass
class Found:
    """How it ended: `bad` says what must not be, and is empty otherwise."""

    code: int | None
    out: str
    err: str
    bad: str = ""


# --- composing ------------------------------------------------------------------------------------------------


def compose(seed: int, number: int) -> Situation:
    """The situation of that number: the same one whenever it is asked for."""
    rng = random.Random(f"{seed}:{number}")
    words = list(rng.choice(COMMANDS))
    command = " ".join(words[:2]) if words[0] in ("config", "flower", "radio") else words[0]
    made = Situation(f"{seed}:{number}", command, words)
    ways: list[Callable[[random.Random, Situation], None]] = [_path, _stream, _machine]
    if command in TAKES_SET:
        ways += [_setting, _setting]
    if command in TRAINS:
        ways += [_strange, _strange, _signal]
    if command in OPTIONS:
        ways += [_option]
    for way in rng.sample(ways, min(len(ways), rng.choice((1, 2, 2, 3, 4)))):
        way(rng, made)
    made.arguments = [_filled(word) for word in made.arguments]
    return made


def _filled(word: str) -> str:
    """A place that nothing strange was put into: what it holds on an ordinary day."""
    stem, _, ending = word.partition(".")
    ordinary = {
        "CONFIG": "c.toml",
        "SWEEP": "s.toml",
        "CSV": "d.csv",
        "RUN": "run",
        "STUDY": "study",
        "BOTH": "both",
        "DATA": "empty_folder",
        "PLUGIN": "plain.py",
        "OUT": "out",
    }
    return f"{ordinary[stem]}.{ending}" if stem in ordinary and ending else ordinary.get(word, word)


def _path(rng: random.Random, made: Situation) -> None:
    places = [at for at, word in enumerate(made.arguments) if word.partition(".")[0] in PLACES]
    if places:
        at, kind = rng.choice(places), rng.choice(list(PATHS))
        if kind == "a pipe" and made.arguments[at] in (
            "CONFIG",
            "SWEEP",
            "CSV",
        ):  # these may come by one: spfl run <(...)
            kind = "a file"
        word, dot, ending = made.arguments[at].partition(".")
        made.arguments[at] = PATHS[kind] + (dot + ending if rng.random() < 0.5 else "")
        made.kinds.append(f"path: {kind}{', a plugin' if word == 'PLUGIN' else ''}")


def _setting(rng: random.Random, made: Situation) -> None:
    value = rng.choice(SETTINGS)
    made.arguments += ["--set", value]
    made.kinds.append(f"setting: {value[:40]}")


def _option(rng: random.Random, made: Situation) -> None:
    words = rng.choice(OPTIONS[made.command])
    made.arguments += words
    made.kinds.append(f"option: {' '.join(words)}")


def _strange(rng: random.Random, made: Situation) -> None:
    """A network, own part, dataset or file that is not what it seems."""
    kind, names = rng.choice([("network", NETWORKS), ("dataset", DATASETS), ("file", FILES), ("part", PLUGINS)])
    name = rng.choice(list(names))
    if kind == "network":
        made.arguments += ["--set", f"model.factory=networks.py:{name}"]
    elif kind == "dataset":
        made.arguments += ["--set", f"data.name=datasets.py:{name}"]
    elif kind == "file":
        made.arguments += ["--set", f"data.name=./{name}", *FILES[name]]
    else:
        made.arguments += ["--set", f"plugin.path={name}.py"]
    made.kinds.append(f"{kind}: {name}")


def _stream(rng: random.Random, made: Situation) -> None:
    if rng.random() < 0.5:
        made.encoding = rng.choice(ENCODINGS)
    else:
        made.streams = {rng.choice(("stdout", "stderr")): rng.choice(STREAMS)}
    made.kinds.append(f"stream: {made.encoding} {made.streams or ''}".rstrip())


def _machine(rng: random.Random, made: Situation) -> None:
    made.machine = rng.choice(list(MACHINE))
    made.kinds.append(f"machine: {made.machine}")


def _signal(rng: random.Random, made: Situation) -> None:
    number = rng.choice((signal.SIGINT, signal.SIGTERM))
    times = sorted(rng.uniform(0.02, 0.6) for _ in range(rng.choice((1, 1, 2))))
    made.signals = tuple((at, number) for at in times)
    made.kinds.append(f"signal: {len(times)} {number.name}")


# --- trying ---------------------------------------------------------------------------------------------------


def attempt(made: Situation, inputs: Path, place: Path) -> Found:
    """Fork, run the command there, and judge how it ended."""
    shutil.copytree(inputs, place, symlinks=True)
    os.mkfifo(place / "pipe")
    out, err, ready = place.with_suffix(".out"), place.with_suffix(".err"), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready[0])
        _child(made, place, out, err, ready[1])
    os.close(ready[1])
    os.read(ready[0], 1)
    os.close(ready[0])
    code = _wait(child, made)
    left = _left_running(child)
    said = [path.read_bytes().decode(made.encoding, "replace") for path in (out, err)]
    found = Found(code, *said)
    found.bad = _judge(made, found) or ("processes are left running" if left else "")
    for path in (out, err):
        path.unlink()
    shutil.rmtree(place, ignore_errors=True)
    return found


def _wait(child: int, made: Situation) -> int | None:
    """The exit code; negative for a signal that ended it, None for a child that had to be killed."""
    began, left = time.monotonic(), list(made.signals)
    while time.monotonic() < began + PATIENCE_S:
        if left and time.monotonic() > began + left[0][0]:
            os.kill(child, left.pop(0)[1])
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.003)
    os.kill(child, signal.SIGUSR1)  # where it is goes to its standard error
    time.sleep(1.0)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _child(made: Situation, place: Path, out: Path, err: Path, ready: int) -> None:
    """Never returns: the command, and then what Python does when it ends."""
    code: Any = 70
    try:
        os.setsid()  # what it leaves running is found by its group
        os.chdir(place)
        _open_stream(made, "stdout", 1, out)
        _open_stream(made, "stderr", 2, err)
        faulthandler.register(signal.SIGUSR1, os.open(err, os.O_WRONLY | os.O_APPEND))
        _refuse_locked()
        MACHINE.get(made.machine, lambda: None)()
        sys.argv = ["spfl", *made.arguments]
        _heed_signals_once_handled()
        os.write(ready, b"x")
        os.close(ready)
        code = _ended()
    except BaseException:
        err.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _heed_signals_once_handled() -> None:
    """Those that come earlier wait: a busy machine may take its time from here to the first line of the command."""
    theirs, heeded = commands.app, {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, heeded)

    def app(**options: Any) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)
        theirs(**options)

    commands.app = app  # type: ignore[assignment]


def _ended() -> int:
    code: Any = 0
    try:
        commands.main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = 120
    return code if isinstance(code, int) else 1


def _open_stream(made: Situation, name: str, number: int, path: Path) -> None:
    """File descriptor and stream as Python finds them when it starts."""
    way = made.streams.get(name, "")
    path.touch()
    if way == "closed":
        os.close(number)
        setattr(sys, name, None)
        return
    if way == "gone":
        reading, target = os.pipe()
        os.close(reading)
    else:
        target = os.open("/dev/full" if way == "full" else path, os.O_WRONLY | os.O_APPEND)
    os.dup2(target, number)
    os.close(target)
    errors = "backslashreplace" if name == "stderr" else "strict"
    setattr(
        sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), made.encoding, errors, write_through=True)
    )


def _refuse_locked() -> None:
    """The system refuses what lies below a folder named `locked`, as it does a user without rights (root has all)."""

    def refusing(honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and "locked" in str(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return honest(path, *arguments, **options)

        return call

    for name in ("stat", "lstat", "open", "mkdir", "scandir", "listdir", "rename", "replace", "unlink"):
        setattr(os, name, refusing(getattr(os, name)))
    io.open = refusing(io.open)  # type: ignore[assignment]


def _gone() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def _little_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + 2**26)


def _limit(which: int, most: int) -> None:
    resource.setrlimit(which, (most, resource.getrlimit(which)[1]))


def _no_threads() -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = start  # type: ignore[method-assign]


def _environment(**values: str | None) -> Callable[[], None]:
    def change() -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    return change


MACHINE: dict[str, Callable[[], None]] = {
    "no HOME": _environment(HOME=None),
    "a HOME that is a file": _environment(HOME="/dev/null"),
    "a HOME that is not there": _environment(HOME="/proc/none"),
    "narrow": _environment(COLUMNS="10"),
    "no width": _environment(COLUMNS="0"),
    "a width that is a word": _environment(COLUMNS="x"),
    "a dumb terminal": _environment(TERM="dumb"),
    "no temporary folder": _environment(TMPDIR="/proc/none"),
    "coloured": _environment(FORCE_COLOR="1"),
    "double precision": lambda: torch.set_default_dtype(torch.float64),
    "files of at most 2 kB": lambda: _limit(resource.RLIMIT_FSIZE, 2048),
    "few open files": lambda: _limit(resource.RLIMIT_NOFILE, 14),
    "files of no bytes": lambda: _limit(resource.RLIMIT_FSIZE, 0),
    "little memory": _little_memory,
    "no threads": _no_threads,
    "a working directory that is gone": _gone,
}


# --- judging --------------------------------------------------------------------------------------------------

OURS = re.compile(  # how a line on standard error begins, of a command's own words
    r"(error|warning|note|again|to begin): |INFO |WARNING +: |"
    r"interrupted|terminated|ending, a moment|\d+/\d+  eta |.* \d+/\d+ [-\d]:|[━╸╺]+ \d+/\d+ |sp_fl\s*$|  |$"
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours, and the cursor that hides while a bar moves
BAR = re.compile(r"^\S*(?:\.\.\.|…) .*(?:\.\.\.|…)$", re.MULTILINE)  # a progress bar with no room
FOREIGN = re.compile(
    r"Traceback|not foreseen|site-packages|object at 0x|\[Errno|pydantic|Exception ignored|\.py:\d+|resource_tracker"
)
RAW = re.compile(
    r"\b(?!SyntaxError)\w+(Error|Exception)\b:"
)  # a name of Python's, where no code of the user's raised it


def _judge(made: Situation, found: Found) -> str:
    """What must not be; empty for an end as it should be."""
    if found.code is None:
        return "it hangs"
    if -found.code in {number for _, number in made.signals} and not found.out + found.err:
        return ""  # before Python had read a line of ours; a shell says 143 of it, too
    if found.code not in CODES:
        return f"exit code {found.code}"
    if found.code in (130, 143) and not made.signals and "interrupt" not in str(made.kinds):  # by code of one's own
        return f"exit code {found.code}, and no signal was sent"
    said = found.out + found.err
    if foreign := FOREIGN.search(said):
        return f"another's words: {foreign[0]}"
    said_aside = BAR.sub("", found.err) if made.machine == "narrow" else found.err
    lines = [line for line in ESCAPES.sub("", said_aside).replace("\r", "\n").split("\n") if made.encoding != "utf-16"]
    strangers = [line for line in lines if not OURS.match(line)]
    own_code = re.search("network|dataset|part|plugin|factory", " ".join(made.kinds))
    lossy = "stdout" in made.streams or made.machine.startswith("files of")  # then the rest of stdout is said there
    wrapped = own_code and made.machine == "coloured"  # a warning of one's own network, beside a bar
    if strangers and not lossy and not wrapped and "line break" not in str(made.kinds):
        return f"a line of nobody's: {strangers[0]!r}"
    if not own_code and (raw := RAW.search(found.err)):
        return f"another's words: {raw[0]}"
    if not made.streams and not made.machine.startswith("files of") and not said.strip():
        return "silence"
    if made.machine.startswith("files of"):  # what is said goes to a file, too
        return ""
    errors = sum(line.startswith("error: ") for line in lines)
    if "stderr" not in made.streams and made.encoding != "utf-16":
        if found.code == 2 and errors != 1:
            return f"{errors} lines of errors"
        if found.code in (130, 143) and not re.search("interrupted|terminated", found.err):
            return "an end by a signal without a word"
    return ""


def _left_running(group: int) -> bool:
    """Whether a process of the group is there a second after its leader has gone."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    return True


def as_python_shows_them() -> None:
    """Warnings, but for those of a file that an interrupted import leaves open: nobody sees these unasked."""
    warnings.simplefilter("default")
    warnings.simplefilter("ignore", ResourceWarning)


def make_ready(base: Path) -> None:
    """What takes long and is the same for all: the tree of commands, and in a child the compiled kernels."""
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(commands.app)
    for words in (["allocate", "d.csv"], ["run", "c.toml", "--out", "out"], ["allocate", "d.csv", "--plot", "out.png"]):
        for _ in range(10):
            made = Situation("warm", words[0], words)
            if attempt(made, base / "inputs", base / "here").code is not None:
                break
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy all that it inherits


def fuzz(count: int, seed: int = 0, only: int | None = None) -> Counter[str]:
    """Try so many situations; returns how they ended, with those that ended badly under `bad`, and prints these."""
    found = Counter[str]()
    base = Path(tempfile.mkdtemp())  # not one that removes itself when Python ends: each child does so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (base / "inputs").mkdir()
        write_inputs(base / "inputs")
        as_python_shows_them()
        make_ready(base)
        for number in range(count) if only is None else [only]:
            made = compose(seed, number)
            began = time.perf_counter()
            ended = attempt(made, base / "inputs", base / "here")
            found["bad" if ended.bad else f"exit code {ended.code}"] += 1
            if ended.bad and only is None:
                print(f"{ended.out[-400:]!r} {ended.err[-800:]!r}")
            if ended.bad or only is not None:
                seconds = time.perf_counter() - began
                print(
                    f"{made.number} ({seconds:.1f} s) {ended.bad or ended.code}: spfl {made.arguments}; {made.kinds}",
                    flush=True,
                )
            if only is not None:
                print(ended.out, ended.err, sep="--- stderr\n")
    shutil.rmtree(base)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--only", type=int, default=None, metavar="NUMBER")
    asked = parser.parse_args()
    counts = fuzz(asked.count, asked.seed, asked.only)
    print(f"{counts.total()} situations: {dict(sorted(counts.items()))}")
    raise SystemExit(1 if counts["bad"] else 0)
