"""What `import spfl` offers is documented parameter by parameter, and the documents match the signatures."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import spfl

# Config is documented key by key (docs/configuration.md); the others take no parameters of their own.
WITHOUT_PARAMETERS = {"SCHEMES", "Config", "SpflError"}
NAMES = sorted(set(spfl.__all__) - WITHOUT_PARAMETERS)


def documented(text: str) -> list[str]:
    """The parameters of a Google-style docstring, in their order."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    return re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []


def parameters(thing: Any) -> list[str]:
    return [name for name in inspect.signature(thing).parameters if name != "self"]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_a_public_name_is_documented(name: str) -> None:
    thing = getattr(spfl, name)
    assert documented(inspect.getdoc(thing) or "") == parameters(thing)


@pytest.mark.parametrize("name", ["run", "compare", "allocate", "load_config", "load_dataset", "make_dataset"])
def test_functions_say_what_they_return_and_raise(name: str) -> None:
    text = inspect.getdoc(getattr(spfl, name)) or ""
    assert re.search(r"^Returns:\n    \w", text, re.MULTILINE)
    assert re.search(r"^Raises:\n    \w+Error: ", text, re.MULTILINE)


def test_a_parameter_that_is_missing_is_found() -> None:
    text = "The idea.\n\nArgs:\n    one: First,\n        which goes on.\n    two: Second.\n\nReturns:\n    x: y"
    assert documented(text) == ["one", "two"]
