"""A dataset without triplets is trained on those of another one: as a run on that one would, and told so everywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.datasets.demo.circo import CircoSizes
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from command_line import Command

import benchmark
from benchmark.data.annotated import MANIFEST
from benchmark.data.trained_elsewhere import TrainedElsewhere, stored_as, training_of
from benchmark.dataset import Ragged
from benchmark.errors import UserError
from benchmark.leaderboards.composition import composition_faults
from benchmark.options import make_options
from benchmark.pipeline.dry_run import describe
from benchmark.pipeline.encoder_artefact import EncoderArtefact
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planned_features import planned_features
from benchmark.pipeline.planning import make_plan
from benchmark.records.proof import prove
from benchmark.records.record import read_per_query, read_record, seedless_identity, write_record
from benchmark.records.tables import run_table
from benchmark.structured_files import read_json
from benchmark.training.selection import is_heldout_reference
from benchmark.weights.checkpoints import read_header

SMALL = {"backbone": "tiny", "weights": "random", "epochs": 1, "batch_size": 24}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, small_cirr: Path) -> dict[str, str]:
    circo = tmp_path_factory.mktemp("data") / "CIRCO"
    write_demo("circo", circo, CircoSizes(8, 3, 2, 1, 45), workers=1)
    return {"circo": str(circo), "cirr": str(small_cirr)}


def plan_of(method: str, dataset: str, roots: dict[str, str], **values: Any) -> Plan:
    return make_plan(make_options(method=method, dataset=dataset, data_root=roots, **{**SMALL, **values}))


def test_training_is_that_of_the_other_dataset_to_the_last_setting(roots: dict[str, str]) -> None:
    here, there = plan_of("clip4cir", "circo", roots), plan_of("clip4cir", "cirr", roots)
    assert [stage.settings for stage in here.stages] == [stage.settings for stage in there.stages]
    assert [stage.recipe for stage in here.stages] == [stage.recipe for stage in there.stages]
    # An encoder is one artefact, whatever is evaluated with it.
    assert [here.encoder_identity(stage) for stage in here.stages] == [there.encoder_identity(s) for s in there.stages]
    assert [task.key.dataset for task in here.tasks] == ["demo-circo"] * 2
    assert here.configuration != there.configuration and here.configuration["training data"] == {
        "name": "cirr", "label": "demo-cirr", "fingerprint": there.dataset.fingerprint,
    }  # fmt: skip
    assert isinstance(here.dataset, TrainedElsewhere) and training_of(there.dataset) is there.dataset
    names, others = here.dataset.pictures.names, there.dataset.pictures.names
    ours, theirs = (plan.triplets(plan.last, frozenset())(3) for plan in (here, there))
    assert [names[i] for i in ours.reference_picture] == [others[i] for i in theirs.reference_picture]
    assert [names[i] for i in ours.target_picture] == [others[i] for i in theirs.target_picture]
    assert ours.captions == theirs.captions and here.dataset.training_texts() == there.dataset.training_texts()
    for split in ("train", "training-val"):
        named, name = stored_as(here.dataset, split)
        assert (named.label, name) == ("demo-cirr", split.removeprefix("training-"))
        pictures = there.dataset.split_pictures(name)
        assert [names[i] for i in here.dataset.split_pictures(split)] == [others[i] for i in pictures]
    assert stored_as(here.dataset, "val") == (here.dataset, "val")
    (ours_picking,), (picking,) = here.selection_tasks, there.selection_tasks
    assert [names[i] for i in ours_picking.gallery] == [others[i] for i in picking.gallery]
    assert [names[i] for i in ours_picking.queries.reference_picture] == [
        others[i] for i in picking.queries.reference_picture
    ]
    assert np.array_equal(ours_picking.queries.reference_in_gallery, picking.queries.reference_in_gallery)
    assert here.selection_note == "best epoch on the evaluation split of demo-cirr"
    assert here.picture_splits == ("val", "training-val", "train") and there.picture_splits == ("val", "train")


def test_held_out_triplets_and_noise_are_the_other_dataset_s(roots: dict[str, str]) -> None:
    here, there = (plan_of("tirg_clip", name, roots, selection="heldout", noise=0.5) for name in ("circo", "cirr"))
    assert here.noise is not None and here.noise == there.noise
    (ours,), (theirs,) = here.selection_tasks, there.selection_tasks
    assert str(ours.key) == str(theirs.key) and ours.queries.texts == theirs.queries.texts
    names = here.dataset.pictures.names
    assert all(is_heldout_reference(names[i]) for i in ours.queries.reference_picture)
    assert here.encoder_identity(here.last) == there.encoder_identity(there.last)


@pytest.mark.parametrize("method", ["pic2word", "searle", "lincir"])
def test_rows_of_demo_data_are_named_after_the_dataset_that_they_are_of(method: str, roots: dict[str, str]) -> None:
    here, there = (plan_of(method, name, roots, set={"method.encoder": "untouched"}) for name in ("circo", "cirr"))
    assert here.is_zero_shot and dict(here.training_files) == dict(there.training_files) != {}


def test_what_is_chosen_on_held_out_triplets_is_not_zero_shot(roots: dict[str, str]) -> None:
    chosen = {"method.encoder": "untouched"}
    asked, paper = (plan_of("pic2word", "cirr", roots, selection=name, set=chosen, noise=0.5) for name in ("heldout", "paper"))
    assert paper.is_zero_shot and paper.noise is None and paper.picture_splits == ("val",)
    assert not asked.is_zero_shot and asked.noise is not None and asked.picture_splits == ("val", "train")


def test_the_text_mode_is_that_of_the_evaluated_queries_alone(roots: dict[str, str]) -> None:
    plan = plan_of("tirg_clip", "circo", roots, text_mode="with-concept")
    assert {task.key.text_mode for task in plan.tasks} == {"with-concept-magiclens"} and plan.rule.name == "with-concept"
    assert plan.last.settings.text_rule == plan_of("tirg_clip", "cirr", roots).last.settings.text_rule
    assert [task.key.text_mode for task in plan.selection_tasks] == ["single"]


def test_what_sees_no_other_dataset_s_triplet_is_asked_in_the_text_mode_that_is_named(roots: dict[str, str]) -> None:
    for method, encoder in (("sum", "untouched"), ("sum", "finetuned"), ("slerp", "untouched"), ("pic2word", "untouched")):
        plan = plan_of(method, "circo", roots, text_mode="with-concept", set={"method.encoder": encoder})
        assert {task.key.text_mode for task in plan.tasks} == {"with-concept-magiclens"}, (method, encoder)
        assert plan.tasks[0].queries.texts[0].startswith("find ") and plan.rule.name == "with-concept"
        # An epoch is picked by CIRR's queries, which have no concept, in the demo of what trains on rows of its own, too.
        assert {task.key.text_mode for task in plan.selection_tasks if plan.trained_on} <= {"single"}
        asked = plan_of(method, "circo", roots, set={"method.encoder": encoder})
        assert plan.configuration != asked.configuration and asked.rule.name == "as-is"
        # The tuned encoder is the same one.
        assert [plan.encoder_identity(s) for s in plan.stages[:-1]] == [asked.encoder_identity(s) for s in asked.stages[:-1]]


def test_released_files_of_both_datasets_are_named_and_an_artefact_depends_on_its_own(
    roots: dict[str, str], tmp_path: Path
) -> None:
    write_demo("fashioniq", tmp_path / "fashioniq", Sizes(1, 2, 1, 2, 1, 1), workers=1)
    both = {**roots, "fashioniq": str(tmp_path / "fashioniq")}
    trained = plan_of("dqu_cir", "cirr", both)
    asked = plan_of("dqu_cir", "fashioniq", both, train_dataset="cirr", text_mode="corrected")
    assert asked.dictionaries.keys() == {f"correction_dict_{c}.json" for c in ("dress", "shirt", "toptee")}
    # The evaluated queries show words on their references, and have no caption of these in their text.
    assert {"keywords_in_mods_dress.json", *trained.side_texts} <= asked.side_texts.keys()
    assert not [file for file in asked.side_texts if file.startswith("image_captions_dress")]
    assert [asked.encoder_identity(s) for s in asked.stages] == [trained.encoder_identity(s) for s in trained.stages]
    other = next((tmp_path / "fashioniq").rglob("correction_dict_dress.json"))
    other.write_text('{"is": "was"}')
    changed = plan_of("dqu_cir", "fashioniq", both, train_dataset="cirr", text_mode="corrected")
    assert changed.configuration != asked.configuration


def test_what_trains_nothing_needs_no_other_dataset(roots: dict[str, str], tmp_path: Path) -> None:
    alone = {"circo": roots["circo"]}
    untouched = {"set": {"method.encoder": "untouched"}}
    plan = plan_of("sum", "circo", alone, **untouched)
    assert plan.trained_on == {} and "training data" not in plan.configuration
    with pytest.raises(UserError, match=r"names a folder for circo alone; add cirr=PATH, or ask for --demo"):
        plan_of("tirg_clip", "circo", alone)
    for name, told in (("circo", "has no training triplets; name one that has, cirr"), ("cir", "did you mean cirr")):
        with pytest.raises(UserError, match=told):
            plan_of("tirg_clip", "circo", roots, train_dataset=name)
    # What has triplets may be trained on others' as well, and says so; its own are no others'.
    assert plan_of("tirg_clip", "cirr", roots, train_dataset="cirr").trained_on == {}


def test_pictures_that_nobody_labelled_need_no_other_dataset_s(roots: dict[str, str], tmp_path: Path) -> None:
    """Of somebody's own data: what is drawn stands in for such pictures in the demo."""
    own = tmp_path / "own"
    shutil.copytree(roots["circo"], own)
    manifest = read_json(own / MANIFEST)
    (own / MANIFEST).write_text(json.dumps({**manifest, "name": "own", "drawn": False}))
    chosen = {"method.encoder": "untouched", "method.pictures": str(own)}
    plan = plan_of("pic2word", "circo", {"circo": str(own)}, set=chosen, cache=str(tmp_path))
    assert plan.is_zero_shot and plan.picture_splits == ("val",)
    with pytest.raises(UserError, match="has no training triplets"):
        _ = replace(plan, options=plan.options.model_copy(update={"selection": "heldout"})).selection_tasks
    told = describe(plan)
    assert "rows in place of triplets" in told and "           memory " in told and "features   train, " in told


