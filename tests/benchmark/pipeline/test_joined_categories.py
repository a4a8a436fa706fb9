"""A model for each category: runs on one alone, and one record made of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from command_line import Command

import benchmark
from benchmark.leaderboards.book import demo_refusals
from benchmark.options import make_options
from benchmark.pipeline.checkpoint_evaluation import plan_of as plan_of_header
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.run_folder import checked_weights
from benchmark.records.proof import prove
from benchmark.records.record import read_record
from benchmark.weights.checkpoints import read_header

CATEGORIES = ("dress", "shirt", "toptee")


@pytest.fixture(scope="module")
def small_fashioniq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fashioniq"
    write_demo("fashioniq", folder, Sizes(12, 6, 4, 6, 2, 3), workers=1)
    return folder


@pytest.fixture(scope="module")
def runs(small_fashioniq: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a sum on an encoder that nobody trained, by category ("": all): nothing but that is another in them."""
    folders = {category: tmp_path_factory.mktemp("runs") / "run" for category in ("", *CATEGORIES)}
    for category, folder in folders.items():
        benchmark.run(
            method="sum", dataset="fashioniq", data_root=str(small_fashioniq), backbone="tiny", weights="random",
            set={"method.encoder": "untouched"}, protocol=("original", "val-noref"), category=category,
            output=str(folder),
        )  # fmt: skip
    return folders


def test_the_joined_record_has_the_numbers_of_a_run_on_all(
    command: Command, runs: dict[str, Path], small_fashioniq: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "joined"
    outcome = command("join", *(runs[category] for category in reversed(CATEGORIES)), "--output", folder)
    assert outcome.status == 0, outcome.err
    joined, whole = read_record(folder), read_record(runs[""])
    assert joined.results == whole.results and not joined.weights
    assert not prove(folder, joined).faults and not demo_refusals(joined)
    assert "(a model for each category)" in " ".join(outcome.out.split())
    one = read_record(runs["dress"])
    assert {result.category for result in one.results} == {"dress"} and "`join` it" in demo_refusals(one)[0]
    assert command("compare", folder, runs[""]).status == 0
    again = command("run", "--from-record", folder)
    assert again.status == 2 and "join them again" in again.err
    # The weights of one are evaluated on its own category.
    header = read_header(checked_weights(runs["shirt"]))
    plan = plan_of_header(header, "fashioniq", {"data_root": str(small_fashioniq)})
    assert {task.key.category for task in plan.tasks} == {"shirt"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda raw: raw["identity"].update(seed=1), "seed 1, there 0"),
        (lambda raw: raw["identity"]["data"].update(fingerprint="77"), "data.fingerprint 77, there"),
        (lambda raw: raw["identity"]["method_settings"].update(encoder="other"), "encoder other, there untouched"),
        (lambda raw: raw["code"].update(version="0"), "code.version 0, there"),
        (lambda raw: raw["identity"]["category"].update(name="shirt"), "toptee is missing"),
        (lambda raw: raw["identity"].pop("category"), "not a run on one category"),
        (lambda raw: raw["results"].pop(), "columns"),
    ],
    ids=["seed", "data", "settings", "code", "missing", "whole", "protocols"],
)
def test_what_is_not_one_configuration_is_refused_in_a_line(
    command: Command, runs: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    other = shutil.copytree(runs["toptee"], tmp_path / "other") / "record.json"
    raw = json.loads(other.read_text(encoding="utf-8"))
    change(raw)
    other.write_text(json.dumps(raw), encoding="utf-8")
    outcome = command("join", runs["dress"], runs["shirt"], other.parent, "--output", tmp_path / "joined")
    assert outcome.status == 2 and told in outcome.err and not (tmp_path / "joined").exists()


def test_a_category_is_trained_on_alone_and_the_paper_s_recipe_is_told_as_it_trains(small_fashioniq: Path) -> None:
    def planned(method: str, category: str, **values: Any) -> Plan:
        options = make_options(
            method=method, dataset="fashioniq", data_root=str(small_fashioniq), category=category, **values
        )
        return make_plan(options)

    pretrained = {"backbone": "tiny", "weights": "any.pt"}
    for method, category, name in (
        ("dqu_cir", "dress", "paper"), ("dqu_cir", "", "adapted"), ("clip4cir", "dress", "adapted"),
        ("clip4cir", "", "paper"),
    ):  # fmt: skip
        recipe = planned(method, category, **pretrained).last.recipe
        assert recipe is not None and recipe.name == name, method
    whole, parts = planned("clip4cir", ""), [planned("clip4cir", category) for category in CATEGORIES]
    triplets = [plan.triplets(plan.last, frozenset())(0) for plan in parts]
    together = whole.triplets(whole.last, frozenset())(0)
    assert np.array_equal(np.concatenate([part.target_picture for part in triplets]), together.target_picture)
    assert [captions for part in triplets for captions in part.captions] == list(together.captions)
    assert len({json.dumps(plan.encoder_identity(plan.stages[0])) for plan in (whole, *parts)}) == 4
    assert len({plan.folder for plan in (whole, *parts)}) == 4
    assert {plan.dataset.fingerprint for plan in parts} == {whole.dataset.fingerprint}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--dataset", "cirr", "--category", "dress"), "cirr has no categories"),
        (("--dataset", "fashioniq", "--category", "dres"), "did you mean dress"),
        (("--dataset", "fashioniq", "--category", "dress", "--fair", "untouched"), "leave it out"),
    ],
)
def test_a_category_that_is_none_is_refused(
    command: Command, small_fashioniq: Path, small_cirr: Path, options: tuple[str, ...], told: str
) -> None:
    roots = ("--data-root", f"fashioniq={small_fashioniq}", "--data-root", f"cirr={small_cirr}")
    outcome = command("run", "--method", "clip4cir", *options, *roots, "--dry-run")
    assert outcome.status == 2 and told in outcome.err and len(outcome.errors) == 1
