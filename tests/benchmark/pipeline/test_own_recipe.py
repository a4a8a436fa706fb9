"""A user's own recipe, `--recipe FILE.toml`: of the form that methods' facts have, and traceable by its digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Command

from benchmark.errors import UserError
from benchmark.facts_file import read_own_recipes
from benchmark.files import file_digest
from benchmark.options import make_options
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.records.record import read_record
from benchmark.weights.checkpoints import read_header

OWN = """
[settings.mine]
batch_size = 12
learning_rate = 1e-3

[[recipe]]
stage = "combiner"
initialisation = "random"
extends = "mine"
settings = { epochs = 2 }
method = { dropout = 0.25 }

[[recipe]]
stage = "combiner"
dataset = "cirr"
initialisation = "random"
source = "tried on a Sunday"
extends = "mine"
settings = { epochs = 1, drawing = "any" }
method = { dropout = 0.1 }

[[recipe]]
stage = "combiner"
settings = { epochs = 7 }
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(OWN)
    return tmp_path / "mine.toml"


def plan_of(own: Path, data: Path, **options: object) -> Plan:
    chosen = {"method": "clip4cir", "dataset": "cirr", "data_root": data, "recipe": str(own), **options}
    return make_plan(make_options(**chosen))


def test_it_serves_its_stage_and_leaves_the_others(own: Path, small_cirr: Path) -> None:
    plan = plan_of(own, small_cirr)
    encoders, combiner = plan.stages
    assert encoders.recipe is not None and encoders.recipe.name == "from-scratch"
    assert combiner.recipe is not None
    assert (combiner.recipe.name, combiner.recipe.source) == ("mine.toml", "tried on a Sunday")
    told = combiner.settings
    assert (told.epochs, told.batch_size, told.learning_rate, told.pair_sampling) == (1, 12, 1e-3, "any")
    assert plan.method_settings.model_dump()["dropout"] == 0.1
    assert plan.plugins == {"mine.toml": file_digest(own)} == plan.identity["plugins"]
    assert plan_of(own, small_cirr, set={"combiner.epochs": 3}).last.settings.epochs == 3
    pretrained = plan_of(own, small_cirr, backbone="RN50x4")
    assert pretrained.last.settings.epochs == 7 and pretrained.stages[0].settings.epochs == 100


def test_a_run_by_it_can_be_traced_and_scored_without_it(
    command: Command, own: Path, small_cirr: Path, tmp_path: Path
) -> None:
    run = ("run", "--method", "clip4cir", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--recipe", own)
    told = command(*run, "--dry-run", "--set", "encoders.epochs=1")
    assert told.status == 0 and "combiner: recipe mine.toml (tried on a Sunday)" in told.out
    outcome = command(*run, "--set", "encoders.epochs=1", "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    record = read_record(tmp_path / "out")
    assert (record.identity.recipe, record.identity.plugins) == ("mine.toml", {"mine.toml": file_digest(own)})
    assert record.identity.recipe_source == "tried on a Sunday"
    weights = tmp_path / "out" / "weights" / "selected.safetensors"
    assert read_header(weights).recipe == "mine.toml"
    own.unlink()
    evaluate = ("evaluate", "--method", "clip4cir", "--checkpoint", tmp_path / "out", "--data-root", small_cirr)
    outcome = command(*evaluate, "--limit", 24)
    assert outcome.status == 0, outcome.err
    scored = read_record(tmp_path / "out" / "weights" / "evaluated-demo-cirr")
    assert scored.results[0].metrics == record.results[0].metrics
    assert scored.identity.recipe == "mine.toml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"mine.toml: holds no \[\[recipe\]\]"),
        ("[[method]]\nname = 'm'\n", "unknown table of a recipe file 'method': known: recipe, settings"),
        ("[[recipe]]\nstage = 'combiner'\nsetings = {}\n", r"\[\[recipe\]\] 1: unknown key 'setings': did you mean settings"),
        ("[[recipe]]\n", r"\[\[recipe\]\] 1: lacks stage"),
        ("recipe = 3\n", r"\[recipe\] must be written as \[\[recipe\]\]"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(text: str, problem: str, own: Path) -> None:
    own.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_own_recipes(own)
    assert len(str(caught.value).splitlines()) == 1


def test_one_that_fits_no_stage_or_has_a_wrong_setting_is_told(own: Path, small_cirr: Path) -> None:
    with pytest.raises(UserError, match=r"has recipes for combiner on \* .pretrained., .*trains the stages spirit"):
        plan_of(own, small_cirr, method="spirit", set={"method.encoder": "untouched"})
    own.write_text(OWN.replace("epochs = 1,", "epoch = 1,"))
    with pytest.raises(UserError, match="recipe mine.toml: unknown setting 'combiner.epoch': did you mean combiner.epochs"):
        plan_of(own, small_cirr)
    with pytest.raises(UserError, match="missing.toml: no such file"):
        plan_of(own.with_name("missing.toml"), small_cirr)
