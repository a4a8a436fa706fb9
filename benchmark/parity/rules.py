"""The rules that make golden weights and inputs, so that golden numbers need no weights file.

Every array is drawn from a generator seeded with the crc32 of its own name, behind the file's seed
prefix. ``g`` below is that draw: standard normal, float32.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = Sequence[int]
_LOGIT_SCALE = math.log(1 / 0.07)


def draw(prefix: str, name: str, shape: Shape) -> NDArray[np.float32]:
    """``g``: standard normal float32 of that shape, seeded with crc32 of ``prefix + name``."""
    generator = np.random.default_rng(zlib.crc32((prefix + name).encode()))
    return np.asarray(generator.standard_normal(tuple(shape), dtype=np.float32))


def head_weight(name: str, shape: Shape, prefix: str = "") -> NDArray[Any]:
    """The general rule for a state-dict entry: SPIRIT and CLIP4Cir's Combiner."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), dtype=np.int64)
    g = draw(prefix, name, shape)
    if name.endswith("running_var"):
        return _single(1 + 0.5 * np.abs(g))
    if len(shape) >= 2 and not name.endswith("positional_embedding"):
        return _single(g / np.sqrt(np.float32(shape[-1])))
    if name.endswith(".weight"):
        return _single(1 + 0.1 * g)
    return _single(0.1 * g)


def clip_weight(name: str, shape: Shape, prefix: str = "") -> NDArray[Any]:
    """The rule for an entry of CLIP's state dict, OpenAI's names; the first case that fits."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), dtype=np.int64)
    if name == "logit_scale":
        return np.full(tuple(shape), _LOGIT_SCALE, dtype=np.float32)
    g = draw(prefix, name, shape)
    if name.endswith("running_var"):
        return _single(1 + 0.5 * np.abs(g))
    if name.endswith("bn3.weight"):
        return _single(0.5 + 0.1 * g)
    if name.endswith("positional_embedding") or name == "token_embedding.weight":
        return _single(0.5 * g)
    if len(shape) >= 2:
        return _single(g * _matrix_gain(name, shape))
    return _single(1 + 0.1 * g if name.endswith(".weight") else 0.1 * g)


def _matrix_gain(name: str, shape: Shape) -> np.float32:
    if name in ("text_projection", "visual.proj"):
        return np.float32(1 / math.sqrt(shape[0]))
    if len(shape) == 4:
        return np.float32(math.sqrt(2 / math.prod(shape[1:])))
    return np.float32(1 / math.sqrt(shape[-1]))


def clip_images(name: str, batch: int, side: int, coarse: int, prefix: str = "") -> NDArray[np.float32]:
    """Images of the encoder's golden numbers, (batch, 3, side, side), already normalised.

    ``name`` is the model's name and ``.input.reference`` or ``.input.target``. The level keeps
    random weights from seeing all images alike; ``coarse`` is the side of the blotches' grid.
    """
    level = draw(prefix, f"{name}.level", (batch, 3, 1, 1))
    blotches = draw(prefix, f"{name}.coarse", (batch, 3, coarse, coarse))
    fine = draw(prefix, f"{name}.fine", (batch, 3, side, side))
    enlarged = blotches.repeat(side // coarse, axis=2).repeat(side // coarse, axis=3)
    return _single(2 * level + enlarged + 0.5 * fine)


def names_sha256(shapes: Mapping[str, Shape]) -> str:
    """sha256 of the sorted lines ``name 1x2x3``, joined by newlines; a scalar's line ends with the blank."""
    lines = sorted(f"{name} {'x'.join(str(size) for size in shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _single(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(array, dtype=np.float32)
