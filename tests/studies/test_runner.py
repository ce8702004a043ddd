"""Studies: which points a file means, what becomes of each, and that neither a fault nor a kill loses the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from spfl import training
from spfl.cli import commands as cli
from spfl.errors import ConfigError, DataError, RunFolderError
from spfl.fleet.workers import Failure, map_processes
from spfl.runs.experiment import run_experiment
from spfl.runs.metrics import metrics
from spfl.studies import runner
from spfl.studies.points import RATE, load_points
from spfl.studies.runner import check_folder, measure, read_results, sweep
from spfl.studies.tables import summary_text
from spfl.studies.tuning import check_tunable, rates_text, tune

BASE = """
seed = 7
[data]
devices = 4
[model]
name = "softmax"
[training]
rounds = 6
eval_every = 2
batch_size = 8
[channel]
median_snr_db = 0.0
[scheme]
name = "single_packet"
weights = "normalized"
"""


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file beside its base configuration."""

    def write(text, name="sweep.toml"):
        (tmp_path / "base.toml").write_text(BASE)
        path = tmp_path / name
        path.write_text('[base]\nconfig = "base.toml"\n' + text if "[base]" not in text else text)
        return path

    return write


GRID = '[[grid]]\nseed = [0, 1]\n"scheme.name" = ["error_free", "single_packet"]\n'


# --- which points -------------------------------------------------------------------------------------------


def test_product_in_the_order_of_the_file(write):
    points = load_points(write('[[grid]]\nseed = [3, 1]\ncodec.bits = [2, 4]\n"training.rate" = 0.5\n'))
    assert [(p.config.seed, p.config.codec.bits) for p in points] == [(3, 2), (3, 4), (1, 2), (1, 4)]
    assert {p.config.training.rate for p in points} == {0.5}
    assert points[0].settings == {"scheme.name": "single_packet", "seed": 3, "codec.bits": 2, "training.rate": 0.5}
    assert {p.config.workers for p in points} == {1}


def test_precedence_file_base_rates_grid_set(write):
    text = (
        '[base]\nconfig = "base.toml"\ncodec.bits = 5\n"training.rounds" = 8\n[rates]\nsingle_packet = 0.7\n'
        '[[grid]]\n"codec.bits" = 6\n[[grid]]\n"codec.bits" = 7\ntraining.rate = 0.3\n'
        '[[grid]]\nscheme.name = "error_free"\n'
    )
    first, second, third = load_points(write(text))
    assert (first.config.codec.bits, first.config.training.rounds, first.config.seed) == (6, 8, 7)
    assert [p.config.training.rate for p in (first, second, third)] == [0.7, 0.3, 0.1]
    assert third.config.codec.bits == 5
    assert third.settings == {"scheme.name": "error_free", "seed": 7, "training.rate": 0.1, "codec.bits": 5}
    changed = load_points(write(text), ["training.rate=0.9", "codec.bits=2"])
    assert [(p.config.training.rate, p.config.codec.bits) for p in changed] == [(0.9, 2)] * 2  # two have become one


def test_a_point_of_several_grids_is_there_once(write):
    points = load_points(write(GRID + GRID + "[[grid]]\nseed = [1, 2, 2]\nworkers = 3\n"))
    assert [(p.config.seed, p.config.scheme.name) for p in points] == [
        (0, "error_free"),
        (0, "single_packet"),
        (1, "error_free"),
        (1, "single_packet"),
        (2, "single_packet"),
    ]
    assert len({p.key for p in points}) == 5


