"""open_clip's training pipeline of a CLIP's pictures: a random part, resized to a square.

What is drawn is torchvision's: up to ten boxes of a share of the picture's area and an aspect ratio, of which the
first that fits is taken. No flip, no colours. Notation: S side of the backbone's input, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.backbone import BackbonePreprocessing

_TRIES = 10


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of an ``area`` (share, uniform) and an aspect ratio (uniform logarithm) resized to S × S, bicubic; RGB.

    ``like``: the backbone's pipeline, whose side and normalisation it shares. ``rgb_first``: RGB before anything else.
    """

    like: BackbonePreprocessing
    area: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rgb_first: bool = True

    @property
    def random(self) -> bool:
        return True

    def key(self) -> Mapping[str, Any]:
        drawn = {"area": list(self.area), "ratio": list(self.ratio), "resize": "bicubic, both sides"}
        return {"kind": "random resized crop", **drawn, "rgb_first": self.rgb_first, "like": self.like.key()}

    def picture(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255."""
        image, side = image.convert("RGB") if self.rgb_first else image, self.like.size
        left, top, width, height = self.box(image.width, image.height, rng)
        part = image.crop((left, top, left + width, top + height))
        return np.asarray(part.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))

    def normalise(self, pixels: Tensor) -> Tensor:
        return self.like.normalise(pixels)

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, width, height; where none of the boxes that are drawn fits, the middle within the ratios."""
        least, most = self.ratio
        for _ in range(_TRIES):
            area = width * height * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(least), math.log(most)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(rng.integers(0, height - h + 1))
                return int(rng.integers(0, width - w + 1)), top, w, h
        w, h = min(width, round(height * most)), min(height, round(width / least))
        return (width - w) // 2, (height - h) // 2, w, h
