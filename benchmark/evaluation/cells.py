"""Cells (query, gallery picture): those of a task that are marked, and those of a block above a threshold.

The marked ones are a task's positives and removed references. A block's cells are held against bands, one
for each positive of a row: how many lie above it, and which within, too near to tell. Rows and bands are taken
in tiles so small that they stay in the processor's cache from the first comparison to the last count.

Notation: a block has b rows of n cells; a tile takes m of its rows and p bands of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.arithmetic import Scores, float64_device, spans
from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding, rows

_WORD = 8
_LANES = 128
_TILE = {"cpu": 2**18}
_DEVICE_TILE = 2**26


@dataclass(frozen=True)
class Cells:
    """Cells (query, gallery picture) as sorted keys, to be found by query and by picture."""

    owner: IntArray
    picture: IntArray

    @classmethod
    def of(cls, owner: IntArray, picture: IntArray) -> Cells:
        width = 1 + int(picture.max(initial=0))
        # Mostly sorted stretches one behind the other, which a stable sort only has to merge.
        order = np.argsort(owner * width + picture, kind="stable")
        return cls(owner[order], picture[order])

    def contains(self, owner: IntArray, picture: IntArray) -> NDArray[np.bool_]:
        """Whether each (owner, picture) is one of the cells."""
        width = 1 + max(int(self.picture.max(initial=0)), int(picture.max(initial=0)))
        cells, asked = self.owner * width + self.picture, owner * width + picture
        # Behind the last cell one that nothing is.
        found: NDArray[np.bool_] = np.append(cells, np.iinfo(np.int64).min)[np.searchsorted(cells, asked)] == asked
        return found

    def within(self, query: IntArray, start: int, stop: int) -> tuple[IntArray, IntArray]:
        """Row and column of the cells that lie in the block of these queries, pictures start to stop."""
        first = np.searchsorted(self.owner, query, side="left")
        count = np.searchsorted(self.owner, query, side="right") - first
        row = np.repeat(np.arange(len(query)), count)
        cell = np.arange(len(row)) + np.repeat(first - np.cumsum(count) + count, count)
        inside = (self.picture[cell] >= start) & (self.picture[cell] < stop)
        return row[inside], self.picture[cell][inside] - start

    def hide(self, block: Tensor, query: IntArray, start: int) -> None:
        """Set the cells that lie in a block ``(b, n)``, whose first column is ``start``, to -inf."""
        row, column = self.within(query, start, start + block.shape[1])
        block[torch.from_numpy(row).to(block.device), torch.from_numpy(column).to(block.device)] = -torch.inf


def cells_where(mask: Tensor, block: Tensor) -> tuple[IntArray, IntArray, Scores]:
    """Row, column and value ``(m,)`` of the cells of a block where the ``(b, n)`` mask holds."""
    if mask.device.type != "cpu":
        place = mask.nonzero(as_tuple=True)
        found: Scores = block[place].cpu().double().numpy()
        return place[0].cpu().numpy(), place[1].cpu().numpy(), found
    # Such masks are nearly empty; NumPy runs over them several times as fast as torch.
    row, column = np.divmod(np.flatnonzero(mask.numpy()), mask.shape[1])
    return row, column, block.numpy()[row, column].astype(np.float64)


def flat_positives(task: Task) -> tuple[IntArray, IntArray]:
    """Query and gallery index of every positive, in the task's order."""
    positives = task.queries.positives
    return np.repeat(np.arange(len(positives)), positives.sizes()), positives.values


def removed(task: Task) -> tuple[IntArray, IntArray]:
    """Query and gallery index of every reference that is not ranked."""
    owner = np.flatnonzero((task.queries.reference_in_gallery >= 0) & task.exclude_reference)
    return owner, task.queries.reference_in_gallery[owner]


def check_task(queries: Encoding, gallery: Encoding, task: Task) -> None:
    """Raises ValueError where encodings and task do not fit together."""
    for kind, found, expected in (
        ("queries", rows(queries), len(task.queries)),
        ("gallery pictures", rows(gallery), len(task.gallery)),
    ):
        if found != expected:
            raise ValueError(f"{task.key}: {found} encoded {kind}, the task has {expected}")
    owner, picture = flat_positives(task)
    size = len(task.gallery)
    highest = max(picture.max(initial=-1), task.queries.reference_in_gallery.max(initial=-1))
    if picture.min(initial=0) < 0 or highest >= size:
        raise ValueError(f"{task.key}: a positive or reference lies outside of the gallery of {size}")
    if (np.diff(np.sort(owner * size + picture, kind="stable")) == 0).any():
        raise ValueError(f"{task.key}: a query names the same positive twice")


@dataclass(frozen=True)
class Tile:
    """Rows ``first`` to ``last`` of a block and bands of each, ``low`` to ``high``, both ``(m, p)``.

    ``entry`` (m, p), where exact scores lie: the number of each band among the L of all queries; L where a row has
    no more, with a band that nothing reaches.
    """

    first: int
    last: int
    entry: Tensor
    low: Tensor
    high: Tensor


