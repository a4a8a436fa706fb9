"""What a run needs before its stages: its data drawn, its backbone, their methods, pictures that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.backbone import Backbone
from benchmark.data.folders import require_pictures
from benchmark.data.pictures import bad_pictures
from benchmark.distributed.job import Job
from benchmark.distributed.process import this_process
from benchmark.distributed.shards import own_span
from benchmark.encoders.backbones import load_backbone
from benchmark.method import Method
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.progress import counting
from benchmark.registry import Registry
from benchmark.stage_building import BuiltStage, build_stage, rebuild_stage
from benchmark.text_rules import text_rule
from benchmark.training.batches import all_training_strings


def draw_demo_data(options: RunOptions, registry: Registry, job: Job) -> None:
    """Where several processes will read the demo data, the first rank of every cache folder draws it."""
    asked = options.demo and options.dataset in registry.datasets()
    if asked and job.process.world_size > 1:
        if job.cache.is_first:
            registry.demo_folder(options.dataset, options.cache_root)
        job.barrier.wait("drawing demo pictures")


def backbone_of(plan: Plan) -> Backbone | None:
    """The plan's backbone as it starts, on this process's device; None for methods without one."""
    if not plan.backbone:
        return None
    backbone = load_backbone(
        plan.backbone,
        plan.weights,
        preprocessing=plan.backbone_settings.preprocessing,
        rgb_first=plan.backbone_settings.rgb_first,
        seed=plan.options.seed,
        assets_root=plan.options.assets,
    )
    return backbone.to(this_process(plan.options.device).device)


def build_planned(
    plan: Plan, planned: PlannedStage, backbone: Backbone | None, earlier: Mapping[str, Method] | None = None
) -> BuiltStage:
    """A planned stage as it starts; see `build_stage`."""
    rule = text_rule(planned.settings.text_rule)
    return build_stage(
        planned.stage,
        backbone,
        plan.method_settings,
        planned.settings,
        assets_root=plan.options.assets,
        texts=lambda: all_training_strings(plan.dataset.training_texts(), rule),
        seed=plan.options.seed,
        earlier=earlier,
    )


def rebuild_planned(
    plan: Plan,
    planned: PlannedStage,
    backbone: Backbone | None,
    extra_state: Mapping[str, Any] | None = None,
    earlier: Mapping[str, Method] | None = None,
) -> BuiltStage:
    """A planned stage whose weights are loaded next; see `rebuild_stage`."""
    return rebuild_stage(
        planned.stage, backbone, plan.method_settings, planned.settings, extra_state=extra_state, earlier=earlier
    )


def check_pictures(plan: Plan, job: Job) -> frozenset[int]:
    """Raise for missing pictures; give unreadable training ones with `--skip-bad-images`.

    Evaluation never skips a picture. The ranks of the job share the decoding.
    """
    dataset = plan.dataset
    require_pictures(dataset, dataset.split_pictures(dataset.info.evaluation_split))
    if not plan.trained:
        return frozenset()
    training = dataset.split_pictures("train")
    if not plan.options.skip_bad_images:
        require_pictures(dataset, training)
        return frozenset()
    phase = "checking training pictures"
    start, stop = own_span(len(training), job)
    with counting(phase, stop - start) as progress:
        bad = bad_pictures(dataset.pictures, training[start:stop], job.cores, progress)
    return frozenset(index for found in job.barrier.share(phase, sorted(bad)) for index in found)
