"""`throughput`: speeds of every part on this machine, each beside its limit, as records.

One record for a backbone with a dataset's pictures and texts, one for a training stage whose product
several methods share, one for each method. What is measured is the code that a run uses; how, stands
in the modules of the parts (`encoder_speed`, `training_speed`, `query_speed`) and in `timing`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.pictures import open_picture
from benchmark.distributed.process import Process, this_process
from benchmark.encoders.backbone_table import backbone_label
from benchmark.errors import UserError
from benchmark.files import digest_of
from benchmark.method import Inputs, Method, PixelInputs
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import backbone_of, build_planned
from benchmark.pipeline.reporting import StageOutcome, command_line, data_identity
from benchmark.progress import say
from benchmark.records.environment import (
    check_accelerator,
    code_version,
    environment,
    load_note,
    peak_memory_bytes,
    utc_now,
)
from benchmark.records.identity import EncoderIdentity, Identity
from benchmark.records.measurement import Measurement, Precision
from benchmark.records.record import Record, run_key, write_record
from benchmark.registry import Registry
from benchmark.throughput.encoder_speed import Sample, decoding_speeds, encoding_speeds, machine_speeds
from benchmark.throughput.query_speed import query_speeds
from benchmark.throughput.timing import Setting
from benchmark.throughput.training_speed import StageToMeasure, cut_to_machine, stage_speeds

FEATURES = "features"
FOLDER = Path("runs") / "throughput"


@dataclass(frozen=True)
class HowToMeasure:
    """``seconds``: about how long a measurement may take; ``precision`` None leaves it to the recipes;
    ``picture_size``: (width, height) of JPEG files to make of the dataset's pictures, None for these."""

    seconds: float = 2.0
    precision: Precision | None = None
    picture_size: tuple[int, int] | None = None


