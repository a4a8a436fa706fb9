"""`evaluate --checkpoint`: score weights that a run wrote, without training anything.

A weights file's header says how to build its method and which encoder artefact its features came
from; both are checked before anything is computed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.arithmetic import float32_convolutions
from benchmark.backbone import Backbone
from benchmark.data.dataset_choice import EVALUATED
from benchmark.data.long_texts import with_cut_texts
from benchmark.data.noise import trained_with
from benchmark.dataset import Task
from benchmark.distributed.job import Job, join_job
from benchmark.encoders.families import rebuild
from benchmark.errors import UserError
from benchmark.evaluation.evaluator import EncodedTask, TaskResult, encode_tasks
from benchmark.evaluation.single_modality import score_beside_modalities
from benchmark.files import file_digest
from benchmark.method import Inputs, Method
from benchmark.options import RunOptions, make_options
from benchmark.pipeline.contract_probe import probe
from benchmark.pipeline.cost import count_cost
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import advice_on_pictures, backbone_of, draw_demo_data, rebuild_planned
from benchmark.pipeline.probed_rows import sample_of
from benchmark.pipeline.reporting import (
    StageOutcome,
    Tested,
    WeightsFrom,
    build_record,
    write_by_main,
    write_run,
)
from benchmark.pipeline.run_folder import Owner, checked_weights, held_folder
from benchmark.pipeline.stage_sources import StageSources, apart_from
from benchmark.pipeline.variants import UNNAMED
from benchmark.records.measurement import Probe
from benchmark.records.record import Record
from benchmark.registry import discover
from benchmark.weights.checkpoints import WeightsHeader, read_header, read_weights
from benchmark.weights.fit import load_into

_OF_THE_DATASET = ("text_rule", "pair_sampling")
"""Training settings that another dataset has values of its own for."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A method with the weights of a file, ready to encode, and what a record says of them.

    ``encoder`` is the backbone that the method's features come from, with its weights; None where
    the method brings its own networks. ``trained_backbone``: the one that the weights are of, where an encoder's
    stage is evaluated.
    """

    plan: Plan
    method: Method
    backbone: Backbone | None
    inputs: Inputs
    job: Job
    stages: list[StageOutcome]
    start_digest: str
    weights_from: WeightsFrom
    imported: Mapping[str, str]
    trained_backbone: Backbone | None = None

    def encode(self, tasks: Sequence[Task]) -> list[EncodedTask]:
        """Encodings of tasks of the plan's dataset."""
        with StageSources(self.plan, self.job, self.backbone) as sources:
            return encode_tasks(self.method, tasks, sources.evaluation(self.method, self.inputs), self.job)

    def score(self, tasks: Sequence[Task]) -> list[TaskResult]:
        """Results of tasks of the plan's dataset, beside those of either modality alone."""
        encoded = self.encode(tasks)
        # An encoder's own features are those of the weights that were loaded into it.
        with StageSources(self.plan, self.job, self.trained_backbone or self.backbone) as sources:
            alone = sources.single_modalities(self.plan.last.stage, self.method, self.inputs, tasks)
            return [score_beside_modalities(self.method, task, alone, self.job) for task in encoded]

    def probe(self) -> Probe:
        """What a few rows say of the method's contract; raises UserError where it is broken."""
        with StageSources(self.plan, self.job, self.backbone) as sources:
            sample = sample_of(self.plan.tasks[0], sources.evaluation(self.method, self.inputs))
            return probe(self.plan.method.name, self.method, sample, None)


