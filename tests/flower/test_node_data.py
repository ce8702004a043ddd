"""Nodes that bring their own data: what leaves them, what is checked, and the bits of the partitioned run."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spfl import training
from spfl.config.schema import build_config
from spfl.data.node_data import GreySums, federated_moments, node_data, server_data
from spfl.data.node_files import load_own
from spfl.errors import ConfigError, DataError
from spfl.flower import client_app, protocol, roster
from spfl.flower.client_app import app
from spfl.flower.engines import run_flower
from spfl.flower.inprocess import InProcessGrid
from spfl.flower.server_app import NODES, run_on
from spfl.flower.settings import FlowerConfig, Settings, read_run_config, to_run_config
from spfl.runs.metrics import read_metrics
from spfl.world.world import World

DEVICES = 4
OWN = {"source": "node", "shape": [1, 8, 8], "classes": 10, "devices": DEVICES}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    client_app._site.cache_clear()


def png(pixels):
    from io import BytesIO

    stream = BytesIO()
    Image.fromarray(pixels, "L").save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, images, labels):
    """Images (n, 1, height, width) and labels (n,) as the Hugging Face hub has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(image[0].numpy()), "path": None} for image in images]
    pq.write_table(pa.table({"image": cells, "label": labels.numpy()}), path)


def deal(folder, dataset, parts, test=False):
    """A folder for each device, with its part of the data and, when asked, with all test images."""
    for device, part in enumerate(parts):
        write_parquet(folder / f"{device}" / "train-0.parquet", dataset.train_inputs[part], dataset.train_labels[part])
        if test:
            write_parquet(folder / f"{device}" / "test-0.parquet", dataset.test_inputs, dataset.test_labels)
    return [str(folder / f"{device}") for device in range(len(parts))]


def settings_of(config, data=OWN, **engine):
    values = config.model_dump()
    values["data"] = values["data"] | data
    return Settings(**values, flower=FlowerConfig(**({"wait_s": 0} | engine)))


@pytest.fixture
def dealt(small_config, digits, tmp_path):
    """A partitioned experiment, the same data in folders, and the test set in one."""
    config = small_config(data={"devices": DEVICES}, training={"rounds": 3})
    folders = deal(tmp_path / "nodes", digits, World.build(config, digits).parts)
    write_parquet(tmp_path / "test" / "train-0.parquet", digits.test_inputs, digits.test_labels)
    return config, folders, str(tmp_path / "test")


def assert_same(folder, records):
    told = list(read_metrics(folder))
    wanted = [training_metrics(record) for record in records]
    keys = set(wanted[0]) - {"seconds", "solver"}
    assert [{k: row[k] for k in keys} for row in told] == [{k: row[k] for k in keys} for row in wanted]


def training_metrics(record):
    from spfl.runs.metrics import metrics

    return json.loads(json.dumps(metrics(record), default=float))


# --- the same bits -----------------------------------------------------------------------------------------------


def test_data_dealt_by_hand_give_the_bits_of_the_partitioned_run(dealt, digits, tmp_path):
    """Weights, metrics and normalisation: the server has seen no training image."""
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test)
    run_flower(settings, "inprocess", DEVICES, node_data=folders)
    records = list(training.run(config, digits))
    assert_same(tmp_path / "run", records)
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "run" / "weights.safetensors")
    layout = World.build(config, digits).layout
    weights = np.concatenate([tensors[name].ravel() for name in layout.names])
    assert weights.tobytes() == records[-1].server.weights.tobytes()


@pytest.mark.parametrize("scheme", ["sp_fl_plus_1", "error_free", "top_k"])
def test_every_uplink_gives_the_same_bits(scheme, small_config, digits, tmp_path):
    config = small_config(data={"devices": DEVICES}, scheme={"name": scheme}, training={"momentum": 0.5})
    folders = deal(tmp_path / "nodes", digits, World.build(config, digits).parts, test=True)
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=folders[0])
    run_flower(settings, "inprocess", DEVICES, node_data=folders)
    assert_same(tmp_path / "run", list(training.run(config, digits)))


def test_moments_of_parts_are_those_of_the_whole(digits):
    parts = [digits.train_inputs[start::7] for start in range(7)]
    mean, std = federated_moments([GreySums.of(part) for part in parts])
    assert (list(mean), list(std)) == (digits.mean.tolist(), digits.std.tolist())


def test_fixed_numbers_take_the_place_of_the_exchange(dealt, digits, tmp_path):
    config, folders, test = dealt
    fixed = OWN | {"mean": digits.mean.tolist(), "std": digits.std.tolist()}
    settings = settings_of(config, fixed, out=str(tmp_path / "run"), test_data=test)
    run_flower(settings, "inprocess", DEVICES, node_data=folders)
    assert_same(tmp_path / "run", list(training.run(config, digits)))


