"""Nodes that bring tables, sequences, images of 16 bits, and targets of every task; and the checks at the node."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spfl import training
from spfl.config.schema import build_config
from spfl.custom import make_dataset
from spfl.data.node_data import ColumnSums, check_sums, federated_moments, node_data, sums_of
from spfl.data.node_files import load_own
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, DataError, PacketError
from spfl.flower import client_app, protocol
from spfl.flower.engines import run_flower
from spfl.flower.settings import FlowerConfig, Settings, read_run_config, to_run_config
from spfl.runs.metrics import metrics, read_metrics
from spfl.world.world import World

DEVICES = 3
FLAT = {"source": "node", "devices": DEVICES, "partition": "iid"}
TABLE = FLAT | {"shape": [3], "classes": 2}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    client_app._site.cache_clear()


def configured(small_config, data, **changes):
    return small_config(**({"data": data, "training": {"rounds": 2, "eval_every": 1}} | changes))


def dealt_by_hand(dataset, config, tmp_path, write):
    """What `write(path, inputs, labels)` makes of each device's part, and of the test part."""
    parts = World.build(config, dataset).parts
    for device, part in enumerate(parts):
        write(tmp_path / f"node-{device}", dataset.train_inputs[part], dataset.train_labels[part])
    write(tmp_path / "test", dataset.test_inputs, dataset.test_labels)
    return [str(tmp_path / f"node-{device}") for device in range(len(parts))], str(tmp_path / "test")


def on_nodes(config, data, folders, tmp_path, **engine):
    values = config.model_dump()
    values["data"] = values["data"] | data | {"name": "digits"}
    engine = {"wait_s": 0, "out": str(tmp_path / "run")} | engine
    run_flower(Settings(**values, flower=FlowerConfig(**engine)), "inprocess", len(folders), node_data=folders)
    return list(read_metrics(tmp_path / "run"))


def assert_same_bits(told, records):
    wanted = [metrics(record) for record in records]
    for row, record in zip(told, wanted, strict=True):
        for key in set(record) - {"seconds", "solver"}:
            assert row[key] == record[key], key


def table(folder, inputs, labels, suffix="parquet"):
    folder.mkdir(parents=True)
    frame = pd.DataFrame(inputs.numpy(), columns=[f"c{k}" for k in range(inputs.shape[1])])
    for k, column in enumerate(labels.reshape(len(labels), -1).numpy().T):
        frame[f"label{k}"] = column
    path = folder / f"train-0.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)


# --- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "suffix"), [("wine", "parquet"), ("breast_cancer", "csv"), ("diabetes", "parquet")])
def test_tables_dealt_by_hand_give_the_bits_of_the_partitioned_run(name, suffix, small_config, tmp_path):
    """With the same fixed numbers, as moments of the whole are found by other sums; diabetes is a regression."""
    dataset = load_dataset(name)
    fixed = {"mean": dataset.mean.tolist(), "std": dataset.std.tolist()}
    config = configured(small_config, {"name": name, "devices": DEVICES, "partition": "iid"} | fixed)
    folders, test = dealt_by_hand(dataset, config, tmp_path, lambda *args: table(*args, suffix))
    data = FLAT | fixed | {"shape": list(dataset.shape), "classes": dataset.classes, "label_column": "label0"}
    data |= {"task": dataset.task}
    told = on_nodes(config, data, folders, tmp_path, test_data=test)
    assert_same_bits(told, training.run(config, dataset))


def test_sequences_dealt_by_hand_give_the_bits_of_the_partitioned_run(small_config, tmp_path):
    dataset = load_dataset("sentences")
    config = configured(
        small_config, {"name": "sentences", "devices": DEVICES, "partition": "iid"}, model={"name": "lstm", "width": 8}
    )

    def write(folder, inputs, following):
        folder.mkdir()
        rows = torch.cat([inputs, following[:, -1:]], 1).tolist()
        pd.DataFrame({"tokens": rows}).to_parquet(folder / "train-0.parquet")

    folders, test = dealt_by_hand(dataset, config, tmp_path, write)
    data = FLAT | {"task": "next_token", "shape": [32], "classes": dataset.classes}
    told = on_nodes(config, data, folders, tmp_path, test_data=test)
    assert_same_bits(told, training.run(config, dataset))