def evaluate_checkpoint(
    method: str, checkpoint: Path, dataset: str, encoder: str, values: dict[str, Any]
) -> tuple[Record, Path]:
    """Score a checkpoint (a run's folder or a weights file); gives the record and its folder.

    Under a launcher every process calls it, and each reads the checkpoint; rank 0 writes. Raises
    UserError where the file is of another method, width or format, or its encoder is gone.
    """
    started = time.monotonic()
    file = checked_weights(checkpoint)
    header = read_header(file)
    if header.exported:
        raise UserError(f"{file}: an export, for use outside; evaluate the run that it was made from")
    if header.method != method:
        raise UserError(f"{file}: weights of '{header.method}', not of method '{method}'; give its own --method")
    chosen = options_of(header, dataset or header.dataset, values)
    job = join_job(chosen.device, chosen.cache_root)
    draw_demo_data(chosen, discover(), job)
    plan = _named(make_plan(chosen, needed=(EVALUATED,)), header)
    plan = replace(
        plan, dataset=trained_with(plan.dataset, header.noise), training_files=header.training_files,
        trained_on=header.trained_on or plan.trained_on,
    )  # fmt: skip
    folder = Path(plan.options.output) if plan.options.output else file.parent / f"evaluated-{plan.dataset.label}"
    loaded = load_checkpoint(file, header, plan, encoder, job)
    weights = {file.name: file_digest(file)}
    owner = Owner("evaluation", {"weights": weights, "seed": header.seed, **plan.identity})
    with ExitStack() as held, advice_on_pictures(plan), float32_convolutions():
        hold = held_folder(folder, owner, overwrite=plan.options.overwrite)
        job.barrier.from_main("taking the evaluation's folder", lambda: held.enter_context(hold))
        probed = loaded.probe()
        results = loaded.score(with_cut_texts(plan.tasks, loaded.backbone))
        tested: Tested = {loaded.weights_from: plan.subset.restrict(results) if plan.subset else results}
        timings = {"evaluation": time.monotonic() - started}
        stages, start = loaded.stages, loaded.start_digest
        cost = count_cost(loaded.method, loaded.inputs, loaded.backbone, plan.tasks[0].queries.texts)
        record = build_record(
            plan, loaded.method, tested, stages, start, timings, job.process, frozenset(), cost, weights,
            imported=loaded.imported, probed=probed,
        )  # fmt: skip
        written = write_by_main(job, lambda: write_run(folder, record, tested, plan.dataset, plan.title))
    return written, folder


def load_checkpoint(
    file: Path, header: WeightsHeader, plan: Plan, encoder: str, job: Job
) -> LoadedCheckpoint:
    """Build a weights file's method; ``encoder`` names the encoder artefact where it was moved, or "".

    Raises UserError where the width differs, or the encoder is gone or another one.
    """
    backbone, start_digest = _backbone(plan, header, job)
    if backbone is not None and backbone.vector_width != header.width:
        raise UserError(
            f"{file}: for a backbone of width {header.width}, but {plan.backbone} has {backbone.vector_width}"
        )
    stages: list[StageOutcome] = []
    before: dict[str, Method] = {}
    if backbone is not None and header.encoder and not plan.has_encoder_stage:
        # Imported weights that no stage trained further.
        path = encoder_file(header, file, encoder)
        load_into(backbone, read_weights(path), str(path))
        backbone.relabel(str(header.start["weights"]))
    for planned, told in zip(plan.stages[:-1], header.earlier, strict=True):
        if planned.stage.output == "encoder" and backbone is not None:
            path = encoder_file(header, file, encoder)
            load_into(rebuild_planned(plan, planned, backbone).method, read_weights(path), str(path))
            backbone.relabel(f"{plan.weights}+{planned.stage.name}")
            stages.append(StageOutcome.of_header(planned, read_header(path), file_digest(path)))
            continue
        before[told.name] = rebuild_planned(plan, planned, backbone, told.prepared, before).method
        stages.append(StageOutcome(planned, told.updates, told.triplets_seen, header.seed, None))
    built = rebuild_planned(plan, plan.last, backbone, header.prepared, before)
    stored = apart_from(built.method, backbone)
    load_into(built.method, read_weights(file), str(file))
    if plan.last.stage.trains:
        stages.append(StageOutcome.of_header(plan.last, header, None))
    return LoadedCheckpoint(
        plan=plan,
        method=built.method.to(job.process.device).eval(),
        backbone=stored,
        inputs=built.inputs,
        job=job,
        stages=stages,
        start_digest=start_digest,
        weights_from=_weights_from(plan, header, file),
        imported=header.imported,
        trained_backbone=backbone if plan.last.stage.output == "encoder" else None,
    )