# --- evaluation at the nodes -------------------------------------------------------------------------------------


def test_nodes_evaluate_when_the_server_has_no_test_set(small_config, digits, tmp_path):
    """The mean weighted by the numbers: here of all test images, cut into parts of different sizes."""
    config = small_config(data={"devices": DEVICES}, training={"rounds": 2})
    parts, cuts = World.build(config, digits).parts, [0, 10, 60, 200, len(digits.test_labels)]
    folders = deal(tmp_path / "nodes", digits, parts)
    for device, folder in enumerate(folders):
        part = slice(cuts[device], cuts[device + 1])
        write_parquet(
            tmp_path / "nodes" / str(device) / "test-0.parquet", digits.test_inputs[part], digits.test_labels[part]
        )
        assert folder
    settings = settings_of(config, out=str(tmp_path / "run"))
    run_flower(settings, "inprocess", DEVICES, node_data=folders)
    told, wanted = list(read_metrics(tmp_path / "run")), list(training.run(config, digits))
    for row, record in zip(told, wanted, strict=True):
        assert row["test_accuracy"] == pytest.approx(record.test_accuracy, abs=1e-12)
        assert row["test_loss"] == pytest.approx(record.test_loss, rel=1e-5)


def test_a_validation_fraction_is_held_out_at_each_node(dealt, tmp_path):
    config, folders, _ = dealt
    settings = settings_of(config, OWN | {"validation_fraction": 0.25}, out=str(tmp_path / "run"))
    summary = run_flower(settings, "inprocess", DEVICES, node_data=folders)
    assert 0.1 < summary["accuracy_final"] <= 1


def test_nobody_with_test_images_is_one_clear_error(dealt, tmp_path):
    config, folders, _ = dealt
    settings = settings_of(config, out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"nobody has test samples: give flower\.test_data"):
        run_flower(settings, "inprocess", DEVICES, node_data=folders)


# --- what a node brings ------------------------------------------------------------------------------------------


def config_of(**data):
    return build_config({"data": OWN | data})


def class_folders(folder, digits, names):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for row in np.flatnonzero(digits.train_labels.numpy() == label)[:2]:
            Image.fromarray(digits.train_inputs[row, 0].numpy(), "L").save(folder / name / f"{row}.png")


def test_a_folder_of_class_folders(digits, tmp_path):
    names = [f"kind-{k}" for k in range(10)]
    class_folders(tmp_path / "a" / "train", digits, names)
    (images, labels), test = load_own(config_of(class_names=names).data, str(tmp_path / "a"))
    assert labels.tolist() == sorted(2 * list(range(10)))
    assert images.shape == (20, 1, 8, 8)
    assert test is None
    row = np.flatnonzero(digits.train_labels.numpy() == 3)[0]
    assert any(np.array_equal(image, digits.train_inputs[row]) for image in images)


def test_a_node_may_lack_classes_and_labels_stay_the_same(digits, tmp_path):
    class_folders(tmp_path / "a", digits, [str(k) for k in range(10)])
    for k in (0, 1, 5):
        for file in (tmp_path / "a" / str(k)).iterdir():
            file.unlink()
        (tmp_path / "a" / str(k)).rmdir()
    (_, labels), _ = load_own(config_of().data, str(tmp_path / "a"))
    assert sorted(set(labels.tolist())) == [2, 3, 4, 6, 7, 8, 9]


