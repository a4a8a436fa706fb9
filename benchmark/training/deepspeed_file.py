"""A user's DeepSpeed configuration (JSON): what of it is passed on, and what belongs to the recipe.

How gradients are summed, what is logged and timed, and where the optimiser's state lies is the
machine's affair: these sections reach DeepSpeed as they stand. Batch, accumulation, optimiser,
schedule, clipping and precision are the recipe's; the file may repeat them ("auto" is as good as left
out) and is refused where it says something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.configurations import ready_configuration
from benchmark.errors import UserError, unknown_name
from benchmark.settings import TrainingSettings
from benchmark.structured_files import read_json
from benchmark.training.batches import GroupLayout

PASSED = frozenset({
    "communication_data_type", "prescale_gradients", "gradient_predivide_factor", "sparse_gradients",
    "comms_logger", "flops_profiler", "wall_clock_breakdown", "memory_breakdown", "dump_state",
    "steps_per_print", "timers", "seq_parallel_communication_data_type", "log_level",
})  # fmt: skip
"""Sections that change no result of a run."""

MONITORS = frozenset({"tensorboard", "csv_monitor", "wandb", "comet"})

_RECIPE = frozenset({
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "optimizer", "scheduler", "fp16", "bf16", "torch_autocast", "zero_optimization", "zero_allow_untested_optimizer",
})  # fmt: skip

_SECTIONS = frozenset({"optimizer", "scheduler", "fp16", "bf16", "torch_autocast", "zero_optimization"}) | MONITORS
"""Keys whose value is an object of its own."""

_OPTIMISER_PARAMETERS = {
    "lr": "learning_rate", "betas": "betas", "eps": "eps", "weight_decay": "weight_decay", "momentum": "momentum",
}  # fmt: skip

_NO_EFFECT = "the trainer does this itself"
REFUSED: Mapping[str, str] = {
    "activation_checkpointing": "use --set trainer.gradient_checkpointing=true",
    "amp": "the precision is the recipe's; use --precision",
    "checkpoint": "use --set trainer.checkpoint_seconds=…",
    "data_efficiency": "the order of triplets is the recipe's",
    "curriculum_learning": "the order of triplets is the recipe's",
    "dataloader_drop_last": _NO_EFFECT,
    "data_types": "gradients are summed in float32",
    "elasticity": "the batch is the recipe's",
    "autotuning": "batch and accumulation are the recipe's",
    "compression_training": "it changes the method",
    "progressive_layer_drop": "it changes the method",
    "eigenvalue": "it changes the method",
    "quantize_training": "it changes the method",
    "sparse_attention": "it changes the method",
    "pipeline": "the models are not cut into stages",
    "tensor_parallel": "the models are not cut",
    "hybrid_engine": "nothing is generated here",
    "zero_force_ds_cpu_optimizer": "the optimiser is the recipe's, on the device",
    "aio": "nothing is swapped to disk",
}
"""Sections that would change a result, or that would silently do nothing here; and why."""

ZERO_PASSED = frozenset({
    "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "round_robin_gradients",
    "parameter_alignment", "ignore_unused_parameters",
})  # fmt: skip
"""Keys of zero_optimization that stages 1 and 2 read."""

_NUMBERS = {
    "zero_optimization": ("reduce_bucket_size", "allgather_bucket_size"),
    "fp16": ("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale"),
}  # fmt: skip
"""Keys by section whose value is a number; what else ZERO_PASSED names is true or false."""

_ZERO_REFUSED: Mapping[str, str] = {
    "offload_optimizer": "it needs DeepSpeed's own optimisers; the recipe's is torch's, on the device",
    "offload_param": "it is of stage 3",
    "cpu_offload": "it needs DeepSpeed's own optimisers; the recipe's is torch's, on the device",
    "elastic_checkpoint": "resumable states here fit any number of processes without it",
    "load_from_fp32_weights": "resumable states here are not DeepSpeed's",
    "compute_grad_norm": "the gradient's norm is logged and finds overflows",
    "zenflow": "it changes when weights are updated",
}


@dataclass(frozen=True)
class DeepspeedFile:
    """A file whose sections are all known; `contradictions` holds it against a stage."""

    path: Path
    values: Mapping[str, Any]

    @cached_property
    def zero_stage(self) -> int | None:
        """The ZeRO stage, None where the file leaves it open."""
        stage = self.values.get("zero_optimization", {}).get("stage", "auto")
        return None if stage == "auto" else int(stage)

    @property
    def passed(self) -> dict[str, Any]:
        """What reaches DeepSpeed as it stands."""
        sections = {key: value for key, value in self.values.items() if key in PASSED and value != "auto"}
        zero = self.values.get("zero_optimization", {})
        sections["zero_optimization"] = {k: v for k, v in zero.items() if k in ZERO_PASSED and v != "auto"}
        return sections

    @property
    def monitors(self) -> dict[str, Any]:
        """The sections of DeepSpeed's monitors."""
        return {key: dict(value) for key, value in self.values.items() if key in MONITORS}

    def contradictions(
        self, stage: str, settings: TrainingSettings, layout: GroupLayout, brings_optimiser: bool = False
    ) -> list[str]:
        """A line for each value of the file that is not the stage's; ``brings_optimiser``: of its own kind."""
        return [
            f"--deepspeed-config {self.path}: {key} is {_format_json(value)}, but stage {stage} {own}; "
            f"remove it from the file, or {remedy}"
            for key, value, own, remedy in self._differences(stage, settings, layout, brings_optimiser)
        ]

    def _differences(
        self, stage: str, settings: TrainingSettings, layout: GroupLayout, brings_optimiser: bool
    ) -> Iterator[tuple[str, Any, str, str]]:
        batch, group = settings.batch_size, settings.group
        laid_out = f"batch_size {batch} in negative groups of {group}"
        numbers: list[tuple[str, float, str, str]] = [
            ("train_batch_size", batch, f"trains with batch_size {batch}", "set --set {stage}.batch_size={value}"),
            (
                "train_micro_batch_size_per_gpu", layout.rows_per_rank,
                f"computes {layout.rows_per_rank} rows at once on each process ({laid_out})",
                "set --set trainer.micro_batch={value} to encode that many at a time with the same result",
            ),
            (
                "gradient_accumulation_steps", layout.groups_per_rank,
                f"accumulates {layout.groups_per_rank} on each process ({laid_out})",
                "change --negative-group or the number of processes",
            ),
            (
                "gradient_clipping", settings.gradient_clip, f"has gradient_clip {settings.gradient_clip:g}",
                "set --set {stage}.gradient_clip={value}",
            ),
        ]  # fmt: skip
        for key, own, told, remedy in numbers:
            value = self.values.get(key, "auto")
            if value != "auto" and value != own:
                yield key, value, told, remedy.format(stage=stage, value=value)
        yield from self._precision_differences(settings)
        yield from self._optimiser_differences(stage, settings, brings_optimiser)
        scheduler = self.values.get("scheduler")
        if scheduler:
            kind = scheduler.get("type", scheduler) if isinstance(scheduler, dict) else scheduler
            yield (
                "scheduler.type", kind, f"has the schedule {settings.schedule}",
                f"choose one with --set {stage}.schedule=…",
            )  # fmt: skip

    def _precision_differences(self, settings: TrainingSettings) -> Iterator[tuple[str, Any, str, str]]:
        own = f"computes in {settings.precision}"
        for key in ("bf16", "fp16"):
            if self.values.get(key, {}).get("enabled") is True and settings.precision != key:
                yield f"{key}.enabled", True, own, f"choose it with --precision {key}"
        autocast = self.values.get("torch_autocast", {})
        named = {"bfloat16": "bf16", "float16": "fp16"}.get(str(autocast.get("dtype", "bfloat16")))
        if autocast.get("enabled") is True and named != settings.precision:
            remedy = f"choose it with --precision {named}" if named else "choose --precision bf16 or fp16"
            yield "torch_autocast.dtype", autocast.get("dtype", "bfloat16"), own, remedy

    def _optimiser_differences(
        self, stage: str, settings: TrainingSettings, brings_optimiser: bool
    ) -> Iterator[tuple[str, Any, str, str]]:
        section = self.values.get("optimizer")
        if not section:
            return
        kind, values = str(section.get("type", "")), section.get("params", {})
        if brings_optimiser:
            yield "optimizer.type", kind, "brings an optimiser of its own", "leave the optimiser to the method"
            return
        # DeepSpeed's "Adam" decouples the weight decay unless adam_w_mode is false.
        decouples = kind.lower() == "adam" and values.get("adam_w_mode", True)
        if ("adamw" if decouples else kind.lower()) != settings.optimiser:
            remedy = f"choose one with --set {stage}.optimiser=…"
            yield "optimizer.type", kind, f"trains with the optimiser {settings.optimiser}", remedy
            return
        for key, name in _OPTIMISER_PARAMETERS.items():
            own = getattr(settings, name)
            value = values.get(key, "auto")
            if value != "auto" and (tuple(value) if isinstance(value, list) else value) != own:
                shown = list(own) if isinstance(own, tuple) else own
                remedy = f"set --set {stage}.{name}={value}"
                yield f"optimizer.params.{key}", value, f"has {name} {shown}", remedy


