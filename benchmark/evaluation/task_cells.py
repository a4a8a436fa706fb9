"""Cells (query, gallery picture) of a task: its positives, its removed references."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.arithmetic import Scores
from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding, rows


@dataclass(frozen=True)
class Cells:
    """Cells (query, gallery picture) as sorted keys, to be found by query and by picture."""

    owner: IntArray
    picture: IntArray

    @classmethod
    def of(cls, owner: IntArray, picture: IntArray) -> Cells:
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
    if len(np.unique(owner * size + picture)) != len(picture):
        raise ValueError(f"{task.key}: a query names the same positive twice")