def test_a_run_and_its_checkpoint_say_what_was_trained_on(
    roots: dict[str, str], tmp_path: Path, command: Command
) -> None:
    values: dict[str, Any] = {**SMALL, "data_root": roots, "cache": str(tmp_path / "cache"), "text_mode": "single"}
    values["set"] = {"method.encoder": "untouched"}
    record = benchmark.run("tirg_clip", "circo", output=str(tmp_path / "run"), **values)
    data = record.identity.training_data
    assert data is not None and (data.name, data.label) == ("cirr", "demo-cirr")
    assert seedless_identity(record)["training_data"]["name"] == "cirr"
    assert "trained on: demo-cirr" in " ".join(run_table(record).split())
    header = read_header(tmp_path / "run" / "weights" / "selected.safetensors")
    assert header.dataset == "circo" and header.trained_on == data.model_dump()
    kept = {folder.name.rpartition("-")[0] for folder in (tmp_path / "cache" / "features").rglob("demo_*")}
    assert kept == {"demo_circo-val", "demo_cirr-train", "demo_cirr-val"}  # as a run on CIRR would keep them
    plan = plan_of("tirg_clip", "circo", roots, set=values["set"])
    planned = planned_features(plan, plan.backbone_family.outline(plan.backbone_choice))
    named = [(stored_as(plan.dataset, part.split), part) for part in planned]
    assert [f"{dataset.label}-{split}".replace("-", "_", 1) for (dataset, split), _ in named] == [
        "demo_circo-val", "demo_cirr-train", "demo_cirr-val"
    ]  # fmt: skip
    options = [part for name, path in roots.items() for part in ("--data-root", f"{name}={path}")]
    shown = command("evaluate", "--method", "tirg_clip", "--checkpoint", tmp_path / "run", *options[:2], "--output", tmp_path / "again")
    assert shown.status == 0, shown.err
    again = read_record(tmp_path / "again")
    assert again.identity.training_data == data
    assert [r.metrics for r in again.results] == [r.metrics for r in record.results if r.weights_from == "selected"]
    # Weights of a run on CIRR, asked CIRCO, are the same weights.
    other = benchmark.run("tirg_clip", "cirr", output=str(tmp_path / "cirr"), **values)
    assert other.identity.training_data is None
    shown = command("evaluate", "--method", "tirg_clip", "--checkpoint", tmp_path / "cirr", "--dataset", "circo", *options[:2],
                    "--output", tmp_path / "asked")  # fmt: skip
    assert shown.status == 0, shown.err
    asked = read_record(tmp_path / "asked")
    assert asked.identity.training_data is not None and asked.identity.training_data.name == "cirr"
    assert [r.metrics for r in asked.results] == [r.metrics for r in again.results]
    assert asdict(header)["training_settings"] == read_header(
        tmp_path / "cirr" / "weights" / "selected.safetensors"
    ).training_settings


