"""What the shell completes besides options and files: keys of the configuration with their values, and schemes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class, get_completion_class

from spfl.config.names import MODELS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def complete_key(incomplete: str) -> Iterator[tuple[str, str]]:
    """`section.key=` with its meaning, for --set, and `section.key=value` once the key is known.

    A key that alone is left is offered together with its values: of several words, shells complete what is common to
    them, without a space after the `=`.
    """
    from spfl.config.files import all_fields

    name, equals, begun = incomplete.partition("=")
    fields = {key: field for key, field in all_fields().items() if (key == name if equals else key.startswith(name))}
    for key, field in fields.items():
        if not equals:
            yield f"{key}=", field.description or ""
        if len(fields) == 1:
            told = _values(key, field)
            yield from ((f"{key}={value}", note) for value, note in told.items() if value.startswith(begun))


def _values(key: str, field: FieldInfo) -> dict[str, str]:
    """Values that a key may have, with what they mean: all names, or the default of a number."""
    if key == "scheme.name":
        return _schemes()
    if key == "model.name":
        return dict.fromkeys(MODELS, "network")
    if key == "data.name":
        return dict.fromkeys(("digits", "cifar10", "mnist", "fashion_mnist"), "dataset")
    names = [value for value in _literals(field.annotation) if isinstance(value, str)]
    if field.annotation is bool:
        names = ["true", "false"]
    if type(None) in get_args(field.annotation):
        names.append("none")
    default = [] if field.default is None else [str(field.default).lower()]
    return dict.fromkeys(names or default, f"value of {key}")


def _literals(annotation: Any) -> list[Any]:
    """The values of every Literal in a type."""
    parts = get_args(annotation)
    return [value for part in parts for value in (_literals(part) if get_args(part) else [part])]


def _schemes() -> dict[str, str]:
    from spfl.schemes import SCHEMES

    return {scheme.name: scheme.summary for scheme in SCHEMES.values()}


def complete_presets(incomplete: str) -> Iterator[str]:
    """Names of presets."""
    from spfl.presets import PRESETS

    yield from (name for name in PRESETS if name.startswith(incomplete))


def complete_schemes(incomplete: str) -> Iterator[tuple[str, str]]:
    """The last of a list of schemes with commas, each offered once."""
    *before, last = incomplete.split(",")
    head = "".join(f"{name}," for name in before)
    for name, summary in _schemes().items():
        if name.startswith(last) and name not in before:
            yield f"{head}{name}", summary


def complete_after_equals() -> None:
    """Teach Bash's completion that `key=value` is one word, which Bash takes for three."""
    base: Any = get_completion_class("bash")
    if base is None or issubclass(base, _OneWord):
        return
    add_completion_class(type("Bash", (_OneWord, base), {}), "bash")


class _OneWord(ShellComplete):
    """To be mixed into a class for Bash: words around `=` are joined, and what stands before it is not told again."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        if incomplete == "=":
            args, incomplete = [*args, "="], ""
        self._known = ""
        if len(args) > 1 and args[-1] == "=":
            self._known = f"{args[-2]}="
            args, incomplete = args[:-2], f"{args[-2]}={incomplete}"
        return args, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        known = getattr(self, "_known", "")
        cut = item.value.removeprefix(known) if known else item.value
        return super().format_completion(click.shell_completion.CompletionItem(cut, item.type, item.help))
