"""How blocks of queries and gallery pictures are scored, and what is settled exactly.

Float32 products differ in their last digits with the shape of a chunk and the number of threads,
even between identical columns. So they only decide what is clear. The computed product of q and g,
of width d, is taken to be off by no more than ``(4 sqrt(d) + 4) eps |q| |g|`` with eps = 2^-23: above
the worst case, d eps / 2, up to d = 64, and beyond it several times what such sums lose, even those
of equal terms, whose roundings all point the same way. What comes nearer than that to the score it
is compared with is scored again in float64, the terms added in a fixed order, so that the value is
the same on every device and in every chunk; it decides, and equality there is a tie. (Products of two
float32 values are exact in float64.)

A score function of a method is not a product whose error could be bounded: it is called on float64
copies throughout, and differences below ``1e-12`` of the query's largest score (over its positives
and a fixed sample of the gallery) are ties.

A gallery picture may have T tokens: its score is the best of their products. The best of products that are
each off by no more than a bound is off by no more than it either, so that all of this holds for it as well.

Exact scores, and which cells they are asked for, stay where float64 is computed: on a GPU, `pairs` of a million
cells cost less than sending their numbers to the host and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.arithmetic import (
    exponents,
    first_twins,
    fixed_order_sum,
    float64_device,
    norms,
    spans,
    times_power_of_two,
    torch_threads,
)
from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding, dot_products, map_tensors, take
from benchmark.errors import UserError
from benchmark.evaluation.cells import flat_positives

ScoreFunction = Callable[[Encoding, Encoding], Tensor]
"""Scores of a block: b queries and n targets to ``(b, n)``, larger is better, row by row alone."""

QUERY_CHUNK = 512
GALLERY_CHUNK = 8192
_DEVICE_CHUNKS = (4096, 65536)
"""Of queries and gallery on a GPU, where a block of the other size is gone before the host has asked for the next:
scores of 1 GB."""
_RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, what the gallery or the queries may each take to be sent there once."""
_EPS32 = 2.0**-23
_TIE_SLACK = 1e-12
_SAMPLE = 64
_LINE = 16
_TOKEN_CHUNK = 1024


def chunks_on(device: torch.device) -> tuple[int, int]:
    """Rows of queries and of the gallery that are scored together; no rank depends on them."""
    return (QUERY_CHUNK, GALLERY_CHUNK) if device.type == "cpu" else _DEVICE_CHUNKS


def dot_product(queries: Encoding, targets: Encoding) -> Tensor:
    """The default score, see `dot_products`; by its name `make_scorer` knows it."""
    return dot_products(queries, targets)


