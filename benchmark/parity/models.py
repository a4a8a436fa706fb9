"""Models with golden weights: every entry of a state dict drawn by its name, all dropout removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from benchmark.parity.rules import Shape, draw

Rule = Callable[[str, Shape, str], NDArray[Any]]
"""(name, shape, seed prefix) to the array of that name."""


def draw_weights(module: nn.Module, rule: Rule, prefix: str) -> None:
    """Fill a module whose names are the released ones, buffers too."""
    drawn = {
        name: torch.from_numpy(rule(name, tuple(tensor.shape), prefix)).to(tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(drawn)


def draw_input(prefix: str, name: str, shape: Shape, scale: float = 1.0) -> Tensor:
    """An input of that name, ``scale`` times standard normal."""
    return scale * torch.from_numpy(draw(prefix, name, shape))


def without_dropout(module: nn.Module) -> None:
    """Set every dropout layer's probability to zero."""
    for layer in module.modules():
        if isinstance(layer, _DropoutNd):
            layer.p = 0.0


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def padded_tokens(rows: list[list[int]], length: int) -> Tensor:
    """(B, L) int64, padded with 0. Raises ValueError for a row that is longer."""
    if any(len(row) > length for row in rows):
        raise ValueError(f"a text has more than {length} tokens")
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64)
