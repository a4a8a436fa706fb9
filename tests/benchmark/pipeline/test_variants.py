"""Named configurations: how a run gets its name, and the table of a method's ablations."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import TOY_PLUGIN, Command

from benchmark.errors import UserError
from benchmark.options import make_options
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.records.record import read_record
from benchmark.registry import Registry, discover
from benchmark.weights.checkpoints import read_header

RUN = ("run", "--plugin", TOY_PLUGIN, "--method", "toy_features", "--dataset", "cirr", "--limit", 40)


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = discover()
    found.add_plugin(TOY_PLUGIN)
    return found


def plan_of(method: str, data: Path, registry: Registry, **options: object) -> Plan:
    return make_plan(make_options(method=method, dataset="cirr", data_root=data, backbone="tiny", **options), registry)


def test_every_variant_of_the_registry_can_be_planned(small_cirr: Path, registry: Registry) -> None:
    for variant in registry.variants():
        if variant.name == "impossible":
            continue
        options = {"method": variant.method, "dataset": "cirr", "data_root": small_cirr, "limit": 24}
        plan = make_plan(make_options(variant=variant.name, **options), registry)
        assert plan.title == f"{plan.method.title} ({variant.label})"
    names = [(variant.method, variant.name) for variant in registry.variants()]
    assert len(set(names)) == len(names)
    assert {variant.method for variant in registry.variants()} <= registry.methods().keys()


@pytest.mark.parametrize(
    ("method", "given", "name"),
    [
        ("clip4cir", {}, "both-encoders"),
        ("clip4cir", {"method.encoder": "untouched"}, "untouched"),
        ("clip4cir", {"encoders.trained": "text", "combiner.epochs": 3}, "text-encoder"),
        ("spirit", {}, ""),
        ("spirit", {"method.grids": [3]}, "3x3"),
        ("spirit", {"method.commonality": False, "method.difference": False, "method.fusion": False}, "without-psc-psd-psf"),
    ],
)
def test_a_configuration_put_together_by_hand_bears_its_name(
    method: str, given: dict[str, object], name: str, small_cirr: Path, registry: Registry
) -> None:
    plan = plan_of(method, small_cirr, registry, set=given)
    assert (plan.variant.name if plan.variant else "") == name
    named = plan_of(method, small_cirr, registry, variant=name or "none", set={k: v for k, v in given.items() if "epochs" in k})
    assert named.identity == plan.identity and named.folder == plan.folder


def test_both_orders_are_evaluated_in_file_order_alone_too(tmp_path: Path, registry: Registry) -> None:
    """As columns of their own, named as such; the epoch is picked by the rule's own queries."""
    from benchmark.datasets.demo.demo_data import Sizes, write_demo

    write_demo("fashioniq", tmp_path / "fashioniq", Sizes(12, 6, 4, 6, 2, 3), workers=1)
    options = {"method": "artemis", "dataset": "fashioniq", "data_root": tmp_path, "text_mode": "both-orders"}
    plan = make_plan(make_options(**options), registry)
    protocols = {mode: [t.key.protocol for t in plan.tasks if t.key.text_mode == mode] for mode in ("both-orders", "joined")}
    assert protocols["both-orders"] == protocols["joined"] != []
    own, beside = (next(t for t in plan.tasks if t.key.text_mode == mode) for mode in protocols)
    assert len(own.queries) == 2 * len(beside.queries)
    assert set(beside.queries.texts) < set(own.queries.texts)
    assert "file-order" in beside.notes[-1] and not any("file-order" in note for note in own.notes)
    assert {task.key.text_mode for task in plan.selection_tasks} == {"both-orders"}


def test_a_run_that_is_not_what_its_name_says_is_refused(small_cirr: Path, registry: Registry) -> None:
    with pytest.raises(UserError, match="stands for spirit.negative_group=128, but this run has 4"):
        plan_of("spirit", small_cirr, registry, variant="local-negatives", batch_size=8, negative_group=4)
    with pytest.raises(UserError, match="this run has no encoders"):
        plan_of("clip4cir", small_cirr, registry, variant="text-encoder", set={"method.encoder": "untouched"})
    with pytest.raises(UserError, match="did you mean without-ps"):
        plan_of("spirit", small_cirr, registry, variant="without-pcs")


