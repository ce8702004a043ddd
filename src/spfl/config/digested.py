"""A table of the configuration that names a file, and the digest by which a run knows that file again."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from spfl.config.section import Section
from spfl.errors import ConfigError
from spfl.own_code import source_digest


class DigestedFile(Section):
    """A file by its path, with its SHA-256; a table of its own says what is in it."""

    path: str | None = Field(None, max_length=4000)
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of that file, part of what a run is; read from the file when absent.",
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
