"""The command line: parsing and printing only. Results go to stdout, everything else to stderr.

What takes time to import (PyTorch, NumPy, pydantic, pyarrow) is imported inside the commands, so that `spfl --help`
answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spfl.cli.allocate import allocate_command
from spfl.cli.completion import complete_key, complete_schemes
from spfl.cli.ending import Commands, run_app
from spfl.cli.figures import export_command, figures_command, plot_command
from spfl.cli.flower import flower_app
from spfl.cli.init import init_command
from spfl.cli.link import link_command
from spfl.cli.options import (
    ConfigPath,
    DataDir,
    Out,
    OwnCode,
    Preset,
    Resume,
    check_resume,
    chosen_path,
    new_folder,
)  # fmt: skip
from spfl.cli.progress import progress_bars
from spfl.cli.radio import radio_app
from spfl.cli.report import report_command, watch_command
from spfl.cli.signals import resumable
from spfl.cli.sweep import sweep_command
from spfl.cli.verify import archive_command, verify_command
from spfl.config.names import COMPARED, MODELS, TASKS
from spfl.errors import ConfigError, RunFolderError
from spfl.files import is_file
from spfl.terminal import print_table
from spfl.version import __version__

if TYPE_CHECKING:
    from spfl.config.schema import Config
    from spfl.runs.experiment import Existing

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Federated learning over unreliable wireless links, with sign-prioritized uplinks.",
)
config_app = typer.Typer(no_args_is_help=True, help="Show the resolved configuration, or the schema of all keys.")
app.add_typer(config_app, name="config")
app.add_typer(flower_app, name="flower")
app.add_typer(radio_app, name="radio")
app.command("init")(init_command)
app.command("allocate")(allocate_command)
app.command("sweep")(sweep_command)
app.command("plot")(plot_command)
app.command("figures")(figures_command)
app.command("export")(export_command)
app.command("report")(report_command)
app.command("watch")(watch_command)
app.command("verify")(verify_command)
app.command("archive")(archive_command)
app.command("link")(link_command)

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, e.g. training.rounds=50; `spfl config schema` has all keys.",
        autocompletion=complete_key,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier run in the folder.")]
Workers = Annotated[int | None, typer.Option(help="Threads for gradients; 0 = all cores. Never changes results.")]
DeviceName = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="PyTorch device for whole rounds, such as cuda; see torch_device."),
]
Every = Annotated[int, typer.Option("--checkpoint-every", metavar="ROUNDS", help="Rounds between checkpoints.")]
Trackers = Annotated[
    list[str] | None,
    typer.Option("--tracker", metavar="NAME", help="Report to tensorboard, mlflow or wandb as well; may be repeated."),
]
Plugin = Annotated[
    str | None,
    typer.Option("--plugin", metavar="FILE.py", help="Python file with parts of your own; the same as plugin.path."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"spfl {__version__}")
        raise typer.Exit


@app.command()
def run(
    config_path: ConfigPath = None,
    preset: Preset = None,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    out: Out = None,
    scheme: Annotated[
        str | None, typer.Option(metavar="NAME", help="Scheme, as scheme.name.", autocompletion=complete_schemes)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random stream.")] = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    workers: Workers = None,
    device: DeviceName = None,
    plugin: Plugin = None,
    own_code: OwnCode = False,
    checkpoint_every: Every = 10,
    profile: Annotated[bool, typer.Option("--profile", help="Print the seconds of each phase.")] = False,
    trackers: Trackers = None,
    as_json: AsJson = False,
) -> None:
    """Train once and write a run folder.

    Example: `spfl run configs/demo.toml --scheme single_packet --seed 1`
    """
    check_resume(resume, out)
    config_path = chosen_path(config_path, preset)
    if resume and out and config_path is None:
        config_path = out / "config.toml"
        if not is_file(config_path):
            raise RunFolderError(f"nothing to resume in {out}: it holds no config.toml")
        if not own_code and plugin is None:
            from spfl.runs.experiment import check_own_code, read_config

            check_own_code(out, read_config(out))
    given = [*(overrides or []), *([f"scheme.name={scheme}"] if scheme else [])]
    config = _resolve(config_path, given, seed=seed, workers=workers, torch_device=device, **_plugin(plugin))
    _tell_idle(config)
    folder = out or new_folder(f"{config.scheme.name}-{config.seed}")
    from spfl.data.sources import load_dataset
    from spfl.runs.experiment import check_free, run_experiment
    from spfl.runs.metrics import told_score
    from spfl.runs.results import Run
    from spfl.runs.trackers import check_trackers, tracking

    check_trackers(trackers or [])
    check_free(folder, _existing(overwrite, resume))
    dataset = load_dataset(config.data, data_dir)
    with resumable(folder), progress_bars() as bar, tracking(trackers or [], config, folder) as track:
        advance = bar(config.scheme.name, config.training.rounds)
        summary = run_experiment(
            config,
            dataset,
            folder,
            existing=_existing(overwrite, resume),
            checkpoint_every=checkpoint_every,
            progress=lambda values: (advance(values), track(values))[0],
        )
    health = Run.load(folder).health
    if as_json:
        _print_json(summary | {"folder": str(folder), "health": health})
        return
    print(f"{summary['scheme']}, seed {summary['seed']}: {told_score(summary)}, {folder}")
    for line in health.values():
        typer.echo(f"warning: {line}", err=True)
    if profile:
        _print_profile(summary)


@app.command()
def compare(
    config_path: ConfigPath = None,
    preset: Preset = None,
    schemes: Annotated[
        str,
        typer.Option(
            metavar="A,B,C", help="Schemes to compare; `spfl info` lists them.", autocompletion=complete_schemes
        ),
    ] = ",".join(COMPARED),
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="Seeds, such as 0-4 or 0,2,5-7.")] = "0",
    overrides: Overrides = None,
    data_dir: DataDir = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    workers: Workers = None,
    device: DeviceName = None,
    plugin: Plugin = None,
    checkpoint_every: Every = 10,
    as_json: AsJson = False,
) -> None:
    """Run several schemes on the same data order, initial weights, gains and fades; print a table, draw a figure.

    Example: `spfl compare configs/demo.toml --schemes error_free,single_packet,sp_fl --seeds 0-4`
    """
    check_resume(resume, out)
    config_path = chosen_path(config_path, preset)
    config, existing = (
        _resolve(config_path, overrides, workers=workers, torch_device=device, **_plugin(plugin)),
        _existing(overwrite, resume),
    )
    _tell_idle(config, compared=True)
    folder = out or new_folder("compare")
    from spfl.data.sources import load_dataset
    from spfl.runs import comparison
    from spfl.runs.health import grouped
    from spfl.runs.results import Run

    names, numbers = [name.strip() for name in schemes.split(",")], comparison.parse_seeds(seeds)
    if seeds.strip().isdecimal() and numbers[0] > 1:
        typer.echo(f"note: --seeds {seeds} is one seed; for {numbers[0]} seeds write 0-{numbers[0] - 1}", err=True)
    dataset = load_dataset(config.data, data_dir)
    with resumable(folder), progress_bars() as bar:
        rows = comparison.compare(
            config,
            names,
            numbers,
            dataset,
            folder,
            existing=existing,
            checkpoint_every=checkpoint_every,
            watch=lambda run: bar(f"{run.scheme.name}, seed {run.seed}", run.training.rounds),
        )
    runs = {f"{name}, seed {seed}": folder / f"{name}-{seed}" for name in names for seed in numbers}
    health = {title: Run.load(path).health for title, path in runs.items()}
    figure = comparison.figure_of(folder, rows)
    if as_json:
        _print_json({"folder": str(folder), "figure": str(figure), "table": rows, "health": health})
        return
    print_table("", comparison.headings(rows), [comparison.cells(row) for row in rows])
    print(comparison.caption(rows))
    print(f"table:  {folder / comparison.TABLE_MD}")
    if figure.is_file():
        print(f"figure: {figure}")
    for line in grouped(health):
        typer.echo(f"warning: {line}", err=True)


@app.command()
def info(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Versions, devices, networks, tasks, datasets found, and the schemes with their sources.

    Example: `spfl info --json`
    """
    from spfl.runs.environment import datasets_at_hand, describe_devices, describe_environment
    from spfl.schemes import SCHEMES

    environment, devices = describe_environment(), describe_devices()
    found = datasets_at_hand(data_dir)
    schemes = [{"name": s.name, "source": s.source, "summary": s.summary} for s in SCHEMES.values()]
    if as_json:
        known = {"networks": list(MODELS), "tasks": list(TASKS)}
        _print_json(environment | {"devices": devices, "datasets": found, "schemes": schemes} | known)
        return
    print("  ".join(f"{name} {number}" for name, number in environment["versions"].items()))
    print(*devices, sep="\n")
    print(f"networks: {', '.join(MODELS)}; tasks: {', '.join(TASKS)}")
    print_table("Datasets", ["name", "where"], [[name, place] for name, place in found.items()])
    print_table("Schemes", ["name", "source", "summary"], [list(scheme.values()) for scheme in schemes])


