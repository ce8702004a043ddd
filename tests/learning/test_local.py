"""Local rules against twins that are written from the papers: whole models, and autograd of the papers' objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spfl
from oracles import loss_at
from spfl.config.schema import build_config
from spfl.custom import Custom
from spfl.errors import ConfigError
from spfl.learning.local import Local, checked_local
from spfl.rng import Purpose, stream
from spfl.training import train
from spfl.world.world import World

DEVICES, EACH, BATCH, RATE, ROUNDS = 4, 100, 25, 0.1, 4


def equal_parts(labels, devices, rng):
    """Sorted by label, so that devices drift apart; of one size, as the papers' plain means want it."""
    return np.array_split(np.argsort(labels, kind="stable")[: devices * EACH], devices)


def world_of(digits, **training):
    values = {
        "data": {"devices": DEVICES},
        "model": {"name": "softmax"},
        "training": {"rounds": ROUNDS, "batch_size": BATCH, "local_rate": RATE, "rate": RATE} | training,
        "scheme": {"name": "error_free"},
        "workers": 1,
    }
    return World.build(build_config(values), digits, Custom(partition=equal_parts))


def inputs(digits):
    images = digits.train_inputs.float()
    return (images - images.mean()) / images.std(correction=0)


def batches(world, device, round_):
    """The minibatches of a device, drawn by the rule that the documents state."""
    training, part = world.config.training, world.parts[device]
    rng = stream(world.config.seed, round_, device, Purpose.BATCH)
    if training.local_epochs is None:
        return [rng.choice(part, BATCH, replace=False, shuffle=False) for _ in range(training.local_steps)]
    orders = [rng.permutation(part) for _ in range(training.local_epochs)]
    return [order[i : i + BATCH] for order in orders for i in range(0, len(order), BATCH)]


class Twin:
    """Federated learning as the papers print it: devices send models, the server averages them."""

    def __init__(self, world, digits):
        self.world, self.x, self.y = world, inputs(digits), digits.train_labels
        self.module = world.model().module

    def loss(self, flat, batch):
        return loss_at(self.module, flat, self.x[batch], self.y[batch])

    def local(self, start, batches, extra=lambda w: 0.0, drift=0.0):
        w = start.clone().requires_grad_()
        for batch in batches:
            (gradient,) = torch.autograd.grad(self.loss(w, torch.from_numpy(batch)) + extra(w), w)
            w = (w - RATE * (gradient + drift)).detach().requires_grad_()
        return w.detach()


def fedavg(twin, mu=0.0):
    w = twin.world.model().weights.clone()
    for t in range(1, ROUNDS + 1):
        pull = lambda v, w=w: 0.5 * mu * (v - w).square().sum()  # noqa: E731
        w = torch.stack([twin.local(w, batches(twin.world, k, t), pull) for k in range(DEVICES)]).mean(0)
        yield w


def scaffold(twin):
    """Karimireddy et al. 2020, algorithm 1 with option II and global rate 1."""
    x = twin.world.model().weights.clone()
    c, own = torch.zeros_like(x), [torch.zeros_like(x) for _ in range(DEVICES)]
    for t in range(1, ROUNDS + 1):
        moves, changes = [], []
        for k in range(DEVICES):
            chosen = batches(twin.world, k, t)
            y = twin.local(x, chosen, drift=c - own[k])
            fresh = own[k] - c + (x - y) / (len(chosen) * RATE)
            moves.append(y - x)
            changes.append(fresh - own[k])
            own[k] = fresh
        x, c = x + torch.stack(moves).mean(0), c + torch.stack(changes).mean(0)
        yield x


def feddyn(twin, alpha):
    """Acar et al. 2021, algorithm 1, its inner minimisation by the same SGD steps."""
    theta = twin.world.model().weights.clone()
    h, own = torch.zeros_like(theta), [torch.zeros_like(theta) for _ in range(DEVICES)]
    for t in range(1, ROUNDS + 1):
        models = []
        for k in range(DEVICES):
            term = lambda v, k=k, theta=theta: 0.5 * alpha * (v - theta).square().sum() - own[k] @ v  # noqa: E731
            model = twin.local(theta, batches(twin.world, k, t), term)
            own[k] = own[k] - alpha * (model - theta)
            models.append(model)
        mean = torch.stack(models).mean(0)
        h = h - alpha * (mean - theta)
        theta = mean - h / alpha
        yield theta