def measure(
    chosen: RunOptions, how: HowToMeasure, registry: Registry, known: set[str] | None = None
) -> Iterator[Record]:
    """Records of one method on one dataset: its backbone's, those of shared stages, its own.

    ``known``: digests of what several methods share and earlier calls measured, left out here; what
    this one measures is added. Raises UserError as a run does.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("throughput measures one process; start it without a launcher")
    check_accelerator(chosen.device)
    process = this_process(chosen.device)
    if how.precision == "tf32" and process.device.type != "cuda":
        raise UserError("--precision tf32: only NVIDIA's GPUs compute in it; choose fp32 or bf16, or --device cuda")
    with ExitStack() as stack:
        plan = make_plan(chosen, registry)
        yield from _Measuring(plan, how, process, set() if known is None else known, stack).records()


class _Measuring:
    def __init__(self, plan: Plan, how: HowToMeasure, process: Process, known: set[str], stack: ExitStack) -> None:
        self._plan, self._how, self._process, self._known = plan, how, process, known
        self._busy = load_note()
        self._encoders = Setting(process.device, how.precision or plan.backbone_settings.precision, how.seconds)
        self._backbone = backbone_of(plan)
        self._sample = Sample.of(plan.dataset, plan.tasks[0], how.picture_size, stack)
        self._earlier: dict[str, Method] = {}

    def records(self) -> Iterator[Record]:
        plan, backbone = self._plan, self._backbone
        if backbone is not None and self._is_new(self._how.picture_size):
            say(f"throughput: {FEATURES} of {plan.backbone}")
            started = time.monotonic()
            speeds: dict[str, Measurement] = {
                **decoding_speeds(backbone, self._sample, self._encoders),
                **encoding_speeds(backbone, self._sample, self._encoders, plan.backbone_settings.compile),
                **machine_speeds(self._encoders),
            }
            yield self._record(FEATURES, "Pictures and texts", speeds, None, started)
        for planned in plan.stages:
            planned, method, inputs = self._built(planned)
            self._earlier[planned.stage.name] = method
            is_last, shared = planned.stage.name == plan.last.stage.name, planned.stage.output == "encoder"
            if not is_last and shared and not self._is_new(planned.identity()):
                continue
            say(f"throughput: {plan.method.name if is_last else f'stage {planned.stage.name}'}")
            started = time.monotonic()
            speeds = {}
            if planned.stage.trains:
                outputs = backbone.picture_outputs if backbone else {}
                stage = StageToMeasure(plan, planned, method, inputs, outputs)
                setting = replace(self._encoders, precision=self._precision(planned))
                speeds = stage_speeds(stage, self._process, setting)
            if is_last:
                limit = plan.options.limit
                speeds |= query_speeds(method, inputs, backbone, self._sample, self._encoders, limit)
                name, title = plan.method.name, plan.title
            else:
                name = planned.stage.name if shared else f"{plan.method.name}, {planned.stage.name}"
                title = f"Stage {planned.stage.name}"
            yield self._record(name, title, speeds, planned if planned.stage.trains else None, started)

    def _is_new(self, part: object) -> bool:
        """Whether a part was not measured yet on this data, with the encoder as it computes here."""
        data, encoder = self._plan.dataset, {**self._plan.backbone_identity, "precision": self._encoders.precision}
        digest = digest_of([[data.label, data.fingerprint], encoder, part])
        fresh = digest not in self._known
        self._known.add(digest)
        return fresh

    def _built(self, planned: PlannedStage) -> tuple[PlannedStage, Method, Inputs]:
        """The stage cut to what this machine trains in seconds, its method and its inputs."""
        plan = self._plan
        built = build_planned(plan, planned, self._backbone, self._earlier)
        inputs = built.inputs
        by_name = {f"{planned.stage.name}.{key}" for key in ("batch_size", "negative_group")} & set(plan.options.set)
        if not by_name and (plan.last is not planned or plan.options.batch_size is None):
            side = None
            if isinstance(inputs, PixelInputs):
                image = open_picture(self._sample.pictures.paths[0])
                side = int(inputs.train.picture(image, np.random.default_rng(0)).shape[0])
            planned = cut_to_machine(planned, side, self._process.device.type == "cpu")
        return planned, built.method.to(self._process.device).eval(), inputs

    def _precision(self, trained: PlannedStage | None) -> Precision:
        """What a stage, or the frozen encoder, computes in; TF32 is float32 in a stage's settings."""
        if trained is None or self._how.precision == "tf32":
            return self._encoders.precision
        return trained.settings.precision

    def _record(
        self, name: str, title: str, speeds: Mapping[str, Measurement], trained: PlannedStage | None, started: float
    ) -> Record:
        """``trained``: the stage whose training was measured."""
        plan, of_method = self._plan, name == self._plan.method.name
        further: dict[str, Any] = {"precision": self._precision(trained)}
        if trained is not None:
            further["stages"] = (StageOutcome(trained, 0, 0, plan.options.seed, None).identity(),)
            further |= {"batch_size": trained.settings.batch_size, "negative_group": trained.settings.group}
            if trained.recipe is not None:
                further |= {"recipe": trained.recipe.name, "recipe_source": trained.recipe.source}
        if of_method:
            further |= {"text_rule": plan.rule.name, "variant": plan.variant.name if plan.variant else ""}
            further["method_settings"] = plan.method_settings.model_dump(mode="json")
        digest = self._backbone.description.digest if self._backbone else ""
        identity = speed_identity(plan, digest, self._encoders.precision, **further)
        record = speed_record(name, title, identity, speeds, self._process, self._busy, started)
        return record.model_copy(update={"peak_memory_bytes": peak_memory_bytes()})


def speed_identity(plan: Plan, digest: str, encoder_precision: Precision = "fp32", **further: Any) -> Identity:
    """``digest``: of the encoder's weights; ``further``: what the speeds depend on besides data and encoder."""
    encoder = EncoderIdentity(
        name=backbone_label(plan.backbone),
        weights=plan.weights,
        digest=digest,
        start=plan.initialisation,
        state="untouched",
        precision=encoder_precision,
    )
    return Identity(
        data=data_identity(plan.dataset),
        encoder=encoder if plan.backbone else None,
        limit=plan.options.limit,
        plugins=dict(plan.plugins),
        **further,
    )


def speed_record(
    name: str,
    title: str,
    identity: Identity,
    speeds: Mapping[str, Measurement],
    process: Process,
    busy: tuple[str, ...],
    started: float,
) -> Record:
    """``busy``: what made the measuring doubtful when it began; ``started``: when, by the monotonic clock."""
    return Record(
        kind="throughput",
        method=name,
        title=title,
        command=command_line(),
        created=utc_now(),
        identity=identity,
        code=code_version(),
        environment=environment(str(process.device), process.world_size),
        timings={"measuring": round(time.monotonic() - started, 2)},
        throughput=dict(speeds),
        not_fixed=busy,
    )


def write_throughput(record: Record, output: Path) -> Path:
    """Write the record into its folder, `<output>/<data>/<name>-<digest>`, and give this."""
    label = record.identity.data.label if record.identity.data is not None else "no-data"
    digest = digest_of([run_key(record), record.environment.device, record.environment.threads])[:8]
    folder = output / label / f"{record.method.replace(', ', '-')}-{digest}"
    write_record(folder, record)
    return folder
