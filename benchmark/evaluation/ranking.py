"""Exact ranks by counting, in chunks: no sort of the gallery, no names, never a (Q, G) matrix.

The rank of a query is 1 + the number of gallery pictures that are no positive, not the removed
reference, and score at least as high as the best positive: ties count against the method.

Ranks do not depend on chunks, threads or devices: what float32 cannot tell apart is settled exactly
(:mod:`benchmark.evaluation.products`).

Notation: Q queries, G gallery pictures, T positives of all queries, S members of a subset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.arithmetic import Scores, full_precision, spans, torch_threads
from benchmark.dataset import IntArray, Ragged, Task
from benchmark.encoding import Encoding
from benchmark.evaluation.cells import Cells, Sieve, Sifted, Tile, check_task, flat_positives, removed, tiles
from benchmark.evaluation.scoring import GALLERY_CHUNK as GALLERY_CHUNK
from benchmark.evaluation.scoring import QUERY_CHUNK as QUERY_CHUNK
from benchmark.evaluation.scoring import ScoreFunction as ScoreFunction
from benchmark.evaluation.scoring import Scorer, chunks_on, make_scorer
from benchmark.evaluation.scoring import dot_product as dot_product

_SETTLED_AT_ONCE = 2**18


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
    query_chunk: int | None = None,
    gallery_chunk: int | None = None,
    device: torch.device | None = None,
) -> Ranks:
    """Ranks of Q query rows among G gallery rows, the same for any chunk, thread count or device.

    ``query_chunk, gallery_chunk``: None leaves them to the device. A positive that is the removed reference is a
    certain miss: its rank is G. Memory beyond the
    encodings is a few blocks of ``query_chunk x gallery_chunk``; time beyond the products grows
    with the number of positives, not with the number of ties. Raises UserError where an encoding
    or a score is not finite, ValueError where encodings and task do not fit together.
    """
    check_task(queries, gallery, task)
    with full_precision(), torch.no_grad():
        scorer = make_scorer(queries, gallery, task, score, device)
        with torch_threads(1):
            positives = _Positives.of(task, scorer)
            rows, columns = chunks_on(scorer.device)
            beaten, tied, members = _count(scorer, positives, task, query_chunk or rows, gallery_chunk or columns)
            subset = None if members is None else _subset_ranks(scorer, positives, task, members)
    places = np.full(len(task.queries.positives.values), len(task.gallery), dtype=np.int64)
    places[positives.entry] = 1 + beaten + positives.place
    labelled = task.queries.positives.sizes() > 0
    rank, ties = np.where(labelled, len(task.gallery), 0), np.zeros(len(task.queries), dtype=np.int64)
    found = positives.live > 0
    best = positives.first[found]
    rank[found], ties[found] = 1 + beaten[best], tied[best]
    return Ranks(rank, ties, subset, Ragged(task.queries.positives.offsets, places))


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
    def of(cls, task: Task, scorer: Scorer) -> _Positives:
        owner, picture = flat_positives(task)
        entry = np.flatnonzero(~Cells.of(*removed(task)).contains(owner, picture))
        score = scorer.pairs(*_sent(scorer, owner[entry], picture[entry])).cpu().numpy()
        live = np.bincount(owner[entry], minlength=len(task.queries))
        if live.max(initial=0) > 1:  # else they stand in order
            order = np.lexsort((picture[entry], -score, owner[entry]))
            entry, score = entry[order], score[order]
        first = np.cumsum(live) - live
        place = np.arange(len(entry)) - first[owner[entry]]
        return cls(owner[entry], picture[entry], score, entry, place, first, live)


def _count(
    scorer: Scorer, positives: _Positives, task: Task, query_chunk: int, gallery_chunk: int
) -> tuple[IntArray, IntArray, Tensor | None]:
    """Non-positives at least as good as each positive (L,), those exactly as good (L,), and the
    block scores of the subset's members (Q, S)."""
    near = _Near(scorer, positives)
    low, high = scorer.bounds(near.owner, near.exact)
    subset = None if task.queries.subset is None else torch.from_numpy(task.queries.subset).to(scorer.device)
    members = None if subset is None else torch.zeros(subset.shape, device=scorer.device, dtype=low.dtype)
    # Queries with many positives first: neighbours in a chunk then have about equally many.
    order = np.argsort(-positives.live, kind="stable")[: np.count_nonzero(positives.live)]
    unranked = zip(flat_positives(task), removed(task), strict=True)
    hidden = Cells.of(*(np.concatenate(both) for both in unranked))
    chunks = [order[begin:end] for begin, end in spans(len(order), query_chunk)]
    width = min(gallery_chunk, len(task.gallery))
    parts = [list(tiles(positives.first[c], positives.live[c], low, high, width)) for c in chunks]
    for start, stop in spans(len(task.gallery), gallery_chunk):
        targets, sieve = scorer.targets(start, stop), Sieve(stop - start, scorer.device)
        for query, tiled in zip(chunks, parts, strict=True):
            block = scorer.block(query, targets)
            if members is not None and subset is not None:
                _collect_members(block, members, torch.from_numpy(query).to(scorer.device), subset, start)
            hidden.hide(block, query, start)
            for tile in tiled:
                near.add(tile, sieve.sift(block, tile), start)
    near.settle()
    beaten, tied = (counted[:-1].cpu().numpy() for counted in (near.beaten, near.tied))
    return beaten, tied, members


