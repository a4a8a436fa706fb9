"""`throughput`: speeds of every part on this machine, each beside its limit, as records.

One record for a backbone with a dataset's pictures and texts, one for a training stage whose product
several methods share, one for each method. What is measured is the code that a run uses; how, stands
in the modules of the parts (`encoder_speed`, `training_speed`, `query_speed`) and in `timing`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmark.distributed.process import Process, this_process
from benchmark.errors import UserError
from benchmark.files import digest_of
from benchmark.method import BuildContext, Inputs, Method, PixelInputs
from benchmark.options import RunOptions, make_options
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import backbone_of
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
from benchmark.records.measurement import Measurement, Precision
from benchmark.records.record import EncoderIdentity, Identity, Record, run_key, write_record
from benchmark.registry import Registry
from benchmark.text_rules import text_rule
from benchmark.throughput.encoder_speed import decoding_speeds, encoding_speeds, machine_speeds
from benchmark.throughput.query_speed import query_speeds
from benchmark.throughput.rates import Setting
from benchmark.throughput.sample import sample_of
from benchmark.throughput.training_speed import StageToMeasure, cut_to_machine, stage_speeds
from benchmark.training.batches import all_training_strings

FEATURES = "features"
FOLDER = Path("runs") / "throughput"


@dataclass(frozen=True)
class HowToMeasure:
    """``seconds``: about how long a measurement may take; ``precision`` None leaves it to the recipes;
    ``picture_size``: (width, height) of JPEG files to make of the dataset's pictures, None for these."""

    seconds: float = 2.0
    precision: Precision | None = None
    picture_size: tuple[int, int] | None = None


@dataclass
class AlreadyMeasured:
    """What several methods share and was measured with an earlier one: digests of identities."""

    identities: set[str] = field(default_factory=set)

    def is_new(self, record_of: object) -> bool:
        digest = digest_of(record_of)
        fresh = digest not in self.identities
        self.identities.add(digest)
        return fresh