RULES = {
    "fedavg": ({"local_epochs": 2}, fedavg),
    "fedprox": ({"local_epochs": 2, "proximal_mu": 0.5}, lambda twin: fedavg(twin, 0.5)),
    "fedprox_steps": ({"local_steps": 5, "proximal_mu": 2.0}, lambda twin: fedavg(twin, 2.0)),
    "scaffold": ({"local_steps": 5, "correction": "scaffold"}, scaffold),
    "feddyn": ({"local_steps": 5, "correction": "feddyn", "feddyn_alpha": 0.3}, lambda twin: feddyn(twin, 0.3)),
    "feddyn_epochs": ({"local_epochs": 1, "correction": "feddyn", "feddyn_alpha": 0.1}, lambda twin: feddyn(twin, 0.1)),
}


@pytest.mark.parametrize("name", RULES)
def test_rounds_are_those_of_the_paper(name, digits):
    """With rate = local_rate and nothing lost, the server's weights are the mean of the devices' models."""
    training, paper = RULES[name]
    world = world_of(digits, **training)
    start = world.start().weights
    for record, expected in zip(train(world), paper(Twin(world, digits)), strict=True):
        np.testing.assert_allclose(record.server.weights, expected.numpy(), rtol=2e-4, atol=2e-5)
    assert np.abs(record.server.weights - start).max() > 0.05


def test_the_rules_lead_elsewhere_than_fedavg(digits):
    """A twin that could not fail would be one whose rules all agree."""
    ends = {}
    for name in ("fedprox_steps", "scaffold", "feddyn"):
        ends[name] = list(train(world_of(digits, **RULES[name][0])))[-1].server.weights
    plain = list(train(world_of(digits, local_steps=5)))[-1].server.weights
    assert all(np.abs(end - plain).max() > 1e-2 for end in ends.values())


@pytest.mark.parametrize(("optimiser", "momentum"), [("sgd", 0.9), ("adam", 0.0)])
def test_local_optimisers_are_torchs(optimiser, momentum, digits):
    chosen = {"local_optimiser": optimiser, "local_momentum": momentum, "local_steps": 4}
    world, twin = world_of(digits, **chosen), None
    module, x = world.model().module, inputs(digits)
    if optimiser == "adam":
        steps = torch.optim.Adam(module.parameters(), lr=RATE)
    else:
        steps = torch.optim.SGD(module.parameters(), lr=RATE, momentum=momentum)
    for parameter in module.parameters():
        parameter.grad = None
    for batch in batches(world, 0, 1):
        steps.zero_grad()
        F.cross_entropy(module(x[batch]), digits.train_labels[batch]).backward()
        steps.step()
    twin = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    from spfl.fleet.threads import local_gradient

    model = world.model()
    sent = local_gradient(world, model, model.weights.clone(), 0, 1)
    np.testing.assert_allclose(world.start().weights - RATE * sent.vector, twin, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [RULES["scaffold"][0], RULES["feddyn"][0], RULES["fedprox"][0]])
@pytest.mark.parametrize("scheme", ["sp_fl_plus_1", "sp_fl", "single_packet", "top_k", "sign_mean"])
def test_every_rule_runs_over_a_link_that_loses_packets_with_the_same_bits_in_processes(training, scheme, small_config):
    changes = {"rounds": 4, "local_rate": 0.05} | training
    config = small_config(training=changes, scheme={"name": scheme}, data={"devices": 6, "cohort_size": 4})
    one = spfl.run(config)
    many = spfl.run(config, overrides={"processes": 2, "workers": 2})
    assert one.summary["digest"] == many.summary["digest"]
    assert 0 < one.summary["signs_received"] < 16


