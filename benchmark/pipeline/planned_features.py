"""Which features a run stores, before it begins: their bytes, and whether the disk has room by the store's own rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from benchmark.backbone import Backbone
from benchmark.features.room import bytes_needed, free_bytes, has_room, is_kept
from benchmark.method import BuildContext, FeatureInputs
from benchmark.pipeline.plan import Plan


@dataclass(frozen=True)
class PlannedFeatures:
    """Of one split's pictures: bytes that they take, those that are free when it is their turn, whether they are
    kept. What the cache holds of them already is not counted: only the weights themselves tell."""

    split: str
    pictures: int
    needed: int
    free: int
    kept: bool


def planned_inputs(plan: Plan, backbone: Backbone | None) -> FeatureInputs | None:
    """What the last stage reads of the store; None where it reads pixels."""
    context = BuildContext(backbone, plan.method_settings, plan.last.settings)
    inputs = plan.last.stage.inputs(context) if backbone is not None else None
    return inputs if isinstance(inputs, FeatureInputs) else None


def planned_features(plan: Plan, backbone: Backbone) -> Iterator[PlannedFeatures]:
    """In the order in which they are filled; ``backbone`` needs no values."""
    inputs = planned_inputs(plan, backbone)
    if inputs is None:
        return
    free, keep = free_bytes(plan.options.cache_root / "features"), plan.trainer.keep_features
    split = plan.dataset.info.evaluation_split
    lists = {"train": _trained_pictures(plan), split: len(plan.dataset.split_pictures(split))}
    for split, pictures in lists.items():
        if not pictures:
            continue
        needed = bytes_needed(backbone.picture_outputs, pictures=pictures, views=inputs.views, grids=inputs.grids)
        kept = is_kept(keep, partial(has_room, needed, free))
        yield PlannedFeatures(split, pictures, needed, free, kept)
        free -= needed if kept else 0


def _trained_pictures(plan: Plan) -> int:
    """How many pictures the last stage's training shows; 0 where it trains nothing, or on texts alone."""
    if not plan.last.stage.trains:
        return 0
    rows = plan.rows(plan.last)
    return len(plan.dataset.split_pictures("train")) if rows is None else 0 if rows.sentences else len(rows)


def shortage(plan: Plan, backbone: Backbone) -> list[str]:
    """What has no room on the disk and the choice that there is, a line each."""
    place = plan.options.cache_root / "features"
    return [
        f"features of {part.split}: {_mebibytes(part.needed)} are needed, {_mebibytes(part.free)} are free in {place}; "
        "what the cache does not hold of them yet is encoded anew for every batch; --cache names another disk"
        for part in planned_features(plan, backbone)
        if not part.kept and plan.trainer.keep_features != "never"
    ]


def _mebibytes(count: int) -> str:
    return f"{max(count, 0) / 2**20:,.0f} MiB"
