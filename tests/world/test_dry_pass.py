"""A network of the caller's is tried before the first round: what does not fit ends in one line, what fits trains."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spfl
from spfl.custom import Custom
from spfl.errors import ConfigError
from spfl.training import train
from spfl.world.dry_pass import check_network
from spfl.world.world import World


def head(*layers, inputs=64):
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(inputs, 10))


class Calls(nn.Module):
    """Wraps a function of (layer, inputs) around a linear layer."""

    def __init__(self, function, **parts):
        super().__init__()
        self.layer, self.function = nn.Linear(64, 10), function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images):
        return self.function(self, images.flatten(1))


class Recurrent(nn.Module):
    def __init__(self, cells):
        super().__init__()
        self.cells, self.head = cells, nn.Linear(16, 10)

    def forward(self, images):
        return self.head(self.cells(images.squeeze(1))[0][:, -1])


class Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True), nn.Linear(64, 10)

    def forward(self, images):
        rows = images.squeeze(1)
        return self.head(self.attend(rows, rows, rows)[0].flatten(1))


def counting(module, inputs):
    module.calls = getattr(module, "calls", 0) + 1
    return module.layer(inputs)


def remembering(module, inputs):
    before = getattr(module, "seen", None)
    module.seen = [inputs.mean() if before is None else before[0] + inputs.mean()]
    return module.layer(inputs) * module.seen[0]


def drawn(generator):
    return lambda module, inputs: module.layer(inputs) * float(generator())


UNFIT = {
    "a class": (lambda: nn.Linear, "must be a network, a torch.nn.Module, got the class Linear"),
    "a state_dict": (lambda: head().state_dict(), "must be a network, a torch.nn.Module, got a mapping"),
    "a function": (lambda: F.relu, "must be a network, a torch.nn.Module, got function"),
    "nothing to train": (lambda: nn.Sequential(nn.Flatten()), "must have parameters"),
    "all frozen": (lambda: head().requires_grad_(False), "got none that requires_grad"),
    "functional dropout": (lambda: Calls(lambda m, x: m.layer(F.dropout(x, 0.1))), "must draw nothing in eval mode"),
    "NumPy's draws": (lambda: Calls(drawn(np.random.rand)), "must draw nothing in eval mode"),
    "Python's draws": (lambda: Calls(drawn(random.random)), "must draw nothing in eval mode"),
    "float64": (lambda: head().double(), "all of dtype float32, got torch.float64"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "module.1.weight has no shape yet"),
    "meta": (lambda: head(nn.Linear(64, 64, device="meta")), "module.1.weight has no values"),
    "five outputs": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), r"\(4, 10\) outputs .* got \(4, 5\)"),
    "three channels": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)), "got RuntimeError"),
    "a pair": (lambda: Calls(lambda m, x: (m.layer(x), x)), "got a tuple of 2"),
    "a dict": (lambda: Calls(lambda m, x: OrderedDict(out=m.layer(x))), "got a OrderedDict of 1"),
    "whole numbers": (lambda: Calls(lambda m, x: m.layer(x).long()), "torch.int64"),
    "no graph": (lambda: Calls(lambda m, x: m.layer(x).detach()), "differentiable"),
    "unused": (lambda: Calls(lambda m, x: m.layer(x), extra=nn.Linear(2, 2)), "module.extra.weight must have a part"),
    "hooks": (lambda: head(torch.nn.utils.weight_norm(nn.Linear(64, 64))), "copy.deepcopy can copy"),
    "scripted": (lambda: torch.jit.script(head()), "weights would never move"),
    "scripted for others": (lambda: torch.jit.script(head(inputs=9)), "got RuntimeError: mat1 and mat2 shapes"),
    "traced": (lambda: torch.jit.trace(head(), torch.zeros(2, 1, 8, 8)), "weights would never move"),
    "spectral norm": (
        lambda: head(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))),
        r"changes with every call|remembers earlier calls",
    ),
    "a counter": (lambda: Calls(counting, calls=0), "module.calls changes with every call"),
    "a memory": (lambda: Calls(remembering), "remembers earlier calls"),
}  # fmt: skip
FIT = {
    "linear": head,
    "LSTM": lambda: Recurrent(nn.LSTM(8, 16, 2, batch_first=True)),
    "attention": lambda: Attention(0.0),
    "weight norm": lambda: head(nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))),
    "dropout of nothing": lambda: head(nn.Dropout(0.0)),
    "tied": lambda: Calls(lambda m, x: m.layer(F.relu(x @ m.layer.weight.T) @ m.layer.weight)),
    "data parallel": lambda: nn.DataParallel(head()),
    "frozen": lambda: head(nn.Linear(64, 64).requires_grad_(False)),
    "dropout layer": lambda: head(nn.Dropout(0.1)),
    "dropout in an LSTM": lambda: Recurrent(nn.LSTM(8, 16, 2, batch_first=True, dropout=0.2)),
    "dropout in attention": lambda: Attention(0.2),
    "RReLU": lambda: head(nn.Linear(64, 64), nn.RReLU()),
    "batch norm": lambda: head(nn.BatchNorm1d(64)),
}
DRAWING = ("dropout layer", "dropout in an LSTM", "dropout in attention", "RReLU")


@pytest.mark.filterwarnings("ignore")  # of PyTorch, of what it deprecates
@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused_in_one_line(digits, name):
    make, message = UNFIT[name]
    with pytest.raises(ConfigError, match=message) as caught:
        check_network(Custom(module=make()).module, digits)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_no_warning_of_another_goes_before_the_refusal_of_a_traced_network(digits):
    """Copies of its parameters are no leaves: PyTorch warns of whoever looks at their gradients."""
    module = UNFIT["traced"][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match="would never move"):
            check_network(Custom(module=module).module, digits)


@pytest.mark.parametrize("name", FIT)
def test_what_fits_passes_and_is_left_as_it_was(digits, name):
    module = FIT[name]()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    traits = check_network(Custom(module=module).module, digits)
    assert traits.draws == (name in DRAWING)
    assert traits.statistics == (("1.running_mean", "1.running_var") if name == "batch norm" else ())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_network_that_vmap_cannot_take_is_looped_over_on_a_device(digits, small_config):
    """Device by device, with the result of worker threads."""
    torch.manual_seed(0)
    module, weights = Recurrent(nn.GRU(8, 16, batch_first=True)), []
    for device in (None, "cpu"):
        config = small_config().model_copy(update={"torch_device": device})
        *_, last = train(World.build(config, digits, Custom(module=module)))
        weights.append(last.server.weights)
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)


def test_a_network_that_no_device_can_take_is_for_worker_threads(digits, small_config):
    config = small_config().model_copy(update={"torch_device": "cpu"})
    with pytest.raises(ConfigError, match=r"torch_device must be absent with a network that .*; worker threads can"):
        list(train(World.build(config, digits, Custom(module=nn.DataParallel(head())))))


def test_the_pass_comes_before_the_first_round(digits, small_config, tmp_path):
    with pytest.raises(ConfigError, match="logits"):
        World.build(small_config(), digits, Custom(module=UNFIT["five outputs"][0]()))
    with pytest.raises(ConfigError, match="logits"):
        spfl.run(small_config(), module=UNFIT["five outputs"][0](), out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("model", ["softmax", "mlp", "small_cnn"])
def test_the_default_type_of_torch_changes_no_bit(small_config, device, model):
    settings = small_config(model={"name": model}, training={"rounds": 1}).model_copy(update={"torch_device": device})
    expected = spfl.run(settings).weights
    torch.set_default_dtype(torch.float64)
    try:
        found = spfl.run(settings).weights
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == np.float32 for name, value in expected.items()
    )
