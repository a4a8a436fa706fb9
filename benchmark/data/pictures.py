"""Opening picture files: decoded whole, or one clear line that says what is wrong with the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from benchmark.dataset import Pictures
from benchmark.errors import UserError

Seen = TypeVar("Seen")


class UnreadablePicture(UserError):
    """A picture's file is missing, empty, truncated or no picture."""


def open_picture(path: Path) -> Image.Image:
    """Decode a picture whole, in the file's own colour mode; the file is closed again.

    Raises UnreadablePicture naming the file where it is missing, empty, truncated or not a picture.
    Pillow's warning about very large pictures stays a warning.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Warning:  # somebody runs Python with warnings as errors: theirs to see as it is
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything, struct.error included
        raise UnreadablePicture(f"{path}: {_problem(path, error)}") from error


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
        return "not a picture that Pillow can read; get it again"
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