@config_app.command()
def show(config_path: ConfigPath = None, preset: Preset = None, overrides: Overrides = None) -> None:
    """Print the resolved configuration as TOML; keys that are absent are comments with their meaning.

    Example: `spfl config show configs/demo.toml --set codec.bits=4`
    """
    from spfl.config.files import load_config, show_toml

    print(show_toml(load_config(chosen_path(config_path, preset), overrides or [])), end="")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of all keys: meaning, unit, default and range.

    Example: `spfl config schema`
    """
    from spfl.config.schema import Config

    _print_json(Config.model_json_schema())


# --- helpers ------------------------------------------------------------------------------------------------


def _resolve(path: Path | None, overrides: list[str] | None, **given: int | str | None) -> Config:
    from spfl.config.files import load_config

    return load_config(path, [*(overrides or []), *(f"{k}={v}" for k, v in given.items() if v is not None)])


def _tell_idle(config: Config, *, compared: bool = False) -> None:
    from spfl.config.effects import told_idle

    for line in told_idle(config, compared=compared):
        typer.echo(f"warning: {line}", err=True)


def _plugin(path: str | None) -> dict[str, str | None]:
    return {} if path is None else {"plugin.path": path}


def _existing(overwrite: bool, resume: bool) -> Existing:
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other")
    return "overwrite" if overwrite else "resume" if resume else "refuse"


def _print_json(value: Any) -> None:
    from spfl.runs.jsons import dump_json

    print(dump_json(value, indent=2))


def _print_profile(summary: dict[str, Any]) -> None:
    seconds, rounds = dict(summary["seconds"]), summary["rounds"]
    solver, setup, total = seconds.pop("solver"), seconds.pop("setup"), seconds.pop("total")
    seconds["writing and the rest"] = total - sum(seconds.values())
    rows = [[name, f"{s:.2f}", f"{1e3 * s / rounds:.2f}", f"{s / total:.1%}"] for name, s in seconds.items()]
    rows.append(["total", f"{total:.2f}", f"{1e3 * total / rounds:.2f}", "100.0%"])
    print_table("", ["phase", "s", "ms/round", "share"], rows)
    print(f"{rounds} rounds, after {setup:.2f} s of set-up; of `allocate`, {solver:.2f} s is the solver")


def main() -> None:
    """The entry point `spfl`: exit code 0, 2 for an error of the user's, 130 for Ctrl-C, 143 for SIGTERM."""
    run_app(app)