SOURCES = """
import numpy as np

def part(k, n=40, **_):
    rng = np.random.default_rng(k)
    inputs = {inputs}
    labels = {labels}
    return inputs, labels

def a(): return part(0)
def b(): return part(1)
def c(): return part(2)
def test(): return part(3)
"""
KINDS = {
    "multi_label": (
        "rng.normal(size=(n, 4)).astype(np.float32)", "(inputs[:, :2] > 0).astype(int)",
        {"task": "multi_label", "shape": [4], "classes": 2}, "mlp",
    ),
    "two_targets": (
        "rng.normal(size=(n, 2, 5)).astype(np.float32)", "inputs.mean(2)",
        {"task": "regression", "shape": [2, 5], "classes": 2}, "mlp",
    ),
    "deep_images": (
        "rng.integers(0, 2**16, (n, 2, 4, 4)).astype(np.uint16)", "np.arange(n) % 3",
        {"shape": [2, 4, 4], "classes": 3, "dtype": "float32"}, "mlp",
    ),
    "sentiment": (
        "np.minimum(rng.integers(0, 40, (n, 6)), 10)", "np.arange(n) % 2",
        {"shape": [6], "classes": 2, "dtype": "int64", "vocabulary": 11}, "lstm",
    ),
    "next": (
        "rng.integers(0, 9, (n, 6))", "np.roll(inputs, -1, 1)",
        {"task": "next_token", "shape": [6], "classes": 9}, "transformer",
    ),
}  # fmt: skip


@pytest.fixture
def own_source(tmp_path, monkeypatch):
    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_functions_bring_every_kind_of_input_and_target(kind, own_source, small_config, tmp_path):
    inputs, labels, data, model = KINDS[kind]
    own_source(f"brings_{kind}", SOURCES.format(inputs=inputs, labels=labels))
    own = __import__(f"brings_{kind}")
    normalise = {"normalise": "none"} if data.get("dtype") != "int64" else {}
    parts = [own.part(k) for k in range(DEVICES)]
    whole = tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))
    dataset = make_dataset("whole", whole, own.test(), task=data.get("task", "classification"))
    owners = np.repeat(np.arange(DEVICES), 40)
    config = configured(
        small_config, {"devices": DEVICES, "partition": "column"} | normalise, model={"name": model, "width": 8}
    )
    dataset = replace(dataset, clients=torch.from_numpy(owners))
    sources = [f"brings_{kind}:{name}" for name in "abc"]
    told = on_nodes(config, FLAT | data | normalise, sources, tmp_path, test_data=f"brings_{kind}:test")
    assert_same_bits(told, training.run(config, dataset))


# --- normalisation -----------------------------------------------------------------------------------------------


def test_moments_of_columns_are_those_of_the_whole_but_for_rounding():
    rng = np.random.default_rng(0)
    whole = torch.from_numpy((rng.normal(size=(90, 3)) * [1, 1e-3, 1e4] + [0, 1e3, -5]).astype(np.float32))
    mean, std = federated_moments([ColumnSums.of(part) for part in (whole[:5], whole[5:40], whole[40:])])
    data = make_dataset("x", (whole, [0, 1] * 45), (whole, [0, 1] * 45))
    assert np.allclose(mean, data.mean, rtol=1e-12)
    assert np.allclose(std, data.std, rtol=1e-9)


def test_without_numbers_the_columns_are_normalised_by_what_nodes_tell(small_config, tmp_path):
    dataset = load_dataset("wine")
    config = configured(small_config, {"name": "wine", "devices": DEVICES, "partition": "iid"})
    folders, test = dealt_by_hand(dataset, config, tmp_path, table)
    data = FLAT | {"shape": [13], "classes": 3, "label_column": "label0"}
    told = on_nodes(config, data, folders, tmp_path, test_data=test)
    for row, record in zip(told, training.run(config, dataset), strict=True):
        assert row["test_loss"] == pytest.approx(record.test_loss, rel=1e-3)


def test_nodes_score_a_regression_on_their_own_rows(small_config, tmp_path):
    """R^2 may be negative, and is no share."""
    dataset = load_dataset("diabetes")
    config = configured(small_config, {"name": "diabetes", "devices": DEVICES, "partition": "iid"})
    folders, _ = dealt_by_hand(dataset, config, tmp_path, table)
    data = FLAT | {"task": "regression", "shape": [10], "classes": 1, "label_column": "label0"}
    told = on_nodes(config, data | {"validation_fraction": 0.3}, folders, tmp_path)
    assert all(-5 < row["test_r2"] <= 1 for row in told)
    assert all(row["rejected"] == 0 for row in told)


