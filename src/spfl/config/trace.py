"""The table [trace]: a file of recorded links that drives a run, and the digest by which a run knows it again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from spfl.config.section import Section
from spfl.errors import ConfigError
from spfl.own_code import source_digest


class TraceConfig(Section):
    """Recorded links, with channel.model = trace; see docs/radio.md."""

    path: str | None = Field(
        None,
        max_length=4000,
        description="CSV or parquet file of recorded gains, outcomes or loss rates (channel.model = trace).",
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of that file, part of what a run is; read from the file when absent.",
    )
    end: Literal["refuse", "repeat"] = Field(
        "refuse",
        description="A run with more rounds than the trace is refused, or begins again with the trace's first round "
        "(repeat).",
    )

    @model_validator(mode="before")
    @classmethod
    def _digest(cls, values: Any) -> Any:
        path = values.get("path") if isinstance(values, dict) else None
        if not isinstance(path, str) or values.get("sha256") is not None:
            return values
        try:
            return {**values, "sha256": source_digest(path)}
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _a_table(self) -> TraceConfig:
        if self.path is not None and not self.path.lower().endswith((".csv", ".parquet")):
            raise ValueError(f"path must end in .csv or .parquet, got {self.path}")
        return self
