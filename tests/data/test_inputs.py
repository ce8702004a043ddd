"""Inputs beyond images of 8 bits: tables, words as labels, natural clients, 16 bits, tokens, other tasks."""

from __future__ import annotations

import io
import struct
import sys
import time
import types
import zlib

import numpy as np
import pandas as pd
import png as pypng
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from PIL import Image

import spfl
from spfl.config.data import DataConfig
from spfl.config.names import EMBEDDED_NAMES
from spfl.config.schema import build_config
from spfl.custom import make_dataset
from spfl.data.dataset import to_inputs
from spfl.data.embedded import EMBEDDED
from spfl.data.partitioning import deal_clients
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, DataError
from spfl.world.world import World

ROWS = 120


@pytest.fixture
def sensors(tmp_path):
    """A CSV file as of an activity study: three sensors, a person, and a word for what he does."""
    rng = np.random.default_rng(0)
    activity = rng.choice(["WALKING", "SITTING", "STANDING"], ROWS)
    level = pd.Series(activity).map({"WALKING": 5.0, "SITTING": 0.0, "STANDING": -5.0}).to_numpy()
    frame = pd.DataFrame(
        {
            "x": level + rng.normal(size=ROWS),
            "y": 100 + level + rng.normal(size=ROWS),
            "count": rng.integers(0, 9, ROWS),
            "subject": rng.choice(["ada", "bob", "eve", "kim"], ROWS),
            "activity": activity,
        }
    )
    frame.to_csv(tmp_path / "har.csv", index=False)
    return tmp_path / "har.csv", frame


def har(path, **keys):
    return DataConfig(name=str(path), label_column="activity", client_column="subject", **keys)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_csv_file_is_a_table_with_words_for_labels_and_a_part_held_out(sensors):
    path, frame = sensors
    data = load_dataset(har(path))
    assert data.shape == (3,)
    assert data.train_inputs.dtype == torch.float32
    assert data.classes == 3
    assert (len(data.train_labels), len(data.test_labels)) == (96, 24)
    every = torch.cat([data.train_inputs, data.test_inputs])
    expected = frame[["x", "y", "count"]].to_numpy(np.float32)
    assert sorted(map(tuple, every.tolist())) == sorted(map(tuple, expected.tolist()))
    words = ["SITTING", "STANDING", "WALKING"]  # in sorted order
    pairs = zip(data.train_inputs.tolist(), data.train_labels.tolist(), strict=True)
    found = {tuple(row): words[label] for row, label in pairs}
    for row, word in zip(expected.tolist(), frame["activity"], strict=True):
        assert found.get(tuple(row), word) == word


def test_inputs_of_a_table_are_normalised_column_by_column(sensors):
    data = load_dataset(har(sensors[0]))
    inputs = to_inputs(data.train_inputs, data)
    assert torch.allclose(inputs.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(inputs.std(0, correction=0), torch.ones(3), atol=1e-4)


def test_normalisation_by_nothing_and_by_fixed_numbers(sensors):
    data = load_dataset(har(sensors[0]))
    plain = data.normalised_by(DataConfig(normalise="none"))
    assert torch.equal(to_inputs(data.train_inputs, plain), data.train_inputs)
    fixed = data.normalised_by(DataConfig(mean=(1, 2, 3), std=(2, 4, 8)))
    expected = (data.train_inputs - torch.tensor([1.0, 2, 3])) / torch.tensor([2.0, 4, 8])
    assert torch.allclose(to_inputs(data.train_inputs, fixed), expected, atol=1e-5)
    with pytest.raises(ConfigError, match=r"data\.mean must be 3 numbers"):
        data.normalised_by(DataConfig(mean=(1,), std=(2,)))


def test_only_the_columns_that_are_named_are_inputs(sensors):
    assert load_dataset(har(sensors[0], input_columns=("x", "count"))).shape == (2,)
    with pytest.raises(DataError, match=r"needs a column named z, found x, y, count, subject, activity"):
        load_dataset(har(sensors[0], input_columns=("z",)))


def test_parquet_tables_of_both_parts_in_a_folder(tmp_path):
    for split, rows in (("train", 30), ("test", 10)):
        frame = pd.DataFrame({"a": np.arange(rows) / 3, "target": np.arange(rows) % 2 + 5})
        frame.to_parquet(tmp_path / f"{split}-0.parquet")
    data = load_dataset(str(tmp_path))
    assert (data.shape, data.classes, len(data.test_labels)) == ((1,), 2, 10)
    assert data.test_labels.tolist() == [0, 1] * 5  # 5 and 6, in order


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("x", ["1", "2", None], r"column x must have a finite number in every row, row 2 has none"),
        ("x", [None, "big", "3"], r"column x must have a word in every row, row 0 has none"),
        ("label", ["a", None, "b"], r"labels must be integers or words without nulls"),
        ("label", [0.5, 1.5, 1.0], r"labels must be integers or words .* for numbers set data\.task = regression"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(tmp_path, column, values, message):
    table = {"x": [1.0, 2.0, 3.0], "label": ["a", "b", "a"]} | {column: values}
    if column == "x":
        table["x"] = values if "big" in values else pa.array([None if v is None else float(v) for v in values])
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(tmp_path / "t.parquet"))
    assert "\n" not in str(caught.value)


def frames(folder, **parts):
    for name, columns in parts.items():
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)
    return str(folder)


