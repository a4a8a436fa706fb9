"""What parts of the program are held against: the same work with nothing around it.

Pillow's decoding and resizing in a plain loop, a training step in plain PyTorch on tensors already in
memory, a copy of memory, one large matrix product. (Bare products of given shapes are
:mod:`benchmark.throughput.product_shapes`; a bare forward pass is one line where it is measured.)

Notation: S side of a backbone's input, B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.encoders.preprocessing import CANVAS, Preprocessing
from benchmark.method import Method, Stage
from benchmark.records.measurement import Precision
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch
from benchmark.training.optimisation import standard_optimiser

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COPIED_BYTES = 1 << 28
_PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Float32 products, with TF32 only for ``tf32``; autocast for the half precisions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before, tf32 = matmul.allow_tf32, precision == "tf32"
    matmul.allow_tf32 = tf32
    half = _AUTOCAST.get(precision)
    try:
        with (
            cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=tf32),
            torch.autocast(device.type, half, enabled=half is not None),
        ):
            yield
    finally:
        matmul.allow_tf32 = before


def bare_picture(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decoded, padded, resized and cropped by Pillow, (S, S, 3), the pixels being those of the pipeline."""
    with Image.open(path) as image:
        return _bare_input(image, preprocessing)


def bare_patches(path: Path, preprocessing: Preprocessing, grids: Sequence[int]) -> NDArray[np.uint8]:
    """The crops of every grid, (P, S, S, 3)."""
    with Image.open(path) as image:
        canvas = image.resize((CANVAS, CANVAS), Image.Resampling.LANCZOS)
    crops = []
    for grid in grids:
        side = CANVAS // grid
        for cell in range(grid * grid):
            top, left = cell // grid * side, cell % grid * side
            crops.append(_bare_input(canvas.crop((left, top, left + side, top + side)), preprocessing))
    return np.stack(crops)


def _bare_input(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    (width, height), resized = preprocessing.sizes(*image.size)
    if (width, height) != image.size:
        padded = Image.new(image.mode, (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    image = image.resize(resized, Image.Resampling.BICUBIC)
    side = preprocessing.size
    left, top = round((resized[0] - side) / 2), round((resized[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)).convert("RGB"))


def bare_step(
    method: Method, stage: Stage, settings: TrainingSettings, batches: Sequence[Batch]
) -> Callable[[], Tensor]:
    """One update of a copy of the method on ready batches, one per negative group: a plain PyTorch loop."""
    own = copy.deepcopy(method).train()
    groups = stage.parameter_groups(own, settings)
    optimiser = (stage.optimiser or standard_optimiser)(groups, settings)
    if settings.batch_norm == "eval":
        for module in own.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
    device = next(own.parameters()).device
    half = _AUTOCAST.get(settings.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    def step() -> Tensor:
        loss = torch.zeros((), device=device)
        for batch in batches:
            with torch.autocast(device.type, half, enabled=half is not None):
                queries = own.encode_query(batch.reference, batch.text)
                loss = own.loss(queries, own.encode_target(batch.target)) / len(batches)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if settings.gradient_clip:
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(own.parameters(), settings.gradient_clip)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def memory_copy(device: torch.device, size: int = _COPIED_BYTES) -> Callable[[], Tensor]:
    """Copies so many bytes, none of which lies in a cache: as many are read and written."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def large_product(device: torch.device, precision: Precision) -> tuple[Callable[[], Tensor], int]:
    """A square matrix product in this precision, and its floating-point operations."""
    side = _PRODUCT_SIDE.get(device.type, _PRODUCT_SIDE["cpu"])
    dtype = _AUTOCAST.get(precision, torch.float32)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    return lambda: torch.mm(left, right, out=out), 2 * side**3
