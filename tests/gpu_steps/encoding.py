"""Frozen encoders as the feature store runs them, and the loader that feeds them: which one is the limit."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch

from benchmark.data.pictures import cores
from benchmark.encoders.backbones import ClipBackbone, load_backbone
from benchmark.encoders.frozen_encoder import PICTURES_PER_PASS, FrozenEncoder
from benchmark.options import make_options
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.records.identity import EncoderIdentity
from benchmark.throughput.encoder_speed import IN_PRODUCTS, Sample, decoding_speeds, encoding_speeds, machine_speeds
from benchmark.throughput.measure import FEATURES, speed_identity
from gpu_steps.bench import Bench, NotHere
from gpu_steps.findings import too_slow
from gpu_steps.kernels import kernels_of
from gpu_steps.whole_runs import small_demo

BACKBONES = ("RN50x4", "ViT-L-14", "ViT-H-14")
JPEG = (640, 480)
_EVERY_PICTURE = "encoding pictures"


def encoding(bench: Bench) -> None:
    """Every backbone in half precision, channels last and not compiled, with the loader beside the first."""
    with ExitStack() as stack:
        plan, sample = _sample(bench, stack)
        for name in _backbones(bench):
            for precision in ("bf16", "fp16"):
                bench.attempt(f"{name} {precision}", lambda n=name, p=precision: _encoded(bench, plan, sample, n, p))


def loader(bench: Bench) -> None:
    """JPEGs of 640 × 480 decoded on one core and on all, beside the fastest and the slowest encoder."""
    name = _backbones(bench)[0]
    with ExitStack() as stack:
        _, sample = _sample(bench, stack)
        backbone = _load(bench, name)
        speeds = decoding_speeds(backbone, sample, bench.setting("fp32"))
        for part, found in speeds.items():
            bench.measured(part, found)
        encoded = encoding_speeds(backbone, sample, bench.setting("bf16"))[_EVERY_PICTURE]
    decoded = max(found.value * (cores() if "cores" in part else 1) for part, found in speeds.items() if "13" not in part)
    slower = "the loader" if decoded < encoded.value else "the encoder"
    told = f"{slower}: {decoded:,.0f} pictures/s decoded on {cores()} cores, {encoded.value:,.0f} encoded by {name} in bf16"
    bench.fact("the limit", told)


def compiled(bench: Bench) -> None:
    """The same encoders through torch.compile, in bf16; the time of compiling is told apart."""
    if not bench.on_gpu:
        raise NotHere("torch.compile takes minutes on a CPU")
    with ExitStack() as stack:
        plan, sample = _sample(bench, stack)
        for name in _backbones(bench):
            bench.attempt(f"{name} bf16 compiled", lambda n=name: _encoded(bench, plan, sample, n, "bf16", compiled=True))


def _encoded(
    bench: Bench, plan: Plan, sample: Sample, name: str, precision: str, compiled: bool = False
) -> None:
    backbone, setting = _load(bench, name), bench.setting(precision)
    speeds = encoding_speeds(backbone, sample, setting, compiled)
    way = f"{name} {precision}" + (" compiled" if compiled else "")
    for part, found in speeds.items():
        judged = part == IN_PRODUCTS and precision == "bf16" and not compiled
        told = too_slow(f"{way}, {part}", found) if judged else []
        bench.measured(f"{way}, {part}", found, *bench.judged(told))
    encoder, side = FrozenEncoder(backbone, bench.device, setting.precision, compiled), backbone.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES_PER_PASS, side, side, 3), dtype=np.uint8)
    kernels = kernels_of(lambda: encoder.pictures(pixels), bench.device)
    bench.fact(f"{way}: a pass on the device", kernels.told(PICTURES_PER_PASS / speeds[_EVERY_PICTURE].value))
    if not compiled:
        identity = EncoderIdentity(
            name=name, weights="random", digest="", start="random", state="untouched", precision=setting.precision
        )
        given = speed_identity(plan, "", precision=precision).model_copy(update={"encoder": identity})
        bench.record(FEATURES, "Pictures and texts", given, {**speeds, **machine_speeds(setting)})


def _load(bench: Bench, name: str) -> ClipBackbone:
    """With random weights, drawn where they are used: a billion of them take a core half a minute."""
    with torch.device(bench.device):
        return load_backbone(name, "random").to(bench.device)


def _backbones(bench: Bench) -> tuple[str, ...]:
    return ("tiny",) if bench.tiny else BACKBONES


def _sample(bench: Bench, stack: ExitStack) -> tuple[Plan, Sample]:
    data = {"data_root": str(small_demo(bench.folder))} if bench.tiny else {"demo": True}
    plan = make_plan(make_options(method="image_only", dataset="cirr", backbone="tiny", weights="random", **data))
    return plan, Sample.of(plan.dataset, plan.tasks[0], JPEG, stack)
