"""Steps of training at the papers' sizes: speed, share of what their products allow, memory, host waits."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from host_waits import HostWaits

from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import backbone_of, build_planned
from benchmark.registry import discover
from benchmark.throughput.measure import speed_identity
from benchmark.throughput.training_speed import ReadyStage, StageToMeasure, ready_stage, stage_speeds, updates_alone
from benchmark.training.batches import GroupLayout
from benchmark.training.engine import StageEngine
from benchmark.training.optimisation import standard_optimiser, standard_schedule
from gpu_steps.bench import Bench, NotHere
from gpu_steps.findings import too_many_waits, too_slow
from gpu_steps.kernels import Kernels, kernels_of
from gpu_steps.whole_runs import small_demo

_COUNTED = 4
"""Updates whose waits are counted, behind two that warm up."""


def spirit(bench: Bench) -> None:
    """Width 640, 1,024 triplets in one group, 13 patches."""
    for precision in ("bf16", "fp16", "fp32"):
        bench.attempt(precision, lambda p=precision: _whole(bench, "spirit", "spirit", 32 if bench.tiny else 1024, p))


def combiner(bench: Bench) -> None:
    """CLIP4Cir's second stage, 4,096 triplets in one group."""
    for precision in ("bf16", "fp16"):
        bench.attempt(precision, lambda p=precision: _whole(bench, "clip4cir", "combiner", 32 if bench.tiny else 4096, p))


def encoders(bench: Bench) -> None:
    """Stage 1: the whole CLIP on pictures, at once, in micro-batches, and with checkpointed blocks."""
    rows, micro_batch = (8, 4) if bench.tiny else (128, 16)
    ways: Mapping[str, dict[str, Any]] = {
        "at once": {},
        f"in micro-batches of {micro_batch}": {"trainer.micro_batch": micro_batch},
        "with checkpointed blocks": {"trainer.gradient_checkpointing": True},
    }
    precisions = ("bf16", "fp16") if bench.on_gpu else ("bf16",)
    if not bench.on_gpu:
        bench.fact("fp16", "not on a CPU, whose convolutions in it take minutes")
    for precision in precisions:
        for name, settings in ways.items():

            def part(precision: str = precision, name: str = name, settings: dict[str, Any] = settings) -> None:
                frozen = {"encoders.batch_norm": "eval", **settings}
                stage = _stage(bench, "clip4cir_sum", "encoders", rows, precision, frozen)
                alone = updates_alone(stage, bench.process, bench.setting(precision))
                bench.measured(f"{precision} {name}", alone)

            bench.attempt(f"{precision} {name}", part)
    bench.attempt("bf16 whole", lambda: _whole(bench, "clip4cir_sum", "encoders", rows, "bf16", {"encoders.batch_norm": "eval"}))


def sprc(bench: Bench) -> None:
    """SPRC's step on stored tokens at their real size, its Q-Former from random weights."""
    registry = discover()
    if "sprc" not in registry.methods():
        raise NotHere("there is no method sprc")
    settings: dict[str, Any] = {}
    if not bench.tiny:
        specification = registry.specification("sprc")
        # On the demo data it would be a small network.
        sizes = {name: specification.settings.model_fields[name].default for name in specification.demo_settings}
        settings = {**sizes, "qformer": "random", "picture_encoder": "frozen"}
    named = {f"method.{name}": value for name, value in settings.items()}
    backbone = "" if bench.tiny else "blip2-vit-g"
    rows = 8 if bench.tiny else 128
    for precision in ("bf16", "fp16") if bench.on_gpu else ("bf16",):
        bench.attempt(precision, lambda p=precision: _whole(bench, "sprc", "sprc", rows, p, named, backbone))


