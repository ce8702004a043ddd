"""The round loop and its parts: local gradients, the server's optimiser, cohorts, evaluation, against torch."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracles
from spfl.config.schema import Config
from spfl.config.training import TrainingConfig
from spfl.data.dataset import Dataset
from spfl.fleet.threads import ThreadFleet, local_gradient
from spfl.rng import Purpose, stream
from spfl.training import Stopwatch, learning_rate, mean_loss, run, step
from spfl.uplink.reception import Update
from spfl.uplink.upload import Upload
from spfl.world.state import ServerState
from spfl.world.world import World

Build = Callable[..., Config]


# --- the devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_local_gradient_equals_torchs_own_steps(steps: int, digits: Dataset, small_config: Build) -> None:
    """A minibatch gradient, or (w - w^E) / rate after E steps of torch.optim.SGD on the same batches."""
    training = {"local_steps": steps, "local_rate": 0.2, "rate": 0.1, "batch_size": 16}
    world = World.build(small_config(training=training, model={"name": "mlp", "width": 12}), digits)
    model = world.model()
    weights = model.weights.clone()
    mean, std = digits.train_inputs.float().mean(), digits.train_inputs.float().std(correction=0)
    for device in (0, 3):
        rng, part = stream(0, 5, device, Purpose.BATCH), world.parts[device]
        chosen = [rng.choice(part, min(16, len(part)), replace=False, shuffle=False) for _ in range(steps)]
        batches = [((digits.train_inputs[b].float() - mean) / std, digits.train_labels[b]) for b in chosen]
        expected = oracles.local_sgd(world.model().module, batches, 0.2)
        gradient, loss, _ = local_gradient(world, model, weights, device, 5)
        np.testing.assert_allclose(gradient, expected, atol=2e-5)
        assert np.abs(gradient).max() > 100 * 2e-5
        assert 0 < loss < 10


def test_devices_never_see_the_test_images_and_cover_the_training_set(digits: Dataset, small_config: Build) -> None:
    world = World.build(small_config(), digits)
    dealt = np.sort(np.concatenate(world.parts))
    np.testing.assert_array_equal(dealt, np.arange(len(digits.train_labels)))


def test_a_validation_run_never_touches_the_test_images(digits: Dataset, small_config: Build) -> None:
    world = World.build(small_config(data={"validation_fraction": 0.2}), digits)
    train = {bytes(image.numpy()) for image in digits.train_inputs}
    assert {bytes(image.numpy()) for image in world.dataset.test_inputs} <= train
    assert len(world.dataset.test_labels) + len(world.dataset.train_labels) == len(digits.train_labels)


def test_evaluation_equals_one_pass_over_the_test_set(digits: Dataset, small_config: Build) -> None:
    world = World.build(small_config(workers=2), digits)
    weights = world.start().weights
    with ThreadFleet(world) as fleet:
        loss, accuracy = fleet.evaluate(weights)
    mean, std = digits.train_inputs.float().mean(), digits.train_inputs.float().std(correction=0)
    with torch.no_grad():
        logits = world.model().module((digits.test_inputs.float() - mean) / std)
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, digits.test_labels)), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == digits.test_labels).double().mean()))


# --- the server's optimiser ------------------------------------------------------------------------------------------


def trajectory(training: TrainingConfig, start: NDArray[np.float32], gradients: NDArray[np.float32]) -> list:
    server, seen = ServerState(0, start, np.zeros_like(start), {}), []
    for gradient in gradients:
        server = step(training, server, Update(gradient, {}, 0))
        seen.append(server.weights)
    return seen


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_server_steps_are_torchs_sgd(momentum: float, weight_decay: float, schedule: str, warmup: int) -> None:
    """The same gradients through torch.optim.SGD with torch's own schedulers."""
    rng, rounds = np.random.default_rng(0), 12
    start, gradients = rng.normal(size=5).astype(np.float32), rng.normal(size=(rounds, 5)).astype(np.float32)
    training = TrainingConfig(
        rounds=rounds, rate=0.3, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup_rounds=warmup
    )
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser = torch.optim.SGD([parameter], lr=0.3, momentum=momentum, weight_decay=weight_decay)
    lr = torch.optim.lr_scheduler
    schedules = [lr.LinearLR(optimiser, 1 / warmup, total_iters=warmup - 1)] if warmup else []
    schedules += [lr.CosineAnnealingLR(optimiser, rounds)] if schedule == "cosine" else []
    for gradient, ours in zip(gradients, trajectory(training, start, gradients), strict=True):
        parameter.grad = torch.from_numpy(gradient.copy())
        optimiser.step()
        for scheduler in schedules:
            scheduler.step()
        np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_cosine_and_warm_up_by_hand() -> None:
    training = TrainingConfig(rounds=10, rate=0.4, schedule="cosine", warmup_rounds=2)
    assert learning_rate(training, 1) == pytest.approx(0.2)
    assert learning_rate(training, 6) == pytest.approx(0.2)
    assert 0 < learning_rate(training, 10) < 0.011
    assert learning_rate(TrainingConfig(rate=0.4), 7) == 0.4


