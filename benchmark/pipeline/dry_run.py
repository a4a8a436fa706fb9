"""`run --dry-run`: every input checked at once, and the plan in words."""

from __future__ import annotations

from benchmark.data.folders import picture_problems
from benchmark.data.trained_elsewhere import training_of
from benchmark.distributed.process import this_process
from benchmark.errors import UserError, gathered
from benchmark.pipeline.forecast import forecast_update, picture_flops, product_speed
from benchmark.pipeline.plan import RATE_FACTORS, Plan, PlannedStage
from benchmark.pipeline.planned_features import planned_features, planned_inputs, shortage
from benchmark.pipeline.preparation import build_planned
from benchmark.pipeline.readiness import require_trainable
from benchmark.progress import format_seconds
from benchmark.training.batches import update_plan

_SHOWN = 10


def describe(plan: Plan) -> str:
    """The plan of a run; raises UserError with all missing inputs."""
    problems = _problems(plan)
    if problems:
        raise UserError.collect(problems)
    dataset, options = plan.dataset, plan.options
    lines = [
        f"method     {plan.title} ({plan.method.name}), seed {options.seed}",
        f"data       {dataset.label} in {dataset.root}" + (" - synthetic demo pictures" if dataset.is_demo else ""),
        *([f"category   {options.category} alone"] if options.category else []),
        *([f"trained on {plan.trained_on['label']} in {training_of(dataset).root}"] if plan.trained_on else []),
        *_backbone_lines(plan),
        f"selection  {plan.selection}" + (f": {plan.selection_note}" if plan.selection_note else ""),
        *(["tuning     learning rate × " + ", ".join(f"{rate:.3g}" for rate in RATE_FACTORS)] if plan.sweeps else []),
        f"text rule  {plan.rule.name}: {plan.rule.summary}",
        *([f"noise      {plan.noise.share:.0%} of the training triplets ({plan.noise.scheme})"] if plan.noise else []),
        *_task_lines(plan),
        f"pictures   all files are there; none was decoded: `data verify {dataset.info.name}` finds unreadable ones",
        *(line for planned in plan.stages for line in _stage_lines(plan, planned)),
        *_store_lines(plan),
        *_need_lines(plan),
        *_execution_lines(plan),
        f"output     {plan.folder}",
    ]
    return "\n".join(lines)


def _problems(plan: Plan) -> list[str]:
    dataset = plan.dataset
    problems: list[str] = []
    with gathered(problems):
        require_trainable(plan)
    if plan.backbone:
        with gathered(problems):
            plan.backbone_family.require_fit(plan.backbone_choice)
    if not plan.backbone and not problems:
        # Built as it will be: what its files hold (word vectors, a CNN's weights) is read, and fits or not.
        with gathered(problems):
            build_planned(plan, plan.stages[0], None)
    for split in plan.picture_splits:
        found = picture_problems(dataset.pictures, dataset.split_pictures(split))
        if found:
            problems += [f"{split}: {line}" for line in found[:_SHOWN]]
            problems.append(f"{split}: {len(found)} pictures in all; {dataset.info.obtain}")
    return problems


def _backbone_lines(plan: Plan) -> list[str]:
    if not plan.backbone:
        return ["backbone   none, own networks"]
    lines = [f"backbone   {plan.backbone}, weights {plan.weights}"]
    if plan.weights != "random":
        lines.append(f"pixels     {plan.backbone_family.pixels(plan.backbone_choice)}")
    return lines


def _need_lines(plan: Plan) -> list[str]:
    """What is needed from outside, where it was found, and what is done without."""
    needs = [f"needs      {need.line(plan.options.assets)}" for need in plan.required_files]
    if plan.backbone:
        needs += [
            f"needs      {file.what}: found at {file.path}" for file in plan.backbone_family.files(plan.backbone_choice)
        ]
    return [*(needs or ["needs      nothing from outside"]), *(f"note       {remark}" for remark in plan.remarks)]


def _task_lines(plan: Plan) -> list[str]:
    return [
        f"task       {task.key}: {len(task.queries):,} queries, gallery {len(task.gallery):,}, reference "
        + ("removed" if task.exclude_reference else "kept")
        for task in plan.tasks
    ]