def read_deepspeed_file(name: str) -> DeepspeedFile:
    """A DeepSpeed configuration by path, or a ready one by name.

    Raises UserError with all sections that are unknown (and their nearest), refused or misformed.
    """
    path = ready_configuration(name, ".json", "--deepspeed-config")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"--deepspeed-config {path}: not a JSON object; see DeepSpeed's configuration JSON")
    # DeepSpeed reads over names that it does not know; those with a leading underscore are remarks.
    values = {key: value for key, value in values.items() if value is not None and not key.startswith("_")}
    problems = [f"--deepspeed-config {path}: {problem}" for problem in _problems(values)]
    if problems:
        raise UserError.collect(problems)
    return DeepspeedFile(path, values)


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    known = _RECIPE | PASSED | MONITORS | REFUSED.keys()
    for key, value in values.items():
        if key not in known:
            yield str(unknown_name("key", key, known))
        elif key in REFUSED:
            yield f"{key} has no place here: {REFUSED[key]}; remove it from the file"
        elif key in _SECTIONS and not isinstance(value, dict):
            yield f"{key} is {_format_json(value)}; write it as an object of its own"
    # It is told so in any case, and would otherwise refuse the optimiser at ZeRO 1 and 2.
    if values.get("zero_allow_untested_optimizer", True) is False:
        yield "zero_allow_untested_optimizer is false, but the recipe's optimiser is torch's; remove it from the file"
    zero = values.get("zero_optimization")
    if isinstance(zero, dict):
        yield from _zero_problems(zero)
        yield from _wrong_kinds("zero_optimization", zero, ZERO_PASSED)
    fp16 = values.get("fp16")
    if isinstance(fp16, dict):
        yield from _wrong_kinds("fp16", fp16, frozenset())


