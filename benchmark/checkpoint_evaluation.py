"""`evaluate --checkpoint`: score weights that a run wrote, without training anything.

A weights file's header says how to build its method and which encoder artefact its features came
from; both are checked before anything is computed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmark.backbones import ClipBackbone
from benchmark.checkpoints import WeightsHeader, load_into, read_header, read_weights
from benchmark.distributed import this_process
from benchmark.errors import UserError
from benchmark.evaluator import encode_tasks
from benchmark.files import file_digest, folder_lock
from benchmark.method import BuildContext
from benchmark.options import make_options
from benchmark.pipeline import backbone_of
from benchmark.plan import Plan, PlannedStage, make_plan
from benchmark.record import Record
from benchmark.reporting import StageOutcome, TestedWeights, WeightsFrom, build_record, describe_task, write_run
from benchmark.stage_sources import StageSources


def evaluate_checkpoint(
    method: str, checkpoint: Path, dataset: str, encoder: str, values: dict[str, Any]
) -> tuple[Record, Path]:
    """Score a checkpoint (a run's folder or a weights file); gives the record and its folder.

    Raises UserError where the file is of another method, width or format, or its encoder is gone.
    """
    started = time.monotonic()
    file = weights_file(checkpoint)
    header = read_header(file)
    if header.method != method:
        raise UserError(
            f"{file}: a checkpoint of method '{header.method}', not of '{method}'; give --method {header.method}"
        )
    plan = _plan_of(header, dataset or header.dataset, values)
    folder = Path(plan.options.output) if plan.options.output else file.parent / f"evaluated-{plan.dataset.label}"
    backbone, process = backbone_of(plan), this_process(plan.options.device)
    start_digest = backbone.description.digest
    if backbone.description.width != header.width:
        raise UserError(
            f"{file}: for a backbone of width {header.width}, but {plan.backbone} has {backbone.description.width}"
        )
    stages = [_load_encoder(plan, planned, backbone, header, file, encoder) for planned in plan.stages[:-1]]
    context = _context(plan, plan.last, backbone)
    built = plan.last.stage.build(context).to(process.device).eval()
    built.restore(header.prepared)
    load_into(built, read_weights(file), str(file))
    stages.append(StageOutcome.of_header(plan.last, header, None))
    weights_from: WeightsFrom = "last" if file.stem == "last" else "selected"
    with folder_lock(folder, "evaluation"), StageSources(plan, process, backbone) as sources:
        source = sources.evaluation(built, plan.last.stage.inputs(context))
        encoded = encode_tasks(built, plan.tasks, source)
        names = plan.dataset.pictures.names
        tested = [TestedWeights(weights_from, [describe_task(built, task, names) for task in encoded])]
        timings = {"evaluation": time.monotonic() - started}
        record = build_record(plan, tested, stages, start_digest, timings, process, frozenset())
        return write_run(folder, record, tested, plan.dataset, plan.method.title), folder


def _context(plan: Plan, planned: PlannedStage, backbone: ClipBackbone) -> BuildContext:
    return BuildContext(backbone, plan.method_settings, planned.settings, plan.options.assets_root or None)


def _load_encoder(
    plan: Plan, planned: PlannedStage, backbone: ClipBackbone, header: WeightsHeader, file: Path, named: str
) -> StageOutcome:
    """Put the encoder that a checkpoint was trained on into the backbone."""
    path = _encoder_file(header, file, named)
    load_into(planned.stage.build(_context(plan, planned, backbone)), read_weights(path), str(path))
    backbone.relabel(f"{plan.weights}+{planned.stage.name}")
    return StageOutcome.of_header(planned, read_header(path), file_digest(path))


def weights_file(checkpoint: Path) -> Path:
    """The file itself, or the selected weights of a run's folder."""
    if not checkpoint.is_dir():
        return checkpoint
    for candidate in (checkpoint / "weights" / "selected.safetensors", checkpoint / "selected.safetensors"):
        if candidate.is_file():
            return candidate
    raise UserError(f"{checkpoint}: holds no weights/selected.safetensors; give a run's folder or a weights file")


def _plan_of(header: WeightsHeader, dataset: str, values: dict[str, Any]) -> Plan:
    """The plan of the run that wrote the header, on the data that is asked for."""
    settings = {f"{header.stage}.{k}": v for k, v in header.training_settings.items()}
    settings |= {f"method.{k}": v for k, v in header.method_settings.items()}
    settings |= {f"backbone.{k}": v for k, v in header.backbone["settings"].items()}
    chosen = {
        **values,
        "backbone": header.backbone["name"],
        "weights": header.backbone["weights"],
        "seed": header.backbone["seed"],
        "set": settings,
        "selection": header.selection or "paper",
    }
    return make_plan(make_options(method=header.method, dataset=dataset, **chosen))


def _encoder_file(header: WeightsHeader, file: Path, named: str) -> Path:
    """The encoder artefact that the checkpoint's features came from, checked by its digest."""
    path = Path(named) if named else Path(header.encoder_file)
    if not header.encoder_file or not path.is_file():
        raise UserError(f"{file}: needs the encoder {path} that it was trained on; give it with --encoder FILE")
    if file_digest(path) != header.encoder:
        raise UserError(f"{path}: not the encoder that {file} was trained on; give the right one with --encoder FILE")
    return path