def test_idx_files_without_a_test_part(digits, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    images, labels = digits.train_inputs[:5, 0].numpy(), digits.train_labels[:5].numpy().astype(np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
        (folder / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
    (found, targets), test = load_own(config_of().data, str(folder))
    assert np.array_equal(found[:, 0], images)
    assert targets.tolist() == labels.tolist()
    assert test is None


def own_module(tmp_path, monkeypatch, text, name):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_function_brings_data(tmp_path, monkeypatch):
    text = """
import numpy as np
def make():
    return np.full((6, 8, 8), 7, np.uint8), np.arange(6)
def both():
    return make(), make()
"""
    own_module(tmp_path, monkeypatch, text, "brings")
    (images, labels), test = load_own(config_of().data, "brings:make")
    assert images.shape == (6, 1, 8, 8)
    assert labels.tolist() == list(range(6))
    assert test is None
    assert load_own(config_of().data, "brings:both")[1] is not None


BAD_FUNCTIONS = {
    "raises": ("def f():\n    raise OSError('disk is gone')\n", "OSError: disk is gone"),
    "nothing": ("def f():\n    return None\n", r"must return \(images, labels\), got NoneType"),
    "floats": ("import numpy as np\ndef f():\n    return np.zeros((2, 8, 8)), np.zeros(2, int)\n", "must be uint8"),
    "absent": ("g = 1\n", "has no 'f'"),
}


@pytest.mark.parametrize("name", list(BAD_FUNCTIONS))
def test_a_function_that_fails_is_one_line(name, tmp_path, monkeypatch):
    text, message = BAD_FUNCTIONS[name]
    own_module(tmp_path, monkeypatch, text, f"bad_{name}")
    with pytest.raises(DataError, match=message):
        load_own(config_of().data, f"bad_{name}:f")


def test_data_that_do_not_fit_are_told_in_words(digits, tmp_path):
    (folder,) = deal(tmp_path, digits, [np.arange(20)])
    with pytest.raises(DataError, match=r"has images of 1 x 8 x 8, the run's are 3 x 32 x 32 \(data.shape\)"):
        node_data(config_of(shape=[3, 32, 32]), folder)
    with pytest.raises(DataError, match=r"has label \d, the run's are 0 to 2 \(data.classes\)"):
        node_data(config_of(classes=3), folder)
    (tmp_path / "b" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="class folder 'cat' is none of the run's classes"):
        node_data(config_of(), str(tmp_path / "b"))
    with pytest.raises(DataError, match="must be a folder, module:function or"):
        node_data(config_of(), str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "node"}, "source = node needs shape"),
        ({"shape": [1, 8, 8]}, "shape has an effect with source = node only"),
        (OWN | {"mean": [3.0]}, "mean and std must be given together"),
        (OWN | {"mean": [3.0, 4.0], "std": [1.0, 1.0]}, "mean must be 1 numbers"),
        (OWN | {"std": [0.0], "mean": [1.0]}, "std must be numbers > 0"),
        (OWN | {"pool": 2}, "pool must be 1"),
        (OWN | {"class_names": ["a"]}, "class_names must be 10 different names"),
        (OWN | {"shape": [1, 0, 8]}, "shape must be numbers >= 1"),
    ],
)
def test_the_configuration_is_checked_first(data, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"data": data})


def test_segments_of_what_they_would_cut_are_refused_as_elsewhere(small_config):
    channel = {"segment_bits": 512, "recovery": "segment"}
    for scheme, more, what in (({"peaks": True}, {}, "peaks"), ({}, {"device_csi": "instantaneous"}, "device_csi")):
        config = small_config(data=OWN, channel=channel | more, scheme={"name": "sp_fl_plus"} | scheme)
        with pytest.raises(ConfigError, match=rf"{what} must be"):
            World.build(config, server_data(config, None))


def test_spfl_run_says_who_can(small_config, digits):
    config = small_config(data=OWN)
    with pytest.raises(ConfigError, match="use spfl flower run"):
        next(training.run(config, digits))


def test_the_settings_travel(small_config):
    settings = settings_of(small_config(), OWN | {"class_names": list("abcdefghij"), "mean": [1.5], "std": [2.0]})
    assert read_run_config(to_run_config(settings)) == settings


@pytest.mark.parametrize(
    ("engine", "nodes", "sources", "message"),
    [
        ("inprocess", 4, ["a"], "one source for each of the 4 nodes, got 1"),
        ("ray", 1, ["a"], "inprocess or deploy"),
        ("inprocess", 5, list("abcde"), "data.devices must be at least the 5 nodes"),
    ],
)
def test_sources_are_checked_first(engine, nodes, sources, message, small_config, tmp_path):
    settings = settings_of(small_config(), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=message):
        run_flower(settings, engine, nodes, node_data=sources)
    assert not (tmp_path / "run").exists()


# --- who is there ------------------------------------------------------------------------------------------------


class Grid(InProcessGrid):
    """Nodes that come late, do not say which device they are, or change their answers."""

    here, spoil = None, staticmethod(lambda reply: reply)

    def __init__(self, settings, folders):
        super().__init__(app, to_run_config(settings), len(folders), folders)
        for context in self._contexts.values():
            del context.node_config["partition-id"]

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if self.here is None or node in self.here]

    def pull_messages(self, message_ids):
        return [self.spoil(reply) for reply in super().pull_messages(message_ids)]


def run_grid(grid, settings):
    return run_on(grid, settings.experiment, settings.flower)


def test_a_device_number_stays_with_its_node_also_after_a_stop(dealt, digits, tmp_path):
    """Node 3 comes first and is device 0; after a stop the nodes come in another order, and keep their numbers."""
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test, checkpoint_every=1)

    class Stops(Grid):
        here = (3,)
        rounds = 0

        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            round_ = int(messages[0].metadata.group_id)
            self.here = None if round_ >= 1 else self.here
            if round_ == 3:
                raise KeyboardInterrupt
            return super().send_and_receive(messages, timeout=timeout)

    with pytest.raises(KeyboardInterrupt):
        run_grid(Stops(settings, folders), settings)
    known = json.loads((tmp_path / "run" / NODES).read_text())
    assert known["devices"] == {"3": 0, "1": 1, "2": 2, "4": 3}
    again = settings.model_copy(update={"flower": settings.flower.model_copy(update={"resume": True})})
    run_grid(Grid(again, folders), again)
    after = json.loads((tmp_path / "run" / NODES).read_text())
    assert after == known
    assert [row["rejected"] for row in read_metrics(tmp_path / "run")] == [3, 0, 0]


