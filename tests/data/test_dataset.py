"""Loading, caching and refusing image data; partitions and minibatches."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import types
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from safetensors import safe_open
from safetensors.torch import save

from spfl.data.dataset import Dataset, draw_moves, flip_half, moved, to_inputs
from spfl.data.partitioning import Dealing, batch_indices, partition
from spfl.data.sources import _checksum, load_dataset
from spfl.errors import ConfigError, DataError


def png(pixels, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode or ("L" if pixels.ndim == 2 else "RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def write_split(folder, split, images, labels, *, image="img", label="label", metadata=None):
    folder.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": i, "path": None} if isinstance(i, bytes) else {"bytes": None, "path": i} for i in images]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(cells, struct), label: pa.array(labels)})
    if metadata:
        table = table.replace_schema_metadata(metadata)
    path = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, 4, 6, 3), dtype=np.uint8)  # n, height, width, channel


@pytest.fixture
def folder(tmp_path, pixels):
    images = [png(p) for p in pixels]
    write_split(tmp_path / "toy", "train", images[:6], [0, 1, 2, 0, 1, 2])
    write_split(tmp_path / "toy", "test", images[6:], [2, 0])
    return tmp_path / "toy"


def load(folder, **kwargs):
    return load_dataset(folder.name, folder.parent, cache_dir=folder.parent / "cache", **kwargs)


# --- loading ------------------------------------------------------------------------------------------------


def test_parquet_images_arrive_bit_exact_in_channel_first_order(folder, pixels):
    data = load(folder)
    assert data.shape == (3, 4, 6)
    assert data.classes == 3
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_labels.dtype == torch.int64
    assert torch.equal(data.train_inputs, torch.from_numpy(pixels[:6]).permute(0, 3, 1, 2))
    assert torch.equal(data.test_inputs, torch.from_numpy(pixels[6:]).permute(0, 3, 1, 2))
    assert data.test_labels.tolist() == [2, 0]


def test_several_files_are_joined_in_name_order(tmp_path, pixels):
    folder = tmp_path / "toy"
    for part, image in enumerate(pixels[:3]):
        path = write_split(folder, "train", [png(image)], [part])
        path.rename(folder / f"cifar-train-0000{part}.parquet")
    write_split(folder, "test", [png(pixels[3])], [0])
    data = load(folder)
    assert data.train_labels.tolist() == [0, 1, 2]
    assert torch.equal(data.train_inputs, torch.from_numpy(pixels[:3]).permute(0, 3, 1, 2))


def test_grey_images_have_one_channel_and_may_be_named_image_and_fine_label(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_split(tmp_path / "toy", "train", [png(grey)], [0], image="image", label="fine_label")
    write_split(tmp_path / "toy", "validation", [png(grey)], [0], image="image", label="fine_label")
    data = load(tmp_path / "toy")
    assert data.shape == (1, 3, 4)
    assert torch.equal(data.test_inputs[0, 0], torch.from_numpy(grey))


def test_images_may_be_paths_beside_the_parquet_file(tmp_path, pixels):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(pixels[0]))
    write_split(folder, "train", ["a.png"], [0])
    write_split(folder, "test", ["a.png"], [0])
    assert torch.equal(load(folder).train_inputs[0], torch.from_numpy(pixels[0]).permute(2, 0, 1))


def test_class_count_comes_from_the_schema_metadata_when_it_is_there(tmp_path, pixels):
    names = b'{"info": {"features": {"label": {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}}}}'
    for split in ("train", "test"):
        write_split(tmp_path / "toy", split, [png(pixels[0])], [1], metadata={b"huggingface": names})
    assert load(tmp_path / "toy").classes == 4


def test_a_folder_path_is_a_dataset_name_and_the_environment_names_the_root(folder, monkeypatch):
    by_path = load_dataset(str(folder), cache_dir=folder.parent / "cache")
    monkeypatch.setenv("SPFL_DATA_DIR", str(folder.parent))
    monkeypatch.setenv("SPFL_CACHE_DIR", str(folder.parent / "other"))
    by_environment = load_dataset("toy")
    assert torch.equal(by_path.train_inputs, by_environment.train_inputs)
    assert list((folder.parent / "other").glob("*.safetensors"))


def test_hugging_face_splits_are_read_from_their_arrow_files(tmp_path, pixels, monkeypatch):
    def arrow(split, images, labels):
        path = tmp_path / f"{split}.arrow"
        table = pa.table({"image": [{"bytes": png(i), "path": None} for i in images], "label": labels})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return types.SimpleNamespace(cache_files=[{"filename": str(path)}])

    asked = []
    splits = {"train": arrow("train", pixels[:2], [0, 1]), "test": arrow("test", pixels[2:3], [1])}
    fake = types.SimpleNamespace(load_dataset=lambda name: asked.append(name) or splits)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.delenv("SPFL_DATA_DIR", raising=False)
    data = load_dataset("cifar10", cache_dir=tmp_path / "cache")
    assert asked == ["uoft-cs/cifar10"]
    assert torch.equal(data.train_inputs, torch.from_numpy(pixels[:2]).permute(0, 3, 1, 2))


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


# A fixed time in the file: test names hold the bytes, and must be the same in every worker.
TWO_IMAGES_GZ = gzip.compress(idx(np.zeros((2, 4, 5))), mtime=0)


@pytest.fixture
def idx_folder(tmp_path, pixels):
    (tmp_path / "small_mnist").mkdir()
    for split, part, labels in (("train", pixels[:6], [0, 1, 2, 0, 1, 2]), ("t10k", pixels[6:], [2, 0])):
        (tmp_path / f"small_mnist/{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(part[..., 0])))
        (tmp_path / f"small_mnist/{split}-labels-idx1-ubyte").write_bytes(idx(np.array(labels)))
    return tmp_path / "small_mnist"


def test_the_idx_files_of_the_mnist_family_gzipped_or_not(idx_folder, pixels):
    for _ in range(2):  # decoded, then from the cache
        data = load(idx_folder)
        np.testing.assert_array_equal(data.train_inputs.numpy()[:, 0], pixels[:6, ..., 0])
        np.testing.assert_array_equal(data.test_inputs.numpy()[:, 0], pixels[6:, ..., 0])
        assert (data.train_labels.tolist(), data.test_labels.tolist(), data.classes) == ([0, 1, 2, 0, 1, 2], [2, 0], 3)
    assert load_dataset(str(idx_folder), cache_dir=idx_folder.parent / "cache").shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-labels-idx1-ubyte", idx(np.zeros(5)), "holds 6 images, train-labels-idx1-ubyte 5 labels"),
        ("train-labels-idx1-ubyte", idx(np.zeros(6))[:-1], "not an IDX file of 1 axes of bytes, or is cut short"),
        ("train-images-idx3-ubyte.gz", b"\x1f\x8b broken", "train-images-idx3-ubyte.gz: unreadable"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"", mtime=0), "not an IDX file of 3 axes"),
        (
            "t10k-images-idx3-ubyte.gz",
            gzip.compress(idx(np.zeros((2, 4, 5))), mtime=0),
            "is L 5x4, the first image is L 6x4",
        ),
    ],
)
def test_idx_files_that_do_not_fit_are_named(idx_folder, name, content, message):
    (idx_folder / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        load(idx_folder)


def test_half_of_the_idx_files_are_none(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="must hold train"):
        load(idx_folder)


def test_digits_are_embedded_stretched_and_split_the_same_way_each_time(monkeypatch):
    data, again = load_dataset("digits"), load_dataset("digits")
    assert (len(data.train_labels), len(data.test_labels), data.shape) == (1437, 360, (1, 8, 8))
    assert (int(data.train_inputs.min()), int(data.train_inputs.max())) == (0, 255)
    assert torch.bincount(data.test_labels, minlength=10).min() >= 20
    assert torch.equal(data.test_inputs, again.test_inputs)


# --- refusing -----------------------------------------------------------------------------------------------


def test_missing_dataset_says_where_it_looked_and_how_to_get_it(tmp_path, monkeypatch):
    def offline(name):
        raise ConnectionError("no route to the hub")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=offline))
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10", tmp_path, cache_dir=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path / "cifar10"), "--data-dir", "SPFL_DATA_DIR", "uoft-cs/cifar10", "no route to the hub"):
        assert part in message


def test_a_misspelt_name_is_answered_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it would fail with another message
    with pytest.raises(DataError, match="did you mean 'fashion_mnist'"):
        load_dataset("fashion_mnst", tmp_path)


def test_missing_folder_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset(str(tmp_path / "nowhere"))
    (tmp_path / "toy").mkdir()
    with pytest.raises(DataError, match=r"toy must hold train-\*\.parquet .* found no \*\.parquet"):
        load(tmp_path / "toy")


def test_unreadable_parquet_is_named(folder):
    path = folder / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: unreadable"):
        load(folder)


@pytest.mark.parametrize(("labels", "value"), [([3, 0], "3"), ([-1, 0], "-1")])
def test_label_out_of_range_names_file_and_value(folder, pixels, labels, value):
    write_split(folder, "test", [png(p) for p in pixels[6:]], labels)
    with pytest.raises(DataError, match=rf"test-0.*label must lie in 0\.\.2, got {value}$"):
        load(folder)


@pytest.mark.parametrize(
    ("labels", "message"), [(["cat", "dog"], "integers"), ([0.5, 1.5], "integers"), ([0, None], "integers")]
)
def test_labels_that_are_no_integers_are_refused(folder, pixels, labels, message):
    write_split(folder, "test", [png(p) for p in pixels[6:]], labels)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_unknown_columns_are_listed(folder, pixels):
    write_split(folder, "train", [png(pixels[0])], [0], image="picture", label="label")
    with pytest.raises(DataError, match=r"column named img or image, found picture, label"):
        load(folder)


def test_first_image_of_another_size_or_mode_is_named(folder, pixels):
    odd = [png(p) for p in pixels[:6]]
    odd[4] = png(pixels[4][:3])
    write_split(folder, "train", odd, [0, 1, 2, 0, 1, 2])
    with pytest.raises(DataError, match=r"train-0.*: row 4 is RGB 6x3, the first image is RGB 6x4"):
        load(folder)
    odd[4] = png(pixels[4], "L")
    write_split(folder, "train", odd, [0, 1, 2, 0, 1, 2])
    with pytest.raises(DataError, match=r"row 4 is L 6x4, the first image is RGB 6x4"):
        load(folder)
    odd[4] = png(pixels[4], "1")
    write_split(folder, "train", odd, [0, 1, 2, 0, 1, 2])
    with pytest.raises(DataError, match=r"row 4 has mode 1, must be L, LA, RGB, RGBA"):
        load(folder)


def test_test_images_must_look_like_train_images(folder, pixels):
    write_split(folder, "test", [png(pixels[6][:, :5])], [0])
    with pytest.raises(DataError, match=r"test-0.*row 0 is RGB 5x4, the first image is RGB 6x4"):
        load(folder)


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_broken_image_is_named(folder, pixels, damage):
    cells = [png(pixels[0]), png(pixels[1])[:60] if damage is None else damage]
    write_split(folder, "train", cells, [0, 1])
    with pytest.raises(DataError, match=r"train-0.*: row 1 is not a readable image"):
        load(folder)


# --- cache --------------------------------------------------------------------------------------------------


def only_cache(folder):
    (cache,) = (folder.parent / "cache").iterdir()  # nothing temporary is left beside it
    return cache


def test_second_load_reads_the_cache_not_the_images(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr("spfl.data.sources.decode", lambda source, data: pytest.fail("decoded again"))
    second = load(folder)
    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(first.test_labels, second.test_labels)
    assert (first.classes, first.name) == (second.classes, second.name)


def test_changed_source_replaces_the_cache(folder, pixels):
    load(folder)
    path = write_split(folder, "train", [png(p) for p in pixels[:2]], [0, 2])
    os.utime(path, ns=(1, 1))
    assert load(folder).train_labels.tolist() == [0, 2]
    assert only_cache(folder).is_file()


def test_a_source_file_of_the_same_size_but_another_time_is_decoded_again(folder, pixels):
    load(folder)
    path = folder / "test-00000-of-00001.parquet"
    before = path.stat()
    write_split(folder, "test", [png(p) for p in pixels[6:]], [1, 2])
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    assert load(folder).test_labels.tolist() == [1, 2]


@pytest.mark.parametrize("where", [4, 60, -3])
def test_damaged_cache_is_rebuilt(folder, where):
    good = load(folder)
    cache = only_cache(folder)
    raw = bytearray(cache.read_bytes())
    raw[where] ^= 0x55
    cache.write_bytes(raw)
    rebuilt = load(folder)
    assert torch.equal(good.train_inputs, rebuilt.train_inputs)
    assert torch.equal(good.test_inputs, rebuilt.test_inputs)
    assert torch.equal(good.train_labels, rebuilt.train_labels)


def test_truncated_cache_is_rebuilt_and_good_again(folder, monkeypatch):
    good = load(folder)
    cache = only_cache(folder)
    cache.write_bytes(cache.read_bytes()[:40])
    load(folder)
    monkeypatch.setattr("spfl.data.sources.decode", lambda source, data: pytest.fail("decoded again"))
    assert torch.equal(load(folder).train_inputs, good.train_inputs)


def test_cache_folder_that_cannot_be_made_is_a_data_error(folder):
    (folder.parent / "file").write_text("")
    with pytest.raises(DataError, match="SPFL_CACHE_DIR"):
        load_dataset(str(folder), cache_dir=folder.parent / "file" / "cache")


# --- statistics, pooling, validation ------------------------------------------------------------------------


def toy_dataset(n=40, classes=4, shape=(3, 4, 6), seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n + 8, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n + 8) % classes
    return Dataset("toy", images[:n], labels[:n], images[n:], labels[n:], classes)


def test_normalisation_does_not_depend_on_the_number_of_threads(digits):
    """It once did, in the last bits: threads split a float32 sum."""
    before, seen = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(replace(digits).normalisation)
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for later in seen[1:] for a, b in zip(seen[0], later, strict=True))


def test_inputs_have_zero_mean_and_unit_deviation_per_channel():
    data = toy_dataset()
    inputs = to_inputs(data.train_inputs, data)
    assert inputs.dtype == torch.float32
    expected = (data.train_inputs.double() - data.mean.view(1, 3, 1, 1)) / data.std.view(1, 3, 1, 1)
    assert torch.allclose(inputs.double(), expected, atol=1e-5)
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_statistics_come_from_train_images_only_and_constant_channels_are_safe():
    data = toy_dataset()
    assert torch.allclose(data.mean, data.train_inputs.double().mean((0, 2, 3)))
    flat = Dataset("flat", torch.full((3, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64),
                   data.test_inputs[:, :1], data.test_labels, 4)  # fmt: skip
    assert to_inputs(flat.train_inputs, flat).abs().max() == 0


def test_pooled_averages_blocks():
    data = toy_dataset()
    blocks = data.train_inputs.numpy().astype(float).reshape(40, 3, 2, 2, 3, 2).mean((3, 5))
    assert np.array_equal(data.pooled(2).train_inputs.numpy(), np.rint(blocks).astype(np.uint8))
    assert data.pooled(2).test_inputs.shape == (8, 3, 2, 3)
    with pytest.raises(ConfigError, match="pool factor must divide"):
        data.pooled(3)


def test_validation_split_holds_out_train_images_and_never_shows_the_test_set():
    data = toy_dataset()
    split = data.split_validation(0.25, np.random.default_rng(3))
    parts = torch.cat([split.train_inputs, split.test_inputs]).flatten(1)
    assert len(split.test_labels) == 10
    assert sorted(map(tuple, parts.tolist())) == sorted(map(tuple, data.train_inputs.flatten(1).tolist()))
    again = data.split_validation(0.25, np.random.default_rng(3))
    assert torch.equal(split.test_inputs, again.test_inputs)
    for fraction in (0.0, 1.0):
        with pytest.raises(ConfigError, match=r"data\.validation_fraction"):
            data.split_validation(fraction, np.random.default_rng(3))


def test_flip_half_mirrors_about_half_of_the_images_and_no_other():
    images = toy_dataset(n=2000).train_inputs
    flipped = flip_half(images, np.random.default_rng(5))
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert abs(mirrored.float().mean() - 0.5) < 5 * 0.5 / 2000**0.5


@pytest.mark.parametrize(("rows", "columns", "most_px"), [(8, 8, 2), (5, 7, 4), (32, 32, 4)])
def test_images_are_moved_as_by_padding_and_cropping(rows, columns, most_px):
    images = torch.randint(0, 256, (40, 3, rows, columns), dtype=torch.uint8, generator=torch.manual_seed(1))
    by = draw_moves(40, most_px, np.random.default_rng(2))
    assert by.min() == -most_px
    assert by.max() == most_px
    found = moved(images, by)
    assert found.dtype == torch.uint8
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (most_px, most_px), (most_px, most_px)), mode="reflect")
    for image, (down, right) in enumerate(by + most_px):
        expected = padded[image, :, down : down + rows, right : right + columns]
        np.testing.assert_array_equal(found[image].numpy(), expected)


def test_images_that_do_not_move_draw_nothing():
    rng = np.random.default_rng(4)
    assert not draw_moves(10, 0, rng).any()
    assert rng.random() == np.random.default_rng(4).random()


# --- partitions ---------------------------------------------------------------------------------------------

LABELS = np.random.default_rng(7).integers(0, 10, 6000)
KINDS = ("iid", "dirichlet", "shards")


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS), devices=st.integers(1, 40), seed=st.integers(0, 2**32), samples=st.integers(400, 900)
)
def test_every_sample_goes_to_exactly_one_device(kind, devices, seed, samples):
    labels = LABELS[:samples]
    parts = partition(labels, devices, Dealing(kind, 0.5, min_samples=0), np.random.default_rng(seed))
    assert len(parts) == devices
    assert all(part.dtype == np.int64 for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(samples))


@pytest.mark.parametrize("kind", KINDS)
def test_partition_depends_on_the_stream_alone(kind):
    parts = [partition(LABELS, 10, Dealing(kind), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(parts[0], parts[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(parts[0], parts[2], strict=True))


def test_iid_parts_are_equal_and_dirichlet_parts_respect_the_minimum():
    sizes = [len(part) for part in partition(LABELS, 7, Dealing("iid"), np.random.default_rng(0))]
    assert max(sizes) - min(sizes) <= 1
    for seed in range(20):
        parts = partition(LABELS, 20, Dealing("dirichlet", 0.3, min_samples=64), np.random.default_rng(seed))
        assert min(map(len, parts)) >= 64


def class_shares(parts):
    return np.stack([np.bincount(LABELS[part], minlength=10) for part in parts]) / np.bincount(LABELS, minlength=10)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_dirichlet_shares_have_the_mean_and_variance_of_the_law(alpha):
    """200 partitions of 10 classes over 5 devices: 2,000 independent draws of a share, 5 standard errors."""
    devices, draws = 5, 200
    rng = np.random.default_rng(11)
    shares = np.concatenate(
        [
            class_shares(partition(LABELS, devices, Dealing("dirichlet", alpha, min_samples=0), rng))[0]
            for _ in range(draws)
        ]
    )
    mean = 1 / devices
    variance = mean * (1 - mean) / (devices * alpha + 1)
    squares = (shares - mean) ** 2
    rounding = 1 / np.bincount(LABELS).min()  # a cut falls on a whole sample
    assert abs(shares.mean() - mean) < 5 * np.sqrt(variance / len(shares)) + rounding
    error = abs(squares.mean() - variance)
    tolerance = 5 * squares.std() / np.sqrt(len(shares)) + 2 * rounding * np.sqrt(variance)
    assert error < tolerance
    biased = mean * (1 - mean) / (devices * alpha * 2 + 1)  # the law of twice the alpha must be told apart
    assert abs(squares.mean() - biased) > tolerance or alpha == 100.0


def test_shards_limit_the_labels_of_a_device():
    labels = np.repeat(np.arange(10), 100)
    for part in partition(labels, 10, Dealing("shards", shards_per_device=2), np.random.default_rng(0)):
        assert len(part) == 100
        assert len(np.unique(labels[part])) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_more_devices_than_the_data_allow(kind):
    with pytest.raises(DataError, match="70 devices with at least 10 samples each need 700 samples, the data have 600"):
        partition(LABELS[:600], 70, Dealing(kind, min_samples=10), np.random.default_rng(0))


def test_dirichlet_gives_up_after_a_bounded_number_of_tries_and_says_why():
    with pytest.raises(DataError, match=r"100 draws at dirichlet_alpha=0\.01 .* raise dirichlet_alpha"):
        partition(LABELS, 50, Dealing("dirichlet", 0.01, min_samples=50), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "dirichlett"}, "did you mean 'dirichlet'"),
        ({"devices": 0}, "devices"),
        ({"dirichlet_alpha": 0.0}, "dirichlet_alpha must be positive"),
        ({"shards_per_device": 0}, "shards_per_device"),
        ({"min_samples": -1}, "min_samples"),
    ],
)
def test_parameters_out_of_range_are_refused(change, message):
    dealing = {"kind": "iid", "devices": 3} | change
    with pytest.raises(ConfigError, match=message):
        partition(LABELS, dealing.pop("devices"), Dealing(**dealing), np.random.default_rng(0))


def test_batch_is_a_subset_without_repetition_and_reaches_every_sample():
    indices = np.arange(100, 200)
    rng = np.random.default_rng(0)
    counts = np.zeros(200)
    for _ in range(2000):
        batch = batch_indices(indices, 10, rng)
        assert len(np.unique(batch)) == 10
        counts[batch] += 1
    assert counts[:100].sum() == 0
    # each of 2,000 batches holds a sample with probability 0.1: mean 200, standard deviation 13.4; 5.5 of them
    assert abs(counts[100:] - 200).max() < 74
    assert np.array_equal(batch_indices(indices, 100, rng), indices)
    with pytest.raises(ConfigError, match="batch_size"):
        batch_indices(indices, 0, rng)


# --- what others may have made ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_can_write_to_is_not_read(folder, mode):
    """Its labels are another's, with a checksum that fits."""
    good = load(folder)
    cache = only_cache(folder)
    with safe_open(cache, framework="pt") as opened:
        meta, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors["train_labels"] = tensors["train_labels"].flip(0)
    cache.write_bytes(save(tensors, meta | {"crc32": _checksum(tensors)}))
    assert not torch.equal(load(folder).train_labels, good.train_labels)  # of our own: believed
    cache.parent.chmod(mode)
    with pytest.warns(UserWarning, match=rf"not read from the cache: .* can be written by others \(mode {mode:o}\)"):
        assert torch.equal(load(folder).train_labels, good.train_labels)