def test_a_controlled_comparison_of_what_trains_elsewhere_and_what_trains_nothing(
    roots: dict[str, str], tmp_path: Path, command: Command
) -> None:
    """One method is trained on CIRR's triplets and chosen on those held out; the others see no triplet at all."""
    data = [part for name, path in roots.items() for part in ("--data-root", f"{name}={path}")]
    asked = ("--dataset", "circo", *data, "--backbone", "tiny", "--weights", "random", "--epochs", 1, "--batch-size", 16)
    outcome = command("run", "--fair", "untouched", "--method", "concat_clip", "sum", "image_only", *asked, "--output", tmp_path)
    assert outcome.status == 0, outcome.err
    made = {path.parent.parent.name: read_record(path) for path in tmp_path.rglob("record.json")}
    trained, alone = made["concat_clip"].identity, made["sum"].identity
    assert trained.training_data is not None and trained.training_data.name == "cirr" and trained.selection == "heldout"
    assert alone.training_data is None and alone.zero_shot and made["sum"].trials == () and len(made["concat_clip"].trials) == 3
    table = outcome.out[outcome.out.index("## Controlled comparison") :]
    heads = [cell.strip() for cell in next(line for line in table.splitlines() if line.startswith("| method")).split("|")]
    assert heads[2:-1] == [f"{kind}@{k}" for kind in ("mAP", "Rt") for k in (5, 10, 25, 50)]
    told = " ".join(table.split())
    assert "demo-circo · val · official · single" in table and "left out: " not in told and "nothing trained" in told
    assert f"; trained on demo-cirr {trained.training_data.fingerprint[:12]}; epochs 1;" in told
    assert "trained on: demo-cirr (Concat + MLP on CLIP features); all others none" in told
    # The places of all positives by one modality are those that its own run finds; gaps of mAP follow from them.
    queries = {name: read_per_query(tmp_path / "circo" / name / "seed-0", record)[0] for name, record in made.items()}
    (picture, own), result = (queries["image_only"], queries["sum"]), made["sum"].results[0]
    assert own.picture_positive_ranks is not None and picture.positive_ranks is not None
    assert np.array_equal(own.picture_positive_ranks.values, picture.positive_ranks.values)
    precision, better = result.composition["mAP@10"], made["image_only"].results[0].metrics["mAP@10"]
    assert precision.picture == pytest.approx(better, abs=1e-5) and precision.composed is None
    proof = prove(tmp_path / "circo" / "sum" / "seed-0", made["sum"])
    assert proof.faults == () and list(composition_faults(made["sum"], proof.ranks)) == []
    changed = {**result.composition, "mAP@10": precision.model_copy(update={"union": precision.union + 1})}
    wrong = made["sum"].model_copy(update={"results": (result.model_copy(update={"composition": changed}),)})
    (fault,) = composition_faults(wrong, proof.ranks)
    assert "'union' of the composition of mAP@10" in fault
    moved = replace(own, picture_positive_ranks=Ragged(picture.positive_ranks.offsets, picture.positive_ranks.values + 1))
    (tmp_path / "moved").mkdir()
    plain = made["sum"].model_copy(update={"files": {}, "weights": {}})
    faults = prove(tmp_path / "moved", write_record(tmp_path / "moved", plain, {**proof.ranks, 0: moved})).faults
    assert any("places by picture are not its ranks by picture" in fault for fault in faults)


