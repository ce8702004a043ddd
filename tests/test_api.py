"""The package from Python: same numbers as the command line, own parts used and named, unfit ones refused."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import spfl
from spfl.custom import Custom, make_dataset
from spfl.errors import AllocationError, ConfigError, DataError, RunFolderError
from spfl.runs.experiment import run_experiment
from spfl.schemes import SCHEMES
from spfl.world.world import World

SMALL = {
    "workers": 1,
    "data": {"devices": 6},
    "model": {"name": "softmax"},
    "training": {"rounds": 2, "eval_every": 1, "batch_size": 16},
    "channel": {"median_snr_db": 6.0},
}


def test_names_are_complete_and_lazy():
    for name in spfl.__all__:
        assert getattr(spfl, name) is not None
    assert set(spfl.__all__) <= set(dir(spfl))
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = spfl.rum
    code = "import spfl, sys; assert not {'torch', 'numpy', 'numba'} & set(sys.modules); spfl.Scheme"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_is_that_of_the_run_folder(tmp_path, digits):
    """In memory, in a folder, and as `run_experiment` has it: one digest."""
    config = spfl.api.as_config(SMALL)
    summary = run_experiment(config, digits, tmp_path / "a")
    memory, folder = spfl.run(SMALL), spfl.run(config, out=tmp_path / "b")
    assert memory.summary["digest"] == folder.summary["digest"] == summary["digest"]
    again = spfl.Run.load(tmp_path / "a")
    np.testing.assert_array_equal(again.weights["1.weight"], memory.weights["1.weight"])
    assert repr(memory) == repr(again)
    assert "after 2 rounds" in repr(memory)


def test_metrics_are_a_table():
    run = spfl.run(SMALL)
    frame = run.metrics.to_pandas()
    assert frame["round"].tolist() == [1, 2]
    assert frame["test_accuracy"].tolist() == [values["test_accuracy"] for values in run.rounds]
    assert frame["seconds.gradients"].dtype == np.float64
    assert len(run.plot().data) == 4  # against rounds, payload, time and energy


def test_a_run_without_a_folder_leaves_none():
    run = spfl.run(SMALL)
    folder = run.folder
    assert folder.is_dir()
    del run
    gc.collect()
    assert not folder.exists()


def test_config_sources(tmp_path):
    (tmp_path / "c.toml").write_text("[training]\nrounds = 7\n")
    assert spfl.api.as_config(None) == spfl.Config()
    assert spfl.api.as_config(tmp_path / "c.toml").training.rounds == 7
    base = spfl.api.as_config(str(tmp_path / "c.toml"), {"training.rate": 0.5, "seed": 3})
    assert (base.training.rounds, base.training.rate, base.seed) == (7, 0.5, 3)
    assert spfl.api.as_config(base, {"codec.bits": 2}).training.rounds == 7
    source = {"training": {"rounds": 3}}
    spfl.api.as_config(source, {"training.rounds": 4})
    assert source == {"training": {"rounds": 3}}
    with pytest.raises(ConfigError, match=r"unknown config key 'training.round'"):
        spfl.api.as_config(None, {"training.round": 4})


def test_compare_pairs_runs_and_tabulates(tmp_path):
    found = spfl.compare(SMALL, ["single_packet", SCHEMES["sp_fl"]], seeds=range(2), out=tmp_path / "c")
    assert [row["scheme"] for row in found.table] == ["single_packet", "sp_fl"]
    assert [row["n"] for row in found.table] == [2, 2]
    assert repr(found).startswith("single_packet: ")
    assert len(found.plot().data) == 2 * 4 * 2
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "single_packet-0",
        "single_packet-1",
        "sp_fl-0",
        "sp_fl-1",
    ]
    alone = spfl.run(SMALL, scheme="sp_fl", seed=1)
    assert alone.summary["digest"] == found.groups[1].runs[1].summary["digest"]


# --- own parts ----------------------------------------------------------------------------------------------


def test_own_parts_are_used_named_and_needed_for_a_resume(tmp_path, digits):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def halves(labels, devices, rng):
        return np.array_split(np.arange(len(labels)), devices)

    parts = {
        "module": module,
        "partition": halves,
        "dataset": replace(digits, name="mine"),
        "gains": lambda round_, rng: np.full(6, 1e-9),
        "fades": lambda round_, devices, rng: (np.full(devices, 2.0), np.full(devices, 2.0)),
        "scheme": spfl.Scheme("mine", "", ""),
    }
    run = spfl.run(SMALL, **parts, out=tmp_path / "r")
    assert run.environment["custom"].keys() == {"module", "partition", "gains", "fades", "scheme"}
    assert run.environment["custom"]["module"] == "Sequential"
    assert run.environment["custom"]["partition"].endswith("halves")
    assert (run.config.data.name, run.config.model.name, run.config.scheme.name) == ("mine", "Sequential", "mine")
    assert run.devices["samples"].to_pylist() == [240] * 3 + [239] * 3
    gain = run.devices["gain"].to_numpy()
    np.testing.assert_allclose(gain / gain[0], 1.0)
    assert run.summary["signs_received"] == 12  # everybody at the same SNR, 3 dB above the mean
    with pytest.raises(RunFolderError, match="its own parts are"):
        spfl.run(SMALL, **{**parts, "partition": None}, out=tmp_path / "r", existing="resume")
    again = spfl.run(SMALL, **parts, out=tmp_path / "r", existing="resume")
    assert again.summary["digest"] == run.summary["digest"]


def test_own_parts_leave_the_rest_alone(digits):
    """A part that does what the configured one does changes no bit."""
    config = spfl.api.as_config(SMALL)
    plain = World.build(config, digits)
    copied = Custom(partition=lambda labels, devices, rng: plain.parts, module=plain.model().module)
    runs = [spfl.run(SMALL), spfl.run(SMALL, partition=copied.partition, module=copied.module)]
    assert runs[0].summary["digest"] == runs[1].summary["digest"]
    assert runs[0].summary["digest"] == spfl.run(SMALL, scheme=SCHEMES["sp_fl"]).summary["digest"]


def test_own_compensation_is_used():
    """One that says zero is `zero`; one that says what `layer` says is `layer`."""
    zero = spfl.CompensationRule("none", lambda state, device, means, layout: np.zeros(layout.size, np.float32))
    layer = spfl.CompensationRule("mine", lambda state, device, means, layout: layout.expand(means))
    aside = {"channel.side_information": "reliable"}  # only `zero` needs no mean moduli in its packet
    for rule, name in ((zero, "zero"), (layer, "layer")):
        own = spfl.run(SMALL, scheme="sp_fl_uniform", compensation=rule, overrides=aside)
        named = spfl.run(SMALL, scheme="sp_fl_uniform", overrides=aside | {"scheme.compensation": name})
        assert own.config.scheme.name == f"sp_fl_uniform+{rule.name}"
        assert [r["loss"] for r in own.rounds] == [r["loss"] for r in named.rounds]
        np.testing.assert_array_equal(own.weights["1.weight"], named.weights["1.weight"])


def test_own_compensation_leaves_it_to_the_link_whether_peaks_are_told():
    """Segments tell none, as without a compensation, which is nothing to a ladder."""
    cut = {"channel.segment_bits": 512, "channel.recovery": "segment"}
    digests = [
        [spfl.run(SMALL, scheme="sp_fl_plus", overrides=more, **own).summary["digest"] for more in ({}, cut)]
        for own in ({}, {"compensation": "zero"})
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 2


def test_own_compensation_remembers_what_was_acknowledged():
    """A rule that does what `last` does gives its run, so it is told the same moduli."""

    def modulus(state, device, means, layout):
        return state.get(f"compensation/own/{device}", layout.expand(means))

    def remember(state, received, update):
        return state | {f"compensation/own/{device}": v for device, v in received.items()}

    rule = spfl.CompensationRule("own", modulus, remember)
    uneven = replace(SCHEMES["sp_fl_uniform"], share=lambda devices, link: (np.full(6, 1 / 6), 0.7))
    more = {**SMALL, "training": {"rounds": 6, "eval_every": 1, "batch_size": 16}}
    own = spfl.run(more, scheme=uneven, compensation=rule)
    last = spfl.run(more, scheme=uneven, overrides={"scheme.compensation": "last"})
    assert 0 < own.summary["moduli_received"] < own.summary["signs_received"]
    np.testing.assert_array_equal(own.weights["1.weight"], last.weights["1.weight"])


def test_own_shares_of_equal_parts_are_the_uniform_ones():
    def equal(devices, link):
        return np.full(link.size, 1 / link.size), link.split

    mine = replace(SCHEMES["sp_fl_uniform"], name="mine", share=equal)
    a, b = spfl.run(SMALL, scheme=mine), spfl.run(SMALL, scheme="sp_fl_uniform")
    for x, y in zip(a.rounds, b.rounds, strict=True):
        assert (x["loss"], x["mean_q_s"], x["objective"]) == (y["loss"], y["mean_q_s"], y["objective"])


def test_a_key_of_the_configuration_overrides_an_own_scheme():
    own = spfl.Scheme("mine", "", "", weights="plain", density=0.5)
    assert spfl.schemes.resolve(spfl.Config().scheme, own) == own
    keyed = spfl.api.as_config(None, {"scheme.weights": "mmse", "scheme.density": 0.1}).scheme
    found = spfl.schemes.resolve(keyed, own)
    assert (found.weights, found.density) == ("mmse", 0.1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Flatten()), "must have parameters"),
        (nn.Linear(64, 10).double(), "float32"),
        (nn.Linear(64, 10).requires_grad_(False), "must have parameters to train"),
    ],
)
def test_unfit_modules_are_refused(module, message):
    with pytest.raises(ConfigError, match=message):
        spfl.run(SMALL, module=module)


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (lambda labels, devices, rng: [[0]], "one array for each of the 6 devices, got 1"),
        (lambda labels, devices, rng: [[0]] * 6, "one device only"),
        (lambda labels, devices, rng: [[k] for k in range(1435, 1441)], r"indices in 0\.\.1436"),
        (lambda labels, devices, rng: [[]] * 6, r"indices in 0\.\.1436"),
    ],
)
def test_unfit_partitions_are_refused(partition, message):
    with pytest.raises(DataError, match=message):
        spfl.run(SMALL, partition=partition)


def test_unfit_channels_and_shares_are_refused():
    with pytest.raises(ConfigError, match="gains must return 6 finite numbers"):
        spfl.run(SMALL, gains=lambda round_, rng: [1.0])
    with pytest.raises(ConfigError, match="fades must return 6 finite numbers"):
        spfl.run(SMALL, fades=lambda round_, devices, rng: (-np.ones(6), np.ones(6)))
    greedy = replace(SCHEMES["sp_fl_uniform"], name="greedy", share=lambda devices, link: (np.ones(6), 0.5))
    with pytest.raises(AllocationError, match="share of greedy must return beta"):
        spfl.run(SMALL, scheme=greedy)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((4, 8, 8), np.nan), np.zeros(4, int), "must be finite numbers, got nan"),
        (np.zeros((4, 64), np.uint8), np.zeros(4, int), "uint8 inputs are images"),
        (-np.ones((4, 64), int), np.zeros(4, int), r"indices >= 0 \(tokens\), got -1"),
        (np.zeros((4, 8, 8), complex), np.zeros(4, int), "must be numbers, got complex128"),
        (np.zeros((4, 8, 8), np.uint8), np.zeros(3, int), "needs inputs"),
        (np.zeros((4, 8, 8), np.uint8), np.zeros(4), "must be integers"),
        (np.zeros((4, 8, 8), np.uint8), -np.ones(4, int), "must be integers"),
        (np.zeros((0, 8, 8), np.uint8), np.zeros(0, int), "needs inputs"),
    ],
)
def test_unfit_datasets_are_refused(images, labels, message):
    good = np.zeros((2, 8, 8), np.uint8), np.array([0, 1])
    assert make_dataset("x", good, good).shape == (1, 8, 8)
    assert make_dataset("x", good, good).classes == 2
    with pytest.raises(DataError, match=message):
        make_dataset("x", (images, labels), good)
    with pytest.raises(DataError, match="one type and shape"):
        make_dataset("x", (np.zeros((2, 4, 4), np.uint8), good[1]), good)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 2}, r"seeds must be a list such as \[2\], got 2"),
        ({"schemes": "sp_fl"}, r"schemes must be a list such as \['sp_fl'\], got 'sp_fl'"),
        ({"seeds": []}, "seeds must not be empty"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"seed": 3}, r"seed must be a list in a comparison, seeds=\[3\], got 3"),
    ],
)
def test_a_comparison_of_nothing_or_of_one_thing_by_itself_is_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spfl.compare(SMALL, **given)
