"""The command line as a user meets it: output, exit codes, one-line errors, nothing overwritten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path

import psutil
import pytest

import spfl
from spfl.cli import commands as cli
from spfl.config.files import load_config
from spfl.config.schema import Config
from spfl.runs import experiment

CONFIGS = Path(__file__).parents[2] / "configs"
DATA_DIR = os.environ.get("SPFL_DATA_DIR")
SPFL = [sys.executable, "-m", "spfl"]
QUICK = ["--set", "training.rounds=2", "--set", "data.devices=5", "--set", "model.name=softmax"]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs `spfl ARGUMENTS` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPFL_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spfl", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- run ----------------------------------------------------------------------------------------------------


def test_run_prints_the_result_and_nothing_else_on_stdout(call):
    code, out, err = call("run", *QUICK, "--out", "r")
    assert code == 0
    assert out.count("\n") == 1
    assert out.startswith("sp_fl, seed 0: test accuracy ")
    assert out.endswith("%, r\n")
    assert "2/2" in err  # the progress bar
    assert experiment.read_json(Path("r/summary.json"))["rounds"] == 2


def test_run_names_its_folder(call):
    code, out, _ = call("run", *QUICK, "--seed", "7", "--set", "scheme.name=single_packet")
    (folder,) = Path("runs").iterdir()
    assert code == 0
    assert folder.name.startswith("single_packet-7-20")
    assert str(folder) in out


def test_run_as_json(call):
    code, out, _ = call("run", *QUICK, "--out", "r", "--json")
    assert code == 0
    summary = experiment.read_json(Path("r/summary.json"))
    assert json.loads(out) == summary | {"folder": "r", "health": spfl.Run.load(Path("r")).health}


def test_run_options_reach_the_configuration(call):
    call("run", CONFIGS / "demo.toml", *QUICK, "--seed", "3", "--workers", "1", "--out", "r")
    config = load_config(Path("r/config.toml"))
    assert (config.seed, config.workers, config.training.rounds, config.data.devices) == (3, 1, 2, 5)
    assert config.channel.median_snr_db == load_config(CONFIGS / "demo.toml").channel.median_snr_db


def test_profile_accounts_for_all_seconds(call):
    code, out, _ = call("run", *QUICK, "--out", "r", "--profile")
    assert code == 0
    cells = [line.strip().rsplit(None, 3) for line in out.splitlines() if line.rstrip().endswith("%")]
    seconds = {name: float(value) for name, value, _, _ in cells}
    total = seconds.pop("total")
    assert {"gradients", "encode", "allocate", "aggregate", "writing and the rest"} <= seconds.keys()
    assert sum(seconds.values()) == pytest.approx(total, abs=0.01 * len(seconds))


def test_resume_needs_only_the_folder(call):
    call("run", *QUICK, "--out", "r", "--seed", "4")
    before = contents(Path("r"))
    code, out, _ = call("run", "--resume", "--out", "r")
    assert code == 0
    assert "seed 4" in out
    assert contents(Path("r")) == before


def test_interrupt_says_how_to_go_on(call, monkeypatch):
    def interrupted(config, dataset, folder, **options):
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run_experiment", interrupted)
    code, out, err = call("run", *QUICK, "--out", "r")
    assert code == 130
    assert out == ""
    assert "interrupted; go on with --resume --out r" in err


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_ends_a_run_with_143_and_loses_no_round(call, tmp_path):
    command = [
        sys.executable,
        "-c",
        "from spfl.cli.commands import main; main()",
        "run",
        *QUICK,
        "--set",
        "training.rounds=4000",
    ]
    with subprocess.Popen([*command, "--out", "r"], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: Path("r/metrics.jsonl").exists() and Path("r/metrics.jsonl").stat().st_size > 2000)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "terminated; go on with --resume --out r"
    assert not Path("r/.lock").exists()
    rounds = sum(1 for _ in experiment.read_metrics(Path("r")))
    newest = max(Path("r").glob("checkpoint-*"))
    assert rounds - 1 <= int(newest.stem.split("-")[1]) <= rounds < 4000


ENDED = {
    "run": ["run", *QUICK, "--set", "training.rounds=4000", "--out", "r"],
    "two processes": ["run", *QUICK, "--set", "training.rounds=4000", "--set", "processes=2", "--out", "r"],
    "verify": ["verify"],  # of the run of `long_run`
    "udp": ["radio", "udp", *QUICK, "--set", "training.rounds=4000"],
}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A run whose verification takes some seconds."""
    folder = tmp_path_factory.mktemp("long") / "run"
    subprocess.run([*SPFL, "run", *QUICK, "--set", "training.rounds=1200", "--out", folder], check=True, timeout=500)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("run", signal.SIGHUP, 129),
        ("two processes", signal.SIGTERM, 143),
        ("verify", signal.SIGTERM, 143),
        ("verify", signal.SIGINT, 130),
        ("udp", signal.SIGTERM, 143),
        ("udp", signal.SIGINT, 130),
    ],
)
def test_signals_end_every_command_in_one_line(name, number, code, call, request):
    """A terminal sends them to all processes of its group at once: none may print a traceback."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup")
    command = [*SPFL, *ENDED[name]]
    if name == "verify":
        command.append(str(request.getfixturevalue("long_run")))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as job:
        time.sleep(2.0)
        wait_for(lambda: psutil.Process(job.pid).cpu_times().user > 4.0 or Path("r/metrics.jsonl").exists())
        os.killpg(job.pid, number)
        out, err = job.communicate(timeout=60)
    assert job.returncode == code, err
    assert "Traceback" not in err + out
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.splitlines()[-1].startswith(word)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_ends_a_sweep_with_143_and_its_tables(call, tmp_path):
    Path("s.toml").write_text(
        '[base]\ndata.devices = 4\nmodel.name = "softmax"\n[[grid]]\nseed = [0, 1]\ntraining.rounds = [2, 9000]\n'
    )
    command = [
        sys.executable,
        "-c",
        "from spfl.cli.commands import main; main()",
        "sweep",
        "s.toml",
        "--out",
        "r",
        "--workers=1",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: Path("r/results.jsonl").exists() and Path("r/results.jsonl").stat().st_size > 0)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "terminated; go on with --resume --out r" in err
    assert Path("r/results.parquet").exists()


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def test_a_torn_checkpoint_is_a_one_line_warning(call, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        call("run", *QUICK, "--out", "r")
        Path("r/summary.json").unlink()
        Path("r/checkpoint-00000002.safetensors").write_bytes(b"torn")
        code, _, err = call("run", "--resume", "--out", "r")
    assert code == 0
    assert next(line for line in err.splitlines() if "damaged" in line).startswith("warning: checkpoint r/checkpoint-")
    assert experiment.read_json(Path("r/summary.json"))["rounds"] == 2


# --- bad input ----------------------------------------------------------------------------------------------

BAD = [
    (["--set", "training.round=5"], r"unknown config key 'training.round' (did you mean 'rounds'?)"),
    (["--set", "trainig.rounds=5"], r"unknown config key 'trainig' (did you mean 'training'?)"),
    (["--set", "codec.bits=9"], "codec.bits: input should be less than or equal to 8, got 9"),
    (["--set", "codec.bits=0"], "codec.bits: input should be greater than or equal to 1, got 0"),
    (["--set", "codec.bits"], "--set needs key=value, got 'codec.bits'"),
    (["--set", "data.devices=1000"], "1000 devices with at least 8 samples each need 8000 samples, the data have 1437"),
    (["--set", "scheme.name=spfl"], "unknown scheme 'spfl' (did you mean 'sp_fl'?)"),
    (["--set", "model.name=resnet"], "unknown model 'resnet'"),
    (
        ["--set", "data.name=cifar10", "--data-dir", "nowhere"],
        "dataset 'cifar10' not found; looked in: nowhere/cifar10",
    ),
    (["--set", "data.name=cifar10"], "SPFL_DATA_DIR is not set"),
    (["--set", "data.name=cifar"], "dataset 'cifar' not found (did you mean 'cifar10'?)"),
    (["missing.toml"], "config file missing.toml cannot be read: No such file or directory"),
    (["--seed", "-1"], "seed: input should be greater than or equal to 0, got -1"),
    (["--checkpoint-every", "0"], "checkpoint_every must be >= 1, got 0"),
    (["--resume", "--overwrite"], "--overwrite and --resume exclude each other"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_harmless(call, arguments, message):
    """Even with --overwrite, an earlier run in the folder stays as it was."""
    Path("r").mkdir()
    marker = {"environment.json": '{"versions": {"spfl": "0"}}', "config.toml": "seed = 3\n", "metrics.jsonl": "old\n"}
    for name, text in marker.items():
        Path("r", name).write_text(text)
    before = contents(Path())
    code, out, err = call("run", "--out", "r", "--overwrite", *arguments)
    assert code == 2
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert errors[0] == err.splitlines()[-1]
    assert contents(Path()) == before


def test_unreadable_parquet(call, tmp_path):
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1 this is not parquet")
    code, _, err = call("run", "--set", "data.name=cifar10", "--data-dir", "data", "--out", "r")
    assert code == 2
    assert "cifar10/train-00000-of-00001.parquet" in err
    assert err.count("\n") == 1
    assert not Path("r").exists()


def test_output_folder_in_use(call):
    call("run", *QUICK, "--out", "r")
    before = contents(Path("r"))
    code, out, err = call("run", *QUICK, "--out", "r")
    assert (code, out) == (2, "")
    assert err == "error: output folder r is not empty; pass --overwrite, --resume or another --out\n"
    assert contents(Path("r")) == before


def test_resume_without_a_folder(call):
    code, _, err = call("run", "--resume")
    assert (code, err) == (2, "error: --resume needs --out DIR, the folder to go on with\n")
    code, _, err = call("run", "--resume", "--out", "nowhere")
    assert code == 2
    assert err.startswith("error: nothing to resume in nowhere")


def test_invalid_toml(call):
    Path("bad.toml").write_text("[data\n")
    code, _, err = call("run", "bad.toml")
    assert code == 2
    assert err.startswith("error: config file bad.toml is not valid TOML")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["run", "--colour"], ["walk"], ["run", "--seed", "x"], ["plot"]])
def test_usage_errors_exit_2(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "--help)" in err
    assert err.count("\n") == 1


def test_bad_comparisons(call):
    for arguments, message in [
        (["--seeds", "4-1"], "seeds must look like 0-4 or 0,2,5-7, got '4-1'"),
        (["--schemes", "error_free,nothing"], "unknown scheme 'nothing'"),
        (["--set", "data.devices=1000"], "1000 devices"),
    ]:
        code, out, err = call("compare", *arguments, "--out", "c")
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]
        assert not Path("c").exists()


def test_plot_of_no_run(call):
    Path("empty").mkdir()
    assert call("plot", "empty") == (2, "", "error: empty is not a run folder: it holds no config.toml\n")


REGRESSION = ("--set", "data.name=diabetes", "--set", "data.partition=iid", "--set", "training.rate=0.02")


def test_figures_tables_and_views_have_the_name_of_the_score(call):
    """Nothing of a regression is called an accuracy."""
    code, out, _ = call("compare", *QUICK, *REGRESSION, "--schemes", "error_free", "--seeds", "0", "--out", "c")
    assert code == 0
    assert out.splitlines()[-1] == "figure: c/r2.png"
    assert "r2: on the test part" in out
    code, shown, _ = call("plot", "c")
    assert (code, shown) == (0, "r2.png\n")
    assert {path.name for path in Path("c").glob("*.png")} == {"r2.png"}
    code, view, _ = call("watch", "c", "--once")
    assert " r2 " in view
    assert "accuracy" not in out + Path("c/table.md").read_text() + view


# --- the other commands -------------------------------------------------------------------------------------


def test_compare_and_plot(call):
    code, out, _ = call("compare", *QUICK, "--schemes", "error_free,single_packet", "--seeds", "0-1", "--out", "c")
    assert code == 0
    assert out.splitlines()[-1] == "figure: c/accuracy.png"
    for name in ("table.json", "table.md", "accuracy.png", "error_free-0/summary.json", "single_packet-1/summary.json"):
        assert Path("c", name).exists()
    rows = json.loads(Path("c/table.json").read_text())
    assert f"{100 * rows[0]['accuracy_last']:.1f}" in out
    code, out, _ = call("plot", *sorted(Path("c").glob("*-*")), "--out", "f.svg")
    assert (code, out) == (0, "f.svg\n")
    assert "<svg" in Path("f.svg").read_text()


def test_compare_as_json(call):
    code, out, _ = call("compare", *QUICK, "--schemes", "single_packet", "--out", "c", "--json")
    assert code == 0
    assert json.loads(out)["table"] == json.loads(Path("c/table.json").read_text())


def test_info(call, tmp_path):
    (tmp_path / "data" / "toy").mkdir(parents=True)
    (tmp_path / "data" / "toy" / "train-0.parquet").write_bytes(b"")
    code, out, _ = call("info", "--json", "--data-dir", "data")
    found = json.loads(out)
    assert code == 0
    assert found["versions"]["spfl"] == spfl.__version__
    assert found["datasets"]["digits"] == found["datasets"]["wine"] == "embedded"
    assert found["datasets"]["toy"] == "data/toy"
    assert {"error_free", "single_packet", "sp_fl"} <= {scheme["name"] for scheme in found["schemes"]}
    code, out, _ = call("info")
    assert code == 0
    assert "single_packet" in out


def test_config_show_is_read_back_unchanged(call):
    code, out, _ = call("config", "show", CONFIGS / "demo.toml", "--set", "codec.bits=4", "--set", "channel.tau_s=0.5")
    assert code == 0
    expected = load_config(CONFIGS / "demo.toml", ["codec.bits=4", "channel.tau_s=0.5"])
    assert Config.model_validate(tomllib.loads(out)) == expected


def test_config_schema_describes_every_key(call):
    code, out, _ = call("config", "schema")
    assert code == 0
    sections = json.loads(out)["$defs"]
    keys = [(name, key, field) for name, part in sections.items() for key, field in part["properties"].items()]
    assert len(keys) > 30
    assert [f"{name}.{key}" for name, key, field in keys if not field.get("description")] == []


def test_version_and_help(call):
    assert call("--version") == (0, f"spfl {spfl.__version__}\n", "")
    for command in ("run", "compare", "plot", "allocate", "info", "config show", "config schema"):
        code, out, _ = call(*command.split(), "--help")
        assert code == 0
        assert "Example:" in out


def test_help_does_not_import_torch():
    code = "import sys, spfl.cli.commands; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_installed_command(tmp_path):
    """Once as a process of its own: the exit code and the single line are those of the shell."""
    command = [str(Path(sys.executable).with_name("spfl")), "config", "show", "--set", "codec.bits=12"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: codec.bits: input should be less than or equal to 8, got 12\n"


@pytest.mark.skipif(not DATA_DIR, reason="SPFL_DATA_DIR is not set")
def test_cifar10(call):
    code, out, err = call(
        "run", CONFIGS / "cifar10.toml", "--data-dir", DATA_DIR, "--set", "training.rounds=2",
        "--set", "training.batch_size=8", "--set", "data.pool=4", "--out", "r",
    )  # fmt: skip
    assert code == 0, err
    assert experiment.read_json(Path("r/environment.json"))["dataset"]["train"] == 50_000
    assert "test accuracy" in out


@pytest.mark.parametrize(("snr_db", "silent"), [(-60, True), (60, False)])
def test_a_run_in_which_nobody_was_received_says_so(call, tmp_path, snr_db, silent):
    cell = ["--set", f"channel.median_snr_db={snr_db}", "--set", "channel.shadowing_db=0"]
    code, _, err = call("run", *QUICK, *cell, "--set", "scheme.name=single_packet", "--out", "silence")
    assert code == 0
    assert ("warning: nobody was received in 2 of 2 rounds: raise channel.median_snr_db" in err) == silent
    assert call("report", "silence")[0] == 0
    page = (tmp_path / "silence" / "report.html").read_text(encoding="utf-8")
    assert ("nobody was received in 2 of 2 rounds" in page) == silent


def test_a_process_ends_after_threads_and_exit_functions_and_is_not_taken_down():
    code = """
import atexit, sys, threading, time
import spfl.cli.commands as commands
from spfl.__main__ import run

class Late:
    def __del__(self):
        print("taken down", flush=True)

def main():
    atexit.register(lambda: print("exit function"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    raise SystemExit(3)

sys.late, commands.main = Late(), main
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (3, "thread\nexit function\n", "")