def tiles(first: IntArray, live: IntArray, low: Tensor, high: Tensor, columns: int) -> Iterator[Tile]:
    """Tiles for the bands of b rows, those with the most bands in front.

    ``first, live`` (b,): where each row's bands begin among all, and how many there are. ``low, high``
    (L,): all bands. ``columns``: the widest block's.
    """
    none = low.new_full((1,), torch.inf)
    low, high = torch.cat([low, none]), torch.cat([high, none])
    pairs = max(1, _TILE.get(low.device.type, _DEVICE_TILE) // _stride(columns))
    row = 0
    while row < len(live):
        end = min(row + max(1, pairs // int(live[row])), len(live))
        for start, stop in spans(int(live[row]), pairs):
            turn = np.arange(start, stop)
            entry = torch.from_numpy(np.where(turn < live[row:end, None], first[row:end, None] + turn, len(low) - 1))
            place = entry.to(low.device)
            yield Tile(row, end, place.to(float64_device(low.device)), low[place], high[place])
        row = end


@dataclass(frozen=True)
class Sifted:
    """``above`` (m, p): cells above each band. ``entry, column, score`` (c,): the cells within one, by the band's
    number, the column, and the score the block gave, in float64. All where exact scores lie."""

    above: Tensor
    entry: Tensor
    column: Tensor
    score: Tensor


class Sieve:
    """Holds tiles of blocks with ``columns`` columns on ``device`` against their bands."""

    def __init__(self, columns: int, device: torch.device) -> None:
        # What is beyond the columns stays False.
        self._columns, self._stride = columns, _stride(columns)
        # Memory that is not allocated again for every tile.
        self._above = self._within = torch.zeros(0, dtype=torch.bool, device=device)

    def sift(self, block: Tensor, tile: Tile) -> Sifted:
        """``block`` (b, n); a cell lies within a band from its low to its high end, both included."""
        shape = (*tile.entry.shape, self._stride)
        size = tile.entry.numel() * self._stride
        if size > len(self._above):
            self._above, self._within = (torch.zeros(size, dtype=torch.bool, device=block.device) for _ in range(2))
        masks = self._above[:size].view(shape), self._within[:size].view(shape)
        sift = _sifted_on_cpu if block.device.type == "cpu" else _sifted_elsewhere
        return sift(block[tile.first : tile.last], tile, *masks, self._columns)


def _sifted_on_cpu(rows: Tensor, tile: Tile, above: Tensor, within: Tensor, columns: int) -> Sifted:
    """NumPy, which compares several times as fast as torch, and costs less a call."""
    cells, masks = rows.numpy(), (above.numpy(), within.numpy())
    np.greater(cells[:, None], tile.high.numpy()[..., None], out=masks[0][..., :columns])
    np.greater_equal(cells[:, None], tile.low.numpy()[..., None], out=masks[1][..., :columns])
    words = masks[1].view(np.int64)
    words ^= masks[0].view(np.int64)
    # Nearly all words are empty.
    filled = np.flatnonzero(words.reshape(-1) != 0)
    word, byte = np.nonzero(masks[1].reshape(-1, _WORD)[filled])
    pair, column = np.divmod(filled[word] * _WORD + byte, above.shape[-1])
    entry = tile.entry.numpy()
    score = cells[pair // entry.shape[1], column].astype(np.float64)
    near = (torch.from_numpy(part) for part in (entry.reshape(-1)[pair], column, score))
    return Sifted(_counts(above), *near)


def _sifted_elsewhere(rows: Tensor, tile: Tile, above: Tensor, within: Tensor, columns: int) -> Sifted:
    """The same in torch, which waits for the device twice: for how many words are filled, and how many cells."""
    torch.gt(rows[:, None], tile.high[..., None], out=above[..., :columns])
    torch.ge(rows[:, None], tile.low[..., None], out=within[..., :columns])
    words = within.view(torch.int64)
    words ^= above.view(torch.int64)
    filled = words.flatten().nonzero()[:, 0]
    word, byte = within.view(-1, _WORD)[filled].nonzero(as_tuple=True)
    cell = filled[word] * _WORD + byte
    pair, column = cell // above.shape[-1], cell % above.shape[-1]
    score = rows[pair // tile.entry.shape[1], column]
    place = tile.entry.device
    entry = tile.entry.flatten()[pair.to(place)]
    return Sifted(_counts(above).to(place), entry, column.to(place), score.to(place).double())


def _stride(columns: int) -> int:
    """Cells of a mask's row: whole words, and whole groups of words to count by."""
    return -(-max(columns, 1) // (_WORD * _LANES)) * _WORD * _LANES


def _counts(mask: Tensor) -> Tensor:
    """How many of the last dimension's cells hold, (m, p): eight bytes are added at once, and none of
    them overflows within a group of words."""
    *shape, width = mask.shape
    groups = mask.view(torch.int64).view(*shape, width // (_WORD * _LANES), _LANES)
    return groups.sum(dim=-1).view(torch.uint8).sum(dim=-1, dtype=torch.int64)