class _Near:
    """Counts ``beaten, tied`` of every positive (L,); cells too near to its score, of any blocks, are settled many at
    once. All lies where exact scores do: nothing goes to the host before the last block."""

    def __init__(self, scorer: Scorer, positives: _Positives) -> None:
        self._scorer = scorer
        self.owner, self.exact = _sent(scorer, positives.owner, positives.score)
        # One more than there are, for what tiles are filled up with.
        self.beaten, self.tied = self.owner.new_zeros((2, len(self.owner) + 1))
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._count = 0

    def add(self, tile: Tile, sifted: Sifted, start: int) -> None:
        """What a tile of a block holds whose first picture is ``start``."""
        self.beaten.index_add_(0, tile.entry.flatten(), sifted.above.flatten())
        self._waiting.append((sifted.entry, sifted.column + start, sifted.score))
        self._count += len(sifted.entry)
        if self._count > _SETTLED_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        if not self._count:
            return
        entry, picture, found = map(torch.cat, zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        query, exact = self.owner[entry], self.exact[entry]
        score = self._scorer.again(found, query, picture)
        low, high = self._scorer.bounds_again(query, exact)
        self.beaten.index_add_(0, entry, (score > high).to(entry))
        near = ((score >= low) & (score <= high)).nonzero()[:, 0].to(entry.device)
        entry, query = entry[near], query[near]
        lead = self._scorer.settle(found[near], query, picture[near]) - exact[near]
        slack = self._scorer.slack[query]
        self.beaten.index_add_(0, entry, (lead >= -slack).long())
        self.tied.index_add_(0, entry, (lead.abs() <= slack).long())


def _sent(scorer: Scorer, *parts: IntArray | Scores) -> Iterator[Tensor]:
    """Arrays as tensors where exact scores lie."""
    return (torch.from_numpy(part).to(scorer.slack.device) for part in parts)


def _collect_members(block: Tensor, members: Tensor, query: Tensor, subset: Tensor, start: int) -> None:
    """Copy the scores of the subset's members (Q, S) that lie in the block of these queries."""
    column, last = subset[query] - start, block.shape[1] - 1
    found = block.gather(1, column.clamp(0, last))
    members[query] = torch.where((column >= 0) & (column <= last), found, members[query])


def _subset_ranks(scorer: Scorer, positives: _Positives, task: Task, members: Tensor) -> IntArray:
    """Rank of the best positive among the members of each query's subset, (Q,)."""
    subset = task.queries.subset
    assert subset is not None
    every = np.repeat(np.arange(len(subset)), subset.shape[1])
    hits = Cells.of(*flat_positives(task)).contains(every, subset.reshape(-1)).reshape(subset.shape)
    rivals = (subset >= 0) & (subset != task.queries.reference_in_gallery[:, None]) & ~hits
    best = np.full(len(subset), -np.inf)
    standing = positives.picture != task.queries.reference_in_gallery[positives.owner]
    member = (subset[positives.owner] == positives.picture[:, None]).any(axis=1) & standing
    np.maximum.at(best, positives.owner[member], positives.score[member])
    placed = np.flatnonzero(np.isfinite(best))
    low, high = (bound[:, None] for bound in scorer.bounds(*_sent(scorer, placed, best[placed])))
    coarse = members[torch.from_numpy(placed).to(members.device)]
    better, near = (coarse > high).cpu().numpy(), ((coarse >= low) & (coarse <= high)).cpu().numpy()
    row, column = np.nonzero(near & rivals[placed])
    query = placed[row]
    settled = scorer.pairs(*_sent(scorer, query, subset[query, column])).cpu().numpy()
    better[row, column] = settled >= best[query] - scorer.slack.cpu().numpy()[query]
    ranks = 1 + rivals.sum(axis=1)
    ranks[placed] = 1 + (better & rivals[placed]).sum(axis=1)
    return np.where(task.queries.positives.sizes() > 0, ranks, 0)
