"""A fair comparison from the command line: the same encoder, the same effort, and a table that was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Command

from benchmark.errors import UserError
from benchmark.facts import choose_recipe
from benchmark.leaderboards.controlled_comparison import comparisons
from benchmark.options import make_options
from benchmark.pipeline import run as pipeline
from benchmark.pipeline.controlled_comparison import FAIR, refusal, shared_conditions
from benchmark.pipeline.planning import make_plan
from benchmark.records.record import Record, read_record
from benchmark.registry import discover
from benchmark.training.job import Interrupted
from benchmark.weights.checkpoints import read_header

SMALL = "--dataset cirr --backbone tiny --batch-size 16 --epochs 2 --set encoders.epochs=1 --set encoders.batch_size=16".split()


def fair(command: Command, data: Path, *arguments: str) -> Any:
    return command("run", "--fair", *arguments, *SMALL, "--data-root", data)


def records(folder: Path) -> list[Record]:
    return [read_record(path) for path in sorted(folder.rglob("record.json"))]


def options(data: Path, method: str, encoder: str, **more: Any) -> Any:
    values = {"backbone": "tiny", "batch_size": 16, "epochs": 2, **more}
    return make_options(method=method, dataset="cirr", data_root=str(data), fair=encoder, **values)


def test_all_methods_of_a_comparison_share_one_stage_1_and_the_same_effort(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    outcome = fair(command, small_cirr, "finetuned", "--method", "sum", "clip4cir", "concat_clip", "--output", str(tmp_path / "out"))
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("encoders: training, recipe from-scratch, 1 epochs") == 1
    assert outcome.err.count("encoders: taking the encoder trained before") == 2
    made = {record.method: record for record in records(tmp_path / "out")}
    assert set(made) == {"sum", "clip4cir", "concat_clip"}
    artefacts = {record.identity.stages[0].artefact for record in made.values()}
    assert len(artefacts) == 1 and None not in artefacts
    heads = [made[name].identity.stages[1] for name in ("clip4cir", "concat_clip")]
    assert len({(head.triplets_seen, head.updates, head.settings["schedule"]) for head in heads}) == 1
    for name in ("clip4cir", "concat_clip"):
        told = made[name].identity
        assert (told.recipe, told.selection, told.batch_size, told.negative_group) == (FAIR, "heldout", 16, 16)
        assert len(made[name].trials) == 3 and sum(trial.chosen for trial in made[name].trials) == 1
        assert {trial.triplets_seen for trial in made[name].trials} == {told.stages[1].triplets_seen}
    assert made["sum"].trials == () and made["sum"].identity.tuning is None
    assert {record.cost.training_seconds["encoders"] for record in made.values() if record.cost} != {0.0}

    table = outcome.out[outcome.out.index("## Controlled comparison") :]
    assert "Encoder fine-tuned by one stage 1" in table and "Encoder untouched" not in table
    assert str(artefacts.pop())[:12] in table
    costs = table[table.index("FLOPs/pair") :]
    names = [line.split("|")[1].rstrip() for line in costs.splitlines() if line.startswith("| ")]
    assert [name[1:] for name in names if name[:3].strip()] == ["CLIP4Cir", "Concat + MLP on CLIP", "Sum"]
    # A name that is too long for its column goes on in the next line.
    words = " ".join(table.replace("|", " ").replace(",", " ").split())
    assert "nothing trained" in words and "CLIP4Cir trained at rate " in words
    assert table.rstrip("\n").splitlines()[-1].startswith("Demo, synthetic pictures: ")
    assert "TIRG: trains a ResNet" in table and "left out: " not in table


def test_the_chosen_rate_is_the_one_that_was_trained_and_saved(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    outcome = fair(command, small_cirr, "untouched", "--method", "concat_clip", "--output", str(tmp_path / "one"))
    assert outcome.status == 0, outcome.err
    (record,) = records(tmp_path / "one")
    (chosen,) = [trial.learning_rate for trial in record.trials if trial.chosen]
    assert record.identity.stages[0].settings["learning_rate"] == chosen
    header = read_header(tmp_path / "one" / "weights" / "selected.safetensors")
    assert header.training_settings["learning_rate"] == chosen
    assert not list((tmp_path / "one").glob("training-rate*"))
    log = json.loads((tmp_path / "one" / "training-log.json").read_text())
    best = max(trial.score for trial in record.trials if trial.score is not None)
    assert max(entry["score"] for entry in log) == best


def test_a_stopped_search_goes_on_where_it_was_and_gives_the_same(
    small_cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, **more: Any) -> Record:
        return pipeline.execute(make_plan(options(small_cirr, "concat_clip", "untouched", output=str(tmp_path / folder), **more)))

    whole = run("whole")
    trained, calls = pipeline.train, []

    def stopped(job: Any, resume: bool) -> Any:
        calls.append(job.folder.name)
        if len(calls) == 2:
            raise Interrupted("stopped")
        return trained(job, resume)

    monkeypatch.setattr(pipeline, "train", stopped)
    with pytest.raises(Interrupted):
        run("stopped")
    monkeypatch.setattr(pipeline, "train", trained)
    with pytest.raises(UserError, match="add --resume"):
        run("stopped")
    resumed = run("stopped", resume=True)
    assert calls == ["training-rate-1", "training-rate-2"]
    assert resumed.results == whole.results and resumed.identity == whole.identity
    assert [trial.score for trial in resumed.trials] == [trial.score for trial in whole.trials]


def test_a_comparison_overrides_what_recipes_decide_and_leaves_the_rest(small_cirr: Path) -> None:
    plan = make_plan(options(small_cirr, "spirit", "untouched", batch_size=None, epochs=None))
    own = discover().recipe("spirit", "cirr", "", "random")
    shared = choose_recipe(shared_conditions(), FAIR, "cirr", "", "random")
    settings = plan.last.settings
    assert [stage.stage.name for stage in plan.stages] == ["spirit"]
    assert settings.epochs == shared.settings["epochs"] and settings.batch_size == shared.settings["batch_size"]
    assert settings.learning_rate == own.settings["learning_rate"] and settings.optimiser == own.settings["optimiser"]
    assert plan.selection == "heldout" and plan.sweeps
    assert plan.last.recipe is not None and own.source in plan.last.recipe.source
    real = choose_recipe(shared_conditions(), FAIR, "fashion200k", "", "pretrained")
    assert real.settings["pair_sampling"] == "one-per-image"


def test_set_of_the_shared_stage_serves_both_encoders(small_cirr: Path) -> None:
    shared = {"encoders.epochs": 1}
    assert make_plan(options(small_cirr, "sum", "untouched", set=shared)).stages[0].stage.name == "sum"
    assert make_plan(options(small_cirr, "sum", "finetuned", set=shared)).stages[0].settings.epochs == 1
    with pytest.raises(UserError, match="unknown --set group 'encoder'"):
        make_plan(options(small_cirr, "sum", "untouched", set={"encoder.epochs": 1}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "tirg"], "tirg is not in this comparison: trains a ResNet"),
        (["--method", "sum", "--recipe", "paper"], "--fair fixes the recipe"),
        (["--method", "sum", "--selection", "last"], "add --selection heldout"),
        (["--method", "sum", "--set", "method.encoder=finetuned"], "--fair names the encoder"),
    ],
)
def test_what_would_make_it_unfair_is_refused(command: Command, small_cirr: Path, arguments: list[str], words: str) -> None:
    outcome = command("run", "--fair", "untouched", *arguments, "--dataset", "cirr", "--backbone", "tiny", "--data-root", small_cirr)
    assert outcome.status == 2
    assert words in outcome.err


def test_all_stands_for_the_methods_that_take_part(command: Command, small_cirr: Path) -> None:
    outcome = command("run", "--fair", "--method", "all", "--dry-run", *SMALL, "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    assert "TIRG on CLIP features" in outcome.out and "(tirg)" not in outcome.out and "(val)" not in outcome.out
    assert outcome.out.count("tuning     learning rate × 1, 0.333, 3") > 4


def test_every_method_without_a_common_encoder_says_why() -> None:
    registry = discover()
    for name, info in registry.methods().items():
        own = registry.specification(name).own_networks is not None
        assert bool(refusal(info, registry)) == (own or bool(info.outside_fair)), name
        assert not own or info.outside_fair, f"{name} brings its own networks and its file gives no reason"


def test_a_checkpoint_of_a_comparison_can_be_evaluated_and_does_not_pass_for_a_tuned_run(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    made = fair(command, small_cirr, "untouched", "--method", "concat_clip", "--output", str(tmp_path / "run"))
    assert made.status == 0, made.err
    outcome = command("evaluate", "--method", "concat_clip", "--checkpoint", tmp_path / "run", "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    run, evaluated = records(tmp_path / "run")
    assert evaluated.results[0].metrics == run.results[0].metrics
    assert (evaluated.identity.recipe, evaluated.trials) == (FAIR, ())
    (comparison,) = comparisons([run, evaluated])
    assert [reason for _, reason in comparison.left_out] == ["tuning none, not " + comparison.conditions["tuning"]]