def _stage_lines(plan: Plan, planned: PlannedStage) -> list[str]:
    settings = planned.settings
    name = f"stage      {planned.stage.name}"
    if not planned.stage.trains:
        return [f"{name}: trains nothing"]
    entries = plan.training_entries(planned)
    updates = len(update_plan(entries, settings, plan.seed_of(planned), 0))
    recipe = planned.recipe
    rows = [f"{name}: {entries:,} rows in place of triplets"] if plan.rows(planned) is not None else []
    return [
        *rows,
        f"{name}: recipe {recipe.name if recipe else 'none'} ({recipe.source if recipe else ''})",
        f"           {settings.epochs} epochs of {updates} updates, batch {settings.batch_size} in negative groups "
        f"of {settings.group}, {settings.optimiser} at {settings.learning_rate:g}, {settings.precision}",
        *_forecast_lines(plan, planned, settings.epochs * updates),
    ]


def _execution_lines(plan: Plan) -> list[str]:
    """How it is computed, where that was asked for."""
    execution = plan.execution
    told = [f"ZeRO {execution.zero}"] if execution.zero else []
    told += [f"pictures in micro-batches of {execution.micro_batch}"] if execution.micro_batch else []
    told += ["gradient checkpointing"] if execution.gradient_checkpointing else []
    lines = [f"computing  {', '.join(told)}"] if told else []
    return lines + ([f"monitors   {', '.join(plan.monitors)} in {plan.folder / 'monitor'}"] if plan.monitors else [])


def _store_lines(plan: Plan) -> list[str]:
    if not plan.backbone:
        return []
    backbone = plan.backbone_family.outline(plan.backbone_choice)
    inputs = planned_inputs(plan, backbone)
    if inputs is None:
        return []
    place, lines = plan.options.cache_root / "features", []
    parts = planned_features(plan, backbone)
    for part in parts:
        where = f"in {place}" if part.kept else "computed anew for every batch: the encoder's pass in every step"
        told = f"{part.split}, {part.pictures:,} pictures, {' and '.join(inputs.views)}: {part.needed / 2**20:,.0f} MiB"
        lines.append(f"features   {told}, {where}")
    pictures = sum(part.pictures for part in parts)
    flops = picture_flops(backbone, inputs.views, inputs.grids)
    seconds = format_seconds(pictures * flops / _speed_here(plan, plan.backbone_settings.precision))
    lines.append(f"           filling {format_work(pictures, 'picture', flops)}: at least {seconds} here")
    return [*lines, *(f"note       {line}" for line in shortage(plan, parts))]


def _forecast_lines(plan: Plan, planned: PlannedStage, updates: int) -> list[str]:
    """Memory and time of a stage that trains; a method whose code asks tensors for their values cannot be told of."""
    try:
        update = forecast_update(plan, planned)
    except RuntimeError as error:  # torch's, of whatever kind
        return [f"           memory and time are not known before it begins ({type(error).__name__})"]
    parts = {"weights": update.weights, "gradients": update.gradients, "moments": update.moments}
    told = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items())
    blocks = "at most " if plan.execution.gradient_checkpointing else ""
    speed = _speed_here(plan, planned.settings.precision)
    count = updates * (len(RATE_FACTORS) if plan.sweeps and planned is plan.last else 1)
    return [
        f"           memory {update.bytes / 2**20:,.0f} MiB: {told}, activations of {update.rows} pairs {blocks}"
        f"{update.activations / 2**20:,.0f}; counted on shapes, without what the allocator keeps",
        f"           time at least {format_seconds(count * update.flops / speed)} here: "
        f"{format_work(count, 'update', update.flops)}, at {speed / 1e9:,.0f} GFLOP/s, as a product of matrices was "
        "measured now; decoding, validation and all else come on top",
    ]


def _speed_here(plan: Plan, precision: str) -> float:
    return product_speed(this_process(plan.options.device).device, precision)


def format_work(count: int, what: str, flops: float) -> str:
    return f"{count:,} {what}s of {flops / 1e9:,.3g} GFLOPs"
