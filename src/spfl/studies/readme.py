"""The README of an archived study, made from its configurations, results and versions."""

from __future__ import annotations

from collections.abc import Sequence

from spfl.config.schema import Config
from spfl.runs.jsons import Json
from spfl.studies.tables import cells, summary_text

WHAT = {
    "plan.toml": "the points as they were run: `spfl sweep plan.toml --out DIR` runs them all again",
    "sweep.toml": "the sweep file as its authors wrote it",
    "configs/": "the full configuration of each point: `spfl run configs/KEY.toml`",
    "results.jsonl": "one line a point, as it was written when the point was finished",
    "results.parquet": "the same as a table, with its curve in lists",
    "curves.parquet": "one row a point and evaluation, without lists",
    "summary.md": "mean and spread over seeds",
    "environment.json": "versions, machine, commit, and fingerprints of the data",
    "requirements.txt": "the versions that were used, for `pip install -r`",
    "figures/": "figures and tables, made by `spfl figures`",
    "own/": "own parts that the configurations name",
    "SHA256SUMS": "of every other file; `sha256sum -c SHA256SUMS` checks them",
}


def readme(name: str, configs: Sequence[Config], rows: Sequence[Json], environment: Json, files: Sequence[str]) -> str:
    """What the study is, what is in the folder, how to check it and how to run it again."""
    versions = environment["versions"]
    present = {*files, "SHA256SUMS", *(f"{file.partition('/')[0]}/" for file in files if "/" in file)}
    listed = [f"| `{file}` | {words} |" for file, words in WHAT.items() if file in present]
    data = [f"* `{name}`: {_facts(facts)}" for name, facts in environment.get("datasets", {}).items()]
    own = sorted({str(config.plugin.path) for config in configs} - {"None"})
    swept = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    seeds = sorted({row["seed"] for row in rows})
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A study of federated learning over unreliable wireless links: {len(rows)} runs at {len(cells(rows))} "
            f"settings, made with spfl {versions.get('spfl')}"
            + (f" (commit {environment['commit']})" if environment.get("commit") else "")
            + ".",
            "",
            f"Schemes: {', '.join(f'`{s}`' for s in dict.fromkeys(row['scheme'] for row in rows))}. "
            f"Seeds: {', '.join(map(str, seeds))}. Keys that are set: {', '.join(f'`{key}`' for key in swept)}.",
            "",
            *_needed(own),
            "## Files",
            "",
            "| file | content |",
            "|---|---|",
            *listed,
            "",
            "## Data",
            "",
            *data,
            "",
            "## Check it",
            "",
            "    sha256sum -c SHA256SUMS",
            "    spfl verify . --points 3",
            "",
            "The second command compares all checksums, then runs three points again, chosen at random, and compares "
            "them bit by bit. On another machine or with other versions bits may differ: `--tolerance 0.01` asks for "
            "equal numbers within one per cent.",
            "",
            f"Made on Python {versions.get('python')}, {environment.get('platform')}, {environment.get('cpu')}.",
            "",
            "## Results",
            "",
            summary_text(rows),
        ]
    )


def _needed(own: Sequence[str]) -> list[str]:
    """That the study runs code of its authors, if it does."""
    if not own:
        return []
    paths = ", ".join(own)
    return [f"It needs own parts at these paths: {paths}; copies are in `own/`. They run with `--own-code` only.", ""]


def _facts(facts: Json) -> str:
    shape = "x".join(map(str, facts["shape"]))
    return (
        f"{facts['train']} training and {facts['test']} test images of {shape}, {facts['classes']} classes, "
        f"CRC-32 {facts['crc32']}"
    )
