"""Exact ranks by counting, in chunks: no sort of the gallery, no names, never a (Q, G) matrix.

The rank of a query is 1 + the number of gallery pictures that are no positive, not the removed
reference, and score at least as high as the best positive: ties count against the method.

Float32 products differ in their last digits with the shape of a chunk and the number of threads,
even between identical columns. So they only decide what is clear. The computed product of q and g,
of width d, is taken to be off by no more than ``(4 sqrt(d) + 4) eps |q| |g|`` with eps = 2^-23: above
the worst case, d eps / 2, up to d = 64, and beyond it several times what such sums lose, even those
of equal terms, whose roundings all point the same way. What comes nearer than that to a positive's
score is scored again in float64, the terms added in a fixed order, so that the value is the same on
every device and in every chunk; it decides, and equality there is a tie. (Products of two float32
values are exact in float64.)

A score function of a method is not a product whose error could be bounded: it is called on float64
copies throughout, and differences below ``1e-12`` of the query's largest score (over its positives
and a fixed sample of the gallery) are ties.

Notation: Q queries, G gallery pictures, T positives of all queries, S members of a subset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.dataset import IntArray, Ragged, Task
from benchmark.encoding import Encoding, map_tensors, rows, take
from benchmark.errors import UserError

ScoreFunction = Callable[[Encoding, Encoding], Tensor]
"""Scores of a block: b queries and n targets to ``(b, n)``, larger is better, row by row alone."""

Scores = NDArray[np.float64]

QUERY_CHUNK = 512
GALLERY_CHUNK = 8192
_EPS32 = 2.0**-23
_TIE_SLACK = 1e-12
_SAMPLE = 64


def dot_product(queries: Encoding, targets: Encoding) -> Tensor:
    """The default score, ``(b, d)`` and ``(n, d)`` to ``(b, n)``, for encodings of one tensor each."""
    if not isinstance(queries, Tensor) or not isinstance(targets, Tensor):
        raise TypeError("a dot product needs encodings of one tensor; this method needs its own score")
    return queries @ targets.T


@dataclass(frozen=True)
class Ranks:
    """The outcome of a task; a query without positives (hidden labels) has rank 0 everywhere.

    ``rank`` (Q,): of the best positive. ``ties`` (Q,): non-positives that score exactly like it.
    ``subset_rank`` (Q,) or None: among the members of the subset, the reference left out; one more
    than the number of candidates where no positive is a member.
    ``positive_ranks``: place of every positive in the whole list, in the order of the task's
    positives; equally good ones stand after the other pictures, by gallery index.
    """

    rank: IntArray
    ties: IntArray
    subset_rank: IntArray | None
    positive_ranks: Ragged


def rank_queries(
    queries: Encoding,
    gallery: Encoding,
    task: Task,
    score: ScoreFunction = dot_product,
    query_chunk: int = QUERY_CHUNK,
    gallery_chunk: int = GALLERY_CHUNK,
    device: torch.device | None = None,
) -> Ranks:
    """Ranks of Q query rows among G gallery rows, the same for any chunk, thread count or device.

    A positive that is the removed reference is a certain miss: its rank is G. Memory beyond the
    encodings is a few blocks of ``query_chunk x gallery_chunk``; time beyond the products grows
    with the number of positives, not with the number of ties. Raises UserError where an encoding
    or a score is not finite, ValueError where encodings and task do not fit together.
    """
    _check(queries, gallery, task)
    with _full_precision(), torch.no_grad():
        scorer = _scorer(queries, gallery, task, score, device)
        positives = _Positives.of(task, scorer)
        beaten, tied, members = _count(scorer, positives, task, query_chunk, gallery_chunk)
        places = np.full(len(task.queries.positives.values), len(task.gallery), dtype=np.int64)
        places[positives.entry] = 1 + beaten + positives.place
        subset = None if members is None else _subset_ranks(scorer, positives, task, members)
    labelled = task.queries.positives.sizes() > 0
    rank, ties = np.where(labelled, len(task.gallery), 0), np.zeros(len(task.queries), dtype=np.int64)
    found = positives.live > 0
    best = positives.first[found]
    rank[found], ties[found] = 1 + beaten[best], tied[best]
    return Ranks(rank, ties, subset, Ragged(task.queries.positives.offsets, places))


def top_ranked(
    queries: Encoding,
    gallery: Encoding,
    task: Task,
    k: int,
    score: ScoreFunction = dot_product,
    query_chunk: int = QUERY_CHUNK,
    gallery_chunk: int = GALLERY_CHUNK,
    device: torch.device | None = None,
) -> tuple[IntArray, NDArray[np.float32]]:
    """The k best gallery indices ``(Q, k)`` of every query, best first, and their scores ``(Q, k)``.

    Ordered by exact score, positives last among ties, then gallery index; a removed reference is
    left out. Where fewer than k pictures remain, the rest is -1 with a score of -inf.
    """
    _check(queries, gallery, task)
    names = np.full((len(task.queries), k), -1, dtype=np.int64)
    values = np.full((len(task.queries), k), -np.inf)
    hidden, positive = _Cells.of(*_removed(task)), _Cells.of(*_flat_positives(task))
    with _full_precision(), torch.no_grad():
        scorer = _scorer(queries, gallery, task, score, device)
        for start, stop in _spans(len(task.gallery), gallery_chunk):
            targets = scorer.targets(start, stop)
            for first, last in _spans(len(task.queries), query_chunk):
                query = np.arange(first, last)
                block = scorer.block(query, targets)
                _hide(block, hidden, query, start)
                found = _Found.kept(names[first:last], values[first:last])
                new = _candidates(scorer, block, query, start, k, values[first:last, -1])
                merged = found.joined(new)
                is_positive = positive.contains(query[merged.row], merged.name)
                merged.best(k, is_positive, scorer.slack[query], names[first:last], values[first:last])
    with np.errstate(over="ignore"):
        return names, values.astype(np.float32)


class _Scorer(Protocol):
    """How blocks are scored and near ties settled; ``slack`` (Q,) is what counts as a tie."""

    slack: Scores
    device: torch.device

    def targets(self, start: int, stop: int) -> Encoding:
        """Gallery rows of a chunk, ready for :meth:`block`."""
        ...

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        """Scores ``(b, n)`` in the block's own unit; valid until the next call."""
        ...

    def bounds(self, query: IntArray, exact: Scores) -> tuple[Tensor, Tensor]:
        """What of a block lies below the first or above the second ``(b,)`` is clearly so."""
        ...

    def settle(self, block: Tensor, query: IntArray, row: Tensor, column: Tensor, start: int) -> Scores:
        """Exact scores of cells of a block whose first column is gallery picture ``start``."""
        ...

    def pairs(self, query: IntArray, picture: IntArray) -> Scores:
        """Exact scores of single pairs, ``(m,)``."""
        ...


