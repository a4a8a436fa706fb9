"""Opening picture files: decoded whole, or one clear line that says what is wrong with the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from benchmark.errors import UserError


def open_picture(path: Path) -> Image.Image:
    """Decode a picture whole, in the file's own colour mode; the file is closed again.

    Raises UserError naming the file where it is missing, empty, truncated or not a picture.
    Pillow's warning about very large pictures stays a warning.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Warning:  # somebody runs Python with warnings as errors: theirs to see as it is
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything, struct.error included
        raise UserError(f"{path}: {_problem(path, error)}") from error


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


def check_pictures(
    paths: Sequence[Path], workers: int, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Decode every picture on ``workers`` threads; the problems found, in the order of ``paths``.

    ``progress(done, total)`` is called on the caller's thread after each picture.
    """
    problems = []
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        for done, problem in enumerate(pool.map(_check, paths), start=1):
            if problem is not None:
                problems.append(problem)
            if progress is not None:
                progress(done, len(paths))
    return problems


def _check(path: Path) -> str | None:
    try:
        open_picture(path)
    except UserError as error:
        return str(error)
    return None