def _wrong_kinds(section: str, values: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    """What is no number where one is read, or neither true nor false."""
    for key, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if value in ("auto", None):
            continue
        if key in _NUMBERS[section] and not is_number:
            yield f"{section}.{key} is {_format_json(value)}; write a number"
        elif key in known and key not in _NUMBERS[section] and not isinstance(value, bool):
            yield f"{section}.{key} is {_format_json(value)}; write true or false"


def _zero_problems(zero: Mapping[str, Any]) -> Iterator[str]:
    if zero.get("stage", 0) not in (0, 1, 2, "auto"):
        yield (
            f"zero_optimization.stage is {_format_json(zero['stage'])}; it can be 0, 1 or 2 "
            "(stage 3 cuts the weights themselves, and these models fit every card whole)"
        )
    known = {"stage"} | ZERO_PASSED | _ZERO_REFUSED.keys()
    for key, value in zero.items():
        # What is switched off in words, as Hugging Face's examples do, asks for nothing.
        if key in _ZERO_REFUSED and value not in (None, False, {"device": "none"}):
            yield f"zero_optimization.{key} has no place here: {_ZERO_REFUSED[key]}; remove it from the file"
        elif key not in known and not key.startswith(("stage3_", "zero_hpz", "zero_quantized")):
            yield str(unknown_name("key", f"zero_optimization.{key}", {f"zero_optimization.{k}" for k in known}))
        elif key.startswith(("stage3_", "zero_hpz", "zero_quantized")):
            yield f"zero_optimization.{key} is of ZeRO stage 3, which has no place here; remove it from the file"


def _format_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