def test_an_ablation_shares_the_encoder_and_nothing_else(small_cirr: Path, registry: Registry) -> None:
    whole, ablation = (plan_of("spirit", small_cirr, registry, variant=name) for name in ("", "3x3"))
    assert whole.encoder_identity(whole.stages[0]) == ablation.encoder_identity(ablation.stages[0])
    assert whole.folder.parent.parent == ablation.folder.parent.parent and whole.folder != ablation.folder


def test_one_command_runs_all_ablations_and_writes_their_table(
    small_cirr: Path, command: Command, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    outcome = command(*RUN, "--data-root", small_cirr, "--ablations", "--seed", 0, 1, "--output", output)
    assert outcome.status == 2 and "2 of 8 runs failed" in outcome.err
    assert "toy_features (impossible) on cirr, seed 0: batch_size 15 is not a multiple" in outcome.err
    folder = output / "cirr" / "toy_features"
    table = (folder / "ablations.md").read_text()
    assert table in outcome.out
    first = table[table.index("| method") :].split("\n\n")[0]
    loss = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line.startswith("| ")]
    assert loss[0][:3] == ["method", "sharpness", "R@1"]
    named = [row for row in loss[1:] if row[2] and row[0] not in ("±", "sd")]
    assert " ".join(row[0] for row in loss[1:] if row[0] not in ("±", "sd")) == "Toy on features, whole without sharpness"
    assert [row[1] for row in named] == ["✓", ""]
    assert [row[0] for row in loss].count("±") == 2 and "sd" not in [row[0] for row in loss]  # of two seeds
    assert "As `--variant`: `blunt` without sharpness." in table
    lines = table.rstrip("\n").splitlines()
    assert lines[2].endswith(": demo, synthetic pictures, ranks no methods") and "synthetic pictures" in lines[-1]
    assert max(map(len, lines)) <= 100
    assert "`as-sharp` has no row: the same as the method itself" in table
    assert "`impossible` has no row: it failed: batch_size 15" in table
    record = read_record(folder / "blunt" / "seed-1")
    assert (record.identity.variant, record.title) == ("blunt", "Toy on features (ablation: without sharpness)")
    assert read_header(folder / "blunt" / "seed-1" / "weights" / "selected.safetensors").variant == "blunt"
    again = command(
        "evaluate", "--plugin", TOY_PLUGIN, "--method", "toy_features", "--data-root", small_cirr, "--limit", 40,
        "--checkpoint", folder / "blunt" / "seed-1", "--output", tmp_path / "again",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert read_record(tmp_path / "again").identity == record.identity


def test_a_method_without_ablations_says_so(small_cirr: Path, command: Command) -> None:
    outcome = command("run", "--method", "sum", "--dataset", "cirr", "--data-root", small_cirr, "--ablations")
    assert outcome.errors == ["error: --ablations: sum declares none; `list variants` shows those that there are"]


def test_the_sum_of_clip4cir_is_stage_1_trained_once(small_cirr: Path, command: Command, tmp_path: Path) -> None:
    """Its artefact serves the Combiner, its ranks are those of the sum on the same encoder, its weights load again."""
    common = ("--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--backbone", "tiny")
    command("run", "--method", "clip4cir_sum", *common, "--epochs", 2, "--output", tmp_path / "own")
    for method in ("clip4cir", "sum"):
        set_epochs = ("--set", "encoders.epochs=2") + (("--epochs", 1) if method == "clip4cir" else ())
        told = command("run", "--method", method, *common, *set_epochs, "--output", tmp_path / method)
        assert told.status == 0 and "taking the encoder trained before" in told.err + told.out
    own, summed = read_record(tmp_path / "own"), read_record(tmp_path / "sum")
    assert [(r.weights_from, r.queries) for r in own.results] == [("selected", 24), ("last", 24)]
    assert own.identity.encoder is not None and own.identity.encoder.state == "finetuned"
    assert own.identity.batch_size == 12 and own.identity.selection == "paper"
    assert own.results[0].metrics == summed.results[0].metrics
    assert own.identity.stages[0].artefact == summed.identity.stages[0].artefact is not None
    for weights, result in zip(("selected", "last"), own.results, strict=True):
        file = tmp_path / "own" / "weights" / f"{weights}.safetensors"
        again = command("evaluate", "--method", "clip4cir_sum", "--data-root", small_cirr, "--limit", 24,
                        "--checkpoint", file, "--output", tmp_path / weights)  # fmt: skip
        assert again.status == 0, again.err
        assert read_record(tmp_path / weights).results == (result,)
