"""Cells of a block against thresholds of its rows: how many lie above, and which lie too near to tell.

A query with several positives holds its row against a band for each of them. Rows and bands are taken
in tiles so small that they stay in the processor's cache from the first comparison to the last count.

Notation: a block has b rows of n cells; a tile takes m of its rows and p bands of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.arithmetic import Scores, spans
from benchmark.dataset import IntArray

_WORD = 8
_LANES = 128
_TILE = {"cpu": 2**18}
_DEVICE_TILE = 2**26


@dataclass(frozen=True)
class Tile:
    """Rows ``first`` to ``last`` of a block and bands of each, ``low`` to ``high``, both ``(m, p)``.

    ``entry`` (m, p): the number of each band among the L of all queries; L where a row has no more,
    with a band that nothing reaches.
    """

    first: int
    last: int
    entry: IntArray
    low: Tensor
    high: Tensor


def tiles(first: IntArray, live: IntArray, low: Tensor, high: Tensor, columns: int) -> Iterator[Tile]:
    """Tiles for the bands of b rows, those with the most bands in front.

    ``first, live`` (b,): where each row's bands begin among all, and how many there are. ``low, high``
    (L,): all bands. ``columns``: the widest block's.
    """
    none = low.new_full((1,), torch.inf)
    low, high = torch.cat([low, none]), torch.cat([high, none])
    pairs = max(1, _TILE.get(low.device.type, _DEVICE_TILE) // max(columns, 1))
    row = 0
    while row < len(live):
        end = min(row + max(1, pairs // int(live[row])), len(live))
        for start, stop in spans(int(live[row]), pairs):
            turn = np.arange(start, stop)
            entry = np.where(turn < live[row:end, None], first[row:end, None] + turn, len(low) - 1)
            place = torch.from_numpy(entry).to(low.device)
            yield Tile(row, end, entry, low[place], high[place])
        row = end


@dataclass(frozen=True)
class Sifted:
    """``above`` (m, p): cells above each band. ``entry, row, column, score`` (c,): the cells within one,
    by the band's number, the block's row, the column, and the score the block gave."""

    above: IntArray
    entry: IntArray
    row: IntArray
    column: IntArray
    score: Scores


class Sieve:
    """Holds tiles of blocks with ``columns`` columns on ``device`` against their bands."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self._columns, self._on_host = columns, device.type == "cpu"
        # Masks of whole words, and of whole groups of words to count by; what is beyond the columns stays False.
        self._stride = -(-columns // (_WORD * _LANES)) * _WORD * _LANES
        self._above = self._within = np.zeros(0, dtype=np.bool_)

    def sift(self, block: Tensor, tile: Tile) -> Sifted:
        """``block`` (b, n); a cell lies within a band from its low to its high end, both included."""
        rows = block[tile.first : tile.last]
        above, pair, column = self._on_cpu(rows, tile) if self._on_host else _anywhere(rows, tile)
        row = pair // tile.entry.shape[1]
        place = (torch.from_numpy(part).to(block.device) for part in (row, column))
        score = rows[tuple(place)].cpu().double().numpy()
        return Sifted(above, tile.entry.reshape(-1)[pair], row + tile.first, column, score)

    def _on_cpu(self, rows: Tensor, tile: Tile) -> tuple[IntArray, IntArray, IntArray]:
        """NumPy compares several times as fast as torch, into memory that is not allocated again."""
        shape = (*tile.entry.shape, self._stride)
        size = tile.entry.size * self._stride
        if size > len(self._above):
            self._above, self._within = (np.zeros(size, dtype=np.bool_) for _ in range(2))
        above, within = self._above[:size].reshape(shape), self._within[:size].reshape(shape)
        cells = rows.numpy()[:, None]
        np.greater(cells, tile.high.numpy()[..., None], out=above[..., : self._columns])
        np.greater_equal(cells, tile.low.numpy()[..., None], out=within[..., : self._columns])
        words = within.view(np.int64)
        words ^= above.view(np.int64)
        # Nearly all words are empty.
        filled = np.flatnonzero(words.reshape(-1) != 0)
        word, byte = np.nonzero(within.reshape(-1, _WORD)[filled])
        pair, column = np.divmod(filled[word] * _WORD + byte, self._stride)
        return _counts(above), pair, column


def _counts(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> IntArray:
    """How many of the last dimension's cells hold, (m, p): eight bytes are added at once, and none of
    them overflows within a group of words."""
    *shape, width = mask.shape
    groups = torch.from_numpy(mask.view(np.int64)).view(*shape, width // (_WORD * _LANES), _LANES)
    counts: IntArray = groups.sum(dim=-1).view(torch.uint8).sum(dim=-1, dtype=torch.int64).numpy()
    return counts


def _anywhere(rows: Tensor, tile: Tile) -> tuple[IntArray, IntArray, IntArray]:
    above = rows[:, None] > tile.high[..., None]
    within = (rows[:, None] >= tile.low[..., None]).logical_xor_(above)
    pair, column = within.flatten(0, 1).nonzero(as_tuple=True)
    return above.sum(dim=-1).cpu().numpy(), pair.cpu().numpy(), column.cpu().numpy()
