"""What the shell completes besides options and files: keys of the configuration, and schemes."""

from __future__ import annotations

from collections.abc import Iterator


def complete_key(incomplete: str) -> Iterator[tuple[str, str]]:
    """`section.key=` with its meaning, for --set."""
    from pydantic import BaseModel

    from spfl.config.schema import Config

    for name, field in Config.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys = {f"{name}.{key}=": inner.description for key, inner in nested.model_fields.items()}
        else:
            keys = {f"{name}=": field.description}
        yield from ((key, text or "") for key, text in keys.items() if key.startswith(incomplete))


def complete_schemes(incomplete: str) -> Iterator[tuple[str, str]]:
    """The last of a list of schemes with commas, each offered once."""
    from spfl.schemes import SCHEMES

    *before, last = incomplete.split(",")
    head = "".join(f"{name}," for name in before)
    for scheme in SCHEMES.values():
        if scheme.name.startswith(last) and scheme.name not in before:
            yield f"{head}{scheme.name}", scheme.summary
