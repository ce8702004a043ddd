"""`spfl flower`: the same experiment on Flower, from nodes in one process to hosts that speak TLS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import AtLeast, ConfigPath, DataDir, Out, Resume, a_path, check_resume, new_folder
from spfl.cli.progress import progress_bars
from spfl.cli.signals import resumable
from spfl.errors import ConfigError

flower_app = typer.Typer(
    no_args_is_help=True,
    help="Run on Flower: in one process, on Ray, or on hosts that speak TLS. Needs `pip install 'spfl[flower]'`.",
)
FlowerOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. training.rounds=50, flower.timeout_s=60."),
]


@flower_app.command("init")
def init_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder; letters, digits and hyphens.", parser=a_path)
    ],
    config_path: ConfigPath = None,
    module: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="Makes a network of your own; the app carries its file.")
    ] = "",
    overrides: FlowerOverrides = None,
) -> None:
    """Write a Flower app, ready for `flwr run`.

    Examples: `spfl flower init my-app configs/demo.toml --set training.rounds=3` and
    `spfl flower init my-app mine.toml --module mine:make_model`
    """
    from spfl.flower.project import write_project
    from spfl.flower.settings import load_settings

    own = [f"flower.module={module}"] if module else []
    write_project(folder, load_settings(config_path, [*(overrides or []), *own]))
    print(folder)


@flower_app.command("run")
def run_command(
    config_path: ConfigPath = None,
    overrides: FlowerOverrides = None,
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
    from spfl.runs.metrics import told_score

    sources = node_data.split(",") if node_data else []
    nodes = len(sources) or nodes
    with resumable(folder), progress_bars() as bar:
        advance = bar(f"{scheme} on {nodes} nodes", settings.training.rounds)
        summary = run_flower(settings, engine, nodes, advance, sources)
    if as_json:
        print(dump_json(summary | {"folder": str(folder)}, indent=2))
    else:
        print(f"{scheme}, seed {seed}: {told_score(summary)}, {folder}")


@flower_app.command("keys")
def keys_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder for certificates and keys.", parser=a_path)
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Name or address under which nodes reach the server; may repeat."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=0, help="Key pairs to make, one a node.")] = 2,
    add: Annotated[int, typer.Option("--add", min=0, help="Add so many key pairs to a folder that exists.")] = 0,
    keep_authority: Annotated[
        bool,
        typer.Option("--keep-authority", help="Keep the authority's key, under the passphrase of SPFL_CA_PASSPHRASE."),
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="A new server certificate by the authority that was kept, for --host.")
    ] = False,
) -> None:
    """Make a private authority, a certificate of the server, and a key pair for each node.

    The certificate is good for localhost and 127.0.0.1 besides the names given. Examples:
    `spfl flower keys credentials --host fl.example.org --nodes 2` and, for one more node later,
    `spfl flower keys credentials --add 1`
    """
    from spfl.flower.credentials import add_nodes, make_credentials, renew_server

    if add:
        if host or renew or keep_authority:
            raise ConfigError("--add goes alone: it needs no authority")
        print(*add_nodes(folder, add), sep="\n")
        return
    if not host:
        raise ConfigError("--host HOST is needed, the name under which nodes reach the server")
    if renew:
        renew_server(folder, host, _passphrase())
    else:
        make_credentials(folder, host, nodes, _passphrase() if keep_authority else None)
    for path in sorted(folder.iterdir()):
        print(path)


def _passphrase() -> bytes:
    """The passphrase of the authority's key: of the environment, else asked for."""
    return (os.environ.get("SPFL_CA_PASSPHRASE") or typer.prompt("Passphrase", hide_input=True)).encode()


@flower_app.command("health")
def health_command(
    metrics_file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file of flower.metrics_file.", parser=a_path)
    ],
    within: Annotated[float, typer.Option(click_type=AtLeast(0), help="Most seconds since the last round.")] = 600.0,
) -> None:
    """Say how long ago the last round ended; exit code 2 when that is too long. For health checks of containers.

    Example: `spfl flower health /srv/runs/spfl.prom --within 300`
    """
    from spfl.flower.monitoring import check_health

    print(check_health(metrics_file, within))
