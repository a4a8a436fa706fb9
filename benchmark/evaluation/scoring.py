"""How blocks of queries and gallery pictures are scored, and what decides where a block's scores do not.

Dot products are settled by :mod:`benchmark.evaluation.products`. A score function of a method is not a product
whose error could be bounded: it is called on float64 copies throughout, and differences below ``1e-12`` of the
query's largest score (over its positives and a fixed sample of the gallery) are ties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.arithmetic import float64_device, norms, spans, torch_threads
from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding, dot_products, map_tensors
from benchmark.errors import UserError
from benchmark.evaluation.cells import flat_positives
from benchmark.evaluation.products import DotScorer

ScoreFunction = Callable[[Encoding, Encoding], Tensor]
"""Scores of a block: b queries and n targets to ``(b, n)``, larger is better, row by row alone."""

QUERY_CHUNK = 512
GALLERY_CHUNK = 8192
_DEVICE_CHUNKS = (4096, 65536)
"""Of queries and gallery on a GPU, where a block of the other size is gone before the host has asked for the next:
scores of 1 GB."""
_TIE_SLACK = 1e-12
_SAMPLE = 64


def chunks_on(device: torch.device) -> tuple[int, int]:
    """Rows of queries and of the gallery that are scored together; no rank depends on them."""
    return (QUERY_CHUNK, GALLERY_CHUNK) if device.type == "cpu" else _DEVICE_CHUNKS


def dot_product(queries: Encoding, targets: Encoding) -> Tensor:
    """The default score, see `dot_products`; by its name `make_scorer` knows it."""
    return dot_products(queries, targets)


class Scorer(Protocol):
    """How blocks are scored, on ``device``, and near ties settled; ``slack`` (Q,) is what counts as a tie.

    ``largest`` (Q,): what no score of a query exceeds in size, as far as bounds grow with scores. Exact scores,
    float64, and the numbers that ask for them, int64, lie where ``slack`` does.
    """

    slack: Tensor
    largest: Tensor
    device: torch.device

    def targets(self, start: int, stop: int) -> Encoding:
        """Gallery rows of a chunk, ready for :meth:`block`."""
        ...

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        """Scores ``(b, n)`` in the unit of :meth:`bounds`; valid until the next call."""
        ...

    def bounds(self, query: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        """What of a block lies below the first or above the second ``(b,)`` is clearly so; on ``device``."""
        ...

    def again(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        """Better scores of cells for which a block gave ``found``, all ``(m,)``; in the block's unit, on ``device``."""
        ...

    def bounds_again(self, query: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`bounds`, of what :meth:`again` gives."""
        ...

    def settle(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        """Exact scores of such cells, ``(m,)``."""
        ...

    def pairs(self, query: Tensor, picture: Tensor) -> Tensor:
        """Exact scores of single pairs, ``(m,)``."""
        ...


class FunctionScorer:
    """A method's own score, on float64 copies; a block's values are exact up to ``slack``."""

    def __init__(
        self, queries: Encoding, gallery: Encoding, task: Task, score: ScoreFunction, device: torch.device
    ) -> None:
        for encoding, kind, ids in ((queries, "query", task.queries.ids), (gallery, "gallery row", ())):
            for tensor in [encoding] if isinstance(encoding, Tensor) else encoding.values():
                if tensor.is_floating_point():
                    norms(tensor.reshape(len(tensor), -1), kind, ids)
        self.queries, self.gallery, self.score, self.device = queries, gallery, score, float64_device(device)
        self._threads = torch.get_num_threads()
        self.slack = torch.zeros(len(task.queries), dtype=torch.float64, device=self.device)
        owner, picture = (torch.from_numpy(part).to(self.device) for part in flat_positives(task))
        self.slack.scatter_reduce_(0, owner, self.pairs(owner, picture).abs(), "amax")
        evenly = np.linspace(0, len(task.gallery) - 1, _SAMPLE).astype(np.int64)
        sample = self._double(gallery, np.unique(evenly))
        for start, stop in spans(len(task.queries), QUERY_CHUNK):
            largest = self.block(np.arange(start, stop), sample).abs().amax(dim=1)
            self.slack[start:stop] = _TIE_SLACK * torch.maximum(self.slack[start:stop], largest)
        self.largest = torch.zeros_like(self.slack)

    def targets(self, start: int, stop: int) -> Encoding:
        return self._double(self.gallery, slice(start, stop))

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        with torch_threads(self._threads):
            scores = self.score(self._double(self.queries, query), targets).to(torch.float64, copy=True)
        if not bool(torch.isfinite(scores).all()):
            bad = int(query[int((~torch.isfinite(scores)).any(dim=1).nonzero()[0])])
            raise UserError(f"the method's score of query row {bad} is not finite; check its encodings")
        return scores

    def bounds(self, query: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        slack = self.slack[query]
        return exact - slack, exact + slack

    def again(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        return found

    bounds_again = bounds

    def settle(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        return found

    def pairs(self, query: Tensor, picture: Tensor) -> Tensor:
        scores = self.slack.new_empty(len(query))
        queries, pictures = query.cpu().numpy(), picture.cpu().numpy()
        for start, stop in spans(len(query), 32):
            square = self.block(queries[start:stop], self._double(self.gallery, pictures[start:stop]))
            scores[start:stop] = square.diagonal()
        return scores

    def _double(self, encoding: Encoding, index: IntArray | slice) -> Encoding:
        def convert(tensor: Tensor) -> Tensor:
            part = tensor[index if isinstance(index, slice) else torch.from_numpy(index).to(tensor.device)]
            return part.to(self.device, torch.float64 if part.is_floating_point() else None)

        return map_tensors(convert, encoding)


def make_scorer(
    queries: Encoding, gallery: Encoding, task: Task, score: ScoreFunction, device: torch.device | None
) -> Scorer:
    """The scorer of a task on ``device`` (None: where the queries lie); blocks use the threads set now."""
    example = queries if isinstance(queries, Tensor) else next(iter(queries.values()))
    place = example.device if device is None else device
    if score is not dot_product:
        return FunctionScorer(queries, gallery, task, score, place)
    if not isinstance(queries, Tensor) or not isinstance(gallery, Tensor):
        raise TypeError("a dot product needs encodings of one tensor; this method needs its own score")
    return DotScorer(queries, gallery, task, place)