def _weights_from(plan: Plan, header: WeightsHeader, file: Path) -> WeightsFrom:
    if header.imported:
        return "imported"
    if not plan.last.stage.trains:
        return "none trained"
    return "last" if file.stem == "last" else "selected"


def _backbone(plan: Plan, header: WeightsHeader, job: Job) -> tuple[Backbone | None, str]:
    """The backbone and the digest of its start; what it started from is not read where its weights follow."""
    if header.start and (header.encoder or header.imported or plan.last.stage.output == "encoder"):
        families, assets = plan.backbone_families, plan.options.assets
        rebuilt = rebuild(header.start, "the checkpoint's header", families, assets).to(job.process.device)
        return rebuilt, str(header.start["digest"])
    backbone = backbone_of(plan)
    return backbone, backbone.description.digest if backbone else ""


def plan_of(
    header: WeightsHeader, dataset: str, values: dict[str, Any], needed: tuple[str, ...] = (EVALUATED,)
) -> Plan:
    """The plan of the run that wrote the header, on the splits of the data that are asked for."""
    return _named(make_plan(options_of(header, dataset, values), needed=needed), header)


def _named(plan: Plan, header: WeightsHeader) -> Plan:
    """A recipe of the user's own keeps its name: no row of it may read as if it were the paper's."""
    recipe = plan.last.recipe
    if recipe is None or not header.recipe.endswith(".toml") or plan.options.dataset != header.dataset:
        return plan
    own = replace(recipe, name=header.recipe, source=f"the user's own, {header.recipe}")
    return replace(plan, stages=(*plan.stages[:-1], replace(plan.last, recipe=own)))


def options_of(header: WeightsHeader, dataset: str, values: dict[str, Any]) -> RunOptions:
    """The options of that run, on the data that is asked for."""
    is_own, is_file = dataset == header.dataset, header.recipe.endswith(".toml")
    left = () if is_own else _OF_THE_DATASET
    trained = {header.stage: header.training_settings} | {stage.name: stage.settings for stage in header.earlier}
    settings = {f"{name}.{k}": v for name, told in trained.items() for k, v in told.items() if k not in left}
    settings |= {f"method.{k}": v for k, v in header.method_settings.items()}
    settings |= {f"backbone.{k}": v for k, v in header.backbone.get("settings", {}).items()}
    chosen = {
        **values,
        "backbone": header.backbone.get("name", ""),
        "weights": header.backbone.get("weights", ""),
        # A recipe of the user's own need not be here any more: all settings are in the header. What is adapted is the
        # default, or made of a paper's for other categories.
        "recipe": header.recipe if is_own and header.recipe != "adapted" and not is_file else "",
        "category": header.category if is_own else "",
        "variant": header.variant or UNNAMED,
        "seed": header.seed,
        "set": settings,
        "selection": header.selection or "paper",
        "train_dataset": _trained_on(header, dataset),
        "text_mode": values.get("text_mode") or (header.asked_by if is_own else ""),
    }
    return make_options(method=header.method, dataset=dataset, **chosen)


def _trained_on(header: WeightsHeader, dataset: str) -> str:
    """The dataset that weights were trained on, where it is not the evaluated one and recipes for that are none."""
    info = discover().datasets().get(dataset)
    without_triplets = info is not None and info.train_dataset and header.dataset != dataset
    return header.trained_on.get("name", header.dataset if without_triplets else "")


def encoder_file(header: WeightsHeader, file: Path, named: str) -> Path:
    """The encoder artefact that the checkpoint's features came from, checked by its digest.

    Looked for where it was, and beside the weights file and its folder, in case both were moved.
    """
    told = Path(named or header.encoder_file)
    beside = [file.parent / told.name, file.parent.parent / told.name]
    places = [told] if named else [told, *beside]
    found = [path for path in places if header.encoder_file and path.is_file()]
    if not found:
        raise UserError(f"{file}: needs the encoder {told} that it was trained on; give it with --encoder FILE")
    for path in found:
        if file_digest(path) == header.encoder:
            return path
    raise UserError(f"{found[0]}: not the encoder that {file} was trained on; give the right one with --encoder FILE")