@pytest.mark.parametrize(
    ("side", "count", "message"),
    [
        (5000, 1, "pixels, must be at most 16777216"),
        (4000, 200, "images take 3.2 GB when decoded, must be at most 0.5"),
    ],
)
def test_images_that_explode_are_refused_before_memory_is_asked_for(tmp_path, side, count, message, monkeypatch):
    monkeypatch.setattr("spfl.data.image_files.memory_bytes", lambda: 10**9)
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "PNG")
    (tmp_path / "bomb").mkdir()
    write_split(tmp_path / "bomb", "train", [stream.getvalue()] * count, [0] * count)
    write_split(tmp_path / "bomb", "test", [stream.getvalue()], [0])
    assert sum(path.stat().st_size for path in (tmp_path / "bomb").iterdir()) < 10**7
    decode, allocate, decoded, asked = ImageFile.ImageFile.load, np.empty, [], []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.size) or decode(image))
    monkeypatch.setattr("numpy.empty", lambda shape, *more: asked.append(shape) or allocate(shape, *more))
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / "bomb"), cache_dir=tmp_path / "cache")
    assert decoded == [(4000, 4000)] * (count > 1)  # an image of a size that is allowed tells how much all would take
    assert [shape for shape in asked if np.prod(shape) > 10**8] == []
