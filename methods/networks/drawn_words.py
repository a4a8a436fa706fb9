"""Words written on a picture: DQU-CIR's query pictures.

OpenCV resizes and draws, as in the release: Pillow's fonts have no such letters, and those of OpenCV 5 are others, so
that it is a 4 from 4.10 on. Pictures are opened by Pillow, which decodes 8-bit ones to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmark.errors import UserError

Manner = Literal["resized", "own-size", "one-word"]

_SIDE = 512
_SCALE = 0.7
_LINE = 29
"""Pixels from line to line: height 18 and baseline 9 of the font at this scale and thickness 5, and 2."""
_BLUE, _WHITE, _FIRST_CHANNEL = (0, 0, 255), (255, 255, 255), (255, 0, 0)


def opencv() -> ModuleType:
    """OpenCV 4.10 or a later 4; raises UserError where it is missing or another."""
    try:
        import cv2
    except ImportError:
        version = ""
    else:
        version = cv2.__version__
        if (4, 10) <= tuple(int(part) for part in version.split(".")[:2]) < (5,):
            return cv2
    found = f"OpenCV {version} draws other letters" if version else "OpenCV is not installed"
    raise UserError(
        f"words on pictures are drawn by OpenCV, at least 4.10 and below 5, and {found}; "
        "pip install 'cir-benchmark[words]'"
    )


@dataclass(frozen=True)
class WordDrawer:
    """Writes a pair's words on its reference, as DQU-CIR does on each dataset.

    ``resized`` (FashionIQ, Shoes): the picture is resized to 512 × 512 first, the aspect ratio lost; phrases stand
    in white boxes. ``own-size`` (CIRR): the same without resizing; the letters have a fixed size in pixels.
    ``one-word`` (Fashion200k): one word in another font without a box, on the picture as it is, whose red and blue
    are exchanged: the released code hands OpenCV's order of channels on.
    """

    manner: Manner

    def key(self) -> Mapping[str, Any]:
        """Everything that changes a pixel; raises UserError without OpenCV."""
        return {"words": self.manner, "opencv": opencv().__version__}

    def draw(self, image: Image.Image, words: str) -> Image.Image:
        """The picture in RGB with the words on it; turned as its EXIF orientation says, which targets are not."""
        cv2 = opencv()
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        if self.manner == "one-word":
            exchanged = np.ascontiguousarray(pixels[:, :, ::-1])
            cv2.putText(exchanged, words, (10, 30), cv2.FONT_HERSHEY_COMPLEX, _SCALE, _FIRST_CHANNEL, 2)
            return Image.fromarray(exchanged)
        if self.manner == "resized":
            pixels = cv2.resize(pixels, (_SIDE, _SIDE))
        for number, phrase in enumerate(words.split(", ")):
            if phrase:
                _draw_line(cv2, pixels, phrase, _LINE * number)
        return Image.fromarray(pixels)


def _draw_line(cv2: ModuleType, pixels: NDArray[np.uint8], phrase: str, below: int) -> None:
    """A phrase in its white box, whose top is that of the first line and ``below`` more pixels; cut at the edges."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    # The box is measured for thicker letters than are written.
    (width, _), _ = cv2.getTextSize(phrase, font, _SCALE, 5)
    cv2.rectangle(pixels, (14, 22 + below), (15 + width, 51 + below), _WHITE, -1)
    cv2.putText(pixels, phrase, (15, 42 + below), font, _SCALE, _BLUE, 2, cv2.LINE_8)
