"""`spfl report`: one HTML page of a run, a comparison or a sweep. It needs no network and no other file."""

from __future__ import annotations

import json
import re
import statistics
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from spfl.config.files import to_toml
from spfl.errors import RunFolderError
from spfl.figures.curves import Importance
from spfl.figures.scores import factor, unit
from spfl.files import is_file
from spfl.report.again import check_shown, reproduction, sources
from spfl.report.parts import RESULTS_NOTE, PageSection, PageTable, Panel
from spfl.runs.experiment import ENVIRONMENT, read_json
from spfl.runs.folders import write_atomically
from spfl.runs.health import grouped
from spfl.runs.results import Group, Run, Value, check_report, differing, progress, read_groups, read_importance
from spfl.studies.tables import TABLE
from spfl.version import __version__

if TYPE_CHECKING:
    import plotly.graph_objects as go

REPORT = "report.html"
MOST_SOURCES = 12  # configurations that can be saved from the head of a page
FOREIGN_TAG = re.compile(r"<(?!/?(?:br|b|i|sub|sup|extra)>)")  # in plotly's texts a name could link out, or load


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, comparison or sweep folder to `out` (FOLDER/report.html) and return its path.

    Unfinished runs are reported as far as they have come. Raises RunFolderError where there is nothing to report.
    """
    groups = read_groups(folder) if folder.is_dir() else []
    has_table = is_file(folder / TABLE)
    check_report(folder, groups, has_table)
    check_shown(folder, groups)
    sections = _sweep(folder) if has_table else []
    sections += _run_sections(folder, groups, compared=not has_table) if groups else []
    sections.append(reproduction(folder, groups))
    path = out or folder / REPORT
    facts = _facts(groups) or study_facts(folder)
    page = render(_title(folder, groups), facts, sections, sources(folder, groups)).encode(errors="backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise RunFolderError(f"report {path} cannot be written: {error.strerror}") from None
    return path


def _sweep(folder: Path) -> list[PageSection]:
    from spfl.report.study import study_sections  # plotly takes its time

    return study_sections(folder)


def render(
    title: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[PageSection],
    sources: Sequence[tuple[str, str]] = (),
) -> str:
    """The page: text escaped, figures as JSON, plotly and the style within it; `sources` can be saved from it."""
    from importlib.resources import files

    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = _as_json
    template = environment.from_string(files("spfl.report").joinpath("report.html").read_text(encoding="utf-8"))
    made = f"spfl {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    parts = {"title": title, "facts": facts, "sections": sections, "made": made, "plotly": get_plotlyjs()}
    parts["sources"] = [
        (name, b64encode(text.encode(errors="replace")).decode()) for name, text in sources[:MOST_SOURCES]
    ]
    return template.render(parts, nonce=token_urlsafe(16))  # a script that a name brings along does not know it


def _as_json(figure: go.Figure) -> str:
    """A figure for the page: no text of it ends the script, and of plotly's HTML only line breaks and the like stay."""
    return json.dumps(_without_links(json.loads(figure.to_json()))).replace("</", "<\\/")