def test_what_a_node_tells_of_columns_is_checked():
    data = build_config({"data": TABLE}).data
    good = ColumnSums((5,) * 3, (0.0,) * 3, (1.0,) * 3)
    check_sums(data, good)
    for wrong in (None, ColumnSums((5,), (0.0,), (1.0,))):
        with pytest.raises(DataError, match="must tell the sums of 3 channels"):
            check_sums(data, wrong)
    hello = protocol.Hello(0, 0, protocol.Identity("n", "d"), "v", 5, 0, good)
    assert protocol.read_hello(protocol.hello_content(hello)) == hello
    for lie in ((float("nan"),) * 3, (-1.0,) * 3):
        with pytest.raises(PacketError, match="sums of columns are none that numbers have"):
            protocol.read_hello(protocol.hello_content(replace(hello, sums=good._replace(deviation=lie))))


@pytest.mark.parametrize(("metric", "score"), [("accuracy", 1.5), ("f1", -0.1), ("r2", float("inf"))])
def test_a_score_that_none_can_be_is_refused(metric, score):
    with pytest.raises(PacketError, match=f"loss and {metric} must be finite numbers"):
        protocol.read_score(protocol.score_content(0.5, score, 7), 7, metric)
    assert protocol.read_score(protocol.score_content(0.5, -3.0, 7), 7, "r2") == (0.5, -3.0, 7)


# --- words -------------------------------------------------------------------------------------------------------


def test_words_of_labels_and_columns_mean_the_same_at_every_node(tmp_path):
    keys = {"class_names": ["no", "yes"], "categories": ["city=oslo", "city=rome"], "shape": [3], "classes": 2}
    data = build_config({"data": FLAT | keys}).data
    pd.DataFrame({"km": [1, 2], "city": ["rome", "rome"], "label": ["yes", "yes"]}).to_csv(
        tmp_path / "a.csv", index=False
    )
    (inputs, labels), test = load_own(data, str(tmp_path / "a.csv"))
    assert inputs.tolist() == [[1, 0, 1], [2, 0, 1]]
    assert labels.tolist() == [1, 1]
    assert test is None


def test_a_text_is_in_the_characters_of_the_run(tmp_path):
    (tmp_path / "own.txt").write_text("abcab" * 5)
    keys = {"task": "next_token", "classes": 4, "class_names": list("abcd"), "shape": [4], "sequence_length": 4}
    (inputs, following), _ = load_own(build_config({"data": FLAT | keys}).data, str(tmp_path / "own.txt"))
    assert inputs[0].tolist() == [0, 1, 2, 0]
    assert following[0].tolist() == [1, 2, 0, 1]
    (tmp_path / "own.txt").write_text("abx" * 9)
    with pytest.raises(DataError, match=r"character 'x' is none of data\.class_names"):
        load_own(build_config({"data": FLAT | keys}).data, str(tmp_path / "own.txt"))


# --- checks ------------------------------------------------------------------------------------------------------