def test_what_a_lost_device_would_keep_is_forgotten(digits, small_config):
    """The server's memory has the control variates of the devices that were received, and of no other."""
    training = {"rounds": 1, "local_steps": 3, "correction": "scaffold"}
    world = World.build(small_config(training=training, scheme={"name": "single_packet"}), digits)
    (record,) = train(world)
    received = {f"local/kept/{k}" for k, ok in zip(record.cohort, record.outcome.sign, strict=True) if ok}
    assert {name for name in record.server.memory if name.startswith("local/kept/")} == received
    assert 0 < len(received) < 6
    share = len(received) / 6
    expected = np.float32(share) * (record.server.velocity / np.float32(3))
    np.testing.assert_allclose(record.server.memory["local/shared"], expected, rtol=1e-5, atol=1e-7)


def test_a_stopped_run_goes_on_with_the_control_variates(digits, small_config):
    training = {"rounds": 6, "local_steps": 3, "correction": "scaffold"}
    world = World.build(small_config(training=training, data={"cohort_size": 3}), digits)
    whole = list(train(world))
    rest = list(train(world, whole[2].server))
    np.testing.assert_array_equal(whole[-1].server.weights, rest[-1].server.weights)


# --- rules of a caller's own -----------------------------------------------------------------------------------------


def fedprox_by_hand(task):
    weights, losses = task.weights.clone(), []
    for batch in task.batches():
        gradient, loss = task.gradient(weights, batch)
        weights -= task.training.local_rate * (gradient + 0.5 * (weights - task.weights))
        losses.append(loss)
    return (task.weights - weights).numpy() / task.training.local_rate, float(np.mean(losses))


def test_a_local_rule_of_ones_own_equals_the_configured_one(small_config):
    config = small_config(training={"rounds": 3, "local_epochs": 2})
    mine = spfl.run(config, local=fedprox_by_hand)
    configured = spfl.run(config, overrides={"training.proximal_mu": 0.5})
    np.testing.assert_allclose(mine.metrics["loss"], configured.metrics["loss"], rtol=1e-4)
    assert mine.environment["custom"] == {"local": "fedprox_by_hand"}


def test_a_local_rule_may_keep_a_vector(digits, small_config):
    def counting(task):
        before = np.zeros(task.weights.numel(), np.float32) if task.kept is None else task.kept
        gradient, loss = task.gradient(task.weights, next(task.batches()))
        return Local(gradient.numpy(), loss, before + 1)

    world = World.build(small_config(training={"rounds": 3}, scheme={"name": "error_free"}), digits,
                        Custom(local=counting))  # fmt: skip
    *_, last = train(world)
    assert all((last.server.memory[f"local/kept/{k}"] == 3).all() for k in range(6))


def test_a_local_rule_of_another_shape_is_told_so(small_config):
    with pytest.raises(ConfigError, match="local must return vectors of shape"):
        spfl.run(small_config(), local=lambda task: (np.zeros(3, np.float32), 1.0))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"proximal_mu": 0.1}, "proximal_mu needs local_steps > 1 or local_epochs, got 0.1"),
        ({"correction": "scaffold"}, "correction needs local_steps > 1 or local_epochs"),
        ({"local_epochs": 2, "local_steps": 2}, "local_epochs and local_steps exclude each other"),
        ({"local_epochs": 2, "correction": "scaffold"}, "scaffold needs local_steps"),
        ({"local_steps": 2, "correction": "feddyn", "local_optimiser": "adam"}, "feddyn needs local_optimiser = sgd"),
        ({"local_steps": 2, "local_optimiser": "adam", "local_momentum": 0.5}, "local_momentum must be 0"),
        ({"server_optimiser": "adam", "momentum": 0.5}, "momentum must be 0 with server_optimiser = adam"),
        ({"beta2": 0.9}, "beta2 has an effect with server_optimiser"),
        ({"feddyn_alpha": 0.5}, "feddyn_alpha has an effect with correction = feddyn only"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_in_one_line(training, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"training": training})


def test_a_rule_that_gives_nothing_back_is_told():
    for made, name in ((None, "NoneType"), (np.zeros(3, np.float32), "ndarray"), ((1.0,), "tuple")):
        with pytest.raises(ConfigError, match=f"local must return a vector and a loss, got {name}"):
            checked_local(made, 3)
