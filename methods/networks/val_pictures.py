"""VAL's pictures: flipped, squeezed to a square by TensorFlow 1's bilinear resize, cropped on FashionIQ.

Deviation: pixels are rounded to 0…255 after resizing, where the release keeps fractions (at most
0.004 of the network's range of 2). Notation: S side of the network's input, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


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
