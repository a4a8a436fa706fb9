"""What torch computes in a call: its floating-point operations, its matrix products, its waits and copies.

A step on a GPU is fast only while the host runs ahead of the device. Whatever brings a value to the
host makes it wait until the device has done everything before; so a step must hold none of these
operations. They are the same on a CPU, where they can be counted without a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and strides of a tensor."""

_aten = torch.ops.aten

_FACTORS = {
    _aten.mm.default: (0, 1),
    _aten.mm.out: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.bmm.default: (0, 1),
    _aten.bmm.out: (0, 1),
    _aten.baddbmm.default: (1, 2),
}

_WAITS = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
        "aten::equal",
        "aten::is_nonzero",
        "aten::repeat_interleave.Tensor",
        "aten::bincount",
    }
)
"""A number, or a shape that depends on values: the host has to know it before it can go on."""


@dataclass(frozen=True)
class Product:
    """A matrix product of two operands, ``(n, k)`` and ``(k, m)``, or batches ``(b, n, k)`` of them."""

    first: Layout
    second: Layout

    @property
    def operations(self) -> int:
        """Additions and multiplications."""
        (shape, _), (other, _) = self.first, self.second
        return 2 * int(torch.Size(shape).numel()) * other[-1]

    def operands(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Random operands of these layouts."""
        return _random(self.first, device), _random(self.second, device)


@dataclass
class Operations:
    """What was computed, by name. ``waits``: operations that stop the host. ``crossings``: bytes and
    number of copies between devices, by "cpu to cuda"."""

    calls: Counter[str] = field(default_factory=Counter)
    products: Counter[Product] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    crossings: Counter[str] = field(default_factory=Counter)
    crossed_bytes: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which torch's operations are recorded into ``found``, those of a backward pass included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Operations()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function.name()
        self.found.calls[name] += 1
        if name in _WAITS or (name == "aten::index.Tensor" and _by_mask(args[1])):
            self.found.waits[name] += 1
        if function in _FACTORS:
            first, second = (args[place] for place in _FACTORS[function])
            self.found.products[Product(_layout(first), _layout(second))] += 1
        outcome = function(*args, **(kwargs or {}))
        self._note_crossing(name, args, outcome)
        return outcome

    def _note_crossing(self, name: str, args: Sequence[Any], outcome: Any) -> None:
        source = args[1] if name == "aten::copy_" else args[0] if name == "aten::_to_copy" else None
        if isinstance(source, Tensor) and source.device.type != outcome.device.type:
            way = f"{source.device.type} to {outcome.device.type}"
            self.found.crossings[way] += 1
            self.found.crossed_bytes += source.numel() * source.element_size()
            if outcome.device.type == "cpu":
                self.found.waits[f"{name}, {way}"] += 1


def recorded(call: Callable[[], object]) -> Operations:
    """The operations of one call."""
    recorder = Recorder()
    with recorder:
        call()
    return recorder.found


def floating_point_operations(call: Callable[[], object]) -> int:
    """Additions and multiplications of a call's products, convolutions and attention, backward included.

    Tensors on the ``meta`` device are counted without being computed.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def bare_products(products: Mapping[Product, int], device: torch.device) -> Callable[[], None]:
    """A call that makes these products, each as often as it was counted, and nothing else.

    On random operands of the same layouts; results go into memory that is there already.
    """
    made = []
    for product, times in products.items():
        first, second = product.operands(device)
        made.append((first, second, first @ second, times))

    def run() -> None:
        for first, second, out, times in made:
            for _ in range(times):
                torch.matmul(first, second, out=out)

    return run


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), tuple(tensor.stride())


def _random(layout: Layout, device: torch.device) -> Tensor:
    shape, strides = layout
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.randn(extent, device=device).as_strided(shape, strides)


def _by_mask(index: Sequence[Tensor | None]) -> bool:
    return any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in index)
