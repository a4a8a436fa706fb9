"""The rules that make golden weights and inputs, so that golden numbers need no weights file.

Every array is drawn from a generator seeded with the crc32 of its own name, behind the file's seed
prefix. ``g`` below is that draw: standard normal, float32.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

Shape = Sequence[int]
Array = NDArray[np.float32]
Rule = Callable[..., NDArray[Any]]
"""(name, shape, seed prefix) to the array of that name."""
Released = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Tensors by our names (of a state dict, or gradients) to those by the released names, in their layout."""


def draw(prefix: str, name: str, shape: Shape) -> Array:
    """``g``: standard normal float32 of that shape, seeded with crc32 of ``prefix + name``."""
    generator = np.random.default_rng(zlib.crc32((prefix + name).encode()))
    return np.asarray(generator.standard_normal(tuple(shape), dtype=np.float32))


def draw_input(prefix: str, name: str, shape: Shape, scale: float = 1.0) -> Tensor:
    """An input of that name, ``scale`` times standard normal."""
    return scale * torch.from_numpy(draw(prefix, name, shape))


def weight_rule(values: Callable[[str, Array], NDArray[Any]]) -> Rule:
    """A rule from the part that differs: (released name, g) to values. Counters of batch norms are zeros."""

    @wraps(values)
    def rule(name: str, shape: Shape, prefix: str = "") -> NDArray[Any]:
        if name.endswith("num_batches_tracked"):
            return np.zeros(tuple(shape), dtype=np.int64)
        return np.asarray(values(name, draw(prefix, name, shape)), dtype=np.float32)

    return rule


@weight_rule
def head_weight(name: str, g: Array) -> NDArray[Any]:
    """The general rule for a state-dict entry: SPIRIT and CLIP4Cir's Combiner."""
    if name.endswith("running_var"):
        return 1 + 0.5 * np.abs(g)
    if g.ndim >= 2 and not name.endswith("positional_embedding"):
        return np.asarray(g / np.sqrt(np.float32(g.shape[-1])))
    return gain_or_bias(name, g)


def clip_values(name: str, g: Array) -> NDArray[Any]:
    """An entry of CLIP's state dict, OpenAI's names, whatever stands before them; the first case that fits."""
    if name.endswith("logit_scale"):
        return np.full(g.shape, math.log(1 / 0.07))
    if name.endswith("running_var"):
        return 1 + 0.5 * np.abs(g)
    if name.endswith("bn3.weight"):
        return 0.5 + 0.1 * g
    if name.endswith(("positional_embedding", "token_embedding.weight")):
        return 0.5 * g
    if name.endswith(("text_projection", "visual.proj")):
        return g * np.float32(1 / math.sqrt(g.shape[0]))
    if g.ndim == 4:
        return g * np.float32(math.sqrt(2 / math.prod(g.shape[1:])))
    return g * np.float32(1 / math.sqrt(g.shape[-1])) if g.ndim >= 2 else gain_or_bias(name, g)


clip_weight = weight_rule(clip_values)


def gain_or_bias(name: str, g: Array) -> NDArray[Any]:
    """The last line of most rules: gains of normalisations near 1, everything else near 0."""
    return 1 + 0.1 * g if name.endswith(".weight") else 0.1 * g


def draw_weights(module: nn.Module, rule: Rule, prefix: str, name: Callable[[str], str] = str) -> None:
    """Fill a module, buffers too; ``name`` gives the released names from ours."""
    state = module.state_dict()
    module.load_state_dict(
        {n: torch.from_numpy(rule(name(n), tuple(t.shape), prefix)).to(t.dtype) for n, t in state.items()}
    )


def draw_rearranged(module: nn.Module, rule: Rule, prefix: str, released: Released) -> None:
    """Fill a module whose released layout is another one; what ``released`` leaves out stays as it is.

    The layout need not be undone by hand: our entries are numbered, the numbers laid out as released,
    and what is drawn in a number's place is this entry's value.
    """
    state = module.state_dict()
    sizes = [tensor.numel() for tensor in state.values()]
    values = torch.cat([tensor.flatten() for tensor in state.values()])
    numbers = torch.split(torch.arange(len(values)), sizes)
    placed = released({n: i.reshape(t.shape) for (n, t), i in zip(state.items(), numbers, strict=True)})
    for name, places in placed.items():
        values[places.flatten()] = torch.from_numpy(rule(name, tuple(places.shape), prefix)).flatten().to(values.dtype)
    parts = torch.split(values, sizes)
    module.load_state_dict({n: v.reshape(t.shape) for (n, t), v in zip(state.items(), parts, strict=True)})


def renamed(name: Callable[[str], str]) -> Released:
    """Released names that are another spelling of ours; ``name`` gives them."""
    return lambda tensors: {name(ours): tensor for ours, tensor in tensors.items()}


def without_dropout(module: nn.Module) -> None:
    """Set every dropout layer's probability to zero."""
    for layer in module.modules():
        if isinstance(layer, _DropoutNd):
            layer.p = 0.0


def padded_tokens(rows: list[list[int]], length: int) -> Tensor:
    """(B, L) int64, padded with 0. Raises ValueError for a row that is longer."""
    if any(len(row) > length for row in rows):
        raise ValueError(f"a text has more than {length} tokens")
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64)


def clip_images(name: str, batch: int, side: int, coarse: int, prefix: str = "") -> Array:
    """Images of the encoder's golden numbers, (batch, 3, side, side), already normalised.

    ``name`` is the model's name and ``.input.reference`` or ``.input.target``. The level keeps
    random weights from seeing all images alike; ``coarse`` is the side of the blotches' grid.
    """
    level = draw(prefix, f"{name}.level", (batch, 3, 1, 1))
    blotches = draw(prefix, f"{name}.coarse", (batch, 3, coarse, coarse))
    fine = draw(prefix, f"{name}.fine", (batch, 3, side, side))
    enlarged = blotches.repeat(side // coarse, axis=2).repeat(side // coarse, axis=3)
    return np.asarray(2 * level + enlarged + 0.5 * fine, dtype=np.float32)


def names_sha256(shapes: Mapping[str, Shape]) -> str:
    """sha256 of the sorted lines ``name 1x2x3``, joined by newlines; a scalar's line ends with the blank."""
    lines = sorted(f"{name} {'x'.join(str(size) for size in shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
