"""Work done before it is asked for: batches made on a thread, copies that nobody waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

_AHEAD = 2

Request = TypeVar("Request")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Request], Made], requests: Iterable[Request], thread: str, ahead: int = _AHEAD
) -> Iterator[Made]:
    """``make`` of each request, in order, on a thread that is up to ``ahead`` (1 or more) requests in advance."""
    remaining = iter(requests)
    with ThreadPoolExecutor(1, thread_name_prefix=thread) as pool:
        pending: deque[Future[Made]] = deque(pool.submit(make, r) for r in islice(remaining, max(ahead, 1)))
        try:
            while pending:
                made = pending.popleft().result()
                pending.extend(pool.submit(make, r) for r in islice(remaining, 1))
                yield made
        finally:
            for future in pending:
                future.cancel()


def handed_over(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on the device. To a GPU it goes from pinned memory, and the host goes on meanwhile.

    From ordinary memory the host would wait until the device had done all that it was given before. What is on a
    device already is moved from there.
    """
    if device.type != "cuda" or tensor.device.type != "cpu" or not torch.cuda.is_available():
        return tensor.to(device)
    # Not by `pin_memory`, which keeps the strides: rows that are one and the same in memory cannot be written so.
    pinned = tensor if tensor.is_pinned() else torch.empty_like(tensor, pin_memory=True).copy_(tensor)
    return pinned.to(device, non_blocking=True)
