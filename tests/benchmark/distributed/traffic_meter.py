"""Counts the bytes that collectives move, in the calls that are made while it is entered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

_PAYLOADS = {
    "broadcast": 0,
    "all_reduce": 0,
    "reduce": 0,
    "all_gather": 1,
    "all_gather_into_tensor": 1,
    "all_gather_into_tensor_coalesced": 1,
    "reduce_scatter": 1,
    "reduce_scatter_tensor": 1,
    "gather": 0,
    "scatter": 0,
    "all_to_all": 1,
    "all_to_all_single": 1,
}
"""Collectives of torch.distributed, and which argument is what this rank gives."""


class Meter:
    """A context; ``bytes`` and ``calls`` by collective: what this rank gave to each."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> Meter:
        for name, place in _PAYLOADS.items():
            real = getattr(torch.distributed, name, None)
            if real is not None:
                self._stack.enter_context(mock.patch.object(torch.distributed, name, self._counted(name, real, place)))
        self._count_what_deepspeed_kept()
        return self

    def _count_what_deepspeed_kept(self) -> None:
        """DeepSpeed's backend holds two of the functions since its start."""
        from deepspeed.comm import comm

        for attribute, name in (("all_gather_function", "all_gather"), ("reduce_scatter_function", "reduce_scatter")):
            real = getattr(comm.cdb, attribute, None)
            if real is not None:
                self._stack.enter_context(mock.patch.object(comm.cdb, attribute, self._counted(name, real, 1)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _counted(self, name: str, real: Callable[..., Any], place: int) -> Callable[..., Any]:
        @wraps(real)
        def call(*given: Any, **named: Any) -> Any:
            by_name = (named[key] for key in ("input_tensor", "input", "tensor") if key in named)
            payload = given[place] if len(given) > place else next(by_name)
            tensors = [payload] if isinstance(payload, Tensor) else payload
            self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls[name] += 1
            return real(*given, **named)

        return call