class Scorer(Protocol):
    """How blocks are scored, on ``device``, and near ties settled; ``slack`` (Q,) is what counts as a tie.

    Exact scores, float64, and the numbers that ask for them, int64, lie where ``slack`` does.
    """

    slack: Tensor
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

    def settle(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        """Exact scores of cells for which a block gave ``found``, all ``(m,)``."""
        ...

    def pairs(self, query: Tensor, picture: Tensor) -> Tensor:
        """Exact scores of single pairs, ``(m,)``."""
        ...


class DotScorer:
    """Float32 products on ``device``; exact ones by :func:`fixed_order_sum`.

    ``queries`` (Q, d), ``gallery`` (G, d) or (G, T, d). Rows of extreme norm are scaled by powers of two first, which
    changes no digit: queries each by its own, the gallery by one for all.
    """

    def __init__(self, queries: Tensor, gallery: Tensor, task: Task, device: torch.device) -> None:
        self.queries, self.gallery, self.device = _resident(queries, device), _resident(gallery, device), device
        self._threads = torch.get_num_threads()
        self._place = float64_device(device)
        self.slack = torch.zeros(len(queries), dtype=torch.float64, device=self._place)
        query_norms = norms(self.queries, "query", task.queries.ids).to(self._place)
        rows = self.gallery.flatten(0, -2)
        largest = norms(rows, "gallery row" if gallery.ndim == 2 else "gallery token").amax(dim=0, keepdim=True)
        largest = largest.to(self._place)
        self._query_exponent = exponents(query_norms, queries.dtype)
        self._gallery_exponent = exponents(largest, gallery.dtype)
        self._is_scaled = bool(self._query_exponent.any() | self._gallery_exponent.any())
        width = queries.shape[1]
        self._tolerance = (4 * width**0.5 + 4) * _EPS32 * query_norms * largest * (1 + 1e-4)
        self._floor = width * 2.0**-100
        self._buffer = torch.empty(0, device=device)
        self._one_token = torch.empty(0, device=device)
        self._twin = first_twins(self.gallery).to(self._place)
        self._any_twins = bool((self._twin != torch.arange(len(gallery), device=self._place)).any())
        # On a GPU once, not for every chunk of the gallery anew.
        self._ready = None if device.type == "cpu" else self._scaled(self.queries, self._query_exponent)

    def targets(self, start: int, stop: int) -> Encoding:
        return self._scaled(self.gallery[start:stop], self._gallery_exponent)

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        assert isinstance(targets, Tensor)
        if self._ready is None:
            scaled = self._scaled(_rows_of(self.queries, query), self._query_exponent[torch.from_numpy(query)])
        else:
            scaled = _rows_of(self._ready, query)
        # Rows that begin on a cache line: products into them are a tenth faster than into odd widths.
        stride = -(-len(targets) // _LINE) * _LINE
        size = len(query) * stride
        if size > len(self._buffer):
            self._buffer = torch.empty(size, device=self.device)
        out = self._buffer[:size].view(len(query), stride)[:, : len(targets)]
        with torch_threads(self._threads):
            if targets.ndim == 2:
                return torch.mm(scaled, targets.T, out=out)
            return self._best_of_tokens(scaled, targets, out)

    def _best_of_tokens(self, queries: Tensor, targets: Tensor, out: Tensor) -> Tensor:
        """Token by token, so that products of all of them never stand beside one another; few enough pictures
        at a time that what is compared is still in the cache."""
        size = len(queries) * _TOKEN_CHUNK
        if size > len(self._one_token):
            self._one_token = torch.empty(size, device=self.device)
        for start, stop in spans(len(targets), _TOKEN_CHUNK):
            best = out[:, start:stop]
            products = self._one_token[: len(queries) * (stop - start)].view(len(queries), stop - start)
            for token, rows in enumerate(targets[start:stop].unbind(1)):
                torch.mm(queries, rows.T, out=products)
                torch.maximum(best, products, out=best) if token else best.copy_(products)
        return out

    def bounds(self, query: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        tolerance = self._tolerance[query]
        low, high = exact - tolerance, exact + tolerance
        if self._is_scaled:
            exponent = -(self._query_exponent[query] + self._gallery_exponent)
            low, high = times_power_of_two(low, exponent), times_power_of_two(high, exponent)
        below, above = (low - self._floor).float(), (high + self._floor).float()
        below, above = (torch.nextafter(b, b.new_full((), end)) for b, end in ((below, -torch.inf), (above, torch.inf)))
        return below.to(self.device), above.to(self.device)

    def settle(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        if not self._any_twins:
            # By picture: rows of the gallery are then read in the order in which they lie in memory.
            order = picture.argsort(stable=True)
            single = torch.empty_like(found)
            single[order] = self.pairs(query[order], picture[order])
            return single
        count = len(self._twin)
        different, inverse = torch.unique(query * count + self._twin[picture], return_inverse=True)
        return self.pairs(different // count, different % count)[inverse]

    def pairs(self, query: Tensor, picture: Tensor) -> Tensor:
        step = max(1, (2**18 if self._place.type == "cpu" else 2**23) // self.gallery[0].numel())
        scores = self.slack.new_empty(len(query))
        for start, stop in spans(len(query), step):
            terms = _rows_at(self.gallery, picture[start:stop], self._place).double()
            own = _rows_at(self.queries, query[start:stop], self._place)
            terms.mul_(own if terms.ndim == 2 else own[:, None])
            products = fixed_order_sum(terms.flatten(0, -2)).view(terms.shape[:-1])
            scores[start:stop] = products if products.ndim == 1 else products.amax(dim=1)
        return scores

    def _scaled(self, part: Tensor, exponent: Tensor) -> Tensor:
        part = part.to(self.device)
        if not self._is_scaled:
            return part.float()
        wide = part if part.dtype == torch.float64 else part.float()
        factor = times_power_of_two(torch.ones_like(exponent, dtype=torch.float64), -exponent).to(wide.dtype)
        return (wide * factor.to(self.device).view(-1, *[1] * (wide.ndim - 1))).float()


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


def _rows_of(tensor: Tensor, index: IntArray) -> Tensor:
    """Rows by index, without a copy where they follow one another."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return tensor[int(index[0]) : int(index[-1]) + 1]
    part = take(tensor, torch.from_numpy(index).to(tensor.device))
    assert isinstance(part, Tensor)
    return part


def _rows_at(tensor: Tensor, index: Tensor, place: torch.device) -> Tensor:
    return tensor.index_select(0, index.to(tensor.device)).to(place)


def _resident(encoding: Tensor, device: torch.device) -> Tensor:
    """On a GPU where it fits; else where it lies, to be sent part by part."""
    if device.type != "cuda" or encoding.device == device:
        return encoding
    fits = encoding.numel() * encoding.element_size() <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return encoding.to(device) if fits else encoding
