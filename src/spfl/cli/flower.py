"""`spfl flower`: the same experiment on Flower, from nodes in one process to hosts that speak TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import ConfigPath, DataDir, Out, Resume, a_path, check_resume, new_folder
from spfl.cli.progress import progress_bars
from spfl.cli.signals import resumable

flower_app = typer.Typer(
    no_args_is_help=True,
    help="Run on Flower: in one process, on Ray, or on hosts that speak TLS. Needs `pip install 'spfl[flower]'`.",
)
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. training.rounds=50, flower.timeout_s=60."),
]


@flower_app.command("init")
def init_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder; letters, digits and hyphens.", parser=a_path)
    ],
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Write a Flower app, ready for `flwr run`.

    Example: `spfl flower init my-app configs/demo.toml --set training.rounds=3`
    """
    from spfl.flower.project import write_project
    from spfl.flower.settings import load_settings

    write_project(folder, load_settings(config_path, overrides or []))
    print(folder)


@flower_app.command("run")
def run_command(
    config_path: ConfigPath = None,
    overrides: Overrides = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            help="inprocess: no other process; ray: Flower's simulation; deploy: SuperLink and SuperNodes by TLS.",
        ),
    ] = "inprocess",
    nodes: Annotated[int, typer.Option(help="Nodes; node p of P holds the devices k with k mod P = p.")] = 2,
    node_data: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="With data.source = node: each node's own data, a folder or module:function; sets --nodes.",
        ),
    ] = None,
    data_dir: DataDir = None,
    out: Out = None,
    resume: Resume = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Train once, as `spfl run` does and with the same numbers, on the nodes of a Flower federation.

    Example: `spfl flower run configs/demo.toml --engine deploy --nodes 2 --set training.rounds=3`
    With `data.source = "node"` each node brings its own: `spfl flower run mine.toml --node-data /data/a,/data/b`
    """
    check_resume(resume, out)
    from spfl.flower.engines import run_flower
    from spfl.flower.settings import load_settings
    from spfl.runs.jsons import dump_json

    settings = load_settings(config_path, overrides or [])
    scheme, seed = settings.scheme.name, settings.seed
    folder = (out or new_folder(f"flower-{scheme}-{seed}")).resolve()
    data = str(data_dir.resolve()) if data_dir else settings.flower.data_dir
    changes = {"out": str(folder), "resume": resume, "data_dir": data}
    settings = settings.model_copy(update={"flower": settings.flower.model_copy(update=changes)})
    sources = node_data.split(",") if node_data else []
    nodes = len(sources) or nodes
    with resumable(folder), progress_bars() as bar:
        advance = bar(f"{scheme} on {nodes} nodes", settings.training.rounds)
        summary = run_flower(settings, engine, nodes, advance, sources)
    if as_json:
        print(dump_json(summary | {"folder": str(folder)}, indent=2))
    else:
        accuracy = summary["accuracy_final"]
        shown = "unknown" if accuracy is None else f"{accuracy:.2%}"
        print(f"{scheme}, seed {seed}: test accuracy {shown}, {folder}")


@flower_app.command("keys")
def keys_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder for certificates and keys.", parser=a_path)
    ],
    host: Annotated[
        list[str], typer.Option(metavar="HOST", help="Name or address under which nodes reach the server; may repeat.")
    ],
    nodes: Annotated[int, typer.Option(min=0, help="Key pairs to make, one a node.")] = 2,
) -> None:
    """Make a private authority, a certificate of the server, and a key pair for each node.

    Example: `spfl flower keys credentials --host fl.example.org --nodes 2`
    """
    from spfl.flower.credentials import make_credentials

    make_credentials(folder, host, nodes)
    for path in sorted(folder.iterdir()):
        print(path)
