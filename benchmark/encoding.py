"""An encoding: what a method says of a batch of queries or targets.

Either one tensor or a flat dict of tensors; the first dimension of each is rows. Everything
that the engine does with encodings (ask for them, gather over ranks, keep, cut into chunks) is
written here once, so that methods never need to know about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from benchmark.errors import UserError

Encoding = Tensor | dict[str, Tensor]


class _NamedViews(dict[str, Tensor]):
    """Views of a reference, a text or a target; asking for one that is not there says which there are."""

    def __init__(self, of: str, views: Mapping[str, Tensor]) -> None:
        super().__init__(views)
        self._of = of

    def __missing__(self, name: str) -> Tensor:
        raise missing_view(name, self._of, self)


def missing_view(name: str, of: str, views: Iterable[str]) -> UserError:
    """What a method is told that reads a view of a reference, text or target that its stage does not give."""
    return UserError(
        f"the method reads the view '{name}' of the {of}, and its stage's inputs give {', '.join(views)}; "
        f"read one of these, or let the inputs name it (FeatureInputs({of}=…))"
    )


def encode(how: Callable[..., Encoding], **views: Mapping[str, Tensor]) -> Encoding:
    """What a method's `encode_query` (``reference``, ``text``) or `encode_target` (``target``) gives.

    Raises UserError where the method reads a view that its stage's inputs do not name.
    """
    return how(*(_NamedViews(of, named) for of, named in views.items()))


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


def dot_products(queries: Encoding, targets: Encoding) -> Tensor:
    """Scores (b, n) of queries (b, d) against targets (n, d), or the best of each target's T tokens, (n, T, d).

    Raises TypeError for encodings of several tensors, which have no such score.
    """
    if not isinstance(queries, Tensor) or not isinstance(targets, Tensor):
        raise TypeError("a dot product needs encodings of one tensor each")
    if targets.ndim == 2:
        return queries @ targets.T
    products = queries @ targets.flatten(0, 1).T
    return products.view(len(queries), *targets.shape[:2]).amax(dim=2)