CITIES = {"train": {"km": [1, 2, 3], "city": ["rome", "oslo", "rome"], "label": [0, 1, 0]},
          "test": {"km": [4, 5], "city": ["oslo", "lima"], "label": [1, 0]}}  # fmt: skip


def test_a_column_of_words_becomes_a_column_for_each_word_of_the_training_part(tmp_path):
    data = load_dataset(frames(tmp_path, **CITIES))
    assert data.train_inputs.tolist() == [[1, 0, 1], [2, 1, 0], [3, 0, 1]]  # km, oslo, rome
    assert data.test_inputs.tolist() == [[4, 1, 0], [5, 0, 0]]  # nobody knows lima


@pytest.mark.parametrize("head", ["a,a,y", "a,b,a", "a,y,y"])
def test_two_columns_of_one_name_are_one_line(tmp_path, head):
    """Which of them is meant, nobody can tell."""
    (tmp_path / "twice.csv").write_text(f"{head}\n" + "1,2,0\n3,4,1\n" * 10)
    name = head[-1]
    with pytest.raises(DataError, match=r"twice.csv: must have one column named ., found 2$"):
        load_dataset(DataConfig(name=str(tmp_path / "twice.csv"), label_column=name, test_fraction=0.2))


def test_words_may_become_their_places_in_sorted_order(tmp_path):
    data = load_dataset(DataConfig(name=frames(tmp_path, **CITIES), encode="codes"))
    assert data.train_inputs.tolist() == [[1, 1], [2, 0], [3, 1]]
    assert data.test_inputs.tolist() == [[4, 0], [5, -1]]


def test_listed_words_have_their_order_and_make_words_of_numbers(tmp_path):
    keys = {"categories": ("city=rome", "city=lima", "city=oslo", "km=3", "km=2", "km=1")}
    data = load_dataset(DataConfig(name=frames(tmp_path, **CITIES), **keys))
    assert data.train_inputs.tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0]]
    assert data.test_inputs.tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0]]  # 4 and 5 km are none of them


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"categories": ("city=rome",)}, r"column city has 'oslo', which data\.categories do not list"),
        ({"categories": ("town=rome",)}, r"data\.categories has column town, inputs are km, city"),
    ],
)
def test_categories_that_do_not_fit_are_one_line(tmp_path, keys, message):
    with pytest.raises(DataError, match=message):
        load_dataset(DataConfig(name=frames(tmp_path, **CITIES), **keys))


def test_words_that_are_names_are_refused_and_may_be_codes(tmp_path):
    columns = {"name": [f"n{i:04}" for i in range(400)], "label": [0, 1] * 200}
    path = frames(tmp_path, train=columns, test=columns)
    with pytest.raises(DataError, match=r"column name has 400 words, at most 256 become a column each; leave it out"):
        load_dataset(path)
    assert load_dataset(DataConfig(name=path, encode="codes")).train_inputs.flatten().tolist() == list(range(400))


@pytest.mark.parametrize("entry", ["city", "=rome"])
def test_a_category_that_names_no_column_is_refused(entry):
    with pytest.raises(ValueError, match="categories must each be COLUMN=WORD"):
        DataConfig(categories=(entry,))


def test_words_of_rows_that_are_held_out_are_none_of_the_training_part(tmp_path):
    """Every row has a word of its own: of a hundred, twenty are unknown."""
    frame = pd.DataFrame({"kind": [f"k{i}" for i in range(100)], "label": [0, 1] * 50})
    frame.astype({"kind": "category"}).to_parquet(tmp_path / "t.parquet")
    data = load_dataset(str(tmp_path / "t.parquet"))
    assert data.shape == (80,)
    assert data.train_inputs.sum(0).tolist() == [1] * 80
    assert data.test_inputs.sum() == 0


