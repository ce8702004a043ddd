"""The table [plugin]: a file of a user's own parts, and the digest by which a run knows it again."""

from __future__ import annotations

from pydantic import Field

from spfl.config.digested import DigestedFile


class PluginConfig(DigestedFile):
    """A Python file with parts of your own; see docs/own-parts.md."""

    path: str | None = Field(
        None, max_length=4000, description="Python file that defines schemes, networks, fadings and rules of your own."
    )
