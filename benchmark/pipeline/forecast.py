"""What a stage will take, told before it begins: memory and operations of one update, and this machine's speed.

A copy of the stage's method whose tensors have shapes alone (torch's fake tensors) is taken through one negative
group, forwards and backwards. Activations are what autograd keeps on the way, in the precision of the stage and with
the CPU's kernels; FLOPs are those of matrix products and convolutions. Neither takes the memory or the time that
it tells of.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmark.backbone import GLOBAL, Backbone
from benchmark.encoders.frozen_encoder import HALVES, tf32
from benchmark.features.picture_filling import PATCHES
from benchmark.features.room import view_output
from benchmark.files import digest_of
from benchmark.method import REVERSED, FeatureInputs, TrainingRows, Views
from benchmark.pipeline.cost import flops_of, median_text
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.preparation import build_planned, rebuild_planned
from benchmark.settings import TrainingSettings
from benchmark.stage_building import BuiltStage
from benchmark.text_rules import text_rule
from benchmark.training.adaptation import adapt
from benchmark.training.batches import GroupLayout

Shape = Sequence[int]

_SIDE, _PIXELS, _TRIES = {"cpu": 1024, "cuda": 4096}, 256, 3


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


_FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's counter does not know by itself."""


@dataclass(frozen=True)
class UpdateForecast:
    """Of one update on one process. ``weights`` (what frozen encoders keep in half precision among them),
    ``gradients``, ``moments`` (a moving average among them) and ``activations`` in bytes, the last of ``rows`` pairs
    that are encoded at once; ``flops``: of all groups."""

    weights: int
    gradients: int
    moments: int
    activations: int
    rows: int
    flops: float

    @property
    def bytes(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations


def forecast_update(plan: Plan, planned: PlannedStage) -> UpdateForecast:
    """Raises torch's RuntimeError where a method's own code asks a tensor without values for them."""
    settings = plan.method_settings.model_dump(mode="json")
    method = {"name": plan.method.name, "settings": settings, "rows": dict(plan.training_files)}
    asked = [planned.identity(), plan.backbone_identity, plan.execution.micro_batch]
    # The same stage 1 is asked about for every method that shares it.
    key = digest_of([*asked, method if planned.stage.output == "method" else {}, median_text(_texts(plan))])
    return _forecast(_Asked(key, plan, planned))


@dataclass(frozen=True)
class _Asked:
    key: str
    plan: Plan = field(compare=False)
    planned: PlannedStage = field(compare=False)


@lru_cache(maxsize=16)
def _forecast(asked: _Asked) -> UpdateForecast:
    plan, planned, settings = asked.plan, asked.planned, asked.planned.settings
    backbone = plan.backbone_family.outline(plan.backbone_choice) if plan.backbone else None
    with torch.device("cpu" if backbone is None else "meta"):
        # Networks of a method's own need their words to be built; on a backbone shapes are enough.
        built = (build_planned if backbone is None else rebuild_planned)(plan, planned, backbone)
    method = built.method
    adapt(method, settings, planned.stage.name, plan.seed_of(planned))
    layout = GroupLayout.of(settings, 1)
    is_head = isinstance(built.inputs, FeatureInputs) and built.inputs.text == "features"
    rows = min(layout.rows_per_rank, (not is_head and plan.execution.micro_batch) or layout.rows_per_rank)
    activations, flops = _one_pass(built, backbone, plan.rows(planned), median_text(_texts(plan)), rows, settings)
    if isinstance(built.inputs, FeatureInputs) and built.inputs.train is not None and backbone is not None:
        flops += rows * picture_flops(backbone, built.inputs.views, built.inputs.grids)
    gradients = _bytes(p for p in method.parameters() if p.requires_grad)
    both = {id(p): p for part in (method, backbone) if part is not None for p in part.parameters()}
    # A gradient cache encodes everything once more: a third of forwards and backwards.
    again = 4 / 3 if rows < layout.rows_per_rank else 1
    return UpdateForecast(
        weights=_bytes(both.values()) + _kept_in_half(plan, planned, built, backbone),
        gradients=gradients,
        moments=gradients * (_moments(settings) + (settings.average_decay > 0)),
        activations=activations,
        rows=rows,
        flops=flops * again * layout.rows_per_rank / rows * layout.groups_per_rank,
    )


def _texts(plan: Plan) -> Sequence[str]:
    return plan.tasks[0].queries.texts


def _moments(settings: TrainingSettings) -> int:
    """Tensors of a parameter's size that the optimiser keeps."""
    return int(settings.momentum > 0) if settings.optimiser == "sgd" else 2


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _kept_in_half(plan: Plan, planned: PlannedStage, built: BuiltStage, backbone: Backbone | None) -> int:
    """Bytes of picture sides in half precision beside the backbone: the store's, and that of pictures opened anew."""
    if backbone is None or not isinstance(built.inputs, FeatureInputs):
        return 0
    precisions = [plan.backbone_settings.precision]
    if built.inputs.train is not None:
        precisions.append(planned.settings.precision)
    pictures = backbone.parts.get("image", ("",))
    numbers = sum(p.numel() for name, p in backbone.named_parameters() if name.startswith(pictures))
    return sum(precision in HALVES for precision in precisions) * numbers * torch.bfloat16.itemsize


def _one_pass(
    built: BuiltStage, backbone: Backbone | None, own: TrainingRows | None, text: str, rows: int,
    settings: TrainingSettings,
) -> tuple[int, int]:  # fmt: skip
    """Bytes that autograd keeps of so many pairs, and FLOPs of their forward and backward pass."""
    # Not entered: a method may ask for the values of what it makes itself, of numbers and words.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    empty = _emptied([part for part in (built.method, backbone) if part is not None], mode)
    weights = {tensor.untyped_storage()._cdata for tensor in empty.values()}
    method = copy.deepcopy(built.method, dict[int, Any](empty)).train()
    reference, target, words = _example(built, backbone, own, text, rows, mode)
    if own is None and text_rule(settings.text_rule).draw_reversed is not None:
        words = {**words, **{f"{REVERSED}{name}": tensor for name, tensor in words.items()}}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    half = settings.precision in ("bf16", "fp16")
    encode: Any = method.encode_query
    asked = [reference, words]
    if method.encodes_triplets:
        encode, asked = method.encode_triplet, [reference, words, target]
    with FlopCounterMode(display=False, custom_mapping=_FUSED) as counter:
        with (
            # Setting the flag speaks of a kind of GPU that this torch was not built for.
            warnings.catch_warnings(action="ignore", category=UserWarning),
            torch.backends.mkldnn.flags(enabled=False),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            loss = method.loss(encode(*asked), method.encode_target(target))
        loss.backward()  # type: ignore[no-untyped-call]
    return sum(kept.values()), int(counter.get_total_flops())


def _emptied(parts: Sequence[nn.Module], mode: FakeTensorMode) -> dict[int, Tensor]:
    """For each parameter and buffer, by its identity, one without values. Of a frozen encoder, too: a method may hold
    it out of sight of its own parameters."""
    parameters = [p for part in parts for p in part.parameters()]
    buffers = [buffer for part in parts for buffer in part.buffers()]
    return {
        **{id(p): nn.Parameter(_empty(p, mode), requires_grad=p.requires_grad) for p in parameters},
        **{id(buffer): _empty(buffer, mode) for buffer in buffers},
    }


def _empty(like: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        return torch.empty(like.shape, dtype=like.dtype, device="cpu")


def _example(
    built: BuiltStage, backbone: Backbone | None, own: TrainingRows | None, text: str, rows: int, mode: FakeTensorMode
) -> tuple[Views, Views, Views]:
    """Views of a reference, a target and a text, so many rows of each, by their shapes alone.

    ``own``: what is trained on in place of triplets.
    """
    inputs = built.inputs

    def blank(*shape: int, dtype: str = "float32") -> Tensor:
        with mode:
            return torch.empty(rows, *shape, dtype=getattr(torch, dtype))

    def tokenized() -> Views:
        return {name: _empty(tensor, mode) for name, tensor in built.method.tokenize([text] * rows).items()}

    if not isinstance(inputs, FeatureInputs):
        picture = inputs.train.picture(Image.new("RGB", (_PIXELS, _PIXELS), "white"), np.random.default_rng(0))
        side = picture.shape[0]
        return {"pixels": blank(3, side, side)}, {"pixels": blank(3, side, side)}, tokenized()
    assert backbone is not None
    outputs = {view: view_output(view, backbone.picture_outputs, inputs.grids) for view in inputs.views}
    reference, target = (
        {view: blank(*outputs[view].shape, dtype=outputs[view].dtype) for view in views}
        for views in (inputs.reference, inputs.target)
    )
    if own is None and inputs.text == "tokenized":
        return reference, target, tokenized()
    said = {GLOBAL: blank(*backbone.text_outputs[GLOBAL].shape)}
    if own is None:
        return reference, target, said
    both = said if own.sentences else {**reference, **target}
    given = own.text(built.method, np.arange(rows) % len(own), np.random.default_rng(0))
    return both, both, {name: _empty(tensor, mode) for name, tensor in given.items()}


def picture_flops(backbone: Backbone, views: Sequence[str], grids: tuple[int, ...]) -> int:
    """FLOPs of all passes that give one picture's features; ``backbone``: without values, on the "meta" device."""
    side = backbone.preprocessing.size
    pixels = torch.empty(1, 3, side, side, device="meta")
    others = [view for view in views if view != PATCHES]
    passes: Mapping[str, int] = {PATCHES: sum(grid * grid for grid in grids)} if PATCHES in views else {}

    def encode(names: list[str]) -> int:
        with torch.no_grad():
            return flops_of(lambda: backbone.encode_picture_outputs(pixels, names)) if names else 0

    return encode(others) + passes.get(PATCHES, 0) * encode([GLOBAL] if passes else [])


@cache
def product_speed(device: torch.device, precision: str) -> float:
    """FLOP/s of a large product of matrices: the best of a few, measured now."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side = _SIDE[device.type]
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    seconds = []
    with tf32(precision == "tf32"):
        for _ in range(_TRIES + 1):
            started = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 / min(seconds[1:])
