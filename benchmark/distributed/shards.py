"""Rows split over the ranks of a job, and put together again on all of them.

Whole blocks go to ranks, so that a block's rows are computed in the same pass whatever the number
of ranks, and what is put together is bitwise what one process computes. What is sent is each row
once to every rank: encodings (G, d), ranks (Q,), lists (Q, K), never scores (Q, G).

Notation: W ranks, n rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmark.dataset import IntArray
from benchmark.distributed.job import Job
from benchmark.encoding import Encoding, rows

_MESSAGE_BYTES = 64 * 2**20
"""Of one broadcast: a GPU need not hold a whole gallery's encodings to pass them on."""
_WHOLE = "encoding"


def shard_spans(count: int, world_size: int, block: int = 1) -> list[tuple[int, int]]:
    """First row and end of each rank's rows: whole blocks, evenly, the first ranks never fewer.

    Where there are fewer blocks than ranks, the spans of some are empty; rank 0 has one if any has.
    """
    blocks = -(-count // block)
    edges = [min(-(-blocks * rank // world_size) * block, count) for rank in range(world_size + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def own_span(count: int, job: Job, block: int = 1) -> tuple[int, int]:
    """This rank's part of :func:`shard_spans`."""
    return shard_spans(count, job.process.world_size, block)[job.process.rank]


def gather_rows(own: Tensor, spans: Sequence[tuple[int, int]], job: Job) -> Tensor:
    """All ranks' rows in order, on the device of ``own``; rank r gives the rows of ``spans[r]``.

    Ranks must come here at about the same time: let them wait for one another first.
    """
    if job.process.world_size == 1:
        return own
    whole = own.new_empty((spans[-1][1], *own.shape[1:]))
    start, stop = spans[job.process.rank]
    whole[start:stop] = own
    row_bytes = max(whole[:1].numel() * whole.element_size(), 1)
    step = max(_MESSAGE_BYTES // row_bytes, 1)
    for source, (first, last) in enumerate(spans):
        for begin in range(first, last, step):
            part = whole[begin : min(begin + step, last)]
            moved = part.to(job.process.device).contiguous()
            torch.distributed.broadcast(moved, src=source)
            if source != job.process.rank:
                part.copy_(moved)
    return whole


def gather_array(own: IntArray, spans: Sequence[tuple[int, int]], job: Job) -> IntArray:
    """:func:`gather_rows` of an array of whole numbers."""
    gathered: IntArray = gather_rows(torch.from_numpy(np.ascontiguousarray(own)), spans, job).numpy()
    return gathered


def gather_encoding(own: Encoding | None, spans: Sequence[tuple[int, int]], job: Job, phase: str) -> Encoding:
    """All ranks' encodings, on every rank, on the CPU; None from a rank whose span is empty.

    Waits for the ranks that still encode, by name of the ``phase``. Rank 0 must have rows.
    """
    if job.process.world_size == 1:
        assert own is not None
        return own
    parts = {_WHOLE: own} if isinstance(own, Tensor) else own or {}
    given = {} if own is None or rows(own) == 0 else parts
    own_form = {name: [list(t.shape[1:]), str(t.dtype).removeprefix("torch.")] for name, t in given.items()}
    # Names, shapes of a row and types, which a rank without rows does not know by itself.
    form = next(f for f in job.barrier.share(phase, own_form) if f)
    whole = {}
    for name, (shape, kind) in form.items():
        part = parts[name] if name in parts else torch.empty((0, *shape), dtype=getattr(torch, kind))
        whole[name] = gather_rows(part, spans, job)
    return whole[_WHOLE] if set(form) == {_WHOLE} else whole


def broadcast_state(state: dict[str, Tensor], job: Job) -> None:
    """Overwrite the tensors of a state, the same on all ranks by names and shapes, with rank 0's."""
    if job.process.world_size == 1:
        return
    # By name: ranks that built the state in another order must broadcast the same tensor.
    for _, tensor in sorted(state.items()):
        moved = tensor.detach().to(job.process.device).contiguous()
        torch.distributed.broadcast(moved, src=0)
        tensor.detach().copy_(moved)
