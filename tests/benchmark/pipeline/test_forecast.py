"""What the dry run says of memory, time and the store, against what a pass really keeps and computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from command_line import Command
from torch import Tensor

from benchmark.backbone import GLOBAL
from benchmark.errors import UserError
from benchmark.features import room
from benchmark.method import FeatureInputs
from benchmark.options import make_options
from benchmark.pipeline import dry_run, planned_features
from benchmark.pipeline.cost import median_text
from benchmark.pipeline.forecast import UpdateForecast, forecast_update, picture_flops
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planned_features import shortage
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import rebuild_planned
from benchmark.stage_building import BuiltStage


def plan_of(data: Path, method: str = "clip4cir", **more: Any) -> Plan:
    sizes = {"encoders.batch_size": 16, "combiner.batch_size": 16} if method == "clip4cir" else {}
    sizes |= more.pop("set", {})
    return make_plan(make_options(method=method, dataset="cirr", data_root=str(data), set=sizes, **more))


def forecast(plan: Plan, number: int) -> UpdateForecast:
    return forecast_update(plan, plan.stages[number])


def real_pass(plan: Plan, number: int) -> tuple[BuiltStage, int]:
    """A stage with values, and bytes of what a pass of 16 pairs keeps for its way back."""
    backbone = plan.backbone_family.load(plan.backbone_choice)
    built = rebuild_planned(plan, plan.stages[number], backbone)
    method = built.method.train()
    # The frozen tower that words are put into is no part of the method.
    held = [tensor for part in (method, backbone) for tensor in (*part.parameters(), *part.buffers())]
    own = {tensor.untyped_storage().data_ptr() for tensor in held}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    rows = plan.rows(plan.stages[number])
    if rows is not None:
        views, text = {GLOBAL: torch.randn(16, backbone.width)}, dict(rows.text(method, np.arange(16), np.random.default_rng(0)))
    elif isinstance(built.inputs, FeatureInputs):
        views, text = {GLOBAL: torch.randn(16, backbone.width)}, {GLOBAL: torch.randn(16, backbone.width)}
    else:
        views, text = {"pixels": torch.rand(16, 3, 64, 64)}, dict(method.tokenize([median_text(plan.tasks[0].queries.texts)] * 16))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method.loss(method.encode_query(views, text), method.encode_target({name: view.clone() for name, view in views.items()}))
    return built, sum(size for size, _ in kept.values())


def test_activations_are_those_of_a_real_pass(small_cirr: Path) -> None:
    plan = plan_of(small_cirr)
    for number in (0, 1):
        found, (built, kept) = forecast(plan, number), real_pass(plan, number)
        trained = sum(p.numel() for p in built.method.parameters() if p.requires_grad)
        assert found.activations == pytest.approx(kept, rel=0.005)
        assert (found.gradients, found.rows) == (4 * trained, 16)
    frozen = plan.backbone_family.outline(plan.backbone_choice).parameters()
    assert found.weights == 4 * sum(p.numel() for p in (*built.method.parameters(), *frozen))
    assert found.moments == 2 * found.gradients
    assert found.bytes == found.weights + found.gradients + found.moments + found.activations
    backbone = plan.backbone_family.outline(plan.backbone_choice)
    pictures = sum(p.numel() for name, p in backbone.named_parameters() if name.startswith("clip.visual."))
    in_half = plan_of(small_cirr, set={"backbone.precision": "bf16"})
    assert [forecast(in_half, number).weights - forecast(plan, number).weights for number in (0, 1)] == [0, 2 * pictures]


@pytest.mark.parametrize("method", ["pic2word", "lincir", "searle"])
def test_rows_in_place_of_triplets_bring_texts_of_their_own(method: str, small_cirr: Path) -> None:
    plan = plan_of(small_cirr, method, set={"method.encoder": "untouched", f"{method}.batch_size": 16})
    found, (_, kept) = forecast(plan, 0), real_pass(plan, 0)
    assert found.rows == 16 and found.flops > 0 and found.activations == pytest.approx(kept, rel=0.01)


def test_a_picture_that_is_encoded_in_every_epoch_is_counted(small_cirr: Path) -> None:
    of_stage = {"method.encoder": "untouched", "pic2word.batch_size": 16}
    plan = plan_of(small_cirr, "pic2word", set={**of_stage, "pic2word.smallest_part": 0.9})
    stored, drawn = forecast(plan_of(small_cirr, "pic2word", set=of_stage), 0), forecast(plan, 0)
    passes = 16 * picture_flops(plan.backbone_family.outline(plan.backbone_choice), (GLOBAL,), ())
    assert drawn.flops - stored.flops == passes > 0 and drawn.activations == stored.activations


def test_only_a_value_that_is_asked_for_makes_a_forecast_fail(small_cirr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(small_cirr, "tirg_clip", set={"method.encoder": "untouched"}, batch_size=16)
    planned = plan.last
    monkeypatch.setattr(dry_run, "forecast_update", lambda *_: torch.empty(1, device="meta").item())
    (line,) = dry_run._forecast_lines(plan, planned, 1)
    assert "memory and time are not known before it begins" in line
    for error in (UserError("mend it"), KeyError("ours")):
        monkeypatch.setattr(dry_run, "forecast_update", Mock(side_effect=error))
        with pytest.raises(type(error)):
            dry_run._forecast_lines(plan, planned, 1)


def test_operations_are_counted_both_ways(small_cirr: Path) -> None:
    found = forecast(plan_of(small_cirr), 1)
    d = 64
    layers = 2 * (d * 4 * d) + 8 * d * 8 * d + 8 * d * d + 8 * d * 8 * d + 8 * d
    scores = 2 * 16 * 16 * d
    # Forwards one product of each layer, backwards two, but for the inputs' own gradient, which nobody asks for.
    whole = 3 * 2 * 16 * layers - 2 * 16 * 2 * (d * 4 * d)
    assert found.flops == pytest.approx(whole + 3 * scores, rel=0.03)


def test_precision_and_micro_batches_change_what_is_held(small_cirr: Path) -> None:
    whole = forecast(plan_of(small_cirr), 0)
    half = forecast(plan_of(small_cirr, precision="bf16"), 0)
    assert 0.45 * whole.activations < half.activations < 0.75 * whole.activations and half.weights == whole.weights
    cached = forecast(plan_of(small_cirr, set={"trainer.micro_batch": 4, "encoders.batch_norm": "eval"}), 0)
    assert cached.rows == 4 and cached.activations < 0.3 * whole.activations
    assert cached.flops == pytest.approx(4 / 3 * whole.flops, rel=0.02)
    frozen = forecast(plan_of(small_cirr, set={"encoders.frozen": ["backbone.clip.visual."]}), 0)
    assert frozen.gradients < whole.gradients and frozen.flops < whole.flops


def test_the_dry_run_tells_memory_time_and_store(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    asked = ("run", "--dataset", "cirr", "--data-root", small_cirr, "--cache", str(tmp_path), "--dry-run", "--batch-size", "16")
    outcome = command(*asked, "--method", "clip4cir", "--set", "encoders.batch_size=16")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("           memory ") == outcome.out.count("           time at least ") == 2
    assert "activations of 16 pairs" in outcome.out and "as a product of matrices was measured now" in outcome.out
    assert "features   train, " in outcome.out and "features   val, " in outcome.out and "           filling " in outcome.out
    # Sequences are packed by their lengths, which shapes do not tell.
    unknown = command(*asked, "--method", "artemis")
    assert unknown.status == 0 and "memory and time are not known before it begins" in unknown.out


def test_what_fits_is_asked_of_the_store_s_own_rule(small_cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(small_cirr, cache=str(tmp_path))
    outline = plan.backbone_family.outline(plan.backbone_choice)
    val, train = features = planned_features.planned_features(plan, outline)
    assert train.kept and val.kept and train.free == val.free - val.needed and not shortage(plan, features)
    monkeypatch.setattr(planned_features, "free_bytes", lambda folder: train.needed + val.needed)
    val, train = features = planned_features.planned_features(plan, outline)
    assert val.kept and not train.kept
    (line,) = shortage(plan, features)
    assert line.startswith("features of train: ") and "--cache names another disk" in line
    monkeypatch.setattr(planned_features, "has_room", lambda needed, free: True)
    assert shortage(plan, planned_features.planned_features(plan, outline)) == []
    assert room.is_kept("always", lambda: False) and not room.is_kept("never", lambda: True)


def test_the_lists_that_are_filled_are_those_that_a_stage_reads(small_cirr: Path) -> None:
    def lists(method: str, **more: Any) -> list[str]:
        plan = plan_of(small_cirr, method, set={"method.encoder": "untouched", **more.pop("set", {})}, **more)
        outline = plan.backbone_family.outline(plan.backbone_choice)
        return [part.split for part in planned_features.planned_features(plan, outline)]

    assert lists("sum") == ["val"] and lists("tirg_clip") == ["val", "train"]
    # Rows of pictures are stored, those of sentences are none; a share that is chosen looks at training pictures.
    assert lists("pic2word") == ["val", "train"] and lists("lincir") == ["val"]
    assert lists("pic2word", set={"pic2word.smallest_part": 0.9}) == ["val"]
    assert lists("slerp") == ["val"]
    assert lists("slerp", selection="heldout", set={"method.sweep": True}) == ["val", "train"]