def _without_links(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_links(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_links(item) for item in value]
    return FOREIGN_TAG.sub("&lt;", value) if isinstance(value, str) else value


def study_facts(folder: Path) -> list[tuple[str, str]]:
    """What a sweep is, in short, for a folder that keeps no runs."""
    from spfl.studies.study import read_study, short

    study = read_study(folder)
    schemes, seeds = ({row[key] for row in study.rows} for key in ("scheme", "seed"))
    facts = [("Runs", str(len(study.rows))), ("Schemes", str(len(schemes))), ("Seeds", str(len(seeds)))]
    if is_file(folder / ENVIRONMENT):
        facts += [("Data", ", ".join(read_json(folder / ENVIRONMENT).get("datasets", {})))]
    return [*facts, ("Varied", ", ".join(map(short, study.varied)))] if study.varied else facts


def _title(folder: Path, groups: Sequence[Group]) -> str:
    if not groups:
        return f"Sweep {folder.resolve().name}"
    labels = list(dict.fromkeys(group.scheme for group in groups))
    return labels[0] if len(labels) == 1 else f"{len(labels)} schemes compared"


def _facts(groups: Sequence[Group]) -> list[tuple[str, str]]:
    if not groups:
        return []
    run, config = groups[0].runs[0], groups[0].runs[0].config
    channel, data = config.channel, config.data
    spread = f" {data.dirichlet_alpha:g}" if data.partition == "dirichlet" else ""
    snr = "from the cell" if channel.median_snr_db is None else f"{channel.median_snr_db:g} dB"
    per_parameter = ("Symbols/param", f"{channel.symbols_per_parameter:g}")
    air = per_parameter if channel.tau_s is None else ("Uplink/round", f"{channel.tau_s:g} s")
    facts = [
        ("Data", str(run.environment.get("dataset", {}).get("name", data.name))),
        ("Devices", str(data.devices)),
        ("Partition", f"{data.partition}{spread}"),
        ("Model", config.model.name),
        ("Rounds", str(config.training.rounds)),
        ("Median SNR", snr),
        air,
        ("Fading", str(channel.fading)),
        ("Modulus bits", str(config.codec.bits)),
    ]
    facts += [("Own parts", told) for told in _own_parts(run)]
    unfinished = sum(not run.finished for group in groups for run in group.runs)
    return facts + ([("Unfinished runs", str(unfinished))] if unfinished else [])


def _own_parts(run: Run) -> list[str]:
    """What was brought in place of the configured parts, by name; one line, or none."""
    plugin, model = run.config.plugin, run.config.model
    told = [f"{plugin.path} ({(plugin.sha256 or '')[:12]})"] if plugin.path else []
    told += [model.factory] if model.factory else []
    told += [f"{part}: {name}" for part, name in run.environment.get("custom", {}).items()]
    return ["; ".join(told)] if told else []


# --- runs ---------------------------------------------------------------------------------------------------


def _run_sections(folder: Path, groups: Sequence[Group], compared: bool) -> list[PageSection]:
    from spfl.figures import interactive
    from spfl.report import figures as draw

    accuracy, kind = interactive.score_figure([progress(group) for group in groups])
    width = draw.window(max(len(run.rounds) for group in groups for run in group.runs))
    smoothed = f"Running mean over {width} rounds, mean over seeds." if width > 1 else "Mean over seeds."
    odds = draw.by_round_figure(groups, ODDS, "Probability, mean over devices")
    packets = draw.by_round_figure(groups, RECEIVED, "Packets received")
    loss = draw.by_round_figure(groups, {"loss": lambda r: r["loss"]}, "Training loss")
    gaps = draw.gap_figure(groups)
    head = [
        PageSection("Results", RESULTS_NOTE, [Panel(tables=[_headline(groups)])], _findings(groups)),
        PageSection(
            groups[0].metric.capitalize(),
            f"Lines and bands: {kind}. Click a name to hide it, drag to zoom.",
            [Panel(figures=[accuracy])],
        ),
    ]
    matters = draw.importance_figure(_importance(groups))
    cell = [
        Panel(g.label, figures=[f for f in (draw.cell_figure(g.runs[0]), draw.devices_figure(g.runs[0])) if f])
        for g in groups
        if any(r["mean_q_s"] < 1 for r in g.runs[0].rounds)
    ]
    rest = [
        PageSection("The cell", CELL_NOTE, [panel for panel in cell if panel.figures]),
        PageSection("Who matters and who is received", IMPORTANCE_NOTE, [Panel(figures=[matters])] if matters else []),
        PageSection(
            "Packets round by round",
            f"Solid: the sign packet, or the single one. Dashed: the modulus packet. {smoothed}",
            [
                Panel("success probability", figures=[odds]),
                Panel("packets received", figures=[packets]),
            ],
        ),
        PageSection("Training loss", f"Of the devices' minibatches. {smoothed}", [Panel(figures=[loss])]),
        PageSection(
            "Allocation certificate",
            CERTIFICATE_NOTE,
            [Panel(tables=[_certificates(groups)], figures=[gaps] if gaps else [])],
        ),
        PageSection(
            "Where the time goes",
            "Wall-clock time of the simulation, not of the radio.",
            [Panel(figures=[draw.phase_figure(groups)])],
        ),
        PageSection("Configuration", "", [_configuration(folder, groups)]),
    ]
    return [section for section in (head if compared else []) + rest if section.panels]


ODDS: dict[str, Value] = {
    "sign": lambda r: r["mean_q_s"],
    "modulus, once the sign has arrived": lambda r: r["mean_r_m"],
}
RECEIVED: dict[str, Value] = {
    "signs": lambda r: r["signs_received"],
    "moduli": lambda r: r["moduli_received"],
}
CELL_NOTE = (
    "Of the first seed. Area: mean bandwidth share. Colour: mean share of the power that goes to the sign packet."
    " Distances are the model's; it has no angles, those are drawn for legibility. Predicted are the probabilities "
    "that the allocator works with, observed is the share of the rounds in which the packet came through."
)
IMPORTANCE_NOTE = (
    "Devices of each round, sorted into fifths by importance (weight times norm of the gradient), all seeds together. "
    "Left: bandwidth in parts of an equal share. A scheme that protects who matters rises to the right."
)
CERTIFICATE_NOTE = (
    "The gap bounds what any other allocation could have gained in a round, relative to its cost; it comes from the "
    "Lagrange dual of the exact solver. The other solvers give an allocation without a bound: how far it is from the "
    "optimum is not known, which is not to say that it is far."
)
UNPROVEN = {"fixed": "none: shares are fixed, nothing is optimised"}
NO_BOUND = "none: this solver gives no bound"


def _importance(groups: Sequence[Group]) -> list[Importance]:
    """Of the runs that are finished and lose packets; none where an older version wrote no importances."""
    lossy = [run for g in groups for run in g.runs if run.finished and any(r["mean_q_s"] < 1 for r in run.rounds)]
    try:
        return read_importance([run.folder for run in lossy])
    except RunFolderError:
        return []


def _findings(groups: Sequence[Group]) -> list[str]:
    """What is wrong with the runs."""
    return grouped({f"{g.label}, seed {run.config.seed}": run.health for g in groups for run in g.runs})


def _headline(groups: Sequence[Group]) -> PageTable:
    metric = groups[0].metric
    scale, form = factor(metric), ".1f" if unit(metric) else ".3f"
    header = [
        "scheme",
        f"{metric}{unit(metric)}",
        "±",
        "n",
        f"final{unit(metric)}",
        "sign arrives",
        "signs/round",
        "moduli/round",
        "payload Mbit/round",
        "received Mbit/round",
        "side kbit/round",
    ]
    energy = any(g.mean(lambda s: s.get("joules")) for g in groups)
    rows = []
    for g in groups:
        spread = g.spread(f"{g.metric}_last")
        row = [
            g.label,
            _number(g.score("last"), scale, form),
            _number(spread, scale, form),
            str(len(g.runs)),
            _number(g.score("final"), scale, form),
            _number(g.mean(lambda s: s["mean_q_s"]), 1, ".3f"),
            _number(g.mean(lambda s: s["signs_received"] / s["rounds"]), 1, ".1f"),
            _number(g.mean(lambda s: s["moduli_received"] / s["rounds"]), 1, ".1f"),
            _number(g.mean(lambda s: s["payload_bits"] / s["rounds"]), 1e-6, ".3f"),
            _number(g.mean(lambda s: s["received_bits"] / s["rounds"] if "received_bits" in s else None), 1e-6, ".3f"),
            _number(g.mean(lambda s: s["side_bits"] / s["rounds"]), 1e-3, ".1f"),
        ]
        rows.append(row + ([_number(g.mean(lambda s: s["joules"] / s["rounds"]), 1e3, ".3g")] if energy else []))
    return PageTable(header + (["mJ/round"] if energy else []), rows, bar=1)


def _number(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else format(scale * value, form)


def _certificates(groups: Sequence[Group]) -> PageTable:
    rows = []
    for group in groups:
        said = [r["solver"] for run in group.runs for r in run.rounds if "solver" in r]
        gaps = [s["gap"] for s in said if s["gap"] is not None]
        states = ", ".join(
            f"{state} {count / len(said):.0%}" for state, count in Counter(s["status"] for s in said).most_common()
        )
        none = UNPROVEN.get(said[0]["status"], NO_BOUND) if said and len({s["status"] for s in said}) == 1 else NO_BOUND
        proof = [f"{statistics.median(gaps):.1e}", f"{max(gaps):.1e}"] if gaps else [none, "-"]
        iterations = f"{statistics.fmean(s['iterations'] for s in said):.1f}" if said else "-"
        rows.append([group.label, states or "-", *proof, iterations])
    return PageTable(["scheme", "status, share of rounds", "proof: median gap", "largest gap", "iterations"], rows)


def _configuration(folder: Path, groups: Sequence[Group]) -> Panel:
    panel = Panel()
    if len(groups) > 1:
        keys = differing(groups)
        panel.tables.append(
            PageTable(["differs in", *(g.label for g in groups)], [[key, *values] for key, values in keys])
        )
    for group in groups:
        seeds = ", ".join(str(run.config.seed) for run in group.runs)
        panel.listings.append((f"{group.label} (seeds {seeds})", to_toml(group.runs[0].config)))
    return panel