def measure(
    chosen: RunOptions, how: HowToMeasure, registry: Registry, known: AlreadyMeasured | None = None
) -> Iterator[Record]:
    """Records of one method on one dataset: its backbone's, those of shared stages, its own.

    ``known``: what earlier calls measured, left out here. Raises UserError as a run does.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("throughput measures one process; start it without a launcher")
    check_accelerator(chosen.device)
    process = this_process(chosen.device)
    if how.precision == "tf32" and process.device.type != "cuda":
        raise UserError("--precision tf32: only NVIDIA's GPUs compute in it; choose fp32 or bf16, or --device cuda")
    with ExitStack() as stack:
        plan = make_plan(chosen, registry)
        yield from _Measuring(plan, how, process, known or AlreadyMeasured(), stack).records()


class _Measuring:
    def __init__(
        self, plan: Plan, how: HowToMeasure, process: Process, known: AlreadyMeasured, stack: ExitStack
    ) -> None:
        self._plan, self._how, self._process, self._known = plan, how, process, known
        self._busy = load_note()
        precision = how.precision or plan.backbone_settings.precision
        self._encoders = Setting(process.device, precision, how.seconds)
        self._backbone = backbone_of(plan)
        self._digest = self._backbone.description.digest if self._backbone else ""
        self._sample = sample_of(plan.dataset, plan.tasks[0], how.picture_size, stack)
        self._earlier: dict[str, Method] = {}

    def records(self) -> Iterator[Record]:
        backbone = self._backbone
        if backbone is not None and self._known.is_new([self._data, self._encoder_identity, self._how.picture_size]):
            say(f"throughput: {FEATURES} of {self._plan.backbone}")
            started = time.monotonic()
            speeds = {
                **decoding_speeds(backbone, self._sample, self._encoders),
                **encoding_speeds(backbone, self._sample, self._encoders, self._plan.backbone_settings.compile),
                **machine_speeds(self._encoders),
            }
            precision = self._encoders.precision
            yield self._record(FEATURES, "Pictures and texts", speeds, (), precision, started)
        for planned in self._plan.stages[:-1]:
            yield from self._stage(planned)
        yield self._method(self._plan.last)

    def _stage(self, planned: PlannedStage) -> Iterator[Record]:
        """A stage before the last; a shared encoder stage is measured once."""
        planned, method, inputs = self._built(planned)
        self._earlier[planned.stage.name] = method
        shared = planned.stage.output == "encoder"
        if shared and not self._known.is_new([self._data, self._encoder_identity, planned.identity()]):
            return
        say(f"throughput: stage {planned.stage.name}")
        started = time.monotonic()
        speeds = self._trained(planned, method, inputs)
        name = planned.stage.name if shared else f"{self._plan.method.name}, {planned.stage.name}"
        yield self._record(name, f"Stage {planned.stage.name}", speeds, (planned,), self._precision(planned), started)

    def _method(self, planned: PlannedStage) -> Record:
        planned, method, inputs = self._built(planned)
        say(f"throughput: {self._plan.method.name}")
        started = time.monotonic()
        speeds = self._trained(planned, method, inputs) if planned.stage.trains else {}
        setting = self._encoders
        speeds |= query_speeds(method, inputs, self._backbone, self._sample, setting, self._plan.options.limit)
        trained = (planned,) if planned.stage.trains else ()
        precision = self._precision(planned) if trained else setting.precision
        return self._record(self._plan.method.name, self._plan.title, speeds, trained, precision, started)

    def _trained(self, planned: PlannedStage, method: Method, inputs: Inputs) -> dict[str, Measurement]:
        plan = self._plan
        stage = StageToMeasure(
            planned=planned,
            method=method,
            inputs=inputs,
            width=self._backbone.width if self._backbone else 0,
            triplets=plan.triplets(planned, frozenset())(0),
            pictures=plan.dataset.pictures,
            seed=plan.options.seed,
            execution=plan.execution if isinstance(inputs, PixelInputs) else replace(plan.execution, micro_batch=0),
        )
        setting = Setting(self._process.device, self._precision(planned), self._how.seconds)
        return stage_speeds(stage, self._process, setting)

    def _precision(self, planned: PlannedStage) -> Precision:
        """What a stage computes in: TF32 is float32 in its settings."""
        return "tf32" if self._how.precision == "tf32" else planned.settings.precision

    def _built(self, planned: PlannedStage) -> tuple[PlannedStage, Method, Inputs]:
        """The stage cut to what this machine trains in seconds, its method and its inputs."""
        plan = self._plan
        context = BuildContext(
            backbone=self._backbone,
            method_settings=plan.method_settings,
            training_settings=planned.settings,
            assets_root=plan.options.assets_root or None,
            earlier=self._earlier,
        )
        inputs = planned.stage.inputs(context)
        if not _batch_is_asked_for(plan, planned):
            side = self._side(inputs) if isinstance(inputs, PixelInputs) else None
            planned = cut_to_machine(planned, side, self._process.device.type == "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(plan.options.seed)
            method = planned.stage.build(context)
            rule = text_rule(planned.settings.text_rule)
            method.build_extra_state(all_training_strings(plan.dataset.training_texts(), rule))
        return planned, method.to(self._process.device).eval(), inputs

    def _side(self, inputs: PixelInputs) -> int:
        with Image.open(self._sample.pictures.paths[0]) as image:
            image.load()
            return int(inputs.train.picture(image, np.random.default_rng(0)).shape[0])

    @property
    def _data(self) -> list[str]:
        return [self._plan.dataset.label, self._plan.dataset.fingerprint]

    @property
    def _encoder_identity(self) -> dict[str, Any]:
        return {**self._plan.backbone_identity, "precision": self._encoders.precision}

    def _record(
        self,
        name: str,
        title: str,
        speeds: Mapping[str, Measurement],
        trained: Sequence[PlannedStage],
        precision: Precision,
        started: float,
    ) -> Record:
        plan, process = self._plan, self._process
        return Record(
            kind="throughput",
            method=name,
            title=title,
            command=command_line(),
            created=utc_now(),
            identity=_identity(
                plan, self._digest, trained, precision, self._encoders.precision, name == plan.method.name
            ),
            code=code_version(),
            environment=environment(str(process.device), process.world_size),
            timings={"measuring": round(time.monotonic() - started, 2)},
            throughput=dict(speeds),
            peak_memory_bytes=peak_memory_bytes(),
            not_fixed=self._busy,
        )


def _identity(
    plan: Plan,
    digest: str,
    trained: Sequence[PlannedStage],
    precision: Precision,
    encoders: Precision,
    of_method: bool,
) -> Identity:
    last = trained[-1] if trained else None
    return Identity(
        data=data_identity(plan.dataset),
        encoder=EncoderIdentity(
            name=plan.backbone,
            weights=plan.weights,
            digest=digest,
            start=plan.initialisation,
            state="untouched",
            precision=encoders,
        )
        if plan.backbone
        else None,
        recipe=last.recipe.name if last and last.recipe else "",
        recipe_source=last.recipe.source if last and last.recipe else "",
        variant=plan.variant.name if of_method and plan.variant else "",
        method_settings=plan.method_settings.model_dump(mode="json") if of_method else {},
        stages=tuple(StageOutcome(planned, 0, 0, plan.options.seed, None).identity() for planned in trained),
        batch_size=last.settings.batch_size if last else None,
        negative_group=last.settings.group if last else None,
        precision=precision,
        text_rule=plan.rule.name if of_method else "",
        limit=plan.options.limit,
        plugins=dict(plan.plugins),
    )


def _batch_is_asked_for(plan: Plan, planned: PlannedStage) -> bool:
    by_name = {f"{planned.stage.name}.{key}" for key in ("batch_size", "negative_group")} & set(plan.options.set)
    return bool(by_name) or (plan.last is planned and plan.options.batch_size is not None)


def folder_of(record: Record, output: Path) -> Path:
    """Where a record is written: `<output>/<data>/<name>-<digest>`."""
    label = record.identity.data.label if record.identity.data is not None else "no-data"
    digest = digest_of([run_key(record), record.environment.device, record.environment.threads])[:8]
    return output / label / f"{record.method.replace(', ', '-')}-{digest}"


def write_throughput(record: Record, output: Path) -> Path:
    """Write the record in its folder and give this."""
    folder = folder_of(record, output)
    write_record(folder, record)
    return folder


def options_for(values: Mapping[str, Any], method: str, dataset: str, how: HowToMeasure) -> RunOptions:
    """A run's options; `tf32` is a kind of fp32 there."""
    precision = "fp32" if how.precision == "tf32" else how.precision or ""
    return make_options(**{**values, "method": method, "dataset": dataset, "precision": precision})
