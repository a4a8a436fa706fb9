"""Opening picture files: decoded whole in 8 bits, or one clear line that says what is wrong with the file.

Only formats of `FORMATS` are read: Pillow knows others, for some of which it starts another program. What a
picture's header says of its size is held against `LONGEST_SIDE` and `LARGEST_RATIO` before memory is taken,
since a transform pads to a square or resizes the short side: 65,000 x 1 pixels would become billions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from benchmark.dataset import Pictures
from benchmark.errors import UserError

_NEWER = ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", *_NEWER)
LONGEST_SIDE, LARGEST_RATIO = 20_000, 500
Loss = Literal["more than 8 bits", "float", "transparency", "EXIF orientation"]
"""What the way to 8 bits of red, green and blue does not keep; the orientation is left as it lies on disk."""

_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_USUAL_WHITES = (1, 255, 65_535, 2**32 - 1)
_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # a tag of TIFF
_ORIENTATION = 0x0112  # a tag of EXIF

Seen = TypeVar("Seen")


class UnreadablePicture(UserError):
    """A picture's file is missing, empty, truncated or no picture."""


def open_picture(path: Path) -> Image.Image:
    """Decode a picture whole, in the file's own colour mode; the file is closed again.

    Greys of more than 8 bits are scaled to 8 (mode L), where Pillow's conversion to RGB, and with it the
    authors' code, cuts all above 255 to white: 16 bits by 65,535; whole numbers of 32 bits and floats by
    the smallest of 1 (floats alone), 255, 65,535 and 2^32 - 1 that no value exceeds; what is below 0 is black.

    Raises UnreadablePicture naming the file where it is missing, no file, empty, truncated, not a picture or beyond
    the bounds. Pillow's warning about very large pictures stays a warning.
    """
    return in_8_bits(*_load(path))


def in_8_bits(image: Image.Image, is_deep: bool = False) -> Image.Image:
    """A decoded picture as `open_picture` gives it; ``is_deep``: 16 bits a channel in its file, whatever its mode."""
    return _scaled(image, is_deep) if image.mode in _DEEP_GREY else image


def conversion_losses(path: Path) -> tuple[Loss, ...]:
    """What the conversion of a picture to RGB loses, decoding it whole; raises UserError as `open_picture`."""
    image, is_deep = _load(path)
    found: list[Loss] = []
    if image.mode == "F":
        found.append("float")
    elif is_deep or image.mode in _DEEP_GREY:
        found.append("more than 8 bits")
    if image.has_transparency_data:
        if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            found.append("transparency")
    with suppress(Exception), Image.open(path, formats=FORMATS) as unread:  # EXIF of any form, never needed otherwise
        if unread.getexif().get(_ORIENTATION, 1) != 1:
            found.append("EXIF orientation")
    return tuple(found)


def _load(path: Path) -> tuple[Image.Image, bool]:
    """The decoded picture, and whether its file keeps 16 bits a channel."""
    try:
        if not path.is_file():  # a pipe in a file's place would be waited for
            raise OSError
        with Image.open(path, formats=FORMATS) as image:
            _require_bounds(path, *image.size)
            is_deep = any(";16" in str(tile.args) for tile in image.tile)
            image.load()
            return image, is_deep
    except (Warning, UserError):  # somebody runs Python with warnings as errors: theirs to see as it is
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything, struct.error included
        raise UnreadablePicture(f"{path}: {_problem(path, error)}") from error


def _require_bounds(path: Path, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if long > LONGEST_SIDE or long > LARGEST_RATIO * short:
        raise UnreadablePicture(
            f"{path}: refused as no picture of a dataset: {width:,} x {height:,} pixels; at most {LONGEST_SIDE:,} a "
            f"side are read, and at most {LARGEST_RATIO} times the other side; replace it, or leave it out"
        )


def _scaled(image: Image.Image, is_deep: bool) -> Image.Image:
    """A grey picture of 16 or 32 bits, or of floats, in mode L."""
    values = np.asarray(image)
    if image.mode == "I" and not is_deep and getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (0,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    if image.mode != "F" and (is_deep or image.mode != "I"):
        white = 65_535
    else:
        peak = np.max(values, where=np.isfinite(values), initial=0)
        whites = _USUAL_WHITES if image.mode == "F" else _USUAL_WHITES[1:]
        white = next((white for white in whites if peak <= white), whites[-1])
    scaled = np.nan_to_num(values.astype(np.float32) / np.float32(white), nan=0.0)
    return Image.fromarray(np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8))


def _problem(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such picture; check the data folder, or get the picture again"
    if not path.is_file():
        return "not a file; a picture is expected here"
    if isinstance(error, PermissionError):
        return "no permission to read this picture"
    if path.stat().st_size == 0:
        return "the picture is empty (0 bytes); get it again"
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture of a format that is read ({', '.join(FORMATS)}); get it again, or convert it"
    if isinstance(error, Image.DecompressionBombError):
        return f"refused as too large to be a picture of a dataset ({error})"
    return f"the picture is truncated or damaged ({error}); get it again"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each_picture(
    look: Callable[[Path], Seen],
    paths: Sequence[Path],
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Seen]:
    """What ``look`` gives of every file, in the order of ``paths``, from ``workers`` threads; 0: one per core.

    ``progress(done, total)`` is called on the caller's thread after each.
    """
    seen = []
    with ThreadPoolExecutor(workers or cores(), thread_name_prefix="check") as pool:
        for done, found in enumerate(pool.map(look, paths), start=1):
            seen.append(found)
            if progress is not None:
                progress(done, len(paths))
    return seen


def bad_pictures(
    pictures: Pictures,
    indices: Iterable[int],
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, str]:
    """Decode each of the pictures; what is wrong with those that cannot be read, by picture index."""
    asked = [int(index) for index in indices]
    problems = each_picture(picture_fault, [pictures.paths[index] for index in asked], workers, progress)
    return {index: problem for index, problem in zip(asked, problems, strict=True) if problem is not None}


def picture_fault(path: Path) -> str | None:
    """Why a picture cannot be decoded; None where it can."""
    try:
        open_picture(path)
    except UserError as error:
        return str(error)
    return None
