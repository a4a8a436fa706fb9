"""The matrix products and convolutions of a piece of work: recorded once, then run again bare.

What a training step or a forward pass needs at least are its products; the rest is overhead. They
are recorded by shape, layout and type while the work is done, and repeated on buffers of the same
kind and with nothing between them: that is the limit that the work is held against. One buffer
serves all operands of a shape, so that a replay takes little memory and reads them from as near as
they can be.

Floating-point operations are counted by torch's FlopCounterMode, as 2 m n k a product, and by the few
formulas below for what it leaves out on a CPU. cuDNN's recurrent layers are neither counted nor repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

_ATEN = torch.ops.aten
_INTO_BUFFERS = (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm)
Shape = tuple[int, ...]


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
    """The products of the work that ran inside :meth:`recorded`, in their order.

    ``flops``: floating-point operations of all of them together.
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


def _lstm_layer_backward_flops(*shapes: Any, **named: Any) -> int:
    return 2 * _lstm_layer_flops(*shapes, **named)


def _attention_flops(query: Shape, key: Shape, *_: Any, **__: Any) -> int:
    """(B, h, L, e) each: the scores and their sum of values."""
    return 2 * 2 * prod(query) * key[-2]


def _attention_backward_flops(gradient: Shape, query: Shape, key: Shape, *_: Any, **__: Any) -> int:
    """Five such products, the scores anew among them."""
    return 5 * 2 * prod(query) * key[-2]


_LEFT_OUT: dict[Any, Callable[..., int]] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _ATEN.mkldnn_rnn_layer: _lstm_layer_flops,
    _ATEN.mkldnn_rnn_layer_backward: _lstm_layer_backward_flops,
}
