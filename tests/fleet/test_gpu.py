"""Rounds on a PyTorch device meet the numbers of the worker threads, up to the order of sums, on a CPU and on a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad_and_value, vmap

from spfl import training
from spfl.cli import commands as cli
from spfl.config.schema import Config
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError
from spfl.flat_model import PLAIN, FlatModel
from spfl.fleet import gpu as torch_fleet
from spfl.fleet.gpu_packets import OnDevice, OnHost, packets_for
from spfl.fleet.gpu_steps import ReplayedModel, Steps
from spfl.fleet.graphs import Graphs
from spfl.packets import gpu as batched
from spfl.packets.codec import Levels, decode_modulus, decode_signs, encode_modulus, encode_signs
from spfl.packets.container import Kind, contents
from spfl.packets.layout import Layout
from spfl.packets.quantiser import _dither
from spfl.packets.rotation import Rotation
from spfl.runs.experiment import read_json, run_experiment
from spfl.runs.verification import verify
from spfl.schemes import SCHEMES
from spfl.studies.points import load_points
from spfl.studies.runner import on_gpu, sweep
from spfl.tasks import CLASSIFICATION
from spfl.world.torch_device import find_device, makes_packets, repeatable
from spfl.world.world import World

Build = Callable[..., Config]
KERNELS = [  # schemes whose packets the device makes itself
    "error_free", "single_packet", "single_packet_unbiased", "single_packet_optimised", "retransmit",
    "harq", "gomore", "fedtoe", "schedule_fair",
    "schedule_channel", "schedule_norm", "schedule_channel_norm", "majority_vote", "scaled_sign", "sign_mean", "sp_fl",
    "sp_fl_exact", "sp_fl_normalized", "sp_fl_uniform", "sp_fl_no_band", "sp_fl_no_power", "sp_fl_no_compensation",
    "sp_fl_plus_1", "sp_fl_plus_1_uncalibrated", "sp_fl_plus_1_unrotated", "sp_fl_plus_1_uniform", "single_packet_plus",
]  # fmt: skip
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SHAPES = [((7,), (3, 5), (11,)), ((64,), (64,)), ((1,),), ((4096,), (5000,), (0,), (3,))]


@pytest.fixture(autouse=True)
def small_rounds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small rounds are tested with the kernels that only large ones take."""
    monkeypatch.setattr("spfl.fleet.gpu_packets.LEAST_ELEMENTS", 0)


# --- codec: the bytes of packets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("per_tensor", [False, True])
def test_payloads_are_those_of_packets(device: str, shapes: Any, per_tensor: bool) -> None:
    layout = Layout(tuple(map(str, range(len(shapes)))), shapes)
    x = np.random.default_rng(0).standard_normal((3, layout.size)).astype(np.float32) ** 3
    x[0, :1], x[2] = -0.0, 2.5  # no negative zero among the signs, and a range without width
    rows = torch.from_numpy(x).to(device)
    signs = batched.pack(rows < 0, 1)
    ranges = batched.Ranges(layout.sizes if per_tensor else [layout.size])
    keys = [int(np.random.default_rng(k).integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True)) for k in range(3)]
    for bits in range(1, 9):
        packed, limits, delta2 = batched.quantise(
            rows, bits, ranges, torch.tensor([batched.signed(key) for key in keys], device=device)
        )
        decoded = batched.dequantise(packed, bits, ranges, limits).cpu().numpy()
        for k in range(3):
            packet, noise = encode_modulus(
                x[k], Levels(bits, per_tensor), layout=layout, round_=1, device=k, rng=np.random.default_rng(k)
            )
            floats, codes = contents(packet, Kind.MODULUS, len(ranges.sizes))
            np.testing.assert_array_equal(packed[k].cpu().numpy(), codes)
            np.testing.assert_array_equal(limits[k].cpu().numpy(), floats.reshape(-1, 2))
            np.testing.assert_array_equal(decoded[k], decode_modulus(packet, layout=layout, round_=1, device=k))
            assert delta2[k].item() == pytest.approx(noise, rel=1e-12)
    for k in range(3):
        packet = encode_signs(x[k], layout=layout, round_=1, device=k)
        np.testing.assert_array_equal(signs[k].cpu().numpy(), contents(packet, Kind.SIGN, 0)[1])
        whole = batched.signs(signs, layout.size)[k].cpu().numpy()
        np.testing.assert_array_equal(whole, decode_signs(packet, layout=layout, round_=1, device=k))


