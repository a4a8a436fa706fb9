"""What makes the host wait for a device in a call, and what is copied between the two.

A step on a GPU is fast only while the host runs ahead of the device. Whatever brings a value to the
host makes it wait until the device has done everything before; so a step must hold none of these
operations. They are the same on a CPU, where they can be counted without a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = frozenset(
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

_BY_INDEX = frozenset({"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})
"""A mask among these makes the host wait, too."""


class HostWaits(TorchDispatchMode):
    """Context in which torch's operations are counted by name, those of a backward pass included.

    ``calls``: all of them. ``waits``: those that stop the host. ``crossings``: copies between devices
    by "cpu to cuda", ``crossed_bytes`` in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.crossings: Counter[str] = Counter()
        self.crossed_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function.name()
        self.calls[name] += 1
        index = [part for part in args[1] if part is not None] if name in _BY_INDEX else []
        if name in WAITS or any(part.dtype in (torch.bool, torch.uint8) for part in index):
            self.waits[name] += 1
        outcome = function(*args, **(kwargs or {}))
        for part in index:
            # Indexing takes an index from the host, and sends it by itself.
            if part.device.type != args[0].device.type:
                self._count_crossing(part, args[0].device.type)
        source = args[1] if name == "aten::copy_" else args[0] if name == "aten::_to_copy" else None
        if isinstance(source, Tensor) and source.device.type != outcome.device.type:
            way = self._count_crossing(source, outcome.device.type)
            if outcome.device.type == "cpu":
                self.waits[f"{name}, {way}"] += 1
        return outcome

    def _count_crossing(self, source: Tensor, to: str) -> str:
        way = f"{source.device.type} to {to}"
        self.crossings[way] += 1
        self.crossed_bytes += source.numel() * source.element_size()
        return way


def counted(call: Callable[[], object]) -> HostWaits:
    """The waits and copies of one call."""
    with HostWaits() as found:
        call()
    return found
