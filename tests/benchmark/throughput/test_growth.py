"""Growth: exponents, the table and the picture, and the evaluator's memory."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.features.store import PictureFeatures
from benchmark.options import make_options
from benchmark.records.record import Record
from benchmark.throughput import growth
from benchmark.throughput.growth import measure_growth
from benchmark.throughput.growth_curves import FACTORS, PARTS, Curve, curves, draw_growth, exponent
from benchmark.throughput.tables import growth_table
from benchmark.throughput.timing import reset_peak_memory

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "record_version_1.json").read_text(encoding="utf-8"))
SIZES = tuple(64 * factor for factor in FACTORS)
LINEAR = Curve(PARTS["store"], SIZES, tuple(0.01 * n for n in SIZES), (10**6,) * 4)
SQUARE = Curve(PARTS["evaluator"], SIZES, tuple(1e-4 * n * n for n in SIZES), (0, 5, 6, 7))


def record_of(grown: list[Curve]) -> Record:
    raw = copy.deepcopy(GOLDEN)
    found = {name: m.model_dump() for part in grown for name, m in part.measurements().items()}
    raw |= {"schema_version": Record.model_fields["schema_version"].default, "kind": "throughput", "results": []}
    return Record.model_validate({**raw, "throughput": found})


def test_exponents_are_slopes_of_the_logarithms():
    assert LINEAR.exponents == (pytest.approx(1), pytest.approx(0))
    assert SQUARE.exponents[0] == pytest.approx(2)
    assert SQUARE.exponents[1] is None
    noisy = [n * f for n, f in zip(SIZES, (1.1, 0.9, 1.1, 0.9), strict=True)]
    assert 0.8 < (exponent(SIZES, noisy) or 0) < 1.1
    assert exponent([1], [1]) is None


def test_the_table_comes_from_the_record_alone():
    lines = growth_table(record_of([LINEAR, SQUARE])).splitlines()
    store = [cell.strip() for cell in lines[2].split("|")]
    assert store[2:9] == ["time, s", "0.64", "1.28", "2.56", "5.12", "1.00", "10 ms"]
    assert "64 to 512 pictures" in lines[3] and lines[3].rstrip(" |").endswith("0.00 kB")
    assert len(lines) == 6, "parts that were not measured have no line"


def test_a_record_gives_back_its_curves():
    for found, curve in zip(curves(record_of([LINEAR, SQUARE])), [LINEAR, SQUARE], strict=True):
        assert (found.sizes, found.seconds, found.bytes) == (curve.sizes, curve.seconds, curve.bytes)
        assert (found.part.name, found.part.unit, found.part.work) == (curve.part.name, curve.part.unit, curve.part.work)


def test_the_picture_shows_a_curve_for_every_part(tmp_path: Path):
    draw_growth(tmp_path / "growth.png", record_of([LINEAR, SQUARE]), "Growth of two parts")
    with Image.open(tmp_path / "growth.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0]) > 80
    orange = (pixels[..., 0] - pixels[..., 2]) > 80
    middle = pixels.shape[1] // 2
    for curve in (blue, orange):
        assert curve[:, :middle].sum() > 200 and curve[:, middle:].sum() > 200


def test_a_failing_process_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmark.throughput.growth.sys.executable", "/bin/false")
    with pytest.raises(UserError, match="leaderboard at 5 failed") as error:
        measure_growth(["leaderboard"], 5, make_options(method="sum", dataset="cirr"))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not reset_peak_memory(), reason="this system cannot forget a peak")
def test_the_evaluator_s_memory_is_bounded_whatever_the_gallery(monkeypatch: pytest.MonkeyPatch):
    """Far below a matrix of all scores: encodings, a few numbers a picture, some blocks."""
    queries, width, gallery = 1024, 16, 60_000
    monkeypatch.setattr(growth, "QUERIES", queries)
    monkeypatch.setattr(growth, "WIDTH", width)
    options = make_options(method="sum", dataset="cirr")
    _, held = growth.cost_of(growth.evaluate_gallery, gallery, options)
    assert held < gallery * 700 + 32 * 2**20 < queries * gallery * 4 / 3


def test_made_up_records_fill_a_leaderboard(tmp_path: Path):
    call = growth.make_leaderboard(7, make_options(method="sum", dataset="cirr"), tmp_path)
    (page,) = (text for path, text in call().items() if path.name == "cirr.md")
    assert page.count("| method-") == 3 and "0, 1, 2" in page


def test_store_and_training_do_the_work_that_they_count(small_cirr: Path, tmp_path: Path):
    options = make_options(method="spirit", dataset="cirr", data_root=str(small_cirr), backbone="tiny", limit=24)
    (tmp_path / "store").mkdir()
    features = growth.fill_store(5, options, tmp_path / "store")()
    assert isinstance(features, PictureFeatures)
    assert features.views["global"].shape == (5, 64) and features.views["patches"].shape == (5, 13, 64)
    (tmp_path / "training").mkdir()
    growth.train_an_epoch(24, options, tmp_path / "training")()
    assert (tmp_path / "training" / "patches.rows").stat().st_size == 24 * 13 * 64 * 4
