"""Runs and studies as plain tables: a row an observation, a column a quantity, whose name ends in its unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from spfl.runs.experiment import flatten
from spfl.runs.jsons import Json
from spfl.runs.results import Group, Run
from spfl.studies.recorded import swept_keys
from spfl.studies.statistics import paired_table, score_table
from spfl.studies.study import Study, plain
from spfl.studies.tables import column, curve, long_table

# Of a point, beside its rounds and score: its name in results.parquet, and here.
POINT = {
    "mean_q_s": "sign_success",
    "mean_r_m": "modulus_success",
    "signs_received_per_round": "signs_received_per_round",
    "moduli_received_per_round": "moduli_received_per_round",
    "payload_bits_per_round": "payload_bits_per_round",
    "received_bits_per_round": "received_bits_per_round",
    "side_bits_per_round": "side_bits_per_round",
    "joules_per_round": "energy_j_per_round",
    "round_s_per_round": "time_s_per_round",
    "uplink_s_per_round": "uplink_s_per_round",
    "digest": "digest",
}
MEANS = (
    "sign_success",
    "modulus_success",
    "payload_bits_per_round",
    "received_bits_per_round",
    "energy_j_per_round",
    "time_s_per_round",
)


# --- of studies ---------------------------------------------------------------------------------------------


def points_table(study: Study) -> pa.Table:
    """A row a run: what was set, what came out."""
    metric = study.score.metric
    own = {f"{metric}_{when}": f"{metric}_{when}" for when in ("final", "best")}
    every = {"rounds": "rounds", f"{metric}_last": metric} | own | POINT
    return long_table([_about(study, row) | {new: row.get(old) for old, new in every.items()} for row in study.rows])


def curves_table(study: Study) -> pa.Table:
    """A row a run and evaluation: the round, the score, and what had been spent by then."""
    return long_table([_about(study, row) | point for row in study.rows for point in curve(row)])


def summary_table(study: Study, reference: str | None = None) -> pa.Table:
    """A row a series and setting: means over seeds, the 95 % interval of the score, the paired test."""
    return long_table(summary_rows(study, reference))


def summary_rows(study: Study, reference: str | None = None) -> list[Json]:
    """As `summary_table`. With a reference, its score minus that of the series, p value, and what the test says."""
    tests = paired_table(study, reference) if reference else []
    paired = {(tuple(row["slice"].items()), row["series"]): row for row in tests}
    rows, metric = list[Json](), study.score.metric
    for row, (_, members) in zip(score_table(study), _members(study), strict=True):
        test = paired.get((tuple(row["slice"].items()), row["series"]), {})
        about = {"series": row["series"], "scheme": members[0]["scheme"], **row["slice"], "n": row["n"]}
        about |= {metric: row["mean"], f"{metric}_std": row["std"], f"{metric}_half_width": row["half_width"]}
        about |= {new: _mean([m.get(old) for m in members]) for old, new in POINT.items() if new in MEANS}
        compared = {"reference": reference, "reference_minus_this": test.get("difference"), "p": test.get("p")}
        rows.append(about | (compared | {"verdict": test.get("verdict")} if reference else {}))
    return rows


def _members(study: Study) -> list[tuple[Json, Sequence[Json]]]:
    """Rows of each series in each slice, in the order of `statistics.score_table`."""
    return [
        (plain(setting), members) for setting, rows in study.slices().items() for members in study.series(rows).values()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _about(study: Study, row: Json) -> Json:
    """The scheme, the seed, and every key that the study sets."""
    keys = [key for key in study.swept if key not in ("scheme.name", "seed")]
    return {"scheme": row["scheme"], "seed": row["seed"]} | {key: row[key] for key in keys}


# --- of run folders -----------------------------------------------------------------------------------------


def rounds_table(groups: Sequence[Group]) -> pa.Table:
    """A row a run and round: all that metrics.jsonl says, nested values under dotted names."""
    return _stacked(groups, lambda run: run.metrics)


def allocation_table(groups: Sequence[Group]) -> pa.Table:
    """A row a run, round and device: who got what, and what was received of whom."""
    return _stacked(groups, lambda run: run.allocation)


def devices_table(groups: Sequence[Group]) -> pa.Table:
    """A row a run and device: distance, gain, samples; the samples of each class are left out."""
    return _stacked(groups, lambda run: None if run.devices is None else run.devices.drop_columns(["classes"]))


def _stacked(groups: Sequence[Group], table: Callable[[Run], pa.Table | None]) -> pa.Table:
    """The tables of all runs below each other, each with the scheme, the seed, and the keys in which runs differ."""
    runs = [run for group in groups for run in group.runs]
    keys = [key for key in swept_keys(runs) if key not in ("scheme.name", "seed")]
    found = []
    for run in runs:
        if (rows := table(run)) is not None:
            settings = flatten(run.config)
            about = {"scheme": run.config.scheme.name, "seed": run.config.seed} | {k: settings.get(k) for k in keys}
            told = {name: column([value] * len(rows)) for name, value in about.items()}
            own = {name: rows[name] for name in rows.column_names if name not in told}
            found.append(pa.table(told | own))
    return pa.concat_tables(found, promote_options="permissive") if found else pa.table({})
