"""`spfl link`: the link budget of a configuration, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import ConfigPath, DataDir, Preset, a_path, chosen_path

MOST_ROWS = 40  # devices that are printed; of more, some from the best to the worst
HEADS = ("device", "distance m", "gain dB", "SNR dB", "single", "sign", "both", "joules")


def link_command(
    config_path: ConfigPath = None,
    preset: Preset = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Figure to write: png, pdf or svg.", parser=a_path)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the link budget: packets, uplink time, and how often a packet of each device would arrive on an equal share.

    Example: `spfl link configs/demo.toml --out link.png`
    """
    from spfl.config.files import load_config
    from spfl.data.dataset import load_dataset
    from spfl.figures.link import link_figure
    from spfl.figures.saving import save_figure
    from spfl.runs.jsons import dump_json
    from spfl.world.link_budget import link_budget
    from spfl.world.world import World

    config = load_config(chosen_path(config_path, preset), overrides or [])
    budget = link_budget(World.build(config, load_dataset(config.data.name, data_dir)))
    if out is not None:
        packets = {"single packet": budget.single, "signs": budget.sign, "signs and moduli": budget.modulus}
        out = save_figure(link_figure(budget.snr_db, packets), out)
    rows = budget.rows()
    if as_json:
        print(dump_json(budget.summary() | {"devices": rows}, indent=2))
        return
    _print(budget.summary(), rows)
    if out is not None:
        print(f"figure: {out}")


def _print(told: dict[str, float], rows: list[dict[str, float]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = rows if len(rows) <= MOST_ROWS else [rows[i * (len(rows) - 1) // (MOST_ROWS - 1)] for i in range(MOST_ROWS)]
    table = Table(box=box.SIMPLE_HEAD)
    for head in HEADS:
        table.add_column(head, justify="right")
    for row in shown:
        number, *links, single, sign, both, joules = row.values()
        numbers = [f"{value:.1f}" for value in links] + [f"{chance:.3f}" for chance in (single, sign, both)]
        table.add_row(f"{number:.0f}", *numbers, f"{joules:.3g}")
    Console().print(table)
    print(f"{told['parameters']:.0f} parameters, {told['tau_s']:.4g} s of uplink a round, "
          f"{told['share_hz'] / 1e3:.4g} kHz a device")  # fmt: skip
    print(f"single packet {told['single_bits']:.0f} bits; signs {told['sign_bits']:.0f} and moduli "
          f"{told['modulus_bits']:.0f} bits")  # fmt: skip
    print(f"median SNR {told['median_snr_db']:.1f} dB; on average arrive: single packets {told['mean_single']:.1%}, "
          f"signs {told['mean_sign']:.1%}, signs with moduli {told['mean_modulus']:.1%}")  # fmt: skip
    if len(rows) > MOST_ROWS:
        print(f"{MOST_ROWS} of {len(rows)} devices, from the best link to the worst")