def _whole(
    bench: Bench, method: str, name: str, rows: int, precision: str,
    settings: Mapping[str, Any] | None = None, backbone: str | None = None,
) -> None:  # fmt: skip
    """Memory of training alone, speed beside the limits, waits, and a record."""
    stage = _stage(bench, method, name, rows, precision, settings or {}, backbone)
    setting, process = bench.setting(precision), bench.process
    alone = updates_alone(stage, process, setting)
    bench.measured(f"{precision} alone", alone)
    speeds = stage_speeds(stage, process, setting)
    for part, found in speeds.items():
        told = too_slow(f"{precision} {part}", found) if method == "spirit" and precision == "bf16" and "triplets" in part else []
        bench.measured(f"{precision} {part}", found, *bench.judged(told))
    plan, planned = stage.plan, stage.planned
    identity = speed_identity(
        plan, plan.weights_digest, precision=precision, batch_size=planned.settings.batch_size,
        negative_group=planned.settings.group, method_settings=plan.method_settings.model_dump(mode="json"),
    )  # fmt: skip
    bench.record(plan.method.name, plan.title, identity, speeds)
    with ready_stage(stage, process) as ready:
        waits, kernels = waits_of_updates(stage, ready, bench)
    bench.fact(f"{precision}: a step on the device", kernels.told(planned.settings.batch_size / alone.value))
    each = sum(waits.values()) / _COUNTED
    names = ", ".join(f"{count / _COUNTED:g} {name}" for name, count in waits.items()) or "none"
    bench.fact(f"{precision}: host waits a step", names)
    bench.short(*too_many_waits(f"{precision} {planned.stage.name}", precision, each))


def _stage(
    bench: Bench, method: str, name: str, rows: int, precision: str, settings: Mapping[str, Any],
    backbone: str | None = None,
) -> StageToMeasure:  # fmt: skip
    """A stage as a run with random weights would train it, on this device; ``backbone`` "": the demo data's own."""
    registry = discover()
    backbone = ("tiny" if bench.tiny else "RN50x4") if backbone is None else backbone
    chosen = {"backbone": backbone, "weights": "random"} if backbone else {}
    data: dict[str, Any] = {"data_root": str(small_demo(bench.folder))} if bench.tiny else {"demo": True}
    given = {"method": method, "dataset": "cirr", "precision": precision, "device": str(bench.device), **data, **chosen}
    plan = make_plan(make_options(**given, batch_size=rows, negative_group=rows, set=dict(settings)), registry)
    planned = next(p for p in plan.stages if p.stage.name == name)
    with torch.device(bench.device):
        loaded = backbone_of(plan)
    built = build_planned(plan, planned, loaded)
    return StageToMeasure(plan, planned, built.method.to(bench.device).eval(), built.inputs, loaded.picture_outputs if loaded else {})


def waits_of_updates(stage: StageToMeasure, ready: ReadyStage, bench: Bench) -> tuple[Counter[str], Kernels]:
    """What makes the host wait for the device in a few updates, by name: operations that bring a value to the host,
    and on a GPU what CUDA itself calls synchronising; and the kernels of an update."""
    settings, process, planned = stage.planned.settings, bench.process, stage.planned.stage
    optimiser = (planned.optimiser or standard_optimiser)(planned.parameter_groups(stage.method, settings), settings)
    layout = GroupLayout.of(settings, 1)
    schedule = (planned.schedule or standard_schedule)(settings, _COUNTED)
    engine = StageEngine(stage.method, optimiser, schedule, settings, layout, process, stage.plan.execution)

    def update() -> None:
        for part, batch in enumerate(ready.first):
            engine.accumulate(batch, part)
        engine.update()

    try:
        engine.training_mode()
        for _ in range(2):
            update()
        with HostWaits() as seen:
            for _ in range(_COUNTED):
                update()
        with synchronisations(bench.device) as told:
            for _ in range(_COUNTED):
                update()
        kernels = kernels_of(update, bench.device)
    finally:
        engine.close()
    return Counter(max((seen.waits, told), key=lambda found: sum(found.values()))), kernels


@contextmanager
def synchronisations(device: torch.device) -> Iterator[Counter[str]]:
    """Counts calls that CUDA knows to synchronise, by what it says of them; nothing on a CPU."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            found.update(f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message))
