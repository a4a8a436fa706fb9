"""`features`: fill the store for a dataset and a backbone before any run asks for it."""

from __future__ import annotations

from benchmark.distributed.job import Job
from benchmark.errors import UserError
from benchmark.features.store import bytes_needed
from benchmark.method import FeatureInputs
from benchmark.options import RunOptions
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import backbone_of
from benchmark.pipeline.stage_sources import StageSources


def fill_store(options: RunOptions, views: tuple[str, ...], dry_run: bool, job: Job) -> str:
    """Compute what is missing, by all ranks of the job, and tell what the store then holds.

    Raises UserError as a run does.
    """
    plan = make_plan(options.model_copy(update={"set": {**options.set, "method.encoder": "untouched"}}))
    dataset, backbone = plan.dataset, backbone_of(plan)
    splits = ("train", dataset.info.evaluation_split)
    pictures = sum(len(dataset.split_pictures(split)) for split in splits)
    if backbone is None:
        raise UserError(f"method {options.method} brings its own networks; there are no features of a backbone")
    width = backbone.width
    size = bytes_needed(width, pictures=pictures, views=views) / 2**20
    told = f"{pictures:,} pictures of {dataset.label}, {' and '.join(views)}, width {width}: {size:,.1f} MiB"
    place = options.cache_root / "features"
    if dry_run:
        return f"{told} would be stored under {place}"
    with StageSources(plan, job, backbone) as sources:
        for split in splits:
            sources.features(split, FeatureInputs(reference=views, target=views))
        asked = [text for task in plan.tasks for text in task.queries.texts]
        sources.fill_texts(asked + [t for c in dataset.training_texts() for t in plan.rule.queries(c)])
    return f"{told} stored under {place}"
