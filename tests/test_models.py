"""Networks: shapes, reproducible weights, and the flat view against torch.autograd without it."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spfl.data.dataset import to_inputs
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError
from spfl.flat_model import FlatModel
from spfl.models import build_model

NAMES = ("softmax", "mlp", "small_cnn", "resnet18")


def build(name, seed=0, **change):
    arguments = {"channels": 3, "height": 16, "width": 16, "classes": 5, "base_channels": 8, "hidden": 12} | change
    shape = tuple(arguments.pop(key) for key in ("channels", "height", "width"))
    return build_model(name, shape, arguments.pop("classes"), rng=np.random.default_rng(seed), **arguments)


def batch(n=6, channels=3, size=16, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, channels, size, size, generator=generator)
    return inputs, torch.randint(0, classes, (n,), generator=generator)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in training: small tensors on several intra-op threads only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (3, 32)])
def test_logits_have_one_column_a_class(name, channels, size):
    module = build(name, channels=channels, height=size, width=size)
    logits = module(batch(4, channels, size)[0])
    assert logits.shape == (4, 5)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_generator_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = FlatModel(build(name)).weights
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, FlatModel(build(name)).weights)
    assert not torch.equal(first, FlatModel(build(name, seed=1)).weights)
    assert torch.isfinite(first).all()


def test_parameter_counts():
    def count(name, **change):
        arguments = {"channels": 3, "height": 32, "width": 32, "classes": 10, "base_channels": None, "hidden": 128}
        return FlatModel(build(name, **(arguments | change))).dim

    assert count("softmax") == 3072 * 10 + 10
    assert count("mlp") == 3072 * 128 + 128 + 128 * 10 + 10
    convolutions = 9 * (3 * 16 + 16 * 32 + 32 * 64)
    assert count("small_cnn") == convolutions + 2 * (16 + 32 + 64) + 64 * 16 * 10 + 10
    assert count("resnet18") == 11_173_962  # the BatchNorm ResNet-18 for CIFAR-10 has as many


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_batch_do_not_see_each_other(name):
    """No batch statistics: the logits of an image are the same alone and in a batch."""
    module, (inputs, _) = build(name), batch(5)
    together = module(inputs)
    alone = torch.cat([module(image[None]) for image in inputs])
    assert torch.allclose(together, alone, atol=1e-4)


def test_initial_logits_are_of_order_one():
    for name in NAMES:
        logits = build(name, base_channels=16)(batch(64)[0])
        assert 0.05 < logits.std() < 5, name


def test_unknown_names_and_impossible_sizes():
    with pytest.raises(ConfigError, match=r"unknown model 'smallcnn' .did you mean 'small_cnn'"):
        build("smallcnn")
    with pytest.raises(ConfigError, match="at least 8x8 pixels, got 8x7"):
        build("small_cnn", height=8, width=7)
    with pytest.raises(ConfigError, match="hidden must be >= 1, got 0"):
        build("mlp", hidden=0)


# --- flat view ----------------------------------------------------------------------------------------------


def reference_gradient(module, inputs, labels):
    """torch.autograd.grad of the mean cross-entropy, tensors concatenated in order."""
    loss = -F.log_softmax(module(inputs), 1)[range(len(labels)), labels].mean()
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])


@pytest.mark.parametrize("name", NAMES)
def test_flat_gradient_is_the_gradient_in_layout_order(name):
    flat, (inputs, labels) = FlatModel(build(name)), batch()
    expected_loss, expected = reference_gradient(build(name), inputs, labels)
    loss = flat.loss_and_gradient(inputs, labels)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert torch.allclose(flat.gradient, expected, rtol=1e-4, atol=1e-6)
    assert flat.gradient.abs().max() > 1e-3
    names = [name for name, _ in flat.module.named_parameters()]
    assert list(flat.layout.names) == names
    assert flat.layout.shapes == tuple(tuple(p.shape) for p in flat.module.parameters())
    assert flat.layout.size == flat.dim == len(flat.weights)


def test_flat_gradient_agrees_with_finite_differences():
    module = build("small_cnn").double()
    inputs, labels = batch()
    flat = FlatModel(build("small_cnn"))
    flat.loss_and_gradient(inputs, labels)
    direction = torch.randn(flat.dim, generator=torch.Generator().manual_seed(3))
    losses = []
    for step in (1e-6, -1e-6):
        nn.utils.vector_to_parameters((flat.weights + 0.0).double() + step * direction.double(), module.parameters())
        losses.append(F.cross_entropy(module(inputs.double()), labels).item())
    slope = (losses[0] - losses[1]) / 2e-6
    assert (flat.gradient @ direction).item() == pytest.approx(slope, rel=1e-3)


def test_gradient_is_overwritten_in_place_not_accumulated():
    flat, (inputs, labels) = FlatModel(build("small_cnn")), batch()
    flat.loss_and_gradient(inputs, labels)
    first, place = flat.gradient.clone(), flat.gradient.data_ptr()
    flat.loss_and_gradient(inputs, labels)
    assert torch.equal(first, flat.gradient)
    assert flat.gradient.data_ptr() == place
    assert next(flat.module.parameters()).grad.data_ptr() == place


def test_weights_are_views_both_ways():
    flat, (inputs, _) = FlatModel(build("mlp")), batch()
    before = flat.module(inputs)
    flat.load(torch.zeros(flat.dim))
    assert flat.module(inputs).abs().max() == 0
    flat.load(FlatModel(build("mlp")).weights)
    assert torch.equal(flat.module(inputs), before)
    with torch.no_grad():
        next(flat.module.parameters()).fill_(2.0)
    assert flat.weights[0] == 2.0
    assert not flat.weights.requires_grad


def test_load_refuses_another_dimension():
    flat = FlatModel(build("mlp"))
    for wrong in (1, flat.dim - 1):
        with pytest.raises(ConfigError, match=rf"weights must have shape \({flat.dim},\), got \({wrong},\)"):
            flat.load(torch.zeros(wrong))


def test_two_threads_get_the_bits_of_one():
    batches = [batch(16, seed=seed) for seed in range(12)]

    def gradients(flat, mine, out):
        for i in mine:
            flat.loss_and_gradient(*batches[i])
            out[i] = flat.gradient.clone()

    models = [FlatModel(build("small_cnn")) for _ in range(3)]
    alone, together = {}, {}
    gradients(models[0], range(12), alone)
    threads = [Thread(target=gradients, args=(model, range(i, 12, 2), together)) for i, model in enumerate(models[1:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alone[i], together[i]) for i in range(12))


def test_evaluate_does_not_depend_on_the_batch_size_and_matches_by_hand():
    digits = load_dataset("digits")
    flat = FlatModel(build("mlp", channels=1, height=8, width=8, classes=10))
    prepare = lambda images: to_inputs(images, digits)  # noqa: E731
    logits = flat.module(prepare(digits.test_inputs)).detach()
    loss = -F.log_softmax(logits.double(), 1)[range(360), digits.test_labels].mean().item()
    accuracy = np.mean([int(row.argmax()) == label for row, label in zip(logits, digits.test_labels, strict=True)])
    for batch_size in (7, 360, 1000):
        measured = flat.evaluate(digits.test_inputs, digits.test_labels, prepare, batch_size)
        assert measured == pytest.approx((loss, accuracy), rel=1e-5)


@pytest.mark.parametrize(("name", "least"), [("softmax", 0.9), ("mlp", 0.9), ("small_cnn", 0.93)])
def test_gradient_descent_learns_the_digits(name, least):
    digits = load_dataset("digits")
    flat = FlatModel(build(name, channels=1, height=8, width=8, classes=10, hidden=32))
    rng = np.random.default_rng(0)
    for _ in range(150):
        rows = torch.from_numpy(rng.choice(len(digits.train_labels), 64, replace=False))
        flat.loss_and_gradient(to_inputs(digits.train_inputs[rows], digits), digits.train_labels[rows])
        flat.weights.add_(flat.gradient, alpha=-0.1)
    _, accuracy = flat.evaluate(digits.test_inputs, digits.test_labels, lambda images: to_inputs(images, digits))
    assert accuracy > least
