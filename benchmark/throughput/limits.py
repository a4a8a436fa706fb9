"""What parts of the program are held against: the same work with nothing around it.

Pillow's decoding and resizing in a plain loop, a training step in plain PyTorch on tensors already in
memory, the bare matrix products and convolutions of such a step and the bytes that it must move besides,
a copy of memory, one large matrix product. (A bare forward pass is one line where it is measured.)

Notation: S side of a backbone's input, B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmark.encoders.preprocessing import CANVAS, Preprocessing
from benchmark.method import Method, Stage
from benchmark.records.measurement import Precision
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch
from benchmark.training.optimisation import standard_optimiser

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ATEN = torch.ops.aten
_INTO_BUFFERS = (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm)
_COPIED_BYTES = 1 << 28
_PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
BARE_PRODUCTS = "bare products, and bytes moved"
"""How this limit is named: products and convolutions of the same shapes, and a copy of the bytes that must move."""
Shape = tuple[int, ...]


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


class BareStep:
    """One update of a copy of the method on ready batches, one per negative group: a plain PyTorch loop."""

    def __init__(self, method: Method, stage: Stage, settings: TrainingSettings, batches: Sequence[Batch]) -> None:
        self._method = copy.deepcopy(method).train()
        self._settings, self._batches = settings, batches
        groups = stage.parameter_groups(self._method, settings)
        self._optimiser = (stage.optimiser or standard_optimiser)(groups, settings)
        if settings.batch_norm == "eval":
            for module in self._method.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self._device = next(self._method.parameters()).device
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=settings.precision == "fp16")

    def __call__(self) -> Tensor:
        own, scaler, optimiser = self._method, self._scaler, self._optimiser
        half = _AUTOCAST.get(self._settings.precision)
        loss = torch.zeros((), device=self._device)
        for batch in self._batches:
            with torch.autocast(self._device.type, half, enabled=half is not None):
                queries = own.encode_triplet(batch.reference, batch.text, batch.target)
                loss = own.loss(queries, own.encode_target(batch.target)) / len(self._batches)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._settings.gradient_clip:
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(own.parameters(), self._settings.gradient_clip)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    @property
    def moved_bytes(self) -> int:
        """What its optimiser must read and write in an update: weights and moments both ways, gradients once.

        Known after the first update. What products read and write is theirs.
        """
        weights = sum(p.nbytes for group in self._optimiser.param_groups for p in group["params"])
        moments = sum(
            part.nbytes for state in self._optimiser.state.values() for part in state.values() if torch.is_tensor(part)
        )
        return int(3 * weights + 2 * moments)


def with_bytes_moved(call: Callable[[], object], size: int, device: torch.device) -> Callable[[], None]:
    """The call, and behind it a copy of memory that reads and writes so many bytes in all."""
    copied = memory_copy(device, size // 2)

    def both() -> None:
        call()
        copied()

    return both


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


@dataclass(frozen=True)
class _Operand:
    """All of a tensor but its values; hashable, so that equal ones share a buffer."""

    shape: Shape
    stride: Shape
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, value: Any) -> Any:
        """A tensor's operand; whatever else an operation is called with as it is."""
        if not isinstance(value, Tensor):
            return value
        shape = tuple(value.shape)
        if value.layout is torch.strided and not value.is_mkldnn:
            stride = tuple(value.stride())
        else:  # oneDNN's own layout has no strides to ask for
            stride = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
        return cls(shape, stride, value.dtype, value.device)

    def buffer(self) -> Tensor:
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        flat = torch.zeros(last + 1 if prod(self.shape) else 0, dtype=self.dtype, device=self.device)
        if self.dtype.is_floating_point:
            # Zeros draw less power, so that a GPU would multiply them faster than numbers.
            flat.normal_()
        return flat.as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class _Product:
    """One call, with :class:`_Operand` in the place of every tensor."""

    function: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    out: Any


class Products:
    """The matrix products and convolutions of a piece of work: recorded once, then made again bare.

    What a training step or a forward pass needs at least are its products; the rest is overhead. They
    are recorded by shape, layout and type while the work is done, and repeated on buffers of the same
    kind with nothing between them. One buffer serves all operands of a shape, so that a replay takes
    little memory and reads them from as near as they can be.

    ``flops``: floating-point operations of all of them together, by torch's FlopCounterMode (2 m n k a
    product) and ``_LEFT_OUT``. cuDNN's recurrent layers are neither counted nor repeated.
    """

    def __init__(self, calls: list[_Product], flops: int) -> None:
        self._calls = calls
        self.flops = flops

    def __len__(self) -> int:
        return len(self._calls)

    @classmethod
    def recorded(cls, work: Callable[[], object]) -> Products:
        """Do the work once and note its products, those of a backward pass inside it too."""
        with FlopCounterMode(display=False, custom_mapping=_LEFT_OUT) as counter:
            with _Recorder(counter.flop_registry) as recorder:
                work()
        return cls(recorder.calls, int(counter.get_total_flops()))

    def replay(self) -> Callable[[], None]:
        """A call that makes the same products once more, on buffers that it keeps."""
        buffers: dict[_Operand, Tensor] = {}
        outputs: dict[_Operand, Tensor] = {}

        def filled(value: Any) -> Any:
            if isinstance(value, _Operand) and value not in buffers:
                buffers[value] = value.buffer()
            return buffers[value] if isinstance(value, _Operand) else value

        bound = []
        for call in self._calls:
            function, (arguments, named) = call.function, tree_map(filled, (call.arguments, call.named))
            if function.overloadpacket in _INTO_BUFFERS:
                if call.out not in outputs:
                    outputs[call.out] = call.out.buffer()
                function, named = function.overloadpacket.out, {**named, "out": outputs[call.out]}
            bound.append((function, arguments, named))

        @torch.no_grad()
        def run() -> None:
            for function, arguments, named in bound:
                function(*arguments, **named)

        return run


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the calls of operations that ``counted`` holds."""

    def __init__(self, counted: Container[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Product] = []
        self._counted = counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in self._counted:
            self.calls.append(_Product(func, *tree_map(_Operand.of, (args, kwargs or {}, out))))
        return out


def _lstm_layer_flops(inputs: Shape, weights: Shape, recurrent: Shape, *_: Any, **__: Any) -> int:
    """oneDNN's layer: (L, B, i) through (4h, i) and (4h, h)."""
    return 2 * prod(inputs[:-1]) * (prod(weights) + prod(recurrent))


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


_LEFT_OUT: dict[Any, Callable[..., int]] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _ATEN.mkldnn_rnn_layer: _lstm_layer_flops,
    _ATEN.mkldnn_rnn_layer_backward: lambda *shapes, **named: 2 * _lstm_layer_flops(*shapes, **named),
}
"""What torch counts on a GPU, but not under its names on a CPU."""
