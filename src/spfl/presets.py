"""Configurations and examples that come with the package, so that an installed wheel needs no checkout.

They stand once, in configs/ and examples/ of the repository; the wheel holds them in spfl/presets.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from spfl.config.files import load_config
from spfl.config.schema import Config
from spfl.errors import ConfigError, RunFolderError, did_you_mean

PRESETS = {
    "demo": "configs/demo.toml",
    "cifar10": "configs/cifar10.toml",
    "cell": "configs/cell.toml",
    "paper": "configs/paper/cell.toml",
}
PROJECT = (
    *PRESETS.values(), "configs/paper/map.toml", "configs/sweep_demo.toml", "configs/sweep_power.toml",
    "configs/table.toml", "configs/text.toml",
    "examples/devices.csv", "examples/first_steps.ipynb", "examples/plugin.py", "examples/paper_round.py",
    "examples/own_channel.py", "examples/own_compensation.py", "examples/own_dataset.py", "examples/own_module.py",
    "examples/own_partition.py", "examples/own_scheme.py",
)  # fmt: skip


def load_preset(name: str) -> Config:
    """A configuration that comes with the package.

    Args:
        name: `demo` (digits, seconds), `cifar10`, `cell` (SNRs by transmit power and path loss, for studies of both)
            or `paper` (the paper's kind of cell).

    Returns:
        The resolved configuration, for `run` and `compare`.

    Raises:
        ConfigError: There is no such preset.
    """
    return load_config(preset_path(name))


def preset_path(name: str) -> Path:
    """The file of a preset. Raises ConfigError for a name that is none."""
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}" + did_you_mean(name, PRESETS))
    return _shipped(PRESETS[name])


def _shipped(name: str) -> Path:
    """A file of the wheel, or of the checkout that this module is part of."""
    package = Path(__file__).parent
    places = [package / "presets" / name, package.parents[1] / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise RunFolderError(f"{name} is missing from the installation of spfl in {package}")
    return found


def write_project(folder: Path) -> list[Path]:
    """Write every configuration and example into a folder, made if need be, and return what is new there.

    Raises RunFolderError, before anything is written, when a file of the same name holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} exists and is not a folder")
    todo = [(_shipped(name), folder / name) for name in PROJECT]
    for source, target in todo:
        if target.exists() and (not target.is_file() or target.read_bytes() != source.read_bytes()):
            raise RunFolderError(f"{target} exists and holds something else; nothing was written, take another folder")
    new = [(source, target) for source, target in todo if not target.exists()]
    for source, target in new:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return [target for _, target in new]
