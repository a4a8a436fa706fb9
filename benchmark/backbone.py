"""The contract of a backbone: what it gives of a picture and of a text, and all that the rest asks of it.

Methods, the feature store and the steps of a run know backbones by this file alone; the families
stand in :mod:`benchmark.encoders`, which loads one by its name.

Notation: B batch, S side of the input in pixels, L context length, d width, T tokens of width w.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

GLOBAL = "global"
"""The output that every backbone has: one vector (d) of a picture or a text."""


@dataclass(frozen=True)
class Output:
    """One thing that a backbone gives: its shape without the batch, ``(d,)`` or ``(T, w)``.

    ``dtype``: how the feature store keeps it. Sequences of tokens are kept in half precision.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "float16"] = "float32"

    @property
    def bytes(self) -> int:
        """Of one picture or text in the store."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class BackbonePreprocessing(Protocol):
    """From an opened picture to what the backbone sees, without chance."""

    @property
    def size(self) -> int:
        """S."""
        ...

    @property
    def random(self) -> bool:
        """False: the same picture always gives the same pixels."""
        ...

    def key(self) -> dict[str, Any]:
        """Everything that changes a pixel of the picture."""
        ...

    def patch_key(self, grids: tuple[int, ...]) -> dict[str, Any]:
        """Everything that changes a pixel of the crops of these grids."""
        ...

    def picture(self, image: Image, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255; ``rng`` is not drawn from."""
        ...

    def patches(self, image: Image, grids: tuple[int, ...]) -> NDArray[np.uint8]:
        """The crops of every grid, (P, S, S, 3) of 0…255."""
        ...

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) or (B, 3, S, S) of 0…255 → float32 (B, 3, S, S)."""
        ...


@dataclass(frozen=True)
class TextContext:
    """What a text encoder reads of a text: its first ``length`` tokens, those of start and end included.

    ``count``: texts to the number of tokens of each before it is cut. ``name``: the architecture's.
    """

    name: str
    length: int
    count: Callable[[Sequence[str]], Sequence[int]]

    def cut(self, texts: Iterable[str]) -> int:
        """How many of the texts are longer; one that stands there several times counts as often."""
        times = Counter(texts)
        lengths = self.count(list(times))
        return sum(times[text] for text, length in zip(times, lengths, strict=True) if length > self.length)


@dataclass(frozen=True)
class BackboneDescription:
    """What a backbone is. ``weights``: a tag, a file's stem or "random"; ``digest``: of all its tensors.

    ``configuration``: of an architecture of the user's own, which no name stands for.
    """

    name: str
    weights: str
    width: int
    image_size: int
    context_length: int
    activation: str
    digest: str
    preprocessing: dict[str, Any]
    parameters: int
    configuration: dict[str, Any] = field(default_factory=dict)


class Backbone(nn.Module):
    """Encodes pictures, and texts where it has a text side, into a space of width d.

    A family defines ``description``, ``width``, the two encoders and ``tokenize``; one that gives
    more than a global vector defines ``picture_outputs`` and ``encode_picture_outputs`` as well, and
    one without a text side an empty ``text_outputs``.
    """

    preprocessing: BackbonePreprocessing

    @property
    def description(self) -> BackboneDescription:
        raise TypeError(f"{type(self).__name__} must define description")

    @property
    def width(self) -> int:
        """d."""
        raise TypeError(f"{type(self).__name__} must define width")

    @property
    def picture_outputs(self) -> Mapping[str, Output]:
        """What it gives of a picture, by name."""
        return {GLOBAL: Output((self.width,))}

    @property
    def text_outputs(self) -> Mapping[str, Output]:
        """What it gives of a text, by name; empty where it has no text side."""
        return {GLOBAL: Output((self.width,))}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, d), not normalised."""
        raise TypeError(f"{type(self).__name__} must define encode_image")

    def encode_picture_outputs(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """(B, 3, S, S) normalised pixels → each output that is asked for, (B, *shape), in one pass."""
        return {name: self.encode_image(pixels) for name in names if name == GLOBAL}

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, d), not normalised; L may be shorter than the context."""
        raise TypeError(f"{type(self).__name__} must define encode_text, or have no text_outputs")

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64; longer texts are cut."""
        raise TypeError(f"{type(self).__name__} must define tokenize, or have no text_outputs")

    @property
    def text_context(self) -> TextContext | None:
        """What `tokenize` keeps of a text; None where that is not known, or everything."""
        return None

    def relabel(self, weights: str) -> None:
        """Name the weights anew after they changed; the next description takes a new digest."""
        raise TypeError(f"{type(self).__name__} must define relabel")