@pytest.mark.parametrize("device", DEVICES)
def test_dither_is_the_quantisers(device: str) -> None:
    keys = [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0]
    ours = batched.dither(torch.tensor([batched.signed(key) for key in keys], device=device), 100).cpu().numpy()
    theirs = [[_dither(np.uint64(key), i) for i in range(100)] for key in keys]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [1, 60, 1000])
def test_rotation_is_that_of_packets(device: str, dim: int) -> None:
    rotation, vector = Rotation(dim), np.random.default_rng(1).standard_normal(dim).astype(np.float32)
    stream = np.frombuffer(np.random.default_rng(5).bytes(-(-rotation.layout.size // 8)), np.uint8)
    flips = batched.random_signs(torch.from_numpy(stream.copy())[None].to(device), rotation.layout.size)
    padded = np.zeros((1, rotation.layout.size), np.float32)
    padded[0, :dim] = vector
    turned = batched.hadamard(torch.from_numpy(padded).to(device) * flips, rotation.block)
    np.testing.assert_array_equal(turned[0].cpu().numpy(), rotation.forward(vector, np.random.default_rng(5)))
    back = (batched.hadamard(turned, rotation.block) * flips)[0, :dim].cpu().numpy()
    np.testing.assert_allclose(back, vector, atol=1e-5)


# --- rounds: those of the worker threads -----------------------------------------------------------------------------


def both(config: Config, digits: Dataset, device: str) -> tuple[list[Any], list[Any]]:
    """Rounds of the worker threads, and each of them again on a device from the same state, so that nothing adds up."""
    threads, world = list(training.run(config, digits)), World.build(on(config, device), digits)
    starts = [world.start(), *(record.server for record in threads[:-1])]
    return threads, [next(training.train(world, start)) for start in starts]


def on(config: Config, device: str) -> Config:
    return config.model_copy(update={"torch_device": device})


def step_of(record: Any, before: np.ndarray) -> np.ndarray:
    return np.float64(record.server.weights) - before


def assert_same_steps(a: np.ndarray, b: np.ndarray) -> None:
    """Two steps are one up to rounding, on whatever processor.

    Sums in another order may turn a coordinate near zero or move a code of the quantiser by one; in the rotated basis
    that moves a whole block. So all but a few elements are held to float32, and the vector to a few turned signs.
    """
    length, turned_sign = np.linalg.norm(a), 2.5 / np.sqrt(a.size)  # two moduli of one element, sqrt(pi / 2) at most
    assert np.mean(np.sign(a) == np.sign(b)) > 0.97
    assert np.median(np.abs(a - b)) <= 1e-3 * length / np.sqrt(a.size)
    assert np.linalg.norm(a - b) <= (0.01 + 2 * turned_sign) * length


@pytest.mark.parametrize("wrong", ["all a little", "one part", "signs"])
def test_steps_that_differ_are_told_apart(wrong: str) -> None:
    a = np.random.default_rng(0).standard_normal(24_000)
    b = a.copy()
    if wrong == "all a little":
        b *= 1.003
    else:
        b[: 24_000 // 20] *= -0.01 if wrong == "signs" else 0.5
    assert_same_steps(a, a + 1e-5 * np.random.default_rng(1).standard_normal(24_000))
    with pytest.raises(AssertionError):
        assert_same_steps(a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_a_scheme_meets_the_same_numbers(name: str, device: str, digits: Dataset, small_config: Build) -> None:
    config = small_config(
        scheme={"name": name}, training={"rounds": 3}, data={"devices": 9}, channel={"median_snr_db": 8.0}
    )
    threads, rounds = both(config, digits, device)
    before = World.build(config, digits).start().weights
    for a, b in zip(threads, rounds, strict=True):
        assert a.cohort == b.cohort
        np.testing.assert_array_equal(a.outcome.sign, b.outcome.sign)
        np.testing.assert_array_equal(a.outcome.modulus, b.outcome.modulus)
        for figure in ("weight", "v2", "vbar2", "v_vbar", "delta2"):
            np.testing.assert_allclose(getattr(a.devices, figure), getattr(b.devices, figure), rtol=1e-4)
        assert_same_steps(step_of(a, before), step_of(b, before))
        assert (a.payload_bits, a.side_bits, a.rejected) == (b.payload_bits, b.side_bits, b.rejected)
        assert a.test_loss == pytest.approx(b.test_loss, rel=1e-3)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        before = a.server.weights
    lossy = any(a.outcome.sign.any() and not a.outcome.sign.all() for a in threads)
    # With one bandwidth each, with equal outage, or with 32 bits a value, all are received at this link or none.
    assert lossy or name in ("error_free", "sp_fl_no_power", "fedtoe", "float32")


CNN = {"model": {"name": "small_cnn"}, "scheme": {"name": "sp_fl_plus_1"}}


@pytest.mark.parametrize(
    "sections",
    [
        CNN,
        {
            "data": {"devices": 40, "cohort_size": 11, "min_samples": 5},
            "training": {"batch_size": 40, "flip": True, "crop_px": 1},
        },
        {"codec": {"bits": 5, "per_tensor": True}, "scheme": {"name": "sp_fl_normalized"}},
        {"channel": {"downlink": "sit_out", "downlink_power_dbm": -8.0}, "scheme": {"name": "single_packet"}},
        {"channel": {"segment_bits": 512}, "scheme": {"name": "sp_fl"}},
        {"channel": {"link": "uncoded"}, "scheme": {"name": "sp_fl_uniform"}},
        {"scheme": {"name": "sp_fl", "compensation": "last"}},
        {"scheme": {"name": "sp_fl"}, "channel": {"side_information": "lossy"}},
        {"scheme": {"name": "sp_fl_plus", "auxiliary": "labels"}, "channel": {"device_csi": "instantaneous"}},
        {"training": {"local_steps": 3, "local_rate": 0.05, "correction": "scaffold"}, "scheme": {"name": "sp_fl"}},
        {"training": {"local_epochs": 1, "local_rate": 0.01, "local_optimiser": "adam", "flip": True, "crop_px": 2}},
        {"training": {"local_steps": 2, "local_rate": 0.05, "correction": "feddyn", "feddyn_alpha": 0.1}},
    ],
    ids=[
        "cnn",
        "cohort of unequal batches, mirrored",
        "ranges",
        "broadcasts missed",
        "segments",
        "bit errors",
        "last compensation",
        "side information of its own packet",
        "ladder that adapts",
        "local steps with SCAFFOLD",
        "an epoch with Adam, mirrored",
        "FedDyn",
    ],
)
def test_options_meet_the_same_numbers(sections: Any, digits: Dataset, small_config: Build) -> None:
    check_options(small_config(**sections), digits)


def check_options(config: Config, digits: Dataset) -> None:
    threads, rounds = both(config, digits, "cpu")
    before = World.build(config, digits).start().weights
    for a, b in zip(threads, rounds, strict=True):
        np.testing.assert_array_equal(a.outcome.sign, b.outcome.sign)
        np.testing.assert_array_equal(a.devices.weight, b.devices.weight)
        assert_same_steps(step_of(a, before), step_of(b, before))
        before = a.server.weights


def test_signs_that_rounding_turns_are_within_the_tolerance(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another processor: of each rotated gradient the coordinate nearest to zero is on the other side."""
    whole = batched.hadamard

    def turned(vectors: torch.Tensor, block: int) -> torch.Tensor:
        rotated = whole(vectors, block)
        nearest = torch.where(rotated == 0, torch.inf, rotated.abs()).argmin(1, keepdim=True)
        return rotated.scatter(1, nearest, -rotated.gather(1, nearest))

    monkeypatch.setattr(batched, "hadamard", turned)
    check_options(small_config(**CNN), digits)


@pytest.mark.parametrize("wrong", [1.01, 0.99])
def test_moduli_that_are_off_by_one_percent_are_found(
    wrong: float, digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batched.dequantise
    monkeypatch.setattr(batched, "dequantise", lambda *arguments: wrong * whole(*arguments))
    with pytest.raises(AssertionError):
        check_options(small_config(channel={"median_snr_db": 20.0}, **CNN), digits)


def test_it_learns_as_well(digits: Dataset, small_config: Build) -> None:
    config = small_config(
        scheme={"name": "sp_fl_plus_1"}, training={"rounds": 30, "rate": 0.5, "eval_every": 30}, data={"devices": 10}
    )
    threads, rounds = both(config, digits, "cpu")
    assert threads[-1].test_accuracy > 0.8
    assert rounds[-1].test_accuracy == pytest.approx(threads[-1].test_accuracy, abs=0.03)


def test_a_gradient_that_is_not_finite_is_left_out(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spfl.fleet.gpu import TorchFleet

    whole = TorchFleet._gradients

    def broken(self: Any, *arguments: Any) -> Any:
        gradients, losses = whole(self, *arguments)
        gradients[2, 0] = torch.nan
        return gradients, losses

    monkeypatch.setattr(torch_fleet, "CPU_CHUNK", 8)  # all in one
    monkeypatch.setattr(TorchFleet, "_gradients", broken)
    config = small_config(scheme={"name": "error_free"}).model_copy(update={"torch_device": "cpu"})
    records = list(training.run(config, digits))
    assert [record.rejected for record in records] == [1, 1]
    assert all(np.isfinite(record.server.weights).all() for record in records)


def weights_after(config: Config, digits: Dataset, device: str = "cpu") -> np.ndarray:
    *_, last = training.run(config.model_copy(update={"torch_device": device}), digits)
    return last.server.weights


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["softmax", "small_cnn"])
def test_the_same_bits_whatever_the_threads(model: str, device: str, digits: Dataset, small_config: Build) -> None:
    config, before, found = small_config(model={"name": model}, scheme={"name": "sp_fl"}), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(weights_after(config, digits, device).tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("model", ["softmax", "mlp", "small_cnn"])
@repeatable()
def test_a_graph_gives_the_bits_of_its_kernels(
    model: str, digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spfl.fleet.gpu_packets.LEAST_ELEMENTS", 1 << 22)
    world = World.build(on(small_config(model={"name": model}), "cuda"), digits)
    with torch_fleet.TorchFleet(world) as fleet:
        graphs, plain = fleet._many, vmap(grad_and_value(fleet._loss), in_dims=(None, 0, 0))
        assert isinstance(graphs, Graphs)
        for round_ in range(1, 6):
            weights = torch.randn(world.layout.size, device="cuda") * 0.1
            for _, (inputs, labels, _) in fleet._batches(range(4), round_):
                for ours, theirs in zip(graphs(weights, inputs, labels), plain(weights, inputs, labels), strict=True):
                    assert torch.equal(ours, theirs)
        assert any(recorded is not None for recorded in graphs._recorded.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_local_steps_that_are_replayed_give_the_bits_of_their_kernels(digits: Dataset, small_config: Build) -> None:
    training_ = {"local_epochs": 2, "local_rate": 0.05, "local_momentum": 0.9}
    world = World.build(on(small_config(model={"name": "small_cnn"}, training=training_), "cuda"), digits)
    data, weights = digits.on(torch.device("cuda")), torch.from_numpy(world.start().weights).cuda()
    replayed, plain = (Steps(world, world.model().module.cuda(), data) for _ in range(2))
    plain._model = FlatModel(plain._model.module, plain._model.task)
    with repeatable():
        for round_ in range(1, 4):
            ours, theirs = (steps.take(weights, 1, round_, {}) for steps in (replayed, plain))
            assert ours.loss == theirs.loss
            np.testing.assert_array_equal(ours.vector, theirs.vector)
    assert any(recorded is not None for recorded in replayed._model._pass._recorded.values())


def test_what_cannot_be_recorded_as_a_graph_is_called_as_it_is() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def compute(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x * float(x.sum()),)  # a value asked for in the middle

    graphs = Graphs(compute)
    for value in range(4):
        x = torch.full((3,), float(value), device=device)
        assert torch.equal(graphs(x)[0], x * 3 * value)
    assert list(graphs._recorded.values()) == [None]


def test_chunks_make_no_difference_but_in_the_last_bits(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, found = small_config(scheme={"name": "sp_fl_plus_1"}, data={"devices": 9}, training={"rounds": 1}), []
    before = np.float64(World.build(config, digits).start().weights)
    for chunk in (1, 4, 100):
        monkeypatch.setattr(torch_fleet, "CPU_CHUNK", chunk)
        found.append(weights_after(config, digits) - before)
    assert_same_steps(found[0], found[1])
    assert_same_steps(found[0], found[2])


def test_chunks_of_a_gpu_fit_its_memory(digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    sizes = []
    for batch, width in [(16, 16), (32, 16), (16, 64)]:
        sections = {"model": {"name": "small_cnn", "width": width}, "training": {"batch_size": batch}}
        world = World.build(small_config(**sections).model_copy(update={"torch_device": "cpu"}), digits)
        with torch_fleet.TorchFleet(world) as fleet:
            fleet._device = torch.device("cuda")
            sizes.append(fleet.chunk)
            fleet._device = torch.device("cpu")
            packets = 8 * torch_fleet.WORDS * world.layout.size
        assert 1 < fleet.chunk < 0.5 * 80 * 2**30 / packets
    assert sizes[0] > sizes[1] > sizes[0] / 2  # activations double with the batch, the codec's words do not
    assert sizes[0] > 3 * sizes[2]


def test_a_vector_that_is_not_finite_when_rotated_back_is_left_out(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(scheme={"name": "single_packet_plus"}, channel={"median_snr_db": 40.0})
    plain, whole = weights_after(config, digits), OnDevice._decode

    def broken(self: Any, *arguments: Any) -> torch.Tensor:
        vectors = whole(self, *arguments)
        vectors[0, 3] = torch.inf
        return vectors

    monkeypatch.setattr(torch_fleet, "CPU_CHUNK", 8)  # all in one
    monkeypatch.setattr(OnDevice, "_decode", broken)
    records = list(training.run(config.model_copy(update={"torch_device": "cpu"}), digits))
    assert [record.rejected for record in records] == [1, 1]
    assert 0 < np.abs(records[-1].server.weights - plain).max() < 1.0


def test_too_little_memory_is_said_in_one_line(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch_fleet.TorchFleet, "_gradients", full)
    with pytest.raises(ConfigError, match=r"'cpu' is out of memory with 4 devices at a time: .*batch_size"):
        weights_after(small_config(), digits)


@pytest.mark.parametrize("steps", [1, 2])
def test_what_lies_on_the_device_goes_with_the_fleet_not_with_a_garbage_collection(
    steps: int, digits: Dataset, small_config: Build
) -> None:
    """A sweep's process runs point after point; what it keeps of each, the other processes on the GPU lack."""
    config = small_config(training={"local_steps": steps}).model_copy(update={"torch_device": "cpu"})
    world = World.build(config, digits)
    gc.collect()
    gc.disable()
    try:
        with torch_fleet.TorchFleet(world) as fleet:
            fleet.uploads(world.start(), range(4), 1)
            data, network = weakref.ref(fleet._data), weakref.ref(fleet._module)
        assert data() is None
        assert network() is None
    finally:
        gc.enable()


def test_a_model_whose_passes_are_replayed_goes_without_a_garbage_collection() -> None:
    gc.disable()
    try:
        model = ReplayedModel(torch.nn.Linear(3, 2), CLASSIFICATION, PLAIN)
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


# --- folders, errors, the command line -------------------------------------------------------------------------------


def test_a_run_repeats_and_resumes_to_the_same_bits(digits: Dataset, small_config: Build, tmp_path: Any) -> None:
    config = small_config(training={"rounds": 4}).model_copy(update={"torch_device": "cpu"})
    whole = run_experiment(config, digits, tmp_path / "whole")
    assert run_experiment(config, digits, tmp_path / "again")["digest"] == whole["digest"]

    def stop(values: Any) -> None:
        if values["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, digits, tmp_path / "parts", checkpoint_every=1, progress=stop)
    assert run_experiment(config, digits, tmp_path / "parts", existing="resume")["digest"] == whole["digest"]
    assert read_json(tmp_path / "whole" / "environment.json")["torch_device"] == "cpu"
    assert verify(tmp_path / "whole", digits).difference is None


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"channel": {"downlink": "stale"}}, "channel.downlink = stale"),
        ({"attack": {"kind": "sign_flip", "devices": 1}}, "hostile devices"),
    ],
)
def test_what_a_device_does_not_do_is_said_at_once(
    sections: Any, what: str, digits: Dataset, small_config: Build
) -> None:
    config = small_config(**sections).model_copy(update={"torch_device": "cpu"})
    with pytest.raises(ConfigError, match=f"torch_device must be absent with {what}, got 'cpu'"):
        World.build(config, digits)


def test_a_device_makes_the_packets_for_which_it_has_kernels(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config().model_copy(update={"torch_device": "cpu"})
    assert sorted(name for name, scheme in SCHEMES.items() if makes_packets(config, scheme)) == sorted(KERNELS)
    for name, kind in [("sp_fl_plus", OnHost), ("sp_fl", OnDevice)]:
        world = World.build(small_config(scheme={"name": name}), digits)
        with closing(packets_for(world, torch.device("cpu"))) as packets:
            assert isinstance(packets, kind)
    monkeypatch.setattr("spfl.fleet.gpu_packets.LEAST_ELEMENTS", 6 * world.layout.size + 1)
    with closing(packets_for(world, torch.device("cpu"))) as packets:
        assert isinstance(packets, OnHost)


@pytest.mark.parametrize("name", ["warp", "meta", "cuda:99"])
def test_a_device_that_is_not_there(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["run", "configs/demo.toml", "--device", name, "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["spfl", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: torch_device must be a PyTorch device that works here, got '{name}' (")
    assert not (tmp_path / "run").exists()


def test_cuda_is_counted_but_not_used_before_a_round(monkeypatch: pytest.MonkeyPatch, small_config: Build) -> None:
    """A process that has used CUDA cannot be forked, and a sweep checks its points before it forks."""

    def used(*_: Any, **__: Any) -> None:
        raise AssertionError("a tensor was made")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", used)
    assert find_device("cuda").type == "cuda"
    assert find_device("cuda:1").index == 1
    with pytest.raises(ConfigError, match=r"got 'cuda:2' \(PyTorch sees 2 CUDA devices\)"):
        find_device("cuda:2")
    on = [small_config().model_copy(update={"torch_device": name}) for name in ("cuda:0", None)]
    assert [on_gpu(config) for config in on] == [True, False]


def test_a_sweep_on_a_gpu_runs_one_point_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nothing(work: Any, todo: Any, processes: int) -> Iterator[Any]:
        asked.append(processes)
        yield from ()

    monkeypatch.setattr("spfl.studies.runner.map_processes", nothing)
    monkeypatch.setattr(
        "spfl.studies.runner.find_device", lambda name: torch.device("cuda" if name == "cpu:0" else name)
    )
    monkeypatch.setattr("spfl.studies.runner.write_tables", lambda *_: None)
    monkeypatch.setattr("spfl.studies.runner.cores", lambda: 7)
    for name, given in [("cpu:0", 0), ("cpu:0", 3), ("cpu", 0)]:
        points = load_points(sweep_file(tmp_path, name, ["sp_fl"]))
        (tmp_path / f"{name}-{given}").mkdir()
        sweep(points, tmp_path / f"{name}-{given}", processes=given)
    assert asked == [1, 3, 7]


def test_a_sweep_says_what_a_device_does_not_do_before_the_first_point(tmp_path: Path) -> None:
    points = load_points(sweep_file(tmp_path, "cpu", ["sp_fl", "top_k"]), ["channel.downlink=stale"])
    with pytest.raises(ConfigError, match=r"torch_device must be absent with channel.downlink = stale"):
        sweep(points, tmp_path / "out")


def sweep_file(folder: Path, device: str, schemes: list[str]) -> Path:
    path = folder / "sweep.toml"
    path.write_text(
        f'[base]\ntorch_device = "{device}"\n"data.devices" = 4\n"training.rounds" = 1\n[[grid]]\n'
        f'"scheme.name" = {schemes}\n'
    )
    return path