def test_keys_name_configurations_and_not_files(write):
    (a,) = load_points(write("[[grid]]\nseed = 0\n"))
    (b,) = load_points(write("[[grid]]\nseed = [0]\ncodec.bits = 3\n", "other.toml"))
    (c,) = load_points(write("[[grid]]\nseed = [0]\ncodec.bits = 4\n", "other.toml"))
    assert a.key == b.key != c.key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs at least one [[grid]]"),
        ("[grid]\nseed = 1\n", "needs at least one [[grid]]"),
        ("[[gird]]\nseed = 1\n", "unknown table 'gird' (did you mean 'grid'?)"),
        ("[[grid]]\nseed = []\n", "seed has no values in [[grid]]"),
        (
            f"[[grid]]\nseed = {list(range(400))}\n'data.devices' = {list(range(1, 401))}\n",
            "a [[grid]] must have at most 100000 points, got 160000",
        ),
        ("[[grid]]\ntraining.rte = [0.1]\n", "unknown config key 'training.rte' (did you mean 'rate'?)"),
        ("[[grid]]\ncodec.bits = [3, 9]\n", "codec.bits: input should be less than or equal to 8, got 9"),
        ("[[grid]]\nscheme.name = ['sp_fl', 'sp_fi']\n", "unknown scheme 'sp_fi' (did you mean 'sp_fl'?)"),
        ("[[grid]]\n'seed.deep' = [1]\n", "seed.deep: 'seed' is a value, not a section"),
        ("[rates]\nsp_fi = 0.1\n" + GRID, "unknown scheme 'sp_fi' in [rates] (did you mean 'sp_fl'?)"),
        ("[rates]\nsingle_packet = 'fast'\n" + GRID, "training.rate: input should be a valid number"),
        ('[base]\nconfig = "no.toml"\n' + GRID, "no.toml cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line(write, text, message):
    with pytest.raises(ConfigError) as caught:
        load_points(write(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- what a point leaves ------------------------------------------------------------------------------------


def test_measurements_are_those_of_the_run(write, digits):
    (point,) = load_points(write("[[grid]]\nseed = 1\nscheme.name = 'sp_fl'\n"))
    records = list(training.run(point.config, digits))
    row = measure([metrics(record) for record in records])
    assert row["curve_round"] == [2, 4, 6]
    assert row["curve_accuracy"] == [r.test_accuracy for r in records if r.test_accuracy is not None]
    assert row["curve_payload_bits"] == [sum(r.payload_bits for r in records[:n]) for n in (2, 4, 6)]
    assert row["accuracy_final"] == row["accuracy_last"] == records[-1].test_accuracy
    assert row["signs_received_per_round"] == pytest.approx(sum(r.outcome.sign.sum() for r in records) / 6)
    assert row["mean_r_m"] == pytest.approx(sum(r.allocation.r_m.mean() for r in records) / 6)
    assert row["seconds_per_round"]["gradients"] == pytest.approx(sum(r.seconds["gradients"] for r in records) / 6)


def test_points_equal_single_runs_and_the_table_holds_them(write, digits, tmp_path):
    points, seen = load_points(write(GRID)), []
    rows = sweep(points, tmp_path / "out", processes=2, progress=lambda point, row, new: seen.append((point.key, new)))
    assert [row["key"] for row in rows] == [point.key for point in points]
    assert sorted(seen) == sorted((point.key, True) for point in points)
    for point, row in zip(points, rows, strict=True):
        assert row["digest"] == run_experiment(point.config, digits, tmp_path / point.key)["digest"], point.settings
    table = pq.read_table(tmp_path / "out" / "results.parquet")
    assert json.loads(table.schema.metadata[b"swept"]) == ["scheme.name", "seed"]
    columns = table.to_pydict()
    for name in ("key", "seed", "accuracy_last", "curve_accuracy", "payload_bits_per_round", "uplink_s_per_round"):
        assert columns[name] == [row[name] for row in rows]
    assert columns["seconds_gradients"] == [row["seconds_per_round"]["gradients"] for row in rows]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curves.parquet",
        "environment.json",
        "plan.toml",
        "results.jsonl",
        "results.parquet",
        "summary.md",
    ]


@pytest.mark.parametrize(("processes", "order"), [(1, [1, 4, 2]), (2, [4, 2, 1])])
def test_of_several_processes_the_longest_points_are_run_first(write, tmp_path, monkeypatch, processes, order):
    """A long point that begins last keeps one process busy when all others have ended."""
    points, given = load_points(write('[[grid]]\n"training.rounds" = [1, 4, 2]\nseed = [0]\n')), []

    def spied(work, todo, processes):
        given.extend(point.config.training.rounds for point in todo)
        return map_processes(work, todo, processes)

    monkeypatch.setattr(runner, "map_processes", spied)
    rows = sweep(points, tmp_path / "out", processes=processes)
    assert given == order
    assert [row["settings"]["training.rounds"] for row in rows] == [1, 4, 2]


def test_keys_of_several_types_become_text(write, tmp_path):
    points = load_points(write("[[grid]]\nscheme.rho = ['proportional', 0.25]\ntraining.clip_norm = [1, 0.5]\n"))
    sweep(points, tmp_path / "out", processes=1)
    columns = pq.read_table(tmp_path / "out" / "results.parquet").to_pydict()
    assert columns["scheme.rho"] == ["proportional", "proportional", "0.25", "0.25"]
    assert columns["training.clip_norm"] == [1.0, 0.5, 1.0, 0.5]


def test_kept_run_folders(write, tmp_path):
    (point,) = load_points(write("[[grid]]\nseed = 1\n"))
    (row,) = sweep([point], tmp_path / "out", processes=1, keep_runs=True)
    assert json.loads((tmp_path / "out" / "runs" / point.key / "summary.json").read_text())["digest"] == row["digest"]


# --- faults, kills, going on --------------------------------------------------------------------------------


def fail_at(monkeypatch, seed):
    """Processes are forked, so what is patched here is patched there."""
    real = training.run

    def run(config, dataset):
        if config.seed == seed:
            raise ValueError("one\nfault")
        return real(config, dataset)

    monkeypatch.setattr(training, "run", run)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_a_failed_point_is_recorded_and_run_again_on_resume(write, tmp_path, monkeypatch):
    points = load_points(write(GRID))
    with monkeypatch.context() as patch:
        fail_at(patch, seed=0)
        rows = sweep(points, tmp_path / "out", processes=2)
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "done"]
    assert rows[0]["error"] == "ValueError: one fault"
    assert "Traceback" in rows[0]["details"]
    assert "- scheme.name = error_free, seed = 0: ValueError: one fault" in (tmp_path / "out/summary.md").read_text()
    assert pq.read_table(tmp_path / "out" / "results.parquet")["seed"].to_pylist() == [1, 1]
    again = []
    rows = sweep(points, tmp_path / "out", processes=2, resume=True, progress=lambda p, row, new: again.append(new))
    assert sorted(again) == [False, False, True, True]
    assert {row["status"] for row in rows} == {"done"}
    assert len(read_results(tmp_path / "out")) == 6


def test_a_torn_line_is_dropped_and_added_points_are_run(write, tmp_path):
    points = load_points(write(GRID))
    before = sweep(points[:2], tmp_path / "out", processes=1)
    path = tmp_path / "out" / "results.jsonl"
    with path.open("a") as file:
        file.write('{"key": "')
    new = []
    rows = sweep(points, tmp_path / "out", processes=1, resume=True, progress=lambda p, row, n: new.append(n))
    assert new == [False, False, True, True]
    assert rows[:2] == before
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [point.key for point in points]


def test_folders_that_are_refused(write, tmp_path):
    points = load_points(write(GRID))
    with pytest.raises(RunFolderError, match="is not empty; pass --resume or another --out"):
        check_folder(tmp_path, resume=False)
    with pytest.raises(RunFolderError, match="is not the folder of a sweep"):
        check_folder(tmp_path, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is not a folder"):
        check_folder(tmp_path / "file", resume=True)
    sweep(points[:1], tmp_path / "out", processes=1)
    environment = tmp_path / "out" / "environment.json"
    environment.write_text(environment.read_text().replace('"crc32": "', '"crc32": "x'))
    with pytest.raises(RunFolderError, match=r"its digits is .*crc32.* got "):
        sweep(points, tmp_path / "out", processes=1, resume=True)
    (tmp_path / "out" / "results.jsonl").write_text("{\n")
    with pytest.raises(RunFolderError, match=r"results.jsonl is damaged"):
        read_results(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[[grid]]\ndata.name = ['digits', 'digit']\n", DataError, "'digit' not found"),
        ("[[grid]]\ndata.devices = [4, 4000]\n", DataError, "4000"),
        ("[[grid]]\nmodel.name = ['softmax', 'softmux']\n", ConfigError, "softmux"),
    ],
)
def test_what_only_the_data_tell_is_found_before_the_first_point(write, tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        sweep(load_points(write(text)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
def test_kill_loses_only_the_points_under_way_and_leaves_no_process(write, tmp_path):
    path, out = write("[[grid]]\nseed = [0, 1, 2, 3]\ntraining.rounds = [4, 3000]\n"), tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        "from spfl.cli.commands import main; main()",
        "sweep",
        str(path),
        "--out",
        str(out),
        "--workers=2",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (out / "results.jsonl").exists() and b"\n" in (out / "results.jsonl").read_bytes())
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        finally:
            process.kill()
    assert children
    wait_for(lambda: not any(map(is_alive, children)))
    kept = len(read_results(out))
    rows = sweep(load_points(path, ["training.rounds=4"]), out, processes=2, resume=True)
    assert kept >= 1
    assert {row["status"] for row in rows} == {"done"}


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


# --- processes ----------------------------------------------------------------------------------------------


def work(item):
    if item == "raise":
        raise KeyError("why")
    if item == "die":
        os._exit(3)
    if item == "interrupt":
        raise KeyboardInterrupt
    if item == "exit":
        raise SystemExit(4)
    if item == "deaf":  # as a process that forked while a lock was held: no signal but the last is heeded
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        time.sleep(60.0)
    return item * 2


def test_every_item_has_an_answer_though_processes_die():
    items = [1, "die", 2, "raise", 3, "die", 4]
    answers = dict(zip(map(str, range(7)), sorted(map_processes(work, items, 2), key=str), strict=True))
    found = sorted(answers.values(), key=str)
    assert [answer for item, answer in found if isinstance(item, int)] == [2, 4, 6, 8]
    dead = [answer.message for item, answer in found if item == "die"]
    assert dead == ["the process ended with exit code 3"] * 2
    assert [answer.message for item, answer in found if item == "raise"] == ["KeyError: 'why'"]


def test_code_that_interrupts_or_exits_is_the_fault_of_its_item(capfd):
    found = dict(map_processes(work, ["interrupt", "exit", 3], 2))
    assert found[3] == 6
    assert found["interrupt"].message == "KeyboardInterrupt"
    assert found["exit"].message == "ConfigError: code of your own ended the process with exit code 4"
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_process_without_threads_answers_all_the_same(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    assert list(map_processes(work, [3], 1)) == [(3, 6)]


def test_a_process_that_heeds_nothing_is_killed(monkeypatch):
    monkeypatch.setattr("spfl.fleet.workers.GRACE_S", 0.2)
    with closing(map_processes(work, [1, "deaf"], 2)) as answers:
        assert next(answers) == (1, 2)
        began = time.monotonic()
    assert time.monotonic() - began < 10.0


def test_closing_ends_the_processes():
    with closing(map_processes(time.sleep, [0.0, 60.0], 2)) as answers:
        assert next(answers) == (0.0, None)
        began = time.monotonic()
    assert time.monotonic() - began < 5.0
    assert list(map_processes(work, [], 2)) == []
    assert not isinstance(next(map_processes(work, [5], 3))[1], Failure)


# --- tuning -------------------------------------------------------------------------------------------------


def result(scheme, rate, seed, accuracy, **changes):
    settings = {"scheme.name": scheme, "training.rate": rate, "seed": seed}
    row = {"scheme": scheme, "settings": settings, "status": "done", "accuracy_last": accuracy, "validation": True}
    return row | changes


ROWS = [
    result("a", 0.1, 0, 0.50),
    result("a", 0.1, 1, 0.52),
    result("a", 0.2, 0, 0.90),  # the best seed, not the best mean
    result("a", 0.2, 1, 0.10),
    result("a", 0.05, 0, 0.40),
    result("a", 0.05, 1, 0.40),
    result("b", 0.1, 0, 0.30),
    result("b", 0.2, 0, 0.35),
]


def test_the_best_mean_wins_and_an_edge_is_told():
    a, b = tune(ROWS)
    assert (a.scheme, a.best, a.count, a.at_edge) == ("a", 0.1, 2, False)
    assert a.scores == pytest.approx({0.05: 0.4, 0.1: 0.51, 0.2: 0.5})
    assert (b.scheme, b.best, b.at_edge) == ("b", 0.2, True)
    assert rates_text([a, b]) == (
        "[rates]\n"
        "a = 0.1  # validation, n = 2; 0.05: 40.0 %, 0.1: 51.0 %, 0.2: 50.0 %\n"
        "b = 0.2  # validation, n = 1; 0.1: 30.0 %, 0.2: 35.0 %; at the edge of the grid\n"
    )


def test_tuning_refuses_what_would_mislead(write):
    with pytest.raises(ConfigError, match="not tuned on test data"):
        check_tunable([point.config for point in load_points(write(GRID))], [RATE])
    unseen = [p.config for p in load_points(write(GRID), ["data.validation_fraction=0.2"])]
    check_tunable(unseen, [RATE])
    with pytest.raises(ConfigError, match=r"--tune needs training\.rate in a \[\[grid\]\]"):
        check_tunable(unseen, ["scheme.name"])
    with pytest.raises(ConfigError, match="not tuned on test data"):
        tune([*ROWS, result("c", 0.1, 0, 0.5, validation=False)])
    with pytest.raises(ConfigError, match="rates of b were not tried on the same points"):
        tune([*ROWS, result("b", 0.2, 1, 0.9)])
    with_a_failure = [row if row is not ROWS[0] else row | {"status": "failed"} for row in ROWS]
    assert tune(with_a_failure)[0].scores == pytest.approx({0.05: 0.4, 0.2: 0.5})
    with pytest.raises(ConfigError, match="no rate of b finished"):
        tune([row | {"status": "failed"} for row in ROWS[-2:]])


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spfl", "sweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


def test_command(write, call, tmp_path):
    path, out = write(GRID), tmp_path / "out"
    code, text, err = call(path, "--out", out, "--workers", 1, "--set", "training.rounds=2")
    assert code == 0
    assert (out / "summary.md").read_text() in text
    assert (out / "sweep.toml").read_bytes() == path.read_bytes()
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 4
    assert lines[0].startswith("1/4  eta 0:00:")
    assert "error_free, seed = 0: " in lines[0]
    code, _, err = call(path, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    code, text, err = call(path, "--out", out, "--set", "training.rounds=2", "--resume", "--json")
    assert (code, len(json.loads(text)["rows"])) == (0, 4)
    assert all(line.startswith("warning: ") for line in err.splitlines())  # of the runs' health, and nothing else
    assert call(path, "--resume")[0] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_command_with_a_failure(write, call, tmp_path, monkeypatch):
    fail_at(monkeypatch, seed=1)
    code, text, err = call(write(GRID), "--out", tmp_path / "out", "--workers", 1)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: 2 of 4 points failed, see ")
    assert "Failed:" in text


def test_command_tune(write, call, tmp_path):
    path, out = write("[[grid]]\ntraining.rate = [0.001, 0.1, 0.5]\n"), tmp_path / "out"
    code, text, err = call(path, "--tune", "--out", out)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert "rates are not tuned on test data" in err
    assert not out.exists()
    code, text, _ = call(path, "--tune", "--out", out, "--set", "data.validation_fraction=0.2", "--workers", 1)
    assert code == 0
    assert text.startswith("[rates]\nsingle_packet = ")
    assert (out / "rates.toml").read_text() == text
    assert "validation accuracy" in (out / "summary.md").read_text()
    tuned = load_points(write(text + GRID, "next.toml"))
    assert {p.config.training.rate for p in tuned if p.config.scheme.name == "single_packet"} <= {0.001, 0.1, 0.5}


def test_a_rate_that_did_not_train_is_never_chosen():
    lost = {"health": {"lost loss": "the training loss was not finite in 2 of 9 rounds, first in round 8: lower"}}
    rows = [row if row is not ROWS[1] else row | lost for row in ROWS]  # one seed of the best mean
    a, b = tune(rows)
    assert (a.best, a.refused) == (0.2, {0.1: lost["health"]["lost loss"]})
    assert rates_text([a, b]).splitlines()[1].endswith("0.2: 50.0 %; at the edge of the grid; 0.1 did not train")
    beyond, _ = tune([row | lost if row in ROWS[2:4] else row for row in ROWS])  # beyond the best rate nothing trains
    assert (beyond.best, beyond.at_edge) == (0.1, False)
    *_, b = tune([row | lost if row["scheme"] == "b" else row for row in ROWS])
    assert b.best is None
    assert rates_text([a, b]).splitlines()[2].startswith("# b: no rate trained  # validation, n = 1; 0.1 did not")


def test_command_tune_chooses_no_rate_that_did_not_train(write, call, tmp_path):
    base = '[base]\n"data.devices" = 4\n"data.validation_fraction" = 0.2\n"model.name" = "mlp"\n"training.rounds" = 8\n'
    grid = '[[grid]]\n"scheme.name" = ["error_free"]\n"training.rate" = [{}]\n'
    code, text, err = call(write(base + grid.format("0.1, 1e6")), "--tune", "--out", tmp_path / "s", "--workers", 1)
    assert code == 0
    assert "error_free = 0.1  #" in text
    assert "1e+06 did not train" in text
    assert "first in round" in err
    assert "lost loss (1 of 1)" in (tmp_path / "s" / "summary.md").read_text()
    code, text, err = call(write(base + grid.format("1e6")), "--tune", "--out", tmp_path / "t", "--workers", 1)
    assert code == 2
    assert "# error_free: no rate trained" in text
    assert err.splitlines()[-1] == "error: --tune: no rate of error_free trained; try smaller ones"


def test_summary_of_cells():
    rows = [
        {**result("a", 0.1, seed, accuracy), "accuracy_final": 0.5, "mean_q_s": 0.25, "error": None, "wall_s": 2.0}
        | {"payload_bits_per_round": 1e6, "received_bits_per_round": 5e5, "joules_per_round": 2e-3}
        for seed, accuracy in enumerate([0.4, 0.5, 0.6])
    ]
    assert "| a | 50.00 | 10.00 | 3 | 50.00 | 0.250 | 1.000 | 0.500 | 2 | 2.0 |" in summary_text(rows)


def test_a_grid_may_have_rates_of_its_own(write):
    text = '[rates]\nsp_fl = 0.1\nerror_free = 0.2\n[[grid]]\n"scheme.name" = ["sp_fl", "error_free"]\n'
    own = '[[grid]]\nseed = 1\n"scheme.name" = ["sp_fl", "error_free"]\nrates = { sp_fl = 0.5 }\n'
    points = load_points(write(text + own))
    assert [point.config.training.rate for point in points] == [0.1, 0.2, 0.5, 0.2]
    with pytest.raises(ConfigError, match="unknown scheme 'sp_fll' in \\[rates\\]"):
        load_points(write(text + own.replace("{ sp_fl =", "{ sp_fll =")))
