"""Networks of many kinds: BatchNorm, dropout, frozen and tied layers, no output bias, recurrent ones and attention."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import spfl
from spfl.custom import Custom
from spfl.errors import ConfigError
from spfl.flat_model import STATISTICS
from spfl.runs.experiment import read_json
from spfl.training import train
from spfl.uplink.upload import Upload
from spfl.world.batch_norm import average_statistics, with_batch_norm
from spfl.world.world import World


def conv(*after, bias=True):
    """A small network of images in the way of torchvision, with BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *after, nn.Flatten(),
        nn.Linear(512, 10, bias=bias),
    )  # fmt: skip


class Tied(nn.Module):
    """One weight that leads in and out."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 10), nn.Linear(10, 64, bias=False)
        self.outer.weight = nn.Parameter(torch.randn(64, 10) * 0.1)
        self.back = nn.Linear(64, 10)
        self.back.weight = self.inner.weight

    def forward(self, images):
        return self.back(self.outer(torch.relu(self.inner(images.flatten(1)))))


def last_round(world):
    *_, record = train(world)
    return record


def build(config, digits, module, **more):
    return World.build(config, digits, Custom(module=module, **more))


# --- BatchNorm -------------------------------------------------------------------------------------------------------


def test_statistics_of_batch_norm_are_averaged_by_samples_and_counted(digits, small_config):
    channel = {"side_information": "reliable"}
    config = small_config(training={"rounds": 3, "local_epochs": 1}, channel=channel)
    world = build(config, digits, conv())
    plain = build(config, digits, with_batch_norm(conv(), "group"))
    assert world.format.statistics == 16
    assert world.format.side_bits == plain.format.side_bits + 32 * 16
    record = last_round(world)
    mean, variance = np.split(record.server.memory[STATISTICS], 2)
    assert (variance > 0).all()
    assert not np.allclose(mean, 0)
    values = [np.array([1.0, 5.0], np.float32), np.array([4.0, -1.0], np.float32), np.array([np.nan, 0], np.float32)]
    told = [Upload(k, 10 * (k + 1), 0.0, np.zeros(0, np.float32), statistics=value) for k, value in enumerate(values)]
    everyone = np.ones(3, bool)  # the third is not finite
    assert np.allclose(average_statistics({}, told, everyone)[STATISTICS], [3.0, 1.0])
    assert np.allclose(average_statistics({}, told, np.array([True, False, True]))[STATISTICS], [1.0, 5.0])
    assert average_statistics({}, told, np.zeros(3, bool)) == {}


def test_the_server_is_evaluated_with_its_averaged_statistics(digits, small_config):
    world = build(small_config(training={"rounds": 2, "local_epochs": 1}), digits, conv())
    record = last_round(world)
    model = world.model()
    model.load(torch.from_numpy(record.server.weights))
    model.load_statistics(record.server.memory[STATISTICS])
    module = model.module.eval()
    from spfl.data.dataset import to_inputs

    with torch.inference_mode():
        shown = module(to_inputs(digits.test_inputs, digits)).argmax(1)
    assert record.test_accuracy == pytest.approx((shown == digits.test_labels).float().mean().item())


def test_average_is_that_of_a_loop_by_hand(digits, small_config):
    """One round of FedSGD with nothing lost: the mean of the statistics that each device's batch leaves."""
    config = small_config(training={"rounds": 1, "batch_size": 10**6}, scheme={"name": "error_free"})
    world = build(config, digits, conv())
    record = last_round(world)
    expected, count = torch.zeros(16, dtype=torch.float64), 0
    from spfl.data.dataset import to_inputs

    for part in world.parts:
        module = conv()
        module(to_inputs(digits.train_inputs[part], digits))
        kept = torch.cat([module[1].running_mean, module[1].running_var]).double()
        expected, count = expected + len(part) * kept, count + len(part)
    assert np.allclose(record.server.memory[STATISTICS], (expected / count).numpy(), atol=1e-5)


def test_group_norm_takes_the_place_of_batch_norm_and_keeps_its_scale(digits, small_config):
    module = conv()
    module[1].weight.data.fill_(3.0)
    config = small_config(model={"batch_norm": "group"})
    world = build(config, digits, module)
    replaced = world.model().module[1]
    assert isinstance(replaced, nn.GroupNorm)
    assert torch.equal(replaced.weight, torch.full((8,), 3.0))
    assert isinstance(module[1], nn.BatchNorm2d)  # the caller's is left alone
    assert not last_round(world).server.memory.get(STATISTICS, np.zeros(0)).size


def test_frozen_statistics_stay_as_they_came(digits, small_config):
    module = conv()
    module[1].running_mean.fill_(0.25)
    world = build(small_config(model={"batch_norm": "frozen"}), digits, module)
    assert world.traits.statistics == ()
    model = world.model()
    model.loss_and_gradient(torch.randn(4, 1, 8, 8), torch.arange(4))
    assert torch.equal(model.module[1].running_mean, torch.full((8,), 0.25))
    assert last_round(world).test_accuracy is not None


def test_a_minibatch_of_one_is_told_before_the_first_round(digits, small_config):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    with pytest.raises(ConfigError, match=r"takes minibatches of 2 samples or more \(BatchNorm\), device 0"):
        build(small_config(training={"batch_size": 1}), digits, module)


