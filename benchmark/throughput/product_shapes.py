"""The matrix products and convolutions of a piece of work: recorded once, then run again bare.

What a training step or a forward pass needs at least are its products; the rest is overhead. They
are recorded by shape, layout and type while the work is done, and repeated on buffers of the same
kind and with nothing between them: that is the limit that the work is held against. One buffer
serves all operands of a shape, so that a replay takes little memory and reads them from as near as
they can be.

Floating-point operations are counted as 2 m n k a product, by torch's own formulas and the few below
for what they leave out on a CPU. cuDNN's recurrent layers are neither counted nor repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_INTO_BUFFERS = (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm)


@dataclass(frozen=True)
class _Operand:
    """All of a tensor but its values; hashable, so that equal ones share a buffer."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> _Operand:
        if tensor.layout is not torch.strided or tensor.is_mkldnn:
            return cls(tuple(tensor.shape), _row_major(tuple(tensor.shape)), tensor.dtype, tensor.device)
        return cls(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, tensor.device)

    def buffer(self) -> Tensor:
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        flat = torch.zeros(last + 1 if prod(self.shape) else 0, dtype=self.dtype, device=self.device)
        if self.dtype.is_floating_point:
            flat.normal_()
        return flat.as_strided(self.shape, self.stride)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


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
        with _Recorder() as recorder:
            work()
        return cls(recorder.calls, recorder.flops)

    def replay(self) -> Callable[[], None]:
        """A call that makes the same products once more, on buffers that it keeps."""
        buffers: dict[_Operand, Tensor] = {}
        outputs: dict[_Operand, Tensor] = {}
        bound = [_bound(call, buffers, outputs) for call in self._calls]

        @torch.no_grad()
        def run() -> None:
            for function, arguments, named in bound:
                function(*arguments, **named)

        return run


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Product] = []
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        packet = func.overloadpacket
        if packet in flop_registry:
            self.flops += int(flop_registry[packet](*args, **named, out_val=out))
        elif packet in _FURTHER:
            self.flops += _FURTHER[packet](*args)
        else:
            return out
        arguments, keywords, result = tree_map(_described, (args, named, out))
        self.calls.append(_Product(func, arguments, keywords, result))
        return out


def _described(value: Any) -> Any:
    return _Operand.of(value) if isinstance(value, Tensor) else value


def _bound(call: _Product, buffers: dict[_Operand, Tensor], outputs: dict[_Operand, Tensor]) -> Any:
    def filled(value: Any) -> Any:
        if isinstance(value, _Operand):
            if value not in buffers:
                buffers[value] = value.buffer()
            return buffers[value]
        return value

    arguments, named = tree_map(filled, (call.arguments, call.named))
    packet = call.function.overloadpacket
    if packet not in _INTO_BUFFERS:
        return call.function, arguments, named
    if call.out not in outputs:
        outputs[call.out] = call.out.buffer()
    return packet.out, arguments, {**named, "out": outputs[call.out]}


def _lstm_layer_flops(inputs: Tensor, weights: Tensor, recurrent: Tensor, *_: Any) -> int:
    """oneDNN's layer: (L, B, i) through (4h, i) and (4h, h)."""
    rows = prod(inputs.shape[:-1])
    return 2 * rows * (weights.numel() + recurrent.numel())


def _lstm_layer_backward_flops(inputs: Tensor, weights: Tensor, recurrent: Tensor, *_: Any) -> int:
    return 2 * _lstm_layer_flops(inputs, weights, recurrent)


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, products: int = 2) -> int:
    """(B, h, L, e) each: the scores and their sum of values; backward five such products, the scores anew."""
    return products * 2 * query.numel() * key.shape[-2]


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, *_: Any) -> int:
    return _attention_flops(query, key, key, products=5)


_FURTHER: dict[Any, Callable[..., int]] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _ATEN.mkldnn_rnn_layer: _lstm_layer_flops,
    _ATEN.mkldnn_rnn_layer_backward: _lstm_layer_backward_flops,
}