class _DotScorer:
    """Float32 products on ``device``; exact ones by :func:`_fixed_order_sum`.

    Rows of extreme norm are scaled by powers of two first, which changes no digit: queries each by
    its own, the gallery by one for all.
    """

    def __init__(self, queries: Tensor, gallery: Tensor, task: Task, device: torch.device) -> None:
        self.queries, self.gallery, self.device = queries, gallery, device
        self.slack = np.zeros(len(queries))
        query_norms, gallery_norms = _norms(queries, "query", task), _norms(gallery, "gallery row", None)
        largest = gallery_norms.max(initial=0.0)
        self._query_exponent = _exponents(query_norms, queries.dtype)
        self._gallery_exponent = _exponents(np.atleast_1d(largest), gallery.dtype)[0]
        width = queries.shape[1]
        self._tolerance = (4 * width**0.5 + 4) * _EPS32 * query_norms * largest * (1 + 1e-4)
        self._floor = width * 2.0**-100
        self._buffer = torch.empty(0, device=device)
        self._twin = _first_twins(gallery)
        self._any_twins = bool((self._twin != np.arange(len(gallery))).any())

    def targets(self, start: int, stop: int) -> Encoding:
        return self._scaled(self.gallery[start:stop], self._gallery_exponent)

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        assert isinstance(targets, Tensor)
        scaled = self._scaled(_rows_of(self.queries, query), self._query_exponent[query])
        size = len(query) * len(targets)
        if size > len(self._buffer):
            self._buffer = torch.empty(size, device=self.device)
        return torch.mm(scaled, targets.T, out=self._buffer[:size].view(len(query), len(targets)))

    def bounds(self, query: IntArray, exact: Scores) -> tuple[Tensor, Tensor]:
        exponent = -(self._query_exponent[query] + self._gallery_exponent)
        low = np.ldexp(exact - self._tolerance[query], exponent) - self._floor
        high = np.ldexp(exact + self._tolerance[query], exponent) + self._floor
        with np.errstate(over="ignore"):
            below = np.nextafter(low.astype(np.float32), np.float32(-np.inf))
            above = np.nextafter(high.astype(np.float32), np.float32(np.inf))
        return torch.from_numpy(below).to(self.device), torch.from_numpy(above).to(self.device)

    def settle(self, block: Tensor, query: IntArray, row: Tensor, column: Tensor, start: int) -> Scores:
        query, picture = query[row.cpu().numpy()], column.cpu().numpy() + start
        if not self._any_twins:
            return self.pairs(query, picture)
        count = len(self._twin)
        key = torch.from_numpy(query * count + self._twin[picture])
        different, inverse = (part.numpy() for part in torch.unique(key, return_inverse=True))
        scores: Scores = self.pairs(different // count, different % count)[inverse]
        return scores

    def pairs(self, query: IntArray, picture: IntArray) -> Scores:
        place = _float64_device(self.device)
        step = max(1, (2**18 if place.type == "cpu" else 2**23) // self.queries.shape[1])
        scores = np.empty(len(query))
        for start, stop in _spans(len(query), step):
            terms = self._double(self.queries, query[start:stop], place)
            terms.mul_(self._double(self.gallery, picture[start:stop], place))
            scores[start:stop] = _fixed_order_sum(terms).cpu().numpy()
        return scores

    def _scaled(self, part: Tensor, exponent: IntArray | np.int64) -> Tensor:
        part = part.to(self.device)
        wide = part if part.dtype == torch.float64 else part.float()
        if np.any(exponent):
            factor = torch.from_numpy(np.ldexp(1.0, -np.atleast_1d(exponent))).to(wide.dtype)
            wide = wide * factor.to(self.device)[:, None]
        return wide.float()

    def _double(self, tensor: Tensor, index: IntArray, place: torch.device) -> Tensor:
        return tensor[torch.from_numpy(index).to(tensor.device)].to(place).double()


class _FunctionScorer:
    """A method's own score, on float64 copies; a block's values are exact up to ``slack``."""

    def __init__(
        self, queries: Encoding, gallery: Encoding, task: Task, score: ScoreFunction, device: torch.device
    ) -> None:
        for encoding, kind, named in ((queries, "query", task), (gallery, "gallery row", None)):
            for tensor in [encoding] if isinstance(encoding, Tensor) else encoding.values():
                if tensor.is_floating_point():
                    _norms(tensor.reshape(len(tensor), -1), kind, named)
        self.queries, self.gallery, self.score, self.device = queries, gallery, score, _float64_device(device)
        self.slack = np.zeros(len(task.queries))
        owner, picture = _flat_positives(task)
        np.maximum.at(self.slack, owner, np.abs(self.pairs(owner, picture)))
        evenly = np.linspace(0, len(task.gallery) - 1, _SAMPLE).astype(np.int64)
        sample = self._double(gallery, np.unique(evenly))
        for start, stop in _spans(len(task.queries), QUERY_CHUNK):
            largest = self.block(np.arange(start, stop), sample).abs().amax(dim=1).cpu().numpy()
            self.slack[start:stop] = _TIE_SLACK * np.maximum(self.slack[start:stop], largest)

    def targets(self, start: int, stop: int) -> Encoding:
        return self._double(self.gallery, slice(start, stop))

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        scores = self.score(self._double(self.queries, query), targets).to(torch.float64, copy=True)
        if not bool(torch.isfinite(scores).all()):
            bad = int(query[int((~torch.isfinite(scores)).any(dim=1).nonzero()[0])])
            raise UserError(f"the method's score of query row {bad} is not finite; check its encodings")
        return scores

    def bounds(self, query: IntArray, exact: Scores) -> tuple[Tensor, Tensor]:
        low, high = exact - self.slack[query], exact + self.slack[query]
        return torch.from_numpy(low).to(self.device), torch.from_numpy(high).to(self.device)

    def settle(self, block: Tensor, query: IntArray, row: Tensor, column: Tensor, start: int) -> Scores:
        found: Scores = block[row, column].cpu().numpy()
        return found

    def pairs(self, query: IntArray, picture: IntArray) -> Scores:
        scores = np.empty(len(query))
        for start, stop in _spans(len(query), 32):
            square = self.block(query[start:stop], self._double(self.gallery, picture[start:stop]))
            scores[start:stop] = square.diagonal().cpu().numpy()
        return scores

    def _double(self, encoding: Encoding, index: IntArray | slice) -> Encoding:
        def convert(tensor: Tensor) -> Tensor:
            part = tensor[index if isinstance(index, slice) else torch.from_numpy(index).to(tensor.device)]
            return part.to(self.device, torch.float64 if part.is_floating_point() else None)

        return map_tensors(convert, encoding)


@dataclass(frozen=True)
class _Cells:
    """Cells (query, gallery picture) as sorted keys, to be found by query and by picture."""

    owner: IntArray
    picture: IntArray

    @classmethod
    def of(cls, owner: IntArray, picture: IntArray) -> _Cells:
        order = np.lexsort((picture, owner))
        return cls(owner[order], picture[order])

    def contains(self, owner: IntArray, picture: IntArray) -> NDArray[np.bool_]:
        """Whether each (owner, picture) is one of the cells."""
        width = 1 + max(int(self.picture.max(initial=0)), int(picture.max(initial=0)))
        return np.isin(owner * width + picture, self.owner * width + self.picture)

    def within(self, query: IntArray, start: int, stop: int) -> tuple[IntArray, IntArray]:
        """Row and column of the cells that lie in the block of these queries, pictures start to stop."""
        first = np.searchsorted(self.owner, query, side="left")
        count = np.searchsorted(self.owner, query, side="right") - first
        row = np.repeat(np.arange(len(query)), count)
        cell = np.arange(len(row)) + np.repeat(first - np.cumsum(count) + count, count)
        inside = (self.picture[cell] >= start) & (self.picture[cell] < stop)
        return row[inside], self.picture[cell][inside] - start


@dataclass(frozen=True)
class _Positives:
    """The positives that can be found (not the removed reference), by query and best first.

    ``owner, picture, score, entry, place`` (L,): query, gallery index, exact score, position among
    the task's positives, and the number of better ones of its query. ``first, live`` (Q,): where
    each query's begin, and how many there are.
    """

    owner: IntArray
    picture: IntArray
    score: Scores
    entry: IntArray
    place: IntArray
    first: IntArray
    live: IntArray

    @classmethod
    def of(cls, task: Task, scorer: _Scorer) -> _Positives:
        owner, picture = _flat_positives(task)
        entry = np.flatnonzero(~_Cells.of(*_removed(task)).contains(owner, picture))
        score = scorer.pairs(owner[entry], picture[entry])
        order = np.lexsort((picture[entry], -score, owner[entry]))
        entry, score = entry[order], score[order]
        live = np.bincount(owner[entry], minlength=len(task.queries))
        first = np.cumsum(live) - live
        place = np.arange(len(entry)) - first[owner[entry]]
        return cls(owner[entry], picture[entry], score, entry, place, first, live)


def _count(
    scorer: _Scorer, positives: _Positives, task: Task, query_chunk: int, gallery_chunk: int
) -> tuple[IntArray, IntArray, Tensor | None]:
    """Non-positives at least as good as each positive (L,), those exactly as good (L,), and the
    block scores of the subset's members (Q, S)."""
    beaten, tied = np.zeros((2, len(positives.entry)), dtype=np.int64)
    low, high = scorer.bounds(positives.owner, positives.score)
    subset = task.queries.subset
    members = None if subset is None else torch.zeros(subset.shape, device=scorer.device, dtype=low.dtype)
    # Queries with many positives first: the r-th positives of a chunk then belong to its first rows.
    order = np.argsort(-positives.live, kind="stable")[: np.count_nonzero(positives.live)]
    unranked = zip(_flat_positives(task), _removed(task), strict=True)
    hidden = _Cells.of(*(np.concatenate(both) for both in unranked))
    for start, stop in _spans(len(task.gallery), gallery_chunk):
        targets = scorer.targets(start, stop)
        for begin, end in _spans(len(order), query_chunk):
            query = order[begin:end]
            block = scorer.block(query, targets)
            if members is not None and subset is not None:
                _collect_members(block, members, query, subset[query] - start)
            _hide(block, hidden, query, start)
            for turn in range(positives.live[query[0]]):
                entry = positives.first[query[positives.live[query] > turn]] + turn
                exact, bounds = positives.score[entry], (low[entry], high[entry])
                better, equal = _beaten(scorer, block, query, exact, bounds, start)
                beaten[entry] += better + equal
                tied[entry] += equal
    return beaten, tied, members


def _beaten(
    scorer: _Scorer,
    block: Tensor,
    query: IntArray,
    exact: Scores,
    bounds: tuple[Tensor, Tensor],
    start: int,
) -> tuple[IntArray, IntArray]:
    """For the first m rows of a block: how many cells beat the exact score (m,), and how many equal it."""
    block, (low, high) = block[: len(exact)], bounds
    above = block > high[:, None]
    better: IntArray = above.view(torch.uint8).sum(dim=1, dtype=torch.int32).long().cpu().numpy()
    near = (block >= low[:, None]).logical_xor_(above)
    row, column = near.nonzero(as_tuple=True)
    score = scorer.settle(block, query, row, column, start)
    owner = row.cpu().numpy()
    lead, slack = score - exact[owner], scorer.slack[query[owner]]
    better += np.bincount(owner[lead > slack], minlength=len(exact))
    return better, np.bincount(owner[np.abs(lead) <= slack], minlength=len(exact))


def _collect_members(block: Tensor, members: Tensor, query: IntArray, column: IntArray) -> None:
    """Copy the scores of the subset's members that lie in this block; ``column`` is (b, S)."""
    row, member = np.nonzero((column >= 0) & (column < block.shape[1]))
    members[query[row], member] = block[row, column[row, member]]


def _subset_ranks(scorer: _Scorer, positives: _Positives, task: Task, members: Tensor) -> IntArray:
    """Rank of the best positive among the members of each query's subset, (Q,)."""
    subset = task.queries.subset
    assert subset is not None
    every = np.repeat(np.arange(len(subset)), subset.shape[1])
    hits = _Cells.of(*_flat_positives(task)).contains(every, subset.reshape(-1)).reshape(subset.shape)
    rivals = (subset >= 0) & (subset != task.queries.reference[:, None]) & ~hits
    best = np.full(len(subset), -np.inf)
    standing = positives.picture != task.queries.reference[positives.owner]
    member = (subset[positives.owner] == positives.picture[:, None]).any(axis=1) & standing
    np.maximum.at(best, positives.owner[member], positives.score[member])
    placed = np.flatnonzero(np.isfinite(best))
    low, high = (bound[:, None] for bound in scorer.bounds(placed, best[placed]))
    coarse = members[torch.from_numpy(placed).to(members.device)]
    better, near = (coarse > high).cpu().numpy(), ((coarse >= low) & (coarse <= high)).cpu().numpy()
    row, column = np.nonzero(near & rivals[placed])
    query = placed[row]
    better[row, column] = scorer.pairs(query, subset[query, column]) >= best[query] - scorer.slack[query]
    ranks = 1 + rivals.sum(axis=1)
    ranks[placed] = 1 + (better & rivals[placed]).sum(axis=1)
    return np.where(task.queries.positives.sizes() > 0, ranks, 0)


@dataclass(frozen=True)
class _Found:
    """Pictures found for a chunk of queries: row of the chunk, gallery index, exact score."""

    row: IntArray
    name: IntArray
    score: Scores

    @classmethod
    def kept(cls, names: IntArray, values: Scores) -> _Found:
        row, place = np.nonzero(names >= 0)
        return cls(row, names[row, place], values[row, place])

    def joined(self, other: _Found) -> _Found:
        both = zip((self.row, self.name, self.score), (other.row, other.name, other.score), strict=True)
        row, name, score = (np.concatenate(pair) for pair in both)
        return _Found(row, name, score)

    def best(
        self,
        k: int,
        is_positive: NDArray[np.bool_],
        slack: Scores,
        names: IntArray,
        values: Scores,
    ) -> None:
        """Write the k best of each row, in order, into ``names`` and ``values`` (b, k)."""
        order = np.lexsort((-self.score, self.row))
        row, score = self.row[order], self.score[order]
        apart = (np.diff(row, prepend=-1) != 0) | (-np.diff(score, prepend=np.inf) > slack[row])
        order = order[np.lexsort((self.name[order], is_positive[order], np.cumsum(apart)))]
        count = np.bincount(row, minlength=len(names))
        place = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        kept = order[place < k]
        names[self.row[kept], place[place < k]] = self.name[kept]
        values[self.row[kept], place[place < k]] = self.score[kept]


def _candidates(scorer: _Scorer, block: Tensor, query: IntArray, start: int, k: int, worst: Scores) -> _Found:
    """The cells of a block that may belong to the k best, given the worst score (b,) kept so far."""
    full = np.flatnonzero(np.isfinite(worst))
    if block.shape[1] > k:
        floor = torch.topk(block, k, dim=1, sorted=False).values.amin(dim=1)
        # Two tolerances and a little below it: the k-th may have come out too high, a candidate too low.
        low, high = scorer.bounds(query, np.zeros(len(query)))
        floor -= 1.25 * (high - low)
    else:
        floor = block.new_full((len(query),), torch.finfo(block.dtype).min)
    reach = scorer.bounds(query[full], worst[full])[0]
    index = torch.from_numpy(full).to(block.device)
    floor[index] = torch.maximum(floor[index], reach)
    row, column = ((block >= floor[:, None]) & torch.isfinite(block)).nonzero(as_tuple=True)
    score = scorer.settle(block, query, row, column, start)
    return _Found(row.cpu().numpy(), column.cpu().numpy() + start, score)


def _hide(block: Tensor, cells: _Cells, query: IntArray, start: int) -> None:
    row, column = cells.within(query, start, start + block.shape[1])
    block[row, column] = -torch.inf


def _scorer(
    queries: Encoding, gallery: Encoding, task: Task, score: ScoreFunction, device: torch.device | None
) -> _Scorer:
    example = queries if isinstance(queries, Tensor) else next(iter(queries.values()))
    place = example.device if device is None else device
    if score is not dot_product:
        return _FunctionScorer(queries, gallery, task, score, place)
    if not isinstance(queries, Tensor) or not isinstance(gallery, Tensor):
        raise TypeError("a dot product needs encodings of one tensor; this method needs its own score")
    return _DotScorer(queries, gallery, task, place)


def _flat_positives(task: Task) -> tuple[IntArray, IntArray]:
    positives = task.queries.positives
    return np.repeat(np.arange(len(positives)), positives.sizes()), positives.values


def _removed(task: Task) -> tuple[IntArray, IntArray]:
    """Query and gallery index of every reference that is not ranked."""
    owner = np.flatnonzero((task.queries.reference >= 0) & task.exclude_reference)
    return owner, task.queries.reference[owner]


def _check(queries: Encoding, gallery: Encoding, task: Task) -> None:
    for kind, found, expected in (
        ("queries", rows(queries), len(task.queries)),
        ("gallery pictures", rows(gallery), len(task.gallery)),
    ):
        if found != expected:
            raise ValueError(f"{task.key}: {found} encoded {kind}, the task has {expected}")
    owner, picture = _flat_positives(task)
    size = len(task.gallery)
    highest = max(picture.max(initial=-1), task.queries.reference.max(initial=-1))
    if picture.min(initial=0) < 0 or highest >= size:
        raise ValueError(f"{task.key}: a positive or reference lies outside of the gallery of {size}")
    if len(np.unique(owner * size + picture)) != len(picture):
        raise ValueError(f"{task.key}: a query names the same positive twice")


def _norms(tensor: Tensor, kind: str, task: Task | None) -> Scores:
    """Euclidean norms (rows,) of ``(rows, d)``; raises UserError where a row is not finite."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    norms: Scores = torch.linalg.vector_norm(wide, dim=1).double().cpu().numpy()
    # Squares of float32 leave its range long before the values do: such rows are measured again.
    extreme = np.flatnonzero(~((norms > 1e-15) & (norms < 1e15)))
    again = tensor[torch.from_numpy(extreme).to(tensor.device)].cpu().double()
    norms[extreme] = torch.linalg.vector_norm(again, dim=1).numpy()
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        name = f" ({task.queries.ids[bad[0]]})" if task is not None else ""
        where = f"the encoding of {kind} {bad[0]}{name} is not finite"
        raise UserError(f"{where}, {len(bad)} such in all: check the checkpoint or the file it comes from")
    return norms


def _exponents(norms: Scores, dtype: torch.dtype) -> IntArray:
    """Powers of two to divide rows by; 0 for ordinary norms, so that nothing is copied for them."""
    exponent = np.frexp(norms)[1].astype(np.int64)
    limit = 900 if dtype == torch.float64 else 100
    return np.where(np.abs(exponent) > 16, np.clip(exponent, -limit, limit), 0)


def _first_twins(gallery: Tensor) -> IntArray:
    """For every row the first row with the same bytes, (G,)."""
    first: dict[int, int] = {}
    twins = np.arange(len(gallery))
    for start, stop in _spans(len(gallery), 1024):
        part = gallery[start:stop].detach().contiguous().cpu().view(torch.uint8).numpy()
        for i, row in enumerate(part, start):
            other = first.setdefault(hash(row.tobytes()), i)
            if other != i and bool((gallery[other] == gallery[i]).all()):
                twins[i] = other
    return twins


def _fixed_order_sum(terms: Tensor) -> Tensor:
    """Row sums ``(m, d)`` to ``(m,)`` by adding the second half to the first until one column is left.

    Additions of whole columns: the order of a row's terms depends on d alone, not on m, threads or
    device. Overwrites ``terms``.
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0]


def _rows_of(tensor: Tensor, index: IntArray) -> Tensor:
    """Rows by index, without a copy where they follow one another."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return tensor[int(index[0]) : int(index[-1]) + 1]
    part = take(tensor, torch.from_numpy(index).to(tensor.device))
    assert isinstance(part, Tensor)
    return part


def _float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed: Apple's devices have none."""
    return torch.device("cpu") if device.type == "mps" else device


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, length)) for start in range(0, length, step))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 products in float32: no TF32 or bfloat16 in their place, no autocast; restored afterwards."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        # Older functions for the same settings refuse to answer where somebody has used these.
        for backend in (torch.backends.cuda, torch.backends.mkldnn):
            products = getattr(backend, "matmul")  # noqa: B009 - typed for one of them only
            stack.callback(setattr, products, "fp32_precision", products.fp32_precision)
            products.fp32_precision = "ieee"
        yield