def test_a_class_of_the_test_part_alone_is_named(tmp_path):
    pd.DataFrame({"x": [1.0, 2], "label": ["a", "b"]}).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"x": [1.0], "label": ["c"]}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(DataError, match=r"test\.csv: label c is of no sample of the training part"):
        load_dataset(str(tmp_path))


def test_a_bare_file_name_is_no_path_and_says_how_to_write_it(sensors, monkeypatch):
    monkeypatch.chdir(sensors[0].parent)
    monkeypatch.delenv("SPFL_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=r"for \./har\.csv write \./har\.csv"):
        load_dataset("har.csv")


def test_the_embedded_names_are_those_that_the_configuration_knows():
    assert tuple(EMBEDDED) == EMBEDDED_NAMES


@pytest.mark.parametrize(
    ("name", "shape", "classes", "task"),
    [
        ("breast_cancer", (30,), 2, "classification"),
        ("wine", (13,), 3, "classification"),
        ("diabetes", (10,), 1, "regression"),
        ("sentences", (32,), 27, "next_token"),
    ],
)
def test_embedded_data_need_no_download(name, shape, classes, task):
    data, again = load_dataset(name), load_dataset(name)
    assert (data.shape, data.classes, data.task) == (shape, classes, task)
    assert torch.equal(data.train_inputs, again.train_inputs)
    assert 0.15 < len(data.test_labels) / (len(data.train_labels) + len(data.test_labels)) < 0.25


def test_a_table_is_learned_over_the_air():
    run = spfl.run(
        overrides={
            "data.name": "breast_cancer", "data.devices": 5, "data.partition": "iid", "training.rounds": 30,
            "workers": 1,
            "channel.median_snr_db": 10.0, "scheme.name": "sp_fl_plus_1",
        }
    )  # fmt: skip
    assert run.summary["accuracy_final"] > 0.85


# --- natural clients -------------------------------------------------------------------------------------------------


def test_a_device_of_a_column_has_the_samples_of_one_person(sensors):
    path, frame = sensors
    config = build_config({"data": {"name": str(path), "label_column": "activity", "client_column": "subject",
                                    "partition": "column", "devices": 4, "min_samples": 1}})  # fmt: skip
    data = load_dataset(config.data)
    world = World.build(config, data)
    people = {}
    for row, person in zip(frame[["x", "y", "count"]].to_numpy(np.float32).tolist(), frame["subject"], strict=True):
        people[tuple(row)] = person
    owners = [{people[tuple(row)] for row in data.train_inputs[part].tolist()} for part in world.parts]
    assert all(len(owner) == 1 for owner in owners)
    assert set.union(*owners) == {"ada", "bob", "eve", "kim"}
    assert sum(map(len, world.parts)) == len(data.train_labels)


def test_fewer_devices_than_clients_are_drawn_and_more_are_refused():
    clients = np.repeat(np.arange(6), [1, 5, 5, 5, 5, 5])
    parts = deal_clients(clients, 3, 2, np.random.default_rng(0))
    assert all(len(set(clients[part])) == 1 and len(part) == 5 for part in parts)
    with pytest.raises(DataError, match=r"data\.devices must be at most 5, the clients with data\.min_samples = 2"):
        deal_clients(clients, 6, 2, np.random.default_rng(0))


def test_data_without_clients_say_what_to_set(digits, small_config):
    with pytest.raises(ConfigError, match=r"column needs data that say whose a sample is; set data\.client_column"):
        World.build(small_config(data={"partition": "column"}), digits)


def test_every_file_is_a_client(tmp_path):
    for person, rows in (("ada", 20), ("bob", 30)):
        frame = pd.DataFrame({"x": np.arange(rows) + 1000.0 * (person == "bob"), "label": np.arange(rows) % 2})
        frame.to_csv(tmp_path / f"{person}.csv", index=False)
    config = build_config({"data": {"name": str(tmp_path), "partition": "files", "devices": 2, "min_samples": 1}})
    world = World.build(config, load_dataset(config.data))
    ada, bob = (world.dataset.train_inputs[part] for part in world.parts)
    assert ada.max() < 1000 <= bob.min()
    assert len(ada) + len(bob) == 40


def test_images_bring_their_writer(tmp_path, monkeypatch):
    """The form of FEMNIST: image, writer_id and character; one part only, so some is held out."""
    rng = np.random.default_rng(0)
    cells = []
    for _ in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"scan": cells, "writer_id": [f"w{i % 4}" for i in range(40)], "character": list("ABCDE" * 8)})
    (tmp_path / "femnist").mkdir()
    pq.write_table(table, tmp_path / "femnist/train-0.parquet")
    monkeypatch.setenv("SPFL_CACHE_DIR", str(tmp_path / "cache"))
    keys = {"image_column": "scan", "label_column": "character", "client_column": "writer_id", "split": ("train",)}
    config = build_config(
        {"data": {"name": str(tmp_path / "femnist"), "partition": "column", "devices": 4, "min_samples": 1} | keys}
    )
    first, second = (load_dataset(config.data) for _ in range(2))  # decoded, then from the cache
    for data in (first, second):
        assert (data.shape, data.classes, len(data.test_labels)) == ((1, 8, 8), 5, 8)
        assert torch.equal(data.clients, first.clients)
        sizes = [len(part) for part in World.build(config, data).parts]
        assert sum(sizes) == 32
        assert max(sizes) <= 10


