"""`spfl radio`: measured links, cell drops, and datagrams on real sockets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spfl.radio.calibrate import Curve

radio_app = typer.Typer(no_args_is_help=True, help="Measured links and datagrams on real sockets.")


@radio_app.command("calibrate")
def calibrate_command(
    info_bits: Annotated[int, typer.Option(min=100, max=8000, help="Information bits of a block.")] = 500,
    blocks: Annotated[int, typer.Option(min=10, help="Blocks a point of a curve.")] = 200,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations of belief propagation.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of bits and noise.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table to write.")] = Path("gap_table.json"),
) -> None:
    """Simulate block error rates of LDPC-coded QAM and fit the SNR gap; needs the extra `sionna`.

    Example: `spfl radio calibrate --blocks 200 --out gap_table.json`
    """
    from spfl.folders import write_atomically
    from spfl.radio.calibrate import calibrate
    from spfl.runlog import dump_json

    def tell(curve: Curve) -> None:
        row = curve.to_json()
        print(
            f"{row['modulation']:>6} R = {row['rate']:.3f} bit/s/Hz: gap {row['gap_db']:.2f} dB "
            f"+- {1.96 * row['gap_db_standard_error']:.2f} (95 %)",
            file=sys.stderr,
        )

    table = calibrate(info_bits, blocks, iterations, seed, tell)
    write_atomically(out, dump_json(table, indent=1).encode() + b"\n")
    print(out)
