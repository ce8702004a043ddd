"""`spfl allocate`: shares of the bandwidth and splits of the power for the devices of a CSV file."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from spfl.cli.options import a_path
from spfl.config.names import SolverName, WeightsName
from spfl.errors import AllocationError, did_you_mean, reason
from spfl.files import read_text

if TYPE_CHECKING:
    from spfl.allocation.bound import Devices
    from spfl.allocation.result import AllocationResult
    from spfl.radio.outage import Link

NUMBERS = ("weight", "power_dbm", "gain_db", "v2", "vbar2", "v_vbar", "delta2")
COLUMNS = ("device", *NUMBERS)
SIGNED = ("power_dbm", "gain_db")
RANGE_BITS = 64  # v_min and v_max as float32; this command counts no packet headers

FadingName = Literal["block", "independent"]
MultiplexName = Literal["orthogonal", "superposed"]


@dataclass(frozen=True)
class DeviceTable:
    """The devices of a CSV file: their names, and a list of numbers for each column."""

    names: list[str]
    values: dict[str, list[float]]


def allocate_command(
    devices_csv: Annotated[
        Path, typer.Argument(metavar="DEVICES.csv", help="Columns: " + ",".join(COLUMNS) + ".", parser=a_path)
    ],
    solver: Annotated[SolverName, typer.Option(help="exact proves its distance from the optimum.")] = "exact",
    bandwidth_hz: Annotated[float, typer.Option(help="Bandwidth that the devices share, in Hz.")] = 10e6,
    tau_s: Annotated[float, typer.Option(help="Time for the two packets, in seconds.")] = 0.1,
    bits: Annotated[int, typer.Option(help="Bits per modulus.")] = 3,
    dim: Annotated[int, typer.Option(help="Elements of the gradient.")] = 62006,
    rho: Annotated[str, typer.Option(help="Band share of the signs: 'proportional' or 0..1.")] = "proportional",
    fading: Annotated[FadingName, typer.Option(help="One fade for both packets, or one each.")] = "block",
    multiplex: Annotated[
        MultiplexName, typer.Option(help="Bandwidth of its own for each packet, or the same for both.")
    ] = "orthogonal",
    theta: Annotated[float, typer.Option(help="How biases add up: 1 always valid, 0 if uncorrelated.")] = 1.0,
    kappa: Annotated[float, typer.Option(help="Learning rate times smoothness.")] = 1.0,
    weights: Annotated[WeightsName, typer.Option(help="How received gradients are weighted.")] = "unbiased",
    snr_gap_db: Annotated[float, typer.Option(help="Loss of the code against capacity, in dB.")] = 0.0,
    noise_dbm_per_hz: Annotated[float, typer.Option(help="Noise density, in dBm/Hz.")] = -174.0,
    optimise_rho: Annotated[bool, typer.Option("--optimise-rho", help="Optimise rho too (exact only).")] = False,
    max_scheduled: Annotated[int | None, typer.Option(help="Schedule at most so many devices.")] = None,
    min_success: Annotated[float, typer.Option(help="Least success probability of a sign packet.")] = 0.0,
    max_share: Annotated[float, typer.Option(help="Largest share of the bandwidth for one device.")] = 1.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw shares, success and cost by device.", parser=a_path)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Share the bandwidth, and split each device's power between signs and moduli, at the least one-step cost.

    Example: `spfl allocate devices.csv --tau-s 0.05 --plot shares.png`
    """
    from spfl.allocation.allocator import allocate
    from spfl.allocation.bound import Objective
    from spfl.allocation.problem import Limits

    table = read_devices(devices_csv)
    devices, link = build_problem(table, bandwidth_hz, tau_s, bits, dim, rho, fading, snr_gap_db, noise_dbm_per_hz)
    limits = Limits(
        min_success=min_success, max_scheduled=max_scheduled, max_share=max_share, optimise_rho=optimise_rho
    )
    if multiplex == "superposed":
        link = superpose(link)
    result = allocate(devices, link, Objective(theta, kappa, weights), limits, solver=solver)
    print(json.dumps(as_record(table.names, result), allow_nan=False) if as_json else as_table(table.names, result))
    if plot is not None:
        draw(table.names, result, plot)