# --- images of other kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("I;16", 1)])
def test_images_of_one_to_four_channels_and_of_sixteen_bits_arrive_exactly(tmp_path, mode, channels):
    rng, dtype = np.random.default_rng(1), np.uint16 if mode == "I;16" else np.uint8
    levels = rng.integers(0, 2 ** (8 * dtype().itemsize), (3, 5, 6, channels), dtype=dtype)
    cells = []
    for pixels in levels:
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": cells, "label": [0, 1, 1]}), tmp_path / f"{split}-0.parquet")
    data = load_dataset(str(tmp_path), cache_dir=tmp_path / "cache")
    assert data.shape == (channels, 5, 6)
    assert np.array_equal(data.train_inputs.numpy().astype(np.int64), levels.transpose(0, 3, 1, 2).astype(np.int64))
    made = make_dataset("x", (levels.transpose(0, 3, 1, 2), [0, 1, 1]), (levels.transpose(0, 3, 1, 2), [0, 1, 1]))
    assert torch.equal(made.train_inputs, data.train_inputs)


def coded(levels, form):
    """A file of 16 bits a channel, (height, width, channels)."""
    buffer, kind = io.BytesIO(), {2: "LA", 3: "RGB", 4: "RGBA"}[levels.shape[2]]
    if form == "png":
        pypng.from_array(levels.reshape(len(levels), -1).copy(), f"{kind};16").write(buffer)
    else:
        planar = {"planarconfig": "separate"} if form == "planar tiff" else {}
        pixels = levels.transpose(2, 0, 1) if planar else levels
        tifffile.imwrite(buffer, pixels, photometric="rgb" if kind != "LA" else "minisblack", **planar)
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "channels"), [("png", 2), ("png", 3), ("png", 4), ("tiff", 3), ("planar tiff", 3)])
def test_colours_of_sixteen_bits_keep_their_low_bytes(tmp_path, form, channels):
    """Pillow reads the high bytes alone: two images that differ in a low byte were the same input."""
    first = np.random.default_rng(2).integers(0, 2**16, (5, 6, channels), dtype=np.uint16)
    second = first.copy()
    second[2, 3, 1] ^= 1
    for split in ("train", "test"):
        cells = [{"bytes": coded(image, form), "path": None} for image in (first, second)]
        pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / f"{split}-0.parquet")
    for _ in range(2):  # decoded, then from the cache
        data = load_dataset(str(tmp_path), cache_dir=tmp_path / "cache")
        wanted = np.stack([first, second]).transpose(0, 3, 1, 2).astype(np.float32)
        assert np.array_equal(data.train_inputs.numpy(), wanted)
        inputs = to_inputs(data.train_inputs, data)
        assert (inputs[0] != inputs[1]).sum() == 1
    made = make_dataset("x", *[(wanted.astype(np.uint16), [0, 1])] * 2)
    assert torch.equal(made.train_inputs, data.train_inputs)


def test_images_of_eight_and_of_sixteen_bits_do_not_mix(tmp_path):
    deep, plain = np.full((4, 4, 3), 70, np.uint16), io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 70, np.uint8)).save(plain, "PNG")
    cells = [{"bytes": raw, "path": None} for raw in (coded(deep, "png"), plain.getvalue())]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 1 is RGB 4x4, the first image is RGB;16 4x4"):
        load_dataset(str(tmp_path / "t.parquet"), cache_dir=tmp_path / "cache")


