"""Networks, datasets, own parts and files that are not what they seem, for `situations.py`: names and texts."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.runs.comparison import compare
from spfl.runs.experiment import run_experiment
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

SMALL = ["data.devices=4", "training.rounds=2", "training.eval_every=1", "workers=1", "model.name=softmax"]
SWEEP = """[base]
"data.devices" = 4
"data.validation_fraction" = 0.1
"model.name" = "softmax"
"training.rounds" = 2
[[grid]]
seed = [0]
"training.rate" = [0.1, 1e6]
"""

BEGIN = "import asyncio, numpy as np, torch, random\nfrom torch import nn\nfrom torch.nn import functional as F\n"
LATE = """class Late(nn.Module):
    calls = 0

    def __init__(self, raised):
        super().__init__()
        self.linear, self.raised = nn.Linear(64, 10), raised

    def forward(self, inputs):
        Late.calls += 1
        if Late.calls > 30:
            raise self.raised
        return self.linear(inputs.flatten(1))


"""  # raises long after the first look at it
HEAD = "nn.Sequential(nn.Flatten(), {}nn.Linear(64, 10))"
# Name -> what the factory returns.
NETWORKS: dict[str, str] = {
    "plain": HEAD.format(""),
    "scripted": f"torch.jit.script({HEAD.format('')})",
    "a_class": "nn.Linear",
    "nothing": "None",
    "traced": f"torch.jit.trace({HEAD.format('')}, torch.zeros(2, 1, 8, 8))",
    "weights": f"{HEAD.format('')}.state_dict()",
    "five_outputs": "nn.Sequential(nn.Flatten(), nn.Linear(64, 5))",
    "no_outputs": "nn.Sequential(nn.Flatten(), nn.Linear(64, 0))",
    "three_channels": "nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))",
    "empty": "nn.Sequential()",
    "lazy": "nn.Sequential(nn.Flatten(), nn.LazyLinear(10))",
    "float64": f"{HEAD.format('')}.double()",
    "half": f"{HEAD.format('')}.half()",
    "meta": "nn.Sequential(nn.Flatten(), nn.Linear(64, 10, device='meta'))",
    "frozen": f"{HEAD.format('')}.requires_grad_(False)",
    "hooked": HEAD.format("torch.nn.utils.weight_norm(nn.Linear(64, 64)), "),
    "dropout": HEAD.format("nn.Dropout(0.5), "),
    "spectral": HEAD.format("nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64)), "),
    "rrelu": HEAD.format("nn.RReLU(), "),
    "parallel": f"nn.DataParallel({HEAD.format('')})",
    "batch_norm": HEAD.format("nn.BatchNorm1d(64), "),
    "complex_weights": "nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype=torch.complex64))",
    "infinite": "(lambda m: (nn.init.constant_(m[1].weight, float('inf')), m)[1])(" + HEAD.format("") + ")",
    "fails": "1 / 0",
    "exits": "exit(3)",
    "embedding": "nn.Sequential(nn.Embedding(4, 4), nn.Flatten(), nn.Linear(256, 10))",
    "pair": "type('P', (nn.Module,), {'__init__': lambda s: (nn.Module.__init__(s), "
    "setattr(s, 'l', nn.Linear(64, 10)))[0], 'forward': lambda s, x: (s.l(x.flatten(1)), x)})()",
    "no_forward": "nn.Module()",
    **{
        f"late_{name}": f"Late({raised})"
        for name, raised in (
            ("error", "LookupError('late')"),
            ("exit", "SystemExit(3)"),
            ("interrupt", "KeyboardInterrupt()"),
            ("cancelled", "asyncio.CancelledError()"),
            ("memory", "MemoryError()"),
        )
    },
    "raises": "type('R', (nn.Module,), {'__init__': lambda s: (nn.Module.__init__(s), "
    "setattr(s, 'l', nn.Linear(64, 10)))[0], 'forward': lambda s, x: [][1]})()",
}
SPOTS = "spfl.make_dataset('spots', train=({}, {}), test=({}, {}))"
IMAGES, LABELS = "np.arange(80 * 64, dtype=np.uint8).reshape(80, 8, 8)", "np.arange(80) % 4"
ROWS = "np.linspace(-1, 1, 400).reshape(80, 5)"


def _spots(inputs: str, labels: str = LABELS) -> str:
    return SPOTS.format(inputs, labels, inputs, labels)


# Name -> what the function returns.
DATASETS: dict[str, str] = {
    "fine": _spots(IMAGES),
    "reversed": _spots(f"({IMAGES})[::-1]"),
    "channels_last": _spots("np.zeros((80, 8, 8, 3), np.uint8)"),
    "objects": _spots(f"({IMAGES}).astype(object)"),
    "words": _spots("np.full((80, 3), 'x')"),
    "big_endian": _spots(f"({ROWS}).astype('>f8')"),
    "complex_rows": _spots(f"({ROWS}) * 1j"),
    "nan": _spots(f"({ROWS}) * np.nan"),
    "huge": _spots(f"({ROWS}) * 1e300"),
    "lists": _spots(f"({ROWS}).tolist()", f"({LABELS}).tolist()"),
    "tensors": _spots(f"torch.tensor({ROWS})", f"torch.tensor({LABELS})"),
    "empty_set": _spots("np.zeros((0, 5))", "np.zeros(0, int)"),
    "one_row": _spots("np.zeros((1, 5))", "np.zeros(1, int)"),
    "short_labels": _spots(ROWS, f"({LABELS})[:-1]"),
    "gaps": _spots(ROWS, f"({LABELS}) * 10**9"),
    "negative": _spots(ROWS, f"({LABELS}) - 2"),
    "fractions": _spots(ROWS, f"({LABELS}) + 0.5"),
    "columns": _spots(ROWS, f"({LABELS})[:, None]"),
    "one_class": _spots(ROWS, "np.zeros(80, int)"),
    "texts": _spots(ROWS, f"np.array(list('abcd'))[{LABELS}]"),
    "none": "None",
    "a_tuple": f"({ROWS}, {LABELS})",
    "raises": "[][1]",
    "dates": _spots("np.zeros((80, 3), 'datetime64[s]')"),
    "booleans": _spots(f"({ROWS}) > 0", f"({LABELS}) > 1"),
    "scalars": _spots("np.zeros(80)"),
    "unsigned": _spots(ROWS, f"({LABELS}).astype(np.uint64)"),
    "many_axes": _spots("np.zeros((80, 1, 1, 1, 1, 1, 2))"),
    "masked": _spots(f"np.ma.masked_greater({ROWS}, 0)"),
    "constant": _spots("np.ones((80, 5))"),
    "ragged": _spots("[[1], [1, 2]] * 40"),
}
# Name of a plugin file -> its text.
PLUGINS: dict[str, str] = {
    "plain": "def gains(devices, rng):\n    return [1e-9] * 4\n",
    "gains_complex": "def gains(d, r):\n    return np.full(4, 1e-6j)\n",
    "gains_text": "def gains(d, r):\n    return ['x'] * 4\n",
    "gains_zero": "def gains(d, r):\n    return np.zeros(4)\n",
    "gains_two": "def gains(d, r):\n    return [1.0, 1.0]\n",
    "gains_raise": "def gains(d, r):\n    raise KeyError('x')\n",
    "gains_no_arguments": "def gains():\n    return [1.0] * 4\n",
    "gains_value": "gains = [1.0] * 4\n",
    "fades_one": "def fades(t, k, r):\n    return np.ones(k)\n",
    "fades_complex": "def fades(t, k, r):\n    return np.ones(k) * 1j, np.ones(k)\n",
    "fades_none": "def fades(t, k, r):\n    return None\n",
    "fades_nan": "def fades(t, k, r):\n    return np.full(k, np.nan), np.ones(k)\n",
    "partition_none": "def partition(y, k, r):\n    return None\n",
    "partition_dict": "def partition(y, k, r):\n    return dict(enumerate(np.array_split(r.permutation(len(y)), k)))\n",
    "partition_masks": "def partition(y, k, r):\n    return [np.ones(len(y), bool)] * k\n",
    "partition_fractions": "def partition(y, k, r):\n    return [np.array([0.7])] * k\n",
    "partition_far": "def partition(y, k, r):\n    return [[10**12]] * k\n",
    "partition_empty": "def partition(y, k, r):\n    return [[]] * k\n",
    "loss_text": "def loss(o, t):\n    return 'x'\n",
    "loss_rows": "def loss(o, t):\n    return o.sum(1)\n",
    "loss_nan": "def loss(o, t):\n    return o.sum() * float('nan')\n",
    "loss_raises": "def loss(o, t):\n    raise ValueError('a\\nb')\n",
    "metric_text": "def metric(o, t):\n    return 'x'\n",
    "metric_nan": "def metric(o, t):\n    return float('nan')\n",
    "server_none": "def server(*a, **k):\n    return None\n",
    "local_none": "def local(*a, **k):\n    return None\n",
    "nothing_at_all": "",
    "syntax": "def (:\n",
    "divides": "1 / 0\n",
    "exits": "import sys\nsys.exit(7)\n",
    "binary": "\0\0",
    "interrupts": "raise KeyboardInterrupt\n",
    "module_value": "module = 3\n",
    "module_of_c": "module = dict\n",
    "loss_exits": "def loss(o, t):\n    raise SystemExit(4)\n",
    "loss_interrupts": "def loss(o, t):\n    raise KeyboardInterrupt\n",
    "loss_cancelled": "import asyncio\ndef loss(o, t):\n    raise asyncio.CancelledError\n",
    "metric_memory": "def metric(o, t):\n    raise MemoryError\n",
    "local_interrupts": "def local(task):\n    raise KeyboardInterrupt\n",
    "local_exits": "def local(task):\n    exit()\n",
    "server_exits": "def server(*a):\n    raise SystemExit('bye')\n",
    "gains_deep": "def gains(d, r):\n    return gains(d, r)\n",
    "fades_stop": "def fades(t, k, r):\n    raise StopIteration\n",
    "a_module_of_none": "module = None\n",
    "a_scheme_of_nothing": "import spfl\nmine = spfl.Scheme\n",
}
# Name of a data file or folder -> what is typed beside it.
LABEL = ["--set", "data.label_column=y"]
FILES: dict[str, list[str]] = {
    "fine.csv": LABEL,
    "twice.csv": LABEL,
    "text.csv": LABEL,
    "nulls.csv": LABEL,
    "one_column.csv": LABEL,
    "header.csv": LABEL,
    "ragged.csv": LABEL,
    "bytes.csv": LABEL,
    "empty.csv": LABEL,
    "far.csv": LABEL,
    "infinite.csv": LABEL,
    "quotes.csv": LABEL,
    "bom.csv": LABEL,
    "wide.csv": LABEL,
    "torn.parquet": LABEL,
    "fine.parquet": LABEL,
    "nested.parquet": LABEL,
    "dates.parquet": LABEL,
    "empty.parquet": LABEL,
    "book.txt": ["--set", "data.task=next_token", "--set", "data.partition=iid"],
    "bytes.txt": ["--set", "data.task=next_token"],
    "postscript": [],
    "torn_images": [],
    "bomb": [],
    "half": [],
    "twice": [],
    "text_images": [],
    "no_labels": [],
    "idx": [],
    "torn_idx": [],
    "forged_idx": [],
    "mixed": [],
    "sizes": [],
    "float_labels": [],
    "null_images": [],
}


def write_inputs(folder: Path) -> None:
    """Everything that a situation may name, in one folder that is copied for each."""
    _own_code(folder)
    _tables(folder)
    _images(folder)
    _idx(folder)
    (folder / "file").write_text("text\n")
    (folder / "bytes").write_bytes(bytes(range(256)) * 4)
    (folder / "empty_file").touch()
    (folder / "empty_folder").mkdir()
    (folder / "a.json").write_text(json.dumps({"a": [1, None]}))
    os.symlink("loop", folder / "loop")
    os.symlink("nowhere", folder / "dangling")
    (folder / "d.csv").write_text(
        "device,weight,power_dbm,gain_db,v2,vbar2,v_vbar,delta2\na,1,20,-100,1,1,0.9,0.1\nb,2,20,-110,1,1,0.5,0.1\n"
    )
    (folder / "s.toml").write_text(SWEEP)
    config, digits = load_config(None, SMALL), load_dataset("digits")
    from spfl.config.files import to_toml

    (folder / "c.toml").write_text(to_toml(config))
    run_experiment(config, digits, folder / "run")
    compare(config, ["sp_fl"], [0], digits, folder / "both")
    sweep(load_points(folder / "s.toml"), folder / "study", processes=1, keep_runs=True, source=folder / "s.toml")


def _own_code(folder: Path) -> None:
    for name, text in PLUGINS.items():
        (folder / f"{name}.py").write_text((BEGIN if name != "binary" else "") + text)
    for name, parts in (("networks", NETWORKS), ("datasets", DATASETS)):
        body = "".join(f"def {key}():\n    return {value}\n\n" for key, value in parts.items())
        (folder / f"{name}.py").write_text(BEGIN + "import spfl\n\n" + LATE + body)


def _tables(folder: Path) -> None:
    rows = [(0.1 * i, (i * 7) % 5, i % 3) for i in range(60)]
    text = "".join(f"{a},{b},{y}\n" for a, b, y in rows)
    one = "".join(f"{y}\n" for *_, y in rows)
    for name, content in {
        "fine": f"a,b,y\n{text}", "twice": f"a,a,y\n{text}", "text": f"a,b,y\n{text}x,y,z\n",
        "nulls": f"a,b,y\n{text},,\n",
        "one_column": f"y\n{one}", "header": "a,b,y\n", "ragged": f"a,b,y\n{text}1,2\n1,2,3,4\n",
        "empty": "", "bom": f"\ufeffa,b,y\n{text}",
        "far": f"a,b,y\n{text}" + "1,2,1000000000\n", "infinite": f"a,b,y\n{text}inf,1e999,1\n",
        "quotes": f'a,b,y\n{text}"1,2,3\n',
        "wide": ",".join(f"c{i}" for i in range(3000)) + ",y\n" + ("0," * 3000 + "1\n") * 9,
    }.items():  # fmt: skip
        (folder / f"{name}.csv").write_text(content)
    (folder / "bytes.csv").write_bytes(b"a,b,y\n\xff\xfe,\x00,1\n" * 9)
    (folder / "book.txt").write_text("the cat sat on the mat. " * 200)
    (folder / "bytes.txt").write_bytes(bytes(range(256)) * 20)
    table = pa.table({"a": [float(a) for a, *_ in rows], "b": [b for _, b, _ in rows], "y": [y for *_, y in rows]})
    pq.write_table(table, folder / "fine.parquet")
    pq.write_table(table.slice(0, 0), folder / "empty.parquet")
    (folder / "torn.parquet").write_bytes((folder / "fine.parquet").read_bytes()[:-30])
    pq.write_table(table.append_column("n", pa.array([{"x": [1, 2]}] * 60)), folder / "nested.parquet")
    pq.write_table(table.append_column("t", pa.array([0] * 60, pa.timestamp("s"))), folder / "dates.parquet")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def _png(side: int = 8, mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (side, side), 7).save(out, "PNG")
    return out.getvalue()


def _bomb() -> bytes:
    """A PNG that says it is of 60,000 x 60,000 pixels."""
    good = bytearray(_png())
    good[16:24] = struct.pack(">II", 60_000, 60_000)
    import zlib

    good[29:33] = struct.pack(">I", zlib.crc32(good[12:29]))
    return bytes(good)


def _images(folder: Path) -> None:
    def split(
        name: str,
        image: bytes | None,
        parts: tuple[str, ...],
        labels: list[object] | None = None,
        last: bytes | None = None,
    ) -> None:
        count = 40
        images = [{"bytes": image, "path": None}] * (count - 1) + [{"bytes": last or image, "path": None}]
        table = pa.table({"img": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
        if labels is None or labels:
            table = table.append_column("label", pa.array(labels or [i % 4 for i in range(count)]))
        (folder / name).mkdir()
        for part in parts:
            pq.write_table(table, folder / name / f"{part}.parquet")

    whole = ("train-00000-of-00001", "test-00000-of-00001")
    split("postscript", POSTSCRIPT, whole)
    split("torn_images", _png(), whole, last=_png()[:30])
    split("bomb", _bomb(), whole)
    split("half", _png(), ("train-00000-of-00002", "test-00000-of-00001"))
    split("twice", _png(), (*whole, "train-00000-of-00001 (1)"))
    split("text_images", b"no image", whole)
    split("no_labels", _png(), whole, labels=[])
    split("mixed", _png(), whole, last=_png(8, "RGB"))
    split("sizes", _png(), whole, last=_png(9))
    split("float_labels", _png(), whole, labels=[0.5] * 40)
    split("null_images", None, whole)


def _idx(folder: Path) -> None:
    images = struct.pack(">IIII", 2051, 40, 8, 8) + bytes(40 * 64)
    labels = struct.pack(">II", 2049, 40) + bytes(i % 4 for i in range(40))
    for name, body in {
        "idx": images,
        "torn_idx": images[:-100],
        "forged_idx": struct.pack(">IIII", 2051, 2**31, 2**15, 2**15) + bytes(9),
    }.items():
        (folder / name).mkdir()
        for part in ("train", "t10k"):
            (folder / name / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(body))
            (folder / name / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    assert np.frombuffer(labels, np.uint8)[8:].max() == 3
