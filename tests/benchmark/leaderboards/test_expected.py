"""Bands: which row a run is held against, how wide its band is, and on which side of it a number lies."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest

from benchmark.dataset import TaskKey
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.errors import UserError
from benchmark.leaderboards.expected import Verdict, band_lines, read_expected, with_bands
from benchmark.leaderboards.other_protocols import render_other_protocols
from benchmark.leaderboards.published import read_published
from benchmark.records.record import Record, read_record
from benchmark.records.rows import Cell, Row
from benchmark.records.tables import Table, tables
from benchmark.registry import discover

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")
RESULTS = Path(__file__).parents[3] / "results"
NUMBERS = read_published(RESULTS / "published.csv")
EXPECTED = read_expected(RESULTS / "expected.toml", NUMBERS)
SPIRIT = {("average", "R@10"): 43.88, ("average", "R@50"): 67.20, ("dress", "R@10"): 39.86}


def run(
    average: float, seed: int = 0, weights_from: str = "selected", encoder: str = "RN50x4", **identity: Any
) -> Record:
    raw = copy.deepcopy(GOLDEN)
    raw["identity"]["data"].update(name="fashioniq", label="fashioniq", is_demo=False, is_official=True)
    raw["identity"]["encoder"]["name"] = encoder
    raw["identity"].update({"recipe": "paper", "seed": seed, "variant": "", "limit": None, **identity})
    usual = {**raw["results"][0], "dataset": "fashioniq", "protocol": "original", "text_mode": "joined", "ties": 0}
    usual |= {"weights_from": weights_from, "queries": 2017, "texts_cut": 0}
    raw["results"] = [
        {**usual, "category": "dress", "metrics": {"R@10": 39.0}, "intervals": {"R@10": [37.0, 41.0]}},
        {**usual, "category": "average", "metrics": {"R@10": average}, "intervals": {}},
    ]
    return Record.model_validate(raw)


def banded(*records: Record) -> Table:
    (table,) = tables(records)
    assert EXPECTED is not None
    return with_bands(table, NUMBERS, EXPECTED)


def test_a_paper_s_recipe_is_held_against_its_row_and_others_are_not() -> None:
    table = banded(run(44.30))
    assert table.rows[0].below == (("from the paper", {("dress", "R@10"): "-0.86", ("average", "R@10"): "+0.42"}),)
    told = "\n".join(table.notes)
    assert "average R@10 44.30, SPIRIT [CLIP RN50x4] prints 43.88: +0.42, inside ± 0.60 (trained here" in told
    # Half an interval of 2.0 is 1.96 standard errors.
    assert "dress R@10 39.00, SPIRIT [CLIP RN50x4] prints 39.86: -0.86, inside ± 2.04 (two of its own" in told
    for record in (
        run(44.30, encoder="ViT-L-14"), run(44.30, recipe="one-gpu"), run(44.30, limit=9), run(44.30, variant="no-patches"), run(44.30, weights_from="last"),
        run(44.30, data={**GOLDEN["identity"]["data"], "name": "fashioniq", "label": "fashioniq"}),
    ):  # fmt: skip
        assert banded(record).rows[0].below == () and banded(record).notes == ()


def test_every_method_with_its_paper_s_recipe_is_held_against_a_row_on_a_backbone_that_there_is() -> None:
    assert EXPECTED is not None
    registry, held = discover(), {recipe.method for recipe in EXPECTED.recipe}
    stages = {recipe.stage for recipe in registry.recipes() if recipe.name == "paper"}
    # Of Slerp no row with a source is at hand; the others train on pictures or lines that are the user's to give, so that
    # the recipe alone does not make a run the paper's.
    elsewhere = {"slerp", "pic2word", "searle", "lincir"}
    assert held <= set(registry.methods()) and {name for name in registry.methods() if name in stages} - held == elsewhere
    known = {*BACKBONES, *open_clip.list_models()}
    assert {recipe.encoder for recipe in EXPECTED.recipe if recipe.encoder} <= known


def test_outside_of_a_band_is_told_with_how_much() -> None:
    table = banded(run(45.00))
    assert table.rows[0].below[0][1]["average", "R@10"] == "+1.12!"
    assert any("outside by 0.52 ± 0.60" in note for note in table.notes)
    imported = banded(run(44.00, weights_from="imported", recipe=""))
    assert any("average R@10 44.00" in note and "outside by 0.02 ± 0.10 (imported weights)" in note for note in imported.notes)


@pytest.mark.parametrize(("gap", "outside"), [(0.6, 0.0), (-0.6, 0.0), (0.61, 0.01), (-1.0, 0.4)])
def test_the_edge_belongs_to_the_band(gap: float, outside: float) -> None:
    verdict = Verdict(("", "R@1"), "P", 40.0, 40.0 + gap, 0.6, "x")
    assert verdict.outside == pytest.approx(outside, abs=1e-6)


def test_seeds_further_from_their_mean_than_seeds_are_is_said() -> None:
    near, far = banded(run(43.5, 0), run(44.3, 1)), banded(run(43.4, 0), run(44.3, 1))
    assert not any("seeds lie further" in note for note in near.notes)
    assert any("seeds lie further from their mean than ± 0.40: average R@10 0.45" in note for note in far.notes)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[tolerance]\nimported = 0.1\nfashioniq_average = 0.6\n', "between_seeds"),
        ('[[recipe]]\nmethod = "spirit"\n', "tolerance"),
        ('[[recipe]]\nmethod = "spirit"\npublished = "SPIRITT"\nbackbone = "CLIP RN50x4"\n', "'SPIRITT' [CLIP RN50x4] is no row"),
        ("x", "expected.toml"),
    ],
)
def test_a_file_of_bands_that_cannot_be_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    if "SPIRITT" in text:
        text = "[tolerance]\nimported = 1.0\nfashioniq_average = 1.0\nbetween_seeds = 1.0\n" + text
    (tmp_path / "expected.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_expected(tmp_path / "expected.toml", NUMBERS)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_run_says_it_and_a_demo_run_does_not(tmp_path: Path) -> None:
    lines = band_lines(run(44.30), RESULTS)
    assert len(lines) == 2 and all(line.startswith("expected: ") for line in lines)
    assert band_lines(Record.model_validate(GOLDEN), RESULTS) == [] and band_lines(run(44.3), tmp_path) == []


def test_models_under_several_protocols_stand_with_the_differences() -> None:
    def table(protocol: str, mode: str, value: float, name: str = "M") -> Table:
        row = Row(name, f"CNN, {protocol}", {("average", "R@10"): Cell(f"{value:.2f}", value)}, published={"encoder": "CNN"})
        return Table(TaskKey("fashioniq", "val", protocol, mode), "", (row,))

    info = discover().datasets()["fashioniq"]
    found = [table("val", "joined", 41.98), table("original", "joined", 34.53), table("val", "joined", 9.0, "Once")]
    page = render_other_protocols({"fashioniq": (info, found)})
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert "### M [CNN]" in page and "Once" not in page
    assert "val · original · joined" in lines[2] and "34.53" in lines[2], "the dataset's own protocol first"
    assert "difference" in lines[4] and "+7.45" in lines[4]
    assert "No model stands" in render_other_protocols({"fashioniq": (info, found[2:])})
    committed = (RESULTS / "leaderboard" / "same-model-other-protocol.md").read_text(encoding="utf-8")
    assert "### DQU-CIR [CLIP ViT-H/14]" in committed and "+6.64" in committed