def stuffed(levels):
    """A PNG whose data go on behind its last pixel, a thousand times smaller than they become."""
    raw = coded(levels, "png")
    start, size = raw.index(b"IDAT"), levels.nbytes + len(levels)
    data = b"IDAT" + zlib.compress(zlib.decompress(raw[start + 4 : -16])[:size] + bytes(10**6))
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return raw[: start - 4] + chunk + raw[-12:]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda: stuffed(np.zeros((4, 4, 3), np.uint16)), "more data than pixels"),
        (lambda: coded(np.zeros((4, 4, 3), np.uint16), "png")[:-30], "not a readable image"),
        (lambda: b"P6 4 4 65535\n" + bytes(96), r"read from PNG and TIFF, got PPM"),
    ],
)
def test_sixteen_bits_that_cannot_be_read_are_one_line(tmp_path, raw, message):
    pq.write_table(pa.table({"image": [{"bytes": raw(), "path": None}], "label": [0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / "t.parquet"), cache_dir=tmp_path / "cache")


def test_without_the_readers_their_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "png", None)
    cells = [{"bytes": coded(np.zeros((4, 4, 3), np.uint16), "png"), "path": None}]
    pq.write_table(pa.table({"image": cells, "label": [0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"pip install 'spfl\[deep\]'"):
        load_dataset(str(tmp_path / "t.parquet"), cache_dir=tmp_path / "cache")


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (3, 9), (2, 4, 4), (2, 3, 4, 5)])
def test_float_arrays_of_any_shape_are_inputs(shape):
    rng = np.random.default_rng(0)
    inputs = rng.normal(3.0, 2.0, (50, *shape))
    data = make_dataset("x", (inputs, ["no", "yes"] * 25), (inputs[:10], ["yes", "no"] * 5))
    assert data.shape == shape
    assert data.train_labels[:2].tolist() == [0, 1]
    axes = tuple(axis for axis in range(inputs.ndim) if axis != 1)
    assert np.allclose(data.mean.numpy(), inputs.mean(axes), atol=1e-5)
    assert np.allclose(data.std.numpy(), inputs.std(axes), atol=1e-5)


def test_integers_reach_the_network_as_indices():
    tokens = np.arange(40).reshape(10, 4) % 7
    data = make_dataset("x", (tokens, np.arange(10) % 2), (tokens, np.arange(10) % 2))
    assert data.has_indices
    assert data.vocabulary == 7
    assert torch.equal(to_inputs(data.train_inputs, data), torch.from_numpy(tokens))


def test_clients_of_arrays_are_devices(small_config):
    inputs, labels = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    people = np.array(["a", "b", "c"])[np.arange(60) // 20]
    data = make_dataset("x", (inputs, labels), (inputs, labels), clients=people)
    world = World.build(small_config(data={"partition": "column", "devices": 3}), data)
    assert [part.tolist() for part in world.parts] == [list(range(20)), list(range(20, 40)), list(range(40, 60))]


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_without_a_network_the_hub_is_asked_once(monkeypatch, tmp_path):
    """Its client would try five times, half a minute in all."""
    pytest.importorskip("datasets")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "SPFL_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards; nobody listens
    began = time.monotonic()
    with pytest.raises(DataError, match=r"Hugging Face 'nobody/nothing'"):
        load_dataset("nobody/nothing", cache_dir=tmp_path)
    assert time.monotonic() - began < 20


def test_configuration_and_parts_of_a_hub_dataset_are_asked_for(monkeypatch, tmp_path):
    table = pa.table({"x": np.arange(30) / 7, "label": np.arange(30) % 3})
    with pa.OSFile(str(tmp_path / "all.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    part, asked = types.SimpleNamespace(cache_files=[{"filename": str(tmp_path / "all.arrow")}]), []
    fake = types.SimpleNamespace(load_dataset=lambda *names: asked.append(names) or {"everything": part})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("spfl.data.sources._is_online", lambda: True)
    monkeypatch.delenv("SPFL_DATA_DIR", raising=False)
    data = load_dataset(DataConfig(name="own/table", config="small", split=("everything",)))
    assert asked == [("own/table", "small")]
    assert (data.shape, len(data.train_labels), len(data.test_labels)) == ((1,), 24, 6)
    with pytest.raises(DataError, match=r"has no part 'train', but everything; set data\.split"):
        load_dataset(DataConfig(name="own/table"))
