"""From a picture to a CNN's input: TIRG's resized centre, ARTEMIS's white square, VAL's squeezed square.

TIRG's and ARTEMIS's are normalised for ImageNet weights. VAL's are flipped, squeezed to a square by TensorFlow 1's
bilinear resize, and cropped on FashionIQ. Deviation: there pixels are rounded to 0…255 after resizing, where the
release keeps fractions (at most 0.004 of the network's range of 2). Notation: S side of the network's input, B batch.
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


@dataclass(frozen=True)
class Squeezed:
    """RGB, resized to S × S without keeping the aspect ratio; inputs in [−1, 1].

    ``flip``: mirrored with chance ½. ``enlarged``: resized to n × n instead, n drawn evenly from S
    to this, and an S × S part of it drawn; 0 for none. Reference and target draw independently.
    """

    size: int
    flip: bool = False
    enlarged: int = 0

    @property
    def random(self) -> bool:
        return self.flip or self.enlarged > 0

    def key(self) -> Mapping[str, Any]:
        return {"kind": "squeezed, TensorFlow 1 bilinear", **asdict(self)}

    def picture(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255."""
        pixels = np.asarray(image.convert("RGB"))
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if not self.enlarged:
            return resize_bilinear(pixels, self.size)
        side = int(rng.integers(self.size, self.enlarged + 1))
        top, left = (int(start) for start in rng.integers(0, side - self.size + 1, size=2))
        enlarged = resize_bilinear(pixels, side)
        return np.ascontiguousarray(enlarged[top : top + self.size, left : left + self.size])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) → float32 (B, 3, S, S) of −1…1."""
        return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def resize_bilinear(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) → (side, side, 3) as TensorFlow 1 does by default: source coordinate i · H / side.

    No antialiasing, and the corner of the first pixel is the picture's; behind the last pixel it repeats.
    """
    top, bottom, down = _neighbours(pixels.shape[0], side)
    left, right, across = _neighbours(pixels.shape[1], side)
    across, down = across[None, :, None], down[:, None, None]
    above, below = pixels[top].astype(np.float32), pixels[bottom].astype(np.float32)
    above = above[:, left] + (above[:, right] - above[:, left]) * across
    below = below[:, left] + (below[:, right] - below[:, left]) * across
    return np.rint(above + (below - above) * down).astype(np.uint8)


def _neighbours(length: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Source pixels before and behind each of ``side`` new ones, and the share of the one behind."""
    place = np.arange(side, dtype=np.float32) * np.float32(length / side)
    first = np.minimum(np.floor(place).astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), place - first
