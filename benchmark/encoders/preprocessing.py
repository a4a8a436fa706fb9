"""From a picture to a backbone's input: pad, resize, crop, RGB, normalise.

Source: the released pipelines of CLIP4Cir (target pad, square pad) and OpenAI CLIP (no pad), and
SPIRIT's two patch grids. Padding, resizing and cropping run in the file's own colour mode and the
conversion to RGB comes last, as released; ``rgb_first`` converts before anything else.

Notation: S the side of the backbone's input, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from benchmark.errors import unknown_name
from benchmark.structured_files import typed

Colours = tuple[float, float, float]

PADS = ("targetpad", "squarepad", "clip")
HUGGING_FACE = "clip-hf"
"""As "clip", but an odd pixel is not rounded into the crop's offset; with `rgb_first` Hugging Face's CLIP reads so."""
SQUASH = "squash"
"""Both sides to S, whatever the picture's: how SigLIP and others were trained."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LARGEST_SIDE = 4096
GRIDS = (2, 3)
CANVAS = 360

_Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Preprocessing:
    """One pipeline for training and evaluation, without augmentation.

    ``name``: the pad, one of ``targetpad``, ``squarepad``, ``clip`` and ``clip-hf`` (none), or ``squash``, which
    resizes both sides to S. ``size``: S in pixels.
    ``ratio``: the long side over the short side that ``targetpad`` pads towards.
    """

    name: str
    size: int
    ratio: float = 1.25
    mean: Colours = CLIP_MEAN
    std: Colours = CLIP_STD
    rgb_first: bool = False
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        if self.name not in (*PADS, HUGGING_FACE, SQUASH):
            raise unknown_name("preprocessing", self.name, (*PADS, HUGGING_FACE, SQUASH))

    def key(self) -> dict[str, Any]:
        """Everything that changes a pixel of the whole-picture view, Pillow's version excepted."""
        return {
            "pad": self.name,
            "ratio": self.ratio if self.name == "targetpad" else None,
            "size": self.size,
            "resize": f"{self.interpolation}, {'both sides' if self.name == SQUASH else 'short side'}",
            "crop": "centre, offset cut off" if self.name == HUGGING_FACE else "centre",
            "rgb_first": self.rgb_first,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def of_key(cls, key: Mapping[str, Any], source: str) -> Preprocessing:
        """The pipeline that gave this key; raises UserError where none did."""
        told = typed(_PreprocessingKey, dict(key), source, "it is damaged, write the file again")
        return cls(told.pad, told.size, told.ratio or 1.25, told.mean, told.std, told.rgb_first, told.interpolation)

    def patch_key(self, grids: tuple[int, ...] = GRIDS) -> dict[str, Any]:
        """Everything that changes a pixel of the patch view."""
        return {**self.key(), "grids": list(grids), "canvas": CANVAS, "canvas_resize": "lanczos, both sides"}

    @property
    def random(self) -> bool:
        """Nothing is drawn: the same picture always gives the same pixels."""
        return False

    def picture(self, image: Image.Image, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """The whole-picture view, (S, S, 3) uint8, before normalisation.

        ``rng`` is not drawn from; augmenting transforms, which this may stand in for, draw from theirs.
        """
        if self.rgb_first:
            image = image.convert("RGB")
        padded, resized = self.sizes(*image.size)
        image = _pad(image, padded).resize(resized, _RESAMPLING[self.interpolation])
        offset: Callable[[float], int] = math.floor if self.name == HUGGING_FACE else round
        return np.asarray(_centre_crop(image, self.size, offset).convert("RGB"))

    def patch_crops(self, image: Image.Image, grids: tuple[int, ...] = GRIDS) -> list[Image.Image]:
        """The crops of every grid, row by row, in the order of ``grids``; 4 + 9 by default.

        The picture is resized to 360×360 (Lanczos, aspect ratio not kept). Each crop is to go
        through :meth:`picture`. Raises ValueError for a grid that does not divide 360.
        """
        if any(CANVAS % grid for grid in grids):
            raise ValueError(f"every grid must divide {CANVAS}, but the grids are {grids}")
        if self.rgb_first:
            image = image.convert("RGB")
        canvas = image.resize((CANVAS, CANVAS), Image.Resampling.LANCZOS)
        return [
            canvas.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
            for grid in grids
            for side in (CANVAS // grid,)
            for row in range(grid)
            for column in range(grid)
        ]

    def patches(self, image: Image.Image, grids: tuple[int, ...] = GRIDS) -> NDArray[np.uint8]:
        """The patch view, (N, S, S, 3) uint8, N = 13 by default, before normalisation."""
        return np.stack([self.picture(crop) for crop in self.patch_crops(image, grids)])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) or (B, 3, S, S) → float32 (B, 3, S, S), laid out channels-last in memory.

        Scaled to [0, 1], then mean and standard deviation. The layout is the same for both forms,
        so that a backbone gives the same digits.
        """
        if pixels.shape[1] != 3:
            pixels = pixels.permute(0, 3, 1, 2)
        scaled = pixels.contiguous(memory_format=torch.channels_last).to(torch.float32).div_(255)
        return scaled.sub_(per_channel(self.mean, pixels.device)).div_(per_channel(self.std, pixels.device))

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) of a picture after padding and after resizing its short side to S."""
        if self.name == SQUASH:
            return (width, height), (self.size, self.size)
        horizontal, vertical = self._padding(width, height)
        padded = (width + 2 * horizontal, height + 2 * vertical)
        short, long = sorted(padded)
        long = int(self.size * long / short)
        return padded, ((self.size, long) if padded[0] <= padded[1] else (long, self.size))

    def _padding(self, width: int, height: int) -> tuple[int, int]:
        """Pixels added at (left and right, top and bottom); halves are cut off, as released."""
        long = max(width, height)
        if self.name in ("clip", HUGGING_FACE):
            return 0, 0
        if self.name == "squarepad":
            return (long - width) // 2, (long - height) // 2
        if long / min(width, height) < self.ratio:
            return 0, 0
        side = long / self.ratio
        return max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)


@dataclass(frozen=True)
class _PreprocessingKey:
    pad: Literal["targetpad", "squarepad", "clip", "clip-hf", "squash"]
    ratio: Annotated[float, Field(ge=1)] | None
    size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    resize: str
    crop: str
    rgb_first: bool
    mean: Colours
    std: tuple[_Positive, _Positive, _Positive]

    @property
    def interpolation(self) -> Literal["bicubic", "bilinear"]:
        return "bilinear" if self.resize.startswith("bilinear") else "bicubic"


def colours(values: Sequence[float]) -> Colours:
    """Of red, green and blue."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@lru_cache
def per_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(1, 3, 1, 1), sent to a device once: the host would wait for the device to send it every batch."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Surround with the value 0 of the picture's own mode; of a palette picture that is index 0."""
    if size == image.size:
        return image
    padded = Image.new(image.mode, size, (0,) * len(image.getbands()) if len(image.getbands()) > 1 else 0)
    if image.palette is not None:
        padded.putpalette(image.palette)
    padded.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return padded


def _centre_crop(image: Image.Image, size: int, whole: Callable[[float], int]) -> Image.Image:
    left = whole((image.width - size) / 2)
    top = whole((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
