"""`spfl radio`: measured and recorded links, and datagrams on real sockets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spfl.cli.options import AtLeast, ConfigPath, DataDir, a_path
from spfl.errors import ConfigError

if TYPE_CHECKING:
    from spfl.radio.coded import ErrorCurve

radio_app = typer.Typer(no_args_is_help=True, help="Measured links and datagrams on real sockets.")


@radio_app.command("calibrate")
def calibrate_command(
    info_bits: Annotated[int, typer.Option(min=100, max=8000, help="Information bits of a block.")] = 500,
    blocks: Annotated[int, typer.Option(min=10, help="Blocks a point of a curve.")] = 200,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations of belief propagation.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of bits and noise.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table to write.", parser=a_path)] = Path("gap_table.json"),
) -> None:
    """Simulate block error rates of LDPC-coded QAM and fit the SNR gap; needs the extra `sionna`.

    Example: `spfl radio calibrate --blocks 200 --out gap_table.json`
    """
    from spfl.radio.coded import calibrate
    from spfl.runs.folders import write_atomically
    from spfl.runs.jsons import dump_json

    def tell(curve: ErrorCurve) -> None:
        row = curve.to_json()
        print(
            f"{row['modulation']:>6} R = {row['rate']:.3f} bit/s/Hz: gap {row['gap_db']:.2f} dB "
            f"+- {1.96 * row['gap_db_standard_error']:.2f} (95 %)",
            file=sys.stderr,
        )

    table = calibrate(info_bits, blocks, iterations, seed, tell)
    write_atomically(out, dump_json(table, indent=1).encode() + b"\n")
    print(out)


@radio_app.command("trace")
def trace_command(
    config_path: ConfigPath = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    run: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN_DIR", help="Record what this run received instead.", parser=a_path),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="CSV or parquet to write.", parser=a_path)] = Path(
        "trace.csv"
    ),
) -> None:
    """Write a recorded link: the gains of a configuration's cell, or what a run received; [trace] drives a run by it.

    Examples: `spfl radio trace configs/demo.toml --out gains.csv` and
    `spfl radio trace --from runs/first --out received.parquet`
    """
    from spfl.runs.link_traces import gains_table, outcomes_table, write_trace

    if run is not None:
        if config_path is not None or overrides:
            raise ConfigError("--from goes alone: the run has its configuration")
        table = outcomes_table(run)
    else:
        from spfl.config.files import load_config
        from spfl.data.sources import load_dataset
        from spfl.world.world import World

        config = load_config(config_path, overrides or [])
        table = gains_table(World.build(config, load_dataset(config.data.name, data_dir)))
    write_trace(out, table)
    print(f"{out}: {table.num_rows} rows of {', '.join(table.column_names)}")


@radio_app.command("udp")
def udp_command(
    config_path: ConfigPath = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    mtu: Annotated[int, typer.Option(min=128, max=65000, help="Largest payload of a datagram in bytes.")] = 1400,
    parity: Annotated[int, typer.Option(min=0, help="Parity datagrams a sign packet (extra `udp`).")] = 0,
    rate_mbit: Annotated[
        float | None, typer.Option(click_type=AtLeast(0.01), help="Rate limit of the shim in Mbit/s.")
    ] = None,
) -> None:
    """Train with every packet sent as UDP datagrams on loopback, between processes, through an erasing shim.

    The fades are independent and each datagram is lost on its own. Example:
    `spfl radio udp configs/demo.toml --set training.rounds=5 --mtu 256`
    """
    from spfl.config.files import load_config
    from spfl.data.sources import load_dataset
    from spfl.figures.scores import shown
    from spfl.udp import run_over_udp

    forced = ["channel.fading=independent", "channel.recovery=segment", f"channel.segment_bits={8 * mtu}"]
    forced.append(f"channel.sign_parity={parity}")
    config = load_config(config_path, [*(overrides or []), *forced])
    rate = None if rate_mbit is None else 1e6 * rate_mbit
    rounds = list(run_over_udp(config, load_dataset(config.data), rate_bit_per_s=rate))
    sent, received = (sum(counts[name] for _, counts in rounds) for name in ("sent", "received"))
    last = rounds[-1][0]
    score = f"test {last.metric} {shown(last.metric, last.test_score, 2)}"
    print(f"{config.scheme.name}: {score}, {received} of {sent} datagrams received")