def test_batch_norm_is_the_same_in_threads_and_processes_and_after_a_stop(digits, small_config, tmp_path):
    from spfl.runs.experiment import run_experiment

    custom, digests = Custom(module=conv(nn.Dropout(0.2))), []
    for name, threads, processes in (("one", 1, 1), ("three", 3, 1), ("processes", 2, 2)):
        config = small_config(workers=threads, training={"rounds": 4, "local_epochs": 1})
        config = config.model_copy(update={"processes": processes})
        digests.append(run_experiment(config, digits, tmp_path / name, custom=custom)["digest"])
    assert len(set(digests)) == 1

    def stop(values):
        if values["round"] == 3:
            raise RuntimeError

    config = small_config(workers=1, training={"rounds": 4, "local_epochs": 1})
    with pytest.raises(RuntimeError):
        run_experiment(config, digits, tmp_path / "s", custom=custom, checkpoint_every=1, progress=stop)
    resumed = run_experiment(config, digits, tmp_path / "s", existing="resume", custom=custom)
    assert resumed["digest"] == digests[0]
    weights = spfl.Run.load(tmp_path / "one").weights
    assert weights["1.running_var"].shape == (8,)
    assert "1.weight" in weights
    assert read_json(tmp_path / "one" / "summary.json")["digest"] == digests[0]


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_is_a_function_of_seed_round_and_device(digits, small_config):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    runs = {}
    for name, workers, seed in (("one", 1, 0), ("four", 4, 0), ("other", 1, 1)):
        torch.manual_seed(7 if name == "four" else 3)  # what the caller's generator holds has no part in it
        runs[name] = last_round(build(small_config(workers=workers, seed=seed), digits, module))
    assert np.array_equal(runs["one"].server.weights, runs["four"].server.weights)
    assert runs["one"].test_loss == runs["four"].test_loss
    assert not np.array_equal(runs["one"].server.weights, runs["other"].server.weights)


def test_dropout_is_off_at_evaluation(digits, small_config):
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10))
    world = build(small_config(), digits, module)
    model = world.model()
    shown = [model.evaluate(digits.test_inputs, digits.test_labels, lambda x: x.float()) for _ in range(2)]
    assert shown[0] == shown[1]
    assert all(layer.training for layer in model.module.modules())


def test_a_network_without_dropout_draws_what_it_drew_before(digits, small_config):
    world = World.build(small_config(), digits)
    rng, untouched = np.random.default_rng(0), np.random.default_rng(0)
    assert world.model().seed(rng) is None
    assert rng.random() == untouched.random()


# --- frozen, tied, without an output bias ----------------------------------------------------------------------------


def test_frozen_layers_are_not_in_the_vector_and_never_move(digits, small_config):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    module[1].requires_grad_(False)
    world = build(small_config(), digits, module)
    assert world.layout.names == ("3.weight", "3.bias")
    model = world.model()
    model.load(torch.from_numpy(last_round(world).server.weights))
    assert torch.equal(model.module[1].weight, module[1].weight)
    assert not torch.equal(model.module[3].weight, module[3].weight)


def test_a_tied_weight_is_in_the_vector_once(digits, small_config):
    torch.manual_seed(0)
    module = Tied()
    world = build(small_config(), digits, module)
    assert world.layout.names == ("inner.weight", "inner.bias", "outer.weight", "back.bias")
    model = world.model()
    model.load(torch.from_numpy(last_round(world).server.weights))
    assert torch.equal(model.module.inner.weight, model.module.back.weight)


def test_calibration_without_an_output_bias_says_so_and_label_shares_do_without(digits, small_config):
    config = small_config(scheme={"name": "sp_fl_plus_1"})
    with pytest.warns(UserWarning, match=r"calibrates weights by the gradient of an output bias.*4\.weight"):
        world = build(config, digits, conv(bias=False))
    assert world.format.packing.output_biases == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(config, digits, conv())
        labels = small_config(scheme={"name": "sp_fl_plus_1", "auxiliary": "labels"})
        assert build(labels, digits, conv(bias=False)).format.classes.shape == (6, 10)


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_networks_for_sequences_learn_to_continue_a_text(small_config, name):
    text = spfl.load_dataset("sentences")
    config = small_config(
        data={"name": "sentences", "partition": "column", "devices": 8},
        model={"name": name, "width": 16},
        training={"rounds": 25, "rate": 0.02, "server_optimiser": "adam", "local_steps": 2, "eval_every": 25},
        scheme={"name": "error_free"},
    )
    record = last_round(World.build(config, text))
    assert record.test_loss < np.log(text.classes) - 0.5  # better than to know nothing
    assert record.test_accuracy > 0.2


def test_a_network_that_does_not_fit_the_inputs_is_told_by_name(digits, small_config):
    table, text = spfl.load_dataset("breast_cancer"), spfl.load_dataset("sentences")
    for data, name, message in (
        (table, "small_cnn", r"model\.name = small_cnn needs images, got inputs \(30,\) of breast_cancer; set mlp"),
        (text, "mlp", r"model\.name = mlp takes no tokens, as sentences has them; set lstm or transformer"),
        (digits, "lstm", r"model\.name = lstm needs rows of tokens, got inputs \(1, 8, 8\) of digits"),
    ):
        config = small_config(data={"partition": "iid"}, model={"name": name})
        with pytest.raises(ConfigError, match=message):
            _ = World.build(config, data).layout