def read_devices(path: Path) -> DeviceTable:
    """The devices of a CSV file. Raises AllocationError that names file, row and column of the first fault."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise AllocationError(f"{path}: cannot read the devices: {reason(error)}") from error
    reader = csv.reader(text.splitlines())
    header = [name.strip() for name in next(reader, [])]
    _check_header(path, header)
    names: list[str] = []
    values: dict[str, list[float]] = {column: [] for column in NUMBERS}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, row {reader.line_num}"
        if len(cells) != len(header):
            raise AllocationError(f"{where}: must have {len(header)} cells, got {len(cells)}")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        if row["device"] in names:
            raise AllocationError(f"{where}, column device: names must differ, got {row['device']!r} again")
        names.append(row["device"])
        for column in NUMBERS:
            values[column].append(_number(where, column, row[column]))
    if not names:
        raise AllocationError(f"{path}: must list at least one device, got none")
    return DeviceTable(names, values)


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in COLUMNS:
            raise AllocationError(f"{path}, row 1: unknown column {name!r}{did_you_mean(name, COLUMNS)}")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise AllocationError(f"{path}, row 1: missing column {', '.join(missing)}")
    if len(set(header)) < len(header):
        raise AllocationError(f"{path}, row 1: columns must differ, got {','.join(header)}")


def _number(where: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    # no gain at all is minus infinity in dB
    if math.isnan(value) or value == math.inf or (math.isinf(value) and column not in SIGNED):
        raise AllocationError(f"{where}, column {column}: must be a finite number, got {cell!r}")
    if value < 0 and column not in SIGNED:
        raise AllocationError(f"{where}, column {column}: must be >= 0, got {cell}")
    return value


def build_problem(
    table: DeviceTable,
    bandwidth_hz: float,
    tau_s: float,
    bits: int,
    dim: int,
    rho: str,
    fading: FadingName,
    snr_gap_db: float,
    noise_dbm_per_hz: float,
) -> tuple[Devices, Link]:
    """Devices with weights that sum to one, and their link: L_s = dim, L_m = bits * dim + 64, no headers."""
    import numpy as np

    from spfl.allocation.bound import Devices
    from spfl.radio.outage import Link
    from spfl.units import db_to_linear, dbm_to_watt

    if bits < 1 or dim < 1:
        raise AllocationError(f"bits and dim must be >= 1, got {bits} and {dim}")
    if not 0.0 < tau_s < math.inf:
        raise AllocationError(f"tau_s must be finite and > 0, got {tau_s}")
    column = {name: np.array(values) for name, values in table.values.items()}
    size = len(table.names)
    share = None if rho == "proportional" else np.full(size, _share(rho))
    try:
        link = Link(
            bandwidth_hz, dbm_to_watt(noise_dbm_per_hz), dbm_to_watt(column["power_dbm"]),
            db_to_linear(column["gain_db"]), np.full(size, tau_s), np.full(size, float(dim)),
            np.full(size, float(bits * dim + RANGE_BITS)), db_to_linear(snr_gap_db), fading, share,
        )  # fmt: skip
        devices = Devices(*(column[name] for name in ("weight", "v2", "vbar2", "v_vbar", "delta2")))
    except ValueError as error:
        raise AllocationError(str(error)) from error
    return devices.normalized(), link


def superpose(link: Link) -> Link:
    """The link with both packets in the same bandwidth. Raises AllocationError where that has no meaning."""
    try:
        return replace(link, multiplex="superposed")
    except ValueError as error:
        raise AllocationError(str(error)) from error


def _share(rho: str) -> float:
    try:
        value = float(rho)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1.0:
        raise AllocationError(f"rho must be 'proportional' or a number in (0, 1), got {rho!r}")
    return value


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def as_record(names: list[str], result: AllocationResult) -> dict[str, Any]:
    """The result as plain JSON values; what is unknown or not finite is null."""
    fields = ("beta", "alpha", "rho", "q_s", "r_m", "cost")
    devices = [
        {"device": name}
        | {field: _finite(getattr(result, field)[k]) for field in fields}
        | {"hopeless": bool(result.hopeless[k])}
        for k, name in enumerate(names)
    ]
    summary = {name: _finite(getattr(result, name)) for name in ("objective", "lower_bound", "gap")}
    counts = {"iterations": result.iterations, "seconds": result.seconds}
    return {**summary, "status": result.status.value, **counts, "devices": devices}


def as_table(names: list[str], result: AllocationResult) -> str:
    """The result for people: a row for each device, then the certificate."""
    width = max(6, *(len(name) for name in names))
    lines = [f"{'device':<{width}} {'beta':>9} {'alpha':>9} {'rho':>7} {'q_s':>9} {'r_m':>9} {'cost':>11}"]
    for k, name in enumerate(names):
        note = "  hopeless" if result.hopeless[k] else "" if result.beta[k] > 0 else "  no bandwidth"
        lines.append(
            f"{name:<{width}} {result.beta[k]:9.6f} {result.alpha[k]:9.6f} {result.rho[k]:7.4f} "
            f"{result.q_s[k]:9.6f} {result.r_m[k]:9.6f} {result.cost[k]:11.4e}{note}"
        )
    lines.append("")
    lines.append(f"objective   {result.objective:.9g}")
    if result.lower_bound is not None and result.gap is not None:
        lines.append(f"lower bound {result.lower_bound:.9g}   gap {result.gap:.2e}")
    lines.append(f"status      {result.status.value}, {result.iterations} iterations, {1e3 * result.seconds:.1f} ms")
    return "\n".join(lines)


def draw(names: list[str], result: AllocationResult, path: Path) -> None:
    """Bars of the shares, the success probabilities and the costs by device. Raises AllocationError if it cannot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 0.3 * len(names)), 7.0), layout="constrained")
    share, chance, cost = cast(Any, figure.subplots(3, 1, sharex=True))
    places = range(len(names))
    share.bar(places, result.beta * result.rho, label="signs", color="#0072B2")
    share.bar(places, result.beta * (1 - result.rho), bottom=result.beta * result.rho, label="moduli", color="#E69F00")
    share.set_ylabel("share of the bandwidth")
    chance.bar([k - 0.2 for k in places], result.q_s, 0.4, label="q_s: signs", color="#0072B2")
    chance.bar([k + 0.2 for k in places], result.r_m, 0.4, label="r_m: moduli, given signs", color="#E69F00")
    chance.set_ylabel("success probability")
    chance.set_ylim(0, 1)
    cost.bar(places, result.cost, color="#009E73")
    cost.set_ylabel("cost J")
    cost.set_xticks(places if len(names) <= 40 else [], names if len(names) <= 40 else [], rotation=90)
    for axes in (share, chance):
        axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise AllocationError(f"plot: cannot write {path}: {reason(error)}") from error
