"""Figures: what they show, read back from the drawn lines."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spfl.config.files import to_toml
from spfl.config.schema import build_config
from spfl.errors import RunFolderError
from spfl.figures.curves import importance_figure, score_figure
from spfl.figures.looks import COLOURS, KNOWN
from spfl.figures.saving import save_figure
from spfl.runs.experiment import run_experiment
from spfl.runs.results import ScoreCurve, read_curves, read_importance


def write_run(folder, accuracies, tail="", **sections):
    """A run folder with evaluations every second round."""
    folder.mkdir(parents=True)
    seed = sections.pop("seed", 0)
    (folder / "config.toml").write_text(to_toml(build_config({"seed": seed, **sections})))
    rounds = [{"round": r, "test_accuracy": accuracies[r // 2 - 1] if r % 2 == 0 else None}
              for r in range(1, 2 * len(accuracies) + 1)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds) + tail)
    return folder


def test_seeds_of_one_configuration_make_one_curve(tmp_path):
    a = write_run(tmp_path / "a", [0.1, 0.2, 0.3])
    b = write_run(tmp_path / "b", [0.3, 0.4, 0.5], seed=1, workers=2)
    other = write_run(tmp_path / "c", [0.9, 0.9, 0.9], scheme={"name": "error_free"})
    first, second = read_curves([a, other, b])
    assert (first.label, second.label) == ("sp_fl", "error_free")
    np.testing.assert_array_equal(first.rounds, [2, 4, 6])
    np.testing.assert_array_equal(first.score, [[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]])
    assert second.score.shape == (1, 3)


def test_labels_tell_what_differs(tmp_path):
    a = write_run(tmp_path / "a", [0.1], training={"rate": 0.1})
    b = write_run(tmp_path / "b", [0.1], training={"rate": 0.2})
    assert [curve.label for curve in read_curves([a, b])] == [
        "sp_fl (training.rate = 0.1)",
        "sp_fl (training.rate = 0.2)",
    ]


def test_curves_along_what_was_spent(tmp_path):
    """Rounds are evaluated every second; seeds are averaged."""
    a = write_run(tmp_path / "a", [0.1, 0.2, 0.3])
    b = write_run(tmp_path / "b", [0.3, 0.4, 0.5], seed=1)
    for folder, each in ((a, 1.0), (b, 3.0)):
        rows = [json.loads(line) | {"joules": each} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (curve,) = read_curves([a, b], "joules")
    np.testing.assert_allclose(curve.spent, 2.0 * curve.rounds)
    axes = score_figure([curve], along="joules").axes[0]
    assert axes.get_xlabel() == "Energy of all devices (J)"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), curve.spent)


def test_an_unfinished_run_shortens_the_curve(tmp_path):
    a = write_run(tmp_path / "a", [0.1, 0.2, 0.3])
    b = write_run(tmp_path / "b", [0.2], seed=1, tail='{"round": 3, "test_acc')
    (curve,) = read_curves([a, b])
    np.testing.assert_array_equal(curve.score, [[0.1], [0.2]])


def test_folders_that_cannot_be_drawn(tmp_path):
    with pytest.raises(RunFolderError, match="is not a run folder"):
        read_curves([tmp_path])
    with pytest.raises(RunFolderError, match="empty has no evaluation yet"):
        read_curves([write_run(tmp_path / "a", [0.1]), write_run(tmp_path / "empty", [], seed=1)])
    damaged = write_run(tmp_path / "damaged", [0.1])
    (damaged / "metrics.jsonl").write_text("{\n")
    with pytest.raises(RunFolderError, match=r"damaged/metrics.jsonl cannot be read"):
        read_curves([damaged])


def curves():
    rounds = np.arange(5, 105, 5)
    rng = np.random.default_rng(0)
    return [
        ScoreCurve("a", rounds, np.sort(rng.random((3, 20)), axis=1)),
        ScoreCurve("b", rounds, np.sort(rng.random((1, 20)), axis=1)),
    ]


def test_lines_and_bands_are_the_data():
    figure = score_figure(curves(), "title")
    (axes,) = figure.axes
    for line, curve in zip(axes.lines, curves(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.rounds)
        np.testing.assert_array_equal(line.get_ydata(), curve.score.mean(0))
    (band,) = axes.collections  # one seed has no band
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == curves()[0].score.min()
    assert heights.max() == curves()[0].score.max()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert legend.get_title().get_text() == "mean, lowest and highest, n = 1 to 3"
    assert axes.get_xlabel() == "Communication round"
    assert axes.get_ylabel() == "Test accuracy (%)"
    assert axes.get_title() == "title"


def test_the_first_curves_differ_in_colour_dash_and_marker():
    many = [ScoreCurve(name, np.arange(3), np.zeros((1, 3))) for name in KNOWN[: len(COLOURS)]]
    lines = score_figure(many).axes[0].lines
    assert len({line.get_color() for line in lines}) == len(COLOURS)
    assert len({line.get_marker() for line in lines}) == len(COLOURS)
    assert all(a.get_linestyle() != b.get_linestyle() for a, b in pairwise(lines))


@pytest.mark.parametrize(("name", "magic"), [("f.png", b"\x89PNG"), ("f.pdf", b"%PDF"), ("deep/f.svg", b"<?xml")])
def test_formats(tmp_path, name, magic):
    save_figure(score_figure(curves()), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_unknown_format(tmp_path):
    with pytest.raises(RunFolderError, match=r"f\.xyz cannot be written"):
        save_figure(score_figure(curves()), tmp_path / "f.xyz")
    assert not list(tmp_path.iterdir())


# --- by importance ------------------------------------------------------------------------------------------


def write_allocation(folder, **columns):
    pq.write_table(pa.table(columns), folder / "allocation.parquet")
    return folder


def test_devices_are_grouped_by_importance_within_their_round(tmp_path):
    """Two rounds of four devices, whose ranks change from round to round; values by hand."""
    run = write_allocation(
        write_run(tmp_path / "a", [0.5]),
        round=[1] * 4 + [2] * 4,
        weight=[0.25] * 4 + [0.1, 0.2, 0.3, 0.4],
        gradient_norm=[4.0, 3.0, 2.0, 1.0] + [1.0] * 4,
        beta=[0.4, 0.3, 0.2, 0.1] * 2,
        sign=[True, True, False, False, False, True, True, True],
        modulus=[True, False, True, False, False, False, False, True],
    )
    (found,) = read_importance([run], groups=2)
    np.testing.assert_allclose(found.share, [4 * (0.1 + 0.2 + 0.4 + 0.3) / 4, 4 * (0.4 + 0.3 + 0.2 + 0.1) / 4])
    np.testing.assert_allclose(found.signs, [1 / 4, 4 / 4])
    np.testing.assert_allclose(found.moduli, [0, 2 / 4])  # a modulus without its sign is not used
    low, middle, high = importance_figure([found]).axes
    np.testing.assert_allclose(middle.lines[0].get_ydata(), 100 * found.signs)
    np.testing.assert_allclose(low.lines[0].get_xdata(), [25, 75])
    assert "Moduli" in high.get_ylabel()


def test_a_run_without_importance_is_refused(tmp_path):
    run = write_run(tmp_path / "a", [0.5])
    with pytest.raises(RunFolderError, match="has no allocations by importance"):
        read_importance([run])
    write_allocation(run, round=[1], beta=[1.0])
    with pytest.raises(RunFolderError, match="has no allocations by importance"):
        read_importance([run])


def test_importance_of_a_real_run(small_config, digits, tmp_path):
    run_experiment(small_config(scheme={"name": "sp_fl_plus_1"}), digits, tmp_path / "run")
    (found,) = read_importance([tmp_path / "run"])
    assert found.share.size == 5
    assert (found.moduli <= found.signs).all()
    table = pq.read_table(tmp_path / "run" / "allocation.parquet")
    assert sum(table["weight"].to_pylist()[:6]) == pytest.approx(1.0)
