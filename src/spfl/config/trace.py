"""The table [trace]: a file of recorded links that drives a run, and the digest by which a run knows it again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spfl.config.digested import DigestedFile


class TraceConfig(DigestedFile):
    """Recorded links, with channel.model = trace; see docs/radio.md."""

    path: str | None = Field(
        None,
        max_length=4000,
        description="CSV or parquet file of recorded gains, outcomes or loss rates (channel.model = trace).",
    )
    end: Literal["refuse", "repeat"] = Field(
        "refuse",
        description="A run with more rounds than the trace is refused, or begins again with the trace's first round "
        "(repeat).",
    )

    @model_validator(mode="after")
    def _a_table(self) -> TraceConfig:
        if self.path is not None and not self.path.lower().endswith((".csv", ".parquet")):
            raise ValueError(f"path must end in .csv or .parquet, got {self.path}")
        return self
