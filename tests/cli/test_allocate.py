"""`spfl allocate`: the printed figures can be recomputed, faults in the file are named, JSON is always valid."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from spfl.cli.allocate import COLUMNS, allocate_command
from spfl.errors import AllocationError

EXAMPLE = Path(__file__).parents[2] / "examples" / "devices.csv"
app = typer.Typer()
app.command()(allocate_command)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(*arguments: str | Path) -> dict[str, Any]:
    def refuse(token: str) -> None:
        raise AssertionError(f"not JSON: {token}")

    return json.loads(run(*arguments, "--json"), parse_constant=refuse)


def write(path: Path, *rows: str, header: str = ",".join(COLUMNS)) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def recompute(printed: dict[str, Any], rows: list[dict[str, str]], dim: int, bits: int) -> float:
    """sum_k J_k of model.md, section 6 in plain Python for block fading and unbiased weights."""
    total, weights = 0.0, sum(float(row["weight"]) for row in rows)
    for device, row in zip(printed["devices"], rows, strict=True):
        w, v2 = float(row["weight"]) / weights, float(row["v2"])
        vbar2, v_vbar, delta2 = float(row["vbar2"]), float(row["v_vbar"]), float(row["delta2"])
        if device["beta"] == 0:
            total += w * v2
            continue
        signs, moduli = dim, bits * dim + 64
        rho, beta, alpha = signs / (signs + moduli), device["beta"], device["alpha"]
        received_w = 10 ** ((float(row["power_dbm"]) + float(row["gain_db"])) / 10) * 1e-3
        noise_w = 10 ** (-174 / 10) * 1e-3 * 10e6
        x_s = rho * beta * noise_w / (alpha * received_w) * (2 ** (signs / (rho * beta * 10e6 * 0.1)) - 1)
        x_m = (1 - rho) * beta * noise_w / ((1 - alpha) * received_w)
        x_m *= 2 ** (moduli / ((1 - rho) * beta * 10e6 * 0.1)) - 1
        q, r = math.exp(-x_s), math.exp(-max(x_m - x_s, 0))
        m2 = r**2 * v2 + 2 * r * (1 - r) * v_vbar + (1 - r) ** 2 * vbar2
        e = r * (v2 + delta2) + (1 - r) * vbar2
        total += w * (1 - r) ** 2 * (v2 - 2 * v_vbar + vbar2) + w**2 * (e / q - m2)
    return total


@pytest.mark.parametrize("solver", ["exact", "alternating", "uniform"])
def test_the_printed_objective_can_be_recomputed(solver: str) -> None:
    printed = run_json(EXAMPLE, "--solver", solver)
    with EXAMPLE.open() as file:
        rows = list(csv.DictReader(file))
    assert printed["objective"] == pytest.approx(recompute(printed, rows, 62006, 3), rel=1e-9)
    assert sum(device["beta"] for device in printed["devices"]) <= 1 + 1e-12
    assert [device["device"] for device in printed["devices"]] == [row["device"] for row in rows]


def test_exact_proves_and_the_others_say_null() -> None:
    exact, alternating = run_json(EXAMPLE), run_json(EXAMPLE, "--solver", "alternating")
    assert exact["lower_bound"] <= exact["objective"] <= alternating["objective"] * (1 + 1e-9)
    assert exact["gap"] == pytest.approx(1 - exact["lower_bound"] / exact["objective"])
    assert exact["status"] == "optimal"
    assert alternating["lower_bound"] is None
    assert alternating["gap"] is None


def test_hopeless_and_idle_devices_are_reported() -> None:
    by_name = {device["device"]: device for device in run_json(EXAMPLE)["devices"]}
    assert by_name["basement"]["hopeless"]
    assert by_name["basement"]["beta"] == by_name["idle"]["beta"] == 0
    assert not by_name["idle"]["hopeless"]
    assert "hopeless" in run(EXAMPLE)
    assert "no band" in run(EXAMPLE)


def test_table_and_plot(tmp_path: Path) -> None:
    figure = tmp_path / "shares.png"
    table = run(EXAMPLE, "--plot", figure)
    assert "objective" in table
    assert "lower bound" in table
    assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AllocationError, match="plot: cannot write"):
        run(EXAMPLE, "--plot", tmp_path / "nowhere" / "x.png")


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", "1"), ("--dim", "1000"), ("--tau-s", "0.05"), ("--bandwidth-hz", "2e7"), ("--rho", "0.5"),
        ("--fading", "independent"), ("--theta", "0.5"), ("--kappa", "0.5"), ("--weights", "mmse"),
        ("--snr-gap-db", "3"), ("--noise-dbm-per-hz", "-170"), ("--optimise-rho",), ("--max-scheduled", "3"),
        ("--min-success", "0.92"), ("--max-share", "0.3"),
    ],
)  # fmt: skip
def test_every_option_changes_the_answer(options: tuple[str, ...]) -> None:
    assert run_json(EXAMPLE, *options)["objective"] != pytest.approx(run_json(EXAMPLE)["objective"], rel=1e-7)


def test_weights_are_normalised_and_columns_may_come_in_any_order(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", "a,1,20,-110,1,1,0.9,0.1", "b,3,20,-112,1,1,0.9,0.1")
    two = write(
        tmp_path / "b.csv", "0.1,a,0.25,20,-110,1,1,0.9", "0.1,b,0.75,20,-112,1,1,0.9",
        header="delta2,device,weight,power_dbm,gain_db,v2,vbar2,v_vbar",
    )  # fmt: skip
    assert run_json(one)["objective"] == pytest.approx(run_json(two)["objective"], rel=1e-12)


def test_json_stays_valid_where_numbers_overflow(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,1,20,-110,1e300,1e300,1e300,1e300", "b,1,20,-150,1e300,1e300,1e300,1e300")
    for solver in ("exact", "alternating", "uniform"):
        printed = run_json(path, "--solver", solver, "--dim", "900000")
        assert len(printed["devices"]) == 2
    silent = write(tmp_path / "b.csv", "a,1,-inf,-110,1,1,1,0", "b,0,20,-inf,1,1,1,0")
    assert [device["beta"] for device in run_json(silent)["devices"]] == [0, 0]


GOOD = "a,1,20,-110,1,1,0.9,0.1"


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([GOOD], "device,weight,power_dbm,gain,v2,vbar2,v_vbar,delta2", r"'gain' \(did you mean 'gain_db'"),
        (["a,1"], "device,weight", "missing column power_dbm, gain_db"),
        ([GOOD, "b,x,20,-110,1,1,0.9,0.1"], None, "row 3, column weight: must be a finite number, got 'x'"),
        ([GOOD, "b,,20,-110,1,1,0.9,0.1"], None, "row 3, column weight: must be a finite number, got ''"),
        (["a,nan,20,-110,1,1,0.9,0.1"], None, "row 2, column weight: must be a finite number, got 'nan'"),
        ([GOOD, GOOD], None, "row 3, column device: names must differ, got 'a' again"),
        (["a,-1,20,-110,1,1,0.9,0.1"], None, "row 2, column weight: must be >= 0, got -1"),
        (["a,1,20,-110,1,1,0.9"], None, "row 2: must have 8 cells, got 7"),
        ([], None, "at least one device"),
        ([GOOD], "device,device,power_dbm,gain_db,v2,vbar2,v_vbar,delta2", "missing column weight"),
    ],
)  # fmt: skip
def test_faults_in_the_file_are_named(tmp_path: Path, rows: list[str], header: str | None, message: str) -> None:
    path = write(tmp_path / "devices.csv", *rows, header=header or ",".join(COLUMNS))
    with pytest.raises(AllocationError, match=message) as caught:
        run(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rho", "half"), "rho must be 'proportional' or a number"),
        (("--rho", "1"), "rho must be"),
        (("--bits", "0"), "bits and dim must be >= 1"),
        (("--tau-s", "0"), "tau_s must be finite and > 0"),
        (("--bandwidth-hz", "-1"), "bandwidth_hz"),
        (("--theta", "2"), r"theta must lie in \[0, 1\]"),
        (("--min-success", "0.999999999"), "min_success"),
    ],
)
def test_options_out_of_range_are_named(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(AllocationError, match=message):
        run(EXAMPLE, *options)


def test_missing_file() -> None:
    with pytest.raises(AllocationError, match="cannot read the devices"):
        run("nowhere.csv")