@given(st.floats(0.1, 1e3), st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_clipping_shortens_and_never_turns(clip_norm: float, gradient: list[float]) -> None:
    vector = np.array(gradient, np.float32)
    training = TrainingConfig(rate=1.0, clip_norm=clip_norm)
    moved = -trajectory(training, np.zeros(3, np.float32), vector[None])[0]
    norm = float(np.linalg.norm(vector))
    expected = vector * min(1.0, clip_norm / norm) if norm else vector
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_aggregate_that_is_not_finite_is_skipped(bad: float) -> None:
    before = ServerState(3, np.ones(2, np.float32), np.full(2, 0.5, np.float32), {"kept": np.ones(1, np.float32)})
    after = step(TrainingConfig(momentum=0.9), before, Update(np.float32([1, bad]), {"lost": np.ones(1)}, 0))
    assert after.round_ == 4
    np.testing.assert_array_equal(after.weights, before.weights)
    np.testing.assert_array_equal(after.velocity, before.velocity)
    assert after.memory == before.memory


def test_a_step_changes_no_state_in_place() -> None:
    before = ServerState(0, np.ones(2, np.float32), np.ones(2, np.float32), {})
    gradient = np.float32([1, 2])
    step(TrainingConfig(momentum=0.9, weight_decay=0.1, clip_norm=0.1), before, Update(gradient, {}, 0))
    for array, value in ((before.weights, [1, 1]), (before.velocity, [1, 1]), (gradient, [1, 2])):
        np.testing.assert_array_equal(array, np.float32(value))


# --- the loop --------------------------------------------------------------------------------------------------------


def test_cohorts_depend_on_seed_and_round_only(digits: Dataset, small_config: Build) -> None:
    data = {"devices": 30, "cohort_size": 4}
    world = World.build(small_config(data=data), digits)
    cohorts = [world.cohort(t) for t in range(1, 400)]
    for cohort in cohorts:
        assert len(set(cohort)) == 4
        assert list(cohort) == sorted(cohort)
        assert set(cohort) <= set(range(30))
    assert len(set(cohorts)) > 350
    shares = np.bincount(np.concatenate(cohorts), minlength=30) / len(cohorts)  # each device is in 4 of 30 cohorts
    assert np.abs(shares - 4 / 30).max() < 5 * math.sqrt(4 / 30 * 26 / 30 / len(cohorts))
    again = World.build(small_config(data=data, scheme={"name": "single_packet"}, training={"local_steps": 2}), digits)
    assert [again.cohort(t) for t in range(1, 400)] == cohorts
    assert [World.build(small_config(seed=1, data=data), digits).cohort(t) for t in range(1, 400)] != cohorts


def test_a_cohort_is_trained_and_served(digits: Dataset, small_config: Build) -> None:
    config = small_config(data={"devices": 12, "cohort_size": 3}, training={"rounds": 4, "eval_every": 3})
    rounds = list(run(config, digits))
    world = World.build(config, digits)
    for r in rounds:
        assert r.cohort == world.cohort(r.round_)
        assert r.allocation.beta.shape == r.outcome.sign.shape == (3,)
        assert np.isfinite(r.server.weights).all()
    assert len({r.cohort for r in rounds}) > 1
    assert [r.test_accuracy is not None for r in rounds] == [False, False, True, True]  # every third, and the last


def test_a_fixed_drop_stays_and_a_fresh_one_moves(digits: Dataset, small_config: Build) -> None:
    fixed = World.build(small_config(), digits)
    np.testing.assert_array_equal(fixed.radio.cell(1).gain, fixed.radio.cell(2).gain)
    fresh = World.build(small_config(channel={"drop": "per_round"}), digits)
    assert not np.array_equal(fresh.radio.cell(1).gain, fresh.radio.cell(2).gain)
    np.testing.assert_array_equal(fresh.radio.cell(2).gain, fresh.radio.cell(2).gain)


def test_the_link_has_the_configured_median_snr_and_resource_ratio(digits: Dataset, small_config: Build) -> None:
    channel = {"median_snr_db": 7.0, "symbols_per_parameter": 3.0, "snr_gap_db": 2.0}
    world = World.build(small_config(channel=channel), digits)
    link = world.radio.link(world.cohort(1), 1)
    snr = link.power_w * link.gain / (link.noise_w_per_hz * link.bandwidth_hz / 6)
    assert 10 * math.log10(np.median(snr)) == pytest.approx(7.0)
    np.testing.assert_allclose(link.bandwidth_hz * link.tau_s / (6 * world.layout.size), 3.0)
    assert link.snr_gap == pytest.approx(10**0.2)


def test_explicit_gains_and_seconds_are_taken_as_given(digits: Dataset, small_config: Build) -> None:
    gains_db = (-90.0, -100.0, -110.0, -95.0, -105.0, -115.0)
    channel = {"gains_db": gains_db, "median_snr_db": None, "tau_s": 0.02}
    world = World.build(small_config(channel=channel, data={"cohort_size": 2}), digits)
    for round_ in range(1, 6):
        cohort = world.cohort(round_)
        link = world.radio.link(cohort, round_)
        np.testing.assert_allclose(10 * np.log10(link.gain), [gains_db[k] for k in cohort])
        np.testing.assert_array_equal(link.tau_s, 0.02)


def test_mean_loss_weighs_by_samples_and_passes_over_the_sick() -> None:
    def upload(samples: int, loss: float) -> Upload:
        return Upload(0, samples, loss, np.zeros(1, np.float32))

    assert mean_loss([upload(1, 4.0), upload(3, 0.0), upload(9, math.nan), upload(0, 7.0)]) == pytest.approx(1.0)
    assert math.isnan(mean_loss([upload(2, math.inf), Upload(1, 0, math.nan, np.zeros(2, np.float32))]))


def test_seconds_cover_the_phases(digits: Dataset, small_config: Build) -> None:
    seconds = next(run(small_config(), digits)).seconds
    assert set(seconds) == {"gradients", "encode", "allocate", "transmit", "aggregate", "step", "evaluate"}
    assert min(seconds.values()) >= 0


def test_stopwatch_moves_without_losing_time() -> None:
    clock = Stopwatch()
    with clock("a"):
        sum(range(1000))
    total = clock.seconds["a"]
    clock.move("a", "b", 0.25)
    assert clock.seconds["b"] == pytest.approx(total / 4)
    assert sum(clock.seconds.values()) == pytest.approx(total)


def test_a_run_that_is_over_yields_nothing(digits: Dataset, small_config: Build) -> None:
    config = small_config()
    done = replace(World.build(config, digits).start(), round_=2)
    assert list(run(config, digits, start=done)) == []


def test_a_finished_run_frees_its_data_at_once(digits: Dataset, small_config: Callable[..., Config]) -> None:
    dataset = replace(digits)  # a copy of the record, so that only the run holds it
    alive = weakref.ref(dataset)
    gc.disable()
    try:
        for _ in run(small_config(), dataset):
            pass
        del dataset, _
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("scheme", ["sp_fl", "error_free"])
def test_packets_of_a_round_are_gone_when_the_next_are_made(small_config, digits, monkeypatch, scheme):
    made: list[weakref.ref[Upload]] = []
    original = ThreadFleet.uploads

    def spy(self, *arguments):
        assert not any(alive() for alive in made)
        uploads, share = original(self, *arguments)
        made.extend(map(weakref.ref, uploads))
        return uploads, share

    monkeypatch.setattr(ThreadFleet, "uploads", spy)
    assert len(list(run(small_config(scheme={"name": scheme}, training={"rounds": 3}), digits))) == 3
    assert len(made) == 18


def test_an_earlier_allocation_that_no_longer_fits_is_no_start(small_config, digits):
    """A new drop each round: what was feasible for the gains of the last one need not be so for these."""
    channel = {"drop": "per_round", "doppler_hz": 5.0, "round_s": 0.1}
    config = small_config(scheme={"name": "sp_fl"}, channel=channel, data={"cohort_size": 5}, training={"rounds": 3})
    assert [record.round_ for record in run(config, digits)] == [1, 2, 3]
