"""From a picture to a CNN's input: TIRG's resized centre and ARTEMIS's white square, for ImageNet weights.

Notation: S side of the network's input, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.encoders.preprocessing import per_channel

from .cnn import IMAGENET_MEAN, IMAGENET_STD

_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ShortSide:
    """RGB, shorter side to S (bilinear, antialiased, aspect ratio kept), centre crop S; nothing is drawn.

    Source: TIRG's release, for training and evaluation alike.
    """

    size: int

    @property
    def random(self) -> bool:
        return False

    def key(self) -> Mapping[str, Any]:
        return {"kind": "short side", **asdict(self)}

    def picture(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255."""
        image = image.convert("RGB")
        short, long = sorted(image.size)
        long = int(self.size * long / short)
        size = (self.size, long) if image.width <= image.height else (long, self.size)
        resized = image.resize(size, Image.Resampling.BILINEAR)
        left, top = round((resized.width - self.size) / 2), round((resized.height - self.size) / 2)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: Tensor) -> Tensor:
        return imagenet_normalised(pixels)


@dataclass(frozen=True)
class WhiteSquare:
    """RGB, padded with white to a square, resized to ``enlarged`` (bilinear, antialiased), cropped to S.

    With ``augment`` a flip with chance ½ and a random crop, drawn anew for each picture; without it
    the centre crop. An odd pixel of the padding lies right or bottom. Source: ARTEMIS's release.
    """

    enlarged: int
    size: int
    augment: bool

    @property
    def random(self) -> bool:
        return self.augment

    def key(self) -> Mapping[str, Any]:
        return {"kind": "white square", **asdict(self)}

    def picture(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255."""
        resized = _white_square(image.convert("RGB")).resize((self.enlarged,) * 2, Image.Resampling.BILINEAR)
        if not self.augment:
            start = round((self.enlarged - self.size) / 2)
            return np.asarray(resized.crop((start, start, start + self.size, start + self.size)))
        flipped = rng.random() < 0.5
        left, top = (int(start) for start in rng.integers(0, self.enlarged - self.size + 1, size=2))
        pixels = np.asarray(resized.crop((left, top, left + self.size, top + self.size)))
        return np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        return imagenet_normalised(pixels)


def _white_square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), _WHITE)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def imagenet_normalised(pixels: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) → float32 (B, 3, S, S), laid out channels-last in memory."""
    mean, std = (per_channel(values, pixels.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(mean).div_(std)
