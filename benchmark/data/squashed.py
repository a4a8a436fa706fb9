"""Telling squashed copies of a dataset's pictures: all square and of one size, whatever was photographed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SAMPLE = 32
_FEWEST = 4


def squashed_size(paths: Sequence[Path]) -> int | None:
    """The width that all of a sample of pictures have as width and height; None where they differ.

    Up to ``SAMPLE`` pictures, spread evenly over ``paths``, are looked at; only their headers are read.
    Files that are missing or are no pictures are passed over; fewer than four pictures tell nothing.
    """
    step = max(len(paths) // SAMPLE, 1)
    sizes = [size for path in paths[::step][:SAMPLE] if (size := _size(path)) is not None]
    different = set(sizes)
    if len(sizes) < _FEWEST or len(different) != 1:
        return None
    width, height = different.pop()
    return width if width == height else None


def _size(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Warning:
        raise
    except Exception:  # damaged files make Pillow raise almost anything; they are told where pictures are decoded
        return None
