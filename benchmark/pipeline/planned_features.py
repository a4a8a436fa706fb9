"""Which features a run stores, before it begins: their bytes, and whether the disk has room by the store's own rule."""

from __future__ import annotations

from collections.abc import Sequence
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


def planned_features(plan: Plan, backbone: Backbone) -> list[PlannedFeatures]:
    """In the order in which they are filled; ``backbone`` needs no values."""
    inputs = planned_inputs(plan, backbone)
    if inputs is None:
        return []
    free, keep = free_bytes(plan.options.cache_root / "features"), plan.trainer.keep_features
    found = []
    for split, pictures in _lists(plan, inputs):
        needed = bytes_needed(backbone.picture_outputs, pictures=pictures, views=inputs.views, grids=inputs.grids)
        kept = is_kept(keep, partial(has_room, needed, free))
        found.append(PlannedFeatures(split, pictures, needed, free, kept))
        free -= needed if kept else 0
    return found


def _lists(plan: Plan, inputs: FeatureInputs) -> list[tuple[str, int]]:
    """The lists of pictures that the last stage reads, with their lengths: its method is probed on what is evaluated,
    trained on triplets or rows of its own, and held against what picks an epoch."""
    dataset, last, rows = plan.dataset, plan.last, plan.rows(plan.last)
    splits = [dataset.info.evaluation_split]
    if last.stage.trains and rows is None:
        splits.append("train")
    if (last.stage.trains or last.stage.fit is not None) and plan.selection in ("paper", "heldout"):
        splits += [task.key.split for task in plan.selection_tasks]
    lists = [(split, len(dataset.split_pictures(split))) for split in dict.fromkeys(splits)]
    # Rows of sentences have no pictures, and what is encoded in every epoch is not kept.
    stored = rows.pictures.names if rows is not None and inputs.train is None else ()
    of_rows = [("train", len(stored))] if stored else []
    return [lists[0], *of_rows, *lists[1:]]


def shortage(plan: Plan, features: Sequence[PlannedFeatures]) -> list[str]:
    """What has no room on the disk and the choice that there is, a line each."""
    place = plan.options.cache_root / "features"
    return [
        f"features of {part.split}: {_mebibytes(part.needed)} are needed, {_mebibytes(part.free)} are free in {place}; "
        "unless the cache holds them already, they are encoded anew for every batch; --cache names another disk"
        for part in features
        if not part.kept and plan.trainer.keep_features != "never"
    ]


def _mebibytes(count: int) -> str:
    return f"{max(count, 0) / 2**20:,.0f} MiB"
