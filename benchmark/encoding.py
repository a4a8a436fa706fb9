"""An encoding: what a method says of a batch of queries or targets.

Either one tensor or a flat dict of tensors; the first dimension of each is rows. Everything
that the engine does with encodings (gather over ranks, keep, cut into chunks) is written here
once, so that methods never need to know about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Encoding = Tensor | dict[str, Tensor]


def map_tensors(function: Callable[[Tensor], Tensor], encoding: Encoding) -> Encoding:
    """Apply ``function`` to every tensor of an encoding, keeping its form."""
    if isinstance(encoding, Tensor):
        return function(encoding)
    return {name: function(tensor) for name, tensor in encoding.items()}


def rows(encoding: Encoding) -> int:
    """Number of rows. Raises ValueError where the tensors of a dict disagree."""
    if isinstance(encoding, Tensor):
        return encoding.shape[0]
    counts = {tensor.shape[0] for tensor in encoding.values()}
    if len(counts) != 1:
        raise ValueError(f"the tensors of one encoding have different numbers of rows: {sorted(counts)}")
    return counts.pop()


def take(encoding: Encoding, index: Tensor | slice) -> Encoding:
    """The rows named by an index tensor or a slice."""
    return map_tensors(lambda tensor: tensor[index], encoding)


def concatenate(parts: Sequence[Encoding]) -> Encoding:
    """Rows of several encodings of the same form, one after the other."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    dicts = [part for part in parts if not isinstance(part, Tensor)]
    return {name: torch.cat([part[name] for part in dicts]) for name in first}
