"""Every stage draws for itself: its order, strings, pairs, dropout and start are those of no other stage."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TOY_PLUGIN, Command
from hypothesis import given
from hypothesis import strategies as st

from benchmark import stage_building
from benchmark.dataset import IntArray
from benchmark.errors import UserError
from benchmark.options import make_options
from benchmark.pipeline import plan as plan_module
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.records.record import read_record
from benchmark.registry import discover
from benchmark.settings import TrainingSettings
from benchmark.training import trainer
from benchmark.training.batches import stage_seed, step_seed, update_plan
from benchmark.training.resumable_state import ResumableState

NAMES = st.text(min_size=1, max_size=8)


def plans(data: Path) -> list[Plan]:
    """Every method and every variant; those that bring a CNN of their own also from pretrained weights of it."""
    registry = discover()
    registry.add_plugin(TOY_PLUGIN)
    named = [(name, "none") for name in registry.methods()]
    named += [(variant.method, variant.name) for variant in registry.variants() if variant.name != "impossible"]
    options: dict[str, Any] = {"dataset": "cirr", "data_root": data, "limit": 24}
    pretrained = {"cnn": "resnet18", "start": "pretrained"}
    further = {"artemis": pretrained, "tirg": {"implementation": "artemis", **pretrained}}
    return [
        make_plan(make_options(method=name, variant=variant, **options), registry) for name, variant in named
    ] + [
        make_plan(make_options(method=name, set={f"method.{k}": v for k, v in values.items()}, **options), registry)
        for name, values in further.items()
    ]


def test_no_two_stages_of_any_method_share_a_batch_order(small_cirr: Path) -> None:
    settings = TrainingSettings(batch_size=8)
    found = [plan for plan in plans(small_cirr) if len(plan.trained) > 1]
    assert {plan.method.name for plan in found} >= {"clip4cir", "spirit", "artemis", "tirg"}
    for plan in found:
        seeds = {planned.stage.name: plan.seed_of(planned) for planned in plan.stages}
        orders = {
            (stage, epoch): tuple(np.concatenate(update_plan(48, settings, seed, epoch)))
            for stage, seed in seeds.items()
            for epoch in range(20)
        }
        assert len(set(orders.values())) == len(orders), plan.method.name
        steps = {step_seed(seed, update, 0) for seed in seeds.values() for update in range(20)}
        assert len(steps) == 20 * len(seeds)


def test_a_first_stage_draws_as_it_does_alone(small_cirr: Path) -> None:
    for plan in plans(small_cirr):
        assert plan.seed_of(plan.stages[0]) == plan.options.seed


@given(st.integers(0, 2**31), st.lists(NAMES, min_size=1, max_size=4, unique=True), st.integers(0, 2**31))
def test_seeds_of_a_run_s_stages_differ_and_fit_torch_and_numpy(seed: int, names: list[str], other: int) -> None:
    seeds = [stage_seed(seed, names[:count]) for count in range(len(names) + 1)]
    assert len(set(seeds)) == len(seeds) and seeds == [stage_seed(seed, names[:n]) for n in range(len(names) + 1)]
    assert all(0 <= value < 2**63 for value in seeds)
    if other != seed:
        assert not set(seeds[1:]) & {stage_seed(other, names[:count]) for count in range(len(names) + 1)}
    if len(names) > 1:
        assert stage_seed(seed, names) != stage_seed(seed, names[::-1])


def test_every_source_of_chance_in_a_run_is_given_the_stage_s_seed(
    command: Command, monkeypatch: pytest.MonkeyPatch, small_cirr: Path
) -> None:
    """Order, strings, pairs, dropout and start, as the steps of a run ask for them."""
    asked: dict[str, list[int]] = {"order": [], "dropout": [], "start": [], "strings": [], "pairs": []}
    orders: dict[tuple[int, int], tuple[int, ...]] = {}

    def order(entries: int, settings: TrainingSettings, seed: int, epoch: int) -> list[IntArray]:
        found = update_plan(entries, settings, seed, epoch)
        orders[seed, epoch] = tuple(np.concatenate(found).tolist())
        asked["order"].append(seed)
        return found

    def watched(name: str, function: Any, place: int | str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            asked[name].append(named[place] if isinstance(place, str) else given[place])
            return function(*given, **named)

        return call

    from benchmark.datasets.cirr import CIRR

    from benchmark.pipeline import preparation
    from benchmark.training import sources

    monkeypatch.setattr(trainer, "update_plan", order)
    monkeypatch.setattr(trainer, "step_seed", watched("dropout", step_seed, 0))
    monkeypatch.setattr(preparation, "build_stage", watched("start", stage_building.build_stage, "seed"))
    monkeypatch.setattr(sources, "epoch_table", watched("strings", sources.epoch_table, 2))
    monkeypatch.setattr(CIRR, "train_triplets", watched("pairs", CIRR.train_triplets, 2))
    outcome = command("run", "--plugin", TOY_PLUGIN, "--method", "toy", "--dataset", "cirr", "--data-root", small_cirr, "--seed", 3, "--set", "toy-base.epochs=2", "--set", "toy-full.epochs=2")
    assert outcome.status == 0, outcome.err
    record = read_record(next(Path("runs").rglob("record.json")))
    picked = {selected.stage: selected for selected in record.selected}
    assert picked.keys() == {"toy-base", "toy-full"} and all(s.margin is not None and s.margin >= 0 for s in picked.values())
    first, second = dict.fromkeys(asked["order"])
    assert first == 3 and second == stage_seed(3, ["toy-base"])
    for name in ("dropout", "start", "strings"):
        assert set(asked[name]) == {first, second}, name
    assert {first, second} <= set(asked["pairs"])
    by_stage = [{order for (seed, _), order in orders.items() if seed == own} for own in (first, second)]
    assert by_stage[0] and by_stage[1] and not by_stage[0] & by_stage[1]


def test_what_another_scheme_made_is_neither_taken_nor_continued(
    small_cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_options(method="clip4cir", dataset="cirr", data_root=small_cirr, limit=24)
    plan = make_plan(options)
    encoder, head = plan.stages
    now = [plan.encoder_identity(encoder), plan.training_identity(head)]
    ResumableState(tmp_path, now[1]).save({}, 1)
    monkeypatch.setattr(plan_module, "SEED_SCHEME", "of an older version")
    older = [plan.encoder_identity(encoder), plan.training_identity(head)]
    assert all(one != other for one, other in itertools.zip_longest(now, older))
    with pytest.raises(UserError, match="its resumable state was made with other settings: .*stage seeds was") as error:
        ResumableState(tmp_path, older[1]).require_same_settings()
    assert "\n" not in str(error.value)