def test_what_a_dataset_cannot_have_is_left_out_of_several(
    roots: dict[str, str], tmp_path: Path, command: Command
) -> None:
    """Nobody released captions of CIRCO's references: that is told before any file of CIRR's that is missing."""
    bare = tmp_path / "bare"
    shutil.copytree(roots["cirr"], bare, ignore=shutil.ignore_patterns("image_captions_*", "keywords_in_mods_*"))
    asked = ("run", "--dataset", "circo", "--data-root", f"circo={roots['circo']}", "--data-root", f"cirr={bare}", "--dry-run",
             "--backbone", "tiny", "--weights", "random", "--limit", 40)  # fmt: skip
    outcome = command(*asked, "--method", "dqu_cir", "clip4cir_sum")
    assert outcome.status == 0 and "method     CLIP4Cir" in outcome.out and "DQU" not in outcome.out, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("left out: ")]
    assert line.startswith("left out: dqu_cir with tiny on circo, seed 0: the texts of this data or split come without captions")
    alone = command(*asked, "--method", "dqu_cir")
    assert alone.status == 2 and len(alone.errors) == 1 and "come without captions" in alone.err
    # Another text rule leaves the words that are shown on its references.
    none = command(*asked, "--method", "dqu_cir", "--seed", 0, 1, "--text-mode", "single")
    assert none.status == 2 and none.err.count("left out: ") == 2 and "none of the 2 runs can be made" in none.errors[-1]


def test_a_trained_encoder_is_taken_by_both(roots: dict[str, str], tmp_path: Path) -> None:
    from benchmark.distributed.job import join_job

    folders = set()
    for name in ("circo", "cirr"):
        plan = plan_of("sum", name, roots, cache=str(tmp_path), set={"method.encoder": "finetuned"})
        folders.add(EncoderArtefact(plan, plan.stages[0], join_job("cpu", tmp_path)).file)
    assert len(folders) == 1