def spoilt_hello(node, **changes):
    def spoil(reply):
        if reply.metadata.src_node_id == node and "hello" in reply.content:
            reply.content = protocol.hello_content(replace(protocol.read_hello(reply.content), **changes))
        return reply

    return spoil


def faults_of(settings, folders, spoil, caplog):
    logging.getLogger("flwr").addHandler(caplog.handler)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    grid = Grid(settings, folders)
    grid.spoil = spoil
    run_grid(grid, settings)
    return caplog.text


def test_another_device_s_number_is_refused(dealt, tmp_path, caplog):
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test)
    text = faults_of(settings, folders, spoilt_hello(3, partition=0), caplog)
    assert "node 3 is refused: device 0 belongs to node 1, which has another key" in text


def test_sums_that_no_images_have_are_refused(dealt, tmp_path, caplog):
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test)
    lie = GreySums((10**6,), (10**12,), (1,))
    text = faults_of(settings, folders, spoilt_hello(2, sums=lie), caplog)
    assert "node 2 is refused: sums of grey levels are none that images have" in text


def test_a_node_that_lies_about_its_counts_is_out_of_the_round(dealt, tmp_path, caplog):
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test)

    def spoil(reply):
        if reply.metadata.src_node_id == 2 and "report" in reply.content:
            reply.content["report"]["samples"] = [10**6]
        return reply

    text = faults_of(settings, folders, spoil, caplog)
    assert "node 2: samples must be" in text
    assert "as it told, got 1000000" in text
    assert [row["rejected"] for row in read_metrics(tmp_path / "run")] == [1, 1, 1]


def test_what_leaves_a_node_is_counts_sums_and_packets(dealt, digits, tmp_path):
    """No reply holds an image, a label or a count of labels: neither in its arrays nor in its numbers."""
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test)
    seen = {}

    def spy(reply):
        for name, record in reply.content.items():
            seen.setdefault(name, set()).update(record.keys())
        return reply

    grid = Grid(settings, folders)
    grid.spoil = spy
    run_grid(grid, settings)
    assert seen == {
        "hello": {"partition", "partitions", "samples", "test_samples", "network", "data", "code", "versions"},
        "sums": {"pixels", "total", "square"},
        "report": {"round", "devices", "samples"},
        "side": {"numbers", "means", "output_bias"},
        "upload": {"round", "devices"},
        "packets": {"sign_packet", "modulus_packet"},
    }


def test_a_node_of_the_wrong_shape_is_refused_with_its_reason_and_repaired_later(
    dealt, digits, tmp_path, caplog, monkeypatch
):
    """It is logged at once, asked again, and takes part once it fits."""
    monkeypatch.setattr(roster, "AGAIN_S", 0.0)
    config, folders, test = dealt
    settings = settings_of(config, out=str(tmp_path / "run"), test_data=test)
    good = (tmp_path / "nodes" / "1" / "train-0.parquet").read_bytes()
    (tmp_path / "nodes" / "1" / "train-0.parquet").unlink()
    write_parquet(
        tmp_path / "nodes" / "1" / "train-0.parquet", digits.pooled(2).train_inputs[:9], digits.train_labels[:9]
    )

    class Repaired(Grid):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            if messages[0].metadata.group_id == "1":
                (tmp_path / "nodes" / "1" / "train-0.parquet").write_bytes(good)
            return super().send_and_receive(messages, timeout=timeout)

    logging.getLogger("flwr").addHandler(caplog.handler)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run_grid(Repaired(settings, folders), settings)
    assert "node 2 is refused: data" in caplog.text
    assert "has images of 1 x 4 x 4, the run's are 1 x 8 x 8" in caplog.text
    sent = [row["rejected"] for row in read_metrics(tmp_path / "run")]
    assert sent == [1, 0, 0]


def test_all_refused_fails_at_once_with_the_reasons(dealt, tmp_path, monkeypatch):
    monkeypatch.setattr(roster, "GRACE_S", 0.0)
    monkeypatch.setattr(roster, "POLL_S", 0.001)
    config, folders, _ = dealt
    settings = settings_of(config, OWN | {"classes": 2}, out=str(tmp_path / "run"), wait_s=600.0)
    with pytest.raises(ConfigError, match=r"all 4 nodes that are there were refused: node 1: data .* has label \d"):
        run_grid(Grid(settings, folders), settings)