ROWS = {"x": [1.0, 2.0], "y": [1, 2], "z": [0.5, 1.5], "label": [0, 1]}


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        ({"w": [1, 2]}, {}, r"has inputs of 4, the run's are 3 \(data\.shape\)"),
        ({"label": [0, 2]}, {}, r"has label 2, the run's are 0 to 1 \(data\.classes\)"),
        ({"label": ["no", "yes"]}, {}, r"must be integers, 0 to 1, got words; set data\.class_names"),
        ({"label": ["a", "b"]}, {"class_names": ["b", "c"]}, r"label 'a' is none of the run's classes \(b, c\)"),
        ({"x": ["u", "v"]}, {}, r"column x holds words, which nodes agree upon by data\.categories"),
        ({"x": ["u", "v"]}, {"categories": ["x=u"]}, r"column x has 'v', which data\.categories do not list"),
        ({"x": [1.0, None]}, {}, r"column x must have a finite number in every row"),
        ({}, {"label_column": "target"}, r"needs a column named target, found x, y, z, label"),
        ({}, {"task": "multi_label", "label_column": ["label", "y"], "input_columns": ["x", "y", "z"]},
         r"has label 2, those of data\.task = multi_label are 0 and 1"),
        ({}, {"task": "regression", "classes": 2}, r"has labels \(2, 1\) for 2 inputs, the run's are \(2, 2\)"),
        ({}, {"dtype": "int64", "vocabulary": 9}, r"has inputs of float32, the run's are int64 \(data\.dtype\)"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_one_line(columns, keys, message, tmp_path):
    pd.DataFrame(ROWS | columns).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=message) as caught:
        node_data(build_config({"data": TABLE | keys}), str(tmp_path / "t.csv"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("np.zeros((4, 3), complex), [0] * 4", r"inputs must be float32 or what becomes it, \(n, 3\), got"),
        ("np.zeros((4, 2)), [0] * 4", r"has inputs of 2, the run's are 3"),
        ("np.zeros((4, 3)), [0] * 3", r"needs inputs \(n, 3\) and n labels"),
        ("np.full((4, 3), np.nan), [0] * 4", "must have finite numbers as inputs, got nan"),
        ("np.zeros((4, 3)), [0.5] * 4", "labels must be integers, got float64"),
        ("np.zeros((0, 3)), np.zeros(0, int)", "must hold at least one sample"),
    ],
)
def test_a_function_whose_arrays_do_not_fit_is_one_line(returned, message, own_source):
    own_source("misfit", f"import numpy as np\ndef f():\n    return {returned}\n")
    with pytest.raises(DataError, match=message):
        node_data(build_config({"data": TABLE}), "misfit:f")


def test_a_dataset_of_another_task_is_refused(own_source):
    own_source("other_task", "import spfl\ndef f():\n    return spfl.load_dataset('diabetes')\n")
    with pytest.raises(DataError, match="has task regression, the run's is classification"):
        node_data(build_config({"data": TABLE | {"shape": [10]}}), "other_task:f")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": 1}, "classes must be at least 2"),
        ({"dtype": "uint8"}, "shape must be three numbers with dtype = uint8"),
        ({"dtype": "int64"}, "vocabulary must be given with dtype = int64"),
        ({"vocabulary": 5}, "vocabulary must be absent"),
        ({"task": "next_token", "dtype": "float32"}, "dtype must be int64 with task = next_token"),
        ({"task": "regression", "class_names": ["a", "b"]}, "class_names must be absent with task = regression"),
        ({"mean": [0.0, 1.0], "std": [1.0, 1.0]}, "mean must be 3 numbers"),
        ({"normalise": "none", "mean": [0.0] * 3, "std": [1.0] * 3}, "normalise must be absent with mean and std"),
        ({"test_fraction": 0.5}, "test_fraction has an effect with source = partition only"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"data": TABLE | keys})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"flip": True}}, "training.flip must be false where inputs are no images"),
        ({"training": {"crop_px": 2}}, "training.crop_px must be 0 where inputs are no images"),
        ({"scheme": {"name": "sp_fl", "weights": "plain", "auxiliary": "labels"}}, "nodes tell no counts of labels"),
    ],
)
def test_what_own_data_do_not_have_is_refused(changes, message, own_source, small_config, tmp_path):
    own_source("rows", "import numpy as np\ndef f():\n    return np.ones((9, 3)), np.arange(9) % 2\n")
    config = configured(small_config, {"devices": DEVICES}, **changes)
    with pytest.raises(ConfigError, match=message):
        on_nodes(config, TABLE, ["rows:f"], tmp_path, test_data="rows:f")


def test_the_new_settings_travel(small_config):
    keys = TABLE | {"dtype": "int64", "vocabulary": 7, "categories": ["a=b"], "encode": "codes"}
    values = small_config().model_dump()
    settings = Settings(**(values | {"data": values["data"] | keys}), flower=FlowerConfig())
    assert read_run_config(to_run_config(settings)) == settings


def test_nothing_is_told_of_indices(tmp_path):
    data = TABLE | {"dtype": "int64", "vocabulary": 9, "shape": [2]}
    pd.DataFrame({"tokens": [[1, 2], [3, 4]], "label": [0, 1]}).to_parquet(tmp_path / "t.parquet")
    own = node_data(build_config({"data": data}), str(tmp_path / "t.parquet"))
    assert sums_of(own) is None
    assert own.vocabulary == 9
