"""The k best gallery pictures of every query, in chunks; exact scores only where the order is in doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.arithmetic import Scores, full_precision, spans, torch_threads
from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding
from benchmark.evaluation.cells import Cells, cells_where, check_task, flat_positives, removed
from benchmark.evaluation.scoring import ScoreFunction, Scorer, chunks_on, dot_product, make_scorer


def top_pictures(
    queries: Encoding,
    gallery: Encoding,
    task: Task,
    k: int,
    score: ScoreFunction = dot_product,
    query_chunk: int | None = None,
    gallery_chunk: int | None = None,
    device: torch.device | None = None,
) -> IntArray:
    """The k best gallery indices ``(Q, k)`` of every query, best first.

    Ordered by exact score, positives last among ties, then gallery index; a removed reference is
    left out. Where fewer than k pictures remain, the rest is -1. Raises as ``rank_queries`` does.
    """
    check_task(queries, gallery, task)
    with full_precision(), torch.no_grad():
        scorer = make_scorer(queries, gallery, task, score, device)
        with torch_threads(1):
            rows, columns = chunks_on(scorer.device)
            return _best(scorer, task, k, query_chunk or rows, gallery_chunk or columns)


def _best(scorer: Scorer, task: Task, k: int, query_chunk: int, gallery_chunk: int) -> IntArray:
    names = np.full((len(task.queries), k), -1, dtype=np.int64)
    values = np.full((len(task.queries), k), -np.inf)
    hidden, positive = Cells.of(*removed(task)), Cells.of(*flat_positives(task))
    for start, stop in spans(len(task.gallery), gallery_chunk):
        targets = scorer.targets(start, stop)
        for first, last in spans(len(task.queries), query_chunk):
            query = np.arange(first, last)
            block = scorer.block(query, targets)
            hidden.hide(block, query, start)
            doubt = _doubt(scorer, scorer.bounds, query)
            kept = _Found.kept(names[first:last], values[first:last])
            new = _candidates(block, start, k, values[first:last].min(axis=1), doubt)
            best = kept.joined(new).best(k, query, doubt, scorer, positive)
            best.write(names[first:last], values[first:last])
    return names


def _doubt(scorer: Scorer, bounds: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], query: IntArray) -> Scores:
    """By how much two scores must differ for their order to be clear, where ``bounds`` are a score's, (b,)."""
    asked = torch.from_numpy(query).to(scorer.slack.device)
    low, high = bounds(asked, scorer.largest[asked])
    width: Scores = (high.double() - low.double()).cpu().numpy()
    return 1.25 * width


@dataclass(frozen=True)
class _Found:
    """Pictures found for a chunk of queries: row of the chunk, gallery index, score in the block."""

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

    def taken(self, index: IntArray | NDArray[np.bool_]) -> _Found:
        return _Found(self.row[index], self.name[index], self.score[index])

    def places(self) -> IntArray:
        """Position of each within its row, from 0; rows stand in order."""
        count = np.bincount(self.row)
        place: IntArray = np.arange(len(self.row)) - (np.cumsum(count) - count)[self.row]
        return place

    def best(self, k: int, query: IntArray, doubt: Scores, scorer: Scorer, positive: Cells) -> _Found:
        """The k best of each row, in order. Scores apart by more than ``doubt`` (b,) are clear."""
        ordered = self.taken(np.lexsort((-self.score, self.row)))
        cluster = _clusters(ordered.row, ordered.score, doubt)
        first = np.flatnonzero(np.diff(cluster, prepend=0))
        reached = (ordered.places()[first] < k)[cluster - 1]
        ordered, cluster = ordered.taken(reached), cluster[reached]
        finer, slack = _doubt(scorer, scorer.bounds_again, query), scorer.slack.cpu().numpy()[query]
        for better, gap in ((scorer.again, finer), (scorer.settle, slack)):
            unclear = np.flatnonzero(np.bincount(cluster)[cluster] > 1)
            score, part = ordered.score.copy(), ordered.taken(unclear)
            asked = (part.score, query[part.row], part.name)
            found = better(*(torch.from_numpy(given).to(scorer.slack.device) for given in asked))
            score[unclear] = found.cpu().double().numpy()
            # Clusters keep their order; within one, better scores are compared with one another alone.
            order = np.lexsort((-score, cluster))
            ordered, score, cluster = ordered.taken(order), score[order], cluster[order]
            parted = -np.diff(score, prepend=np.inf) > gap[ordered.row]
            cluster = np.cumsum((np.diff(cluster, prepend=0) != 0) | parted)
        last = positive.contains(query[ordered.row], ordered.name)
        ordered = ordered.taken(np.lexsort((ordered.name, last, cluster)))
        return ordered.taken(ordered.places() < k)

    def write(self, names: IntArray, values: Scores) -> None:
        """Into ``names`` and ``values`` (b, k)."""
        place = self.places()
        names[self.row, place], values[self.row, place] = self.name, self.score


def _clusters(row: IntArray, score: Scores, gap: Scores) -> IntArray:
    """Numbers from 1 of runs of one row whose neighbouring scores, in falling order, are within its gap."""
    apart = (np.diff(row, prepend=-1) != 0) | (-np.diff(score, prepend=np.inf) > gap[row])
    numbers: IntArray = np.cumsum(apart)
    return numbers


def _candidates(block: Tensor, start: int, k: int, worst: Scores, doubt: Scores) -> _Found:
    """The cells of a block that may belong to the k best, given the worst score (b,) kept so far."""
    floor = np.maximum(_floor(block, k).cpu().double().numpy(), worst) - doubt
    # What is hidden scores -inf; where less than k is known, everything else may belong.
    lowest = torch.finfo(block.dtype).min
    bound = torch.from_numpy(np.maximum(floor, lowest)).to(block.dtype).to(block.device)
    row, column, score = cells_where(block >= bound[:, None], block)
    return _Found(row, column + start, score)


def _floor(block: Tensor, k: int) -> Tensor:
    """A score (b,) that at least k cells of each row reach; -inf where a row has no k cells.

    The k-th best of the maxima of groups of columns: hardly lower than the k-th best cell.
    """
    width = block.shape[1]
    if width < k:
        return block.new_full((len(block),), -torch.inf)
    group = max(1, min(8, width // (4 * k)))
    columns = width // group
    groups = [block[:, start : start + columns] for start in range(0, group * columns, columns)]
    maxima = torch.stack(groups).amax(dim=0)
    return torch.topk(maxima, k, dim=1, sorted=False).values.amin(dim=1)
