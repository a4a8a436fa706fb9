"""Where a dataset's folder and its pictures lie: layouts told apart, picture files found by name, gaps told.

Directories are listed and headers read; no picture is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from benchmark.dataset import Dataset, DatasetInfo, IntArray, Pictures
from benchmark.errors import UserError

_SHOWN = 10
SAMPLE = 32
_FEWEST = 4


@dataclass(frozen=True)
class Layouts:
    """How a dataset's folder is recognised: ``marks`` are files, any of which makes a folder its root.

    ``told`` describes the accepted layouts to a person.
    """

    marks: tuple[str, ...]
    told: tuple[str, ...]


def locate_root(info: DatasetInfo, layouts: Layouts, data_root: Path) -> Path:
    """The dataset's folder: ``data_root`` itself, or one of its usual sub-folder names in there.

    Raises UserError that names the files looked for, where, and the layouts that would do.
    """
    if not data_root.is_dir():
        raise UserError(f"--data-root {data_root}: no such folder; give the one that holds {info.title}")
    for root in (data_root, *(data_root / name for name in info.folders)):
        if any((root / mark).is_file() for mark in layouts.marks):
            return root
    raise UserError(
        f"--data-root {data_root}: {info.name} not found: no {layouts.marks[0]} (or like it) in it or in its "
        f"sub-folders {', '.join(info.folders)}; layouts that would do: {'; '.join(layouts.told)}; "
        f"{info.obtain}"
    )


class PictureFolder:
    """Finds pictures under several roots; each folder is listed once, no picture is touched."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = tuple(dict.fromkeys(Path(os.path.normpath(root)) for root in roots))
        self._listings: dict[str, list[tuple[Path, frozenset[str]]]] = {}

    def resolve(self, relative: str) -> Path:
        """The path of ``relative`` under the first root that has it.

        Where none has it, the path where it would be expected: such a picture is told as missing
        when something needs it.
        """
        folder, _, name = relative.rpartition("/")
        if folder not in self._listings:
            self._listings[folder] = [
                (path, listing) for root in self.roots if (listing := _listing(path := root / folder)) is not None
            ]
        places = self._listings[folder]
        for path, listing in places:
            if name in listing:
                return path / name
        return (places[0][0] if places else self.roots[0] / folder) / name


def _listing(folder: Path) -> frozenset[str] | None:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return None


@dataclass(frozen=True)
class StemIndex:
    """Picture files by name without ending; ``doubles`` were there more than once."""

    paths: Mapping[str, Path]
    doubles: tuple[str, ...]


def index_by_stem(roots: Iterable[Path], endings: Sequence[str] = (".jpg", ".jpeg", ".png")) -> StemIndex:
    """Index every picture file below the roots, at any depth; of a double the first ending wins."""
    found: dict[str, list[Path]] = {}
    for root in roots:
        for folder, subfolders, names in os.walk(root):
            subfolders.sort()
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                if ending.lower() in endings:
                    found.setdefault(stem, []).append(Path(folder, name))
    order = {ending: i for i, ending in enumerate(endings)}
    paths = {stem: min(these, key=lambda p: order[p.suffix.lower()]) for stem, these in found.items()}
    return StemIndex(paths, tuple(stem for stem, these in found.items() if len(these) > 1))


def picture_problem(path: Path) -> str | None:
    """What is wrong with a picture as far as its directory entry tells: missing, no file or empty."""
    try:
        status = path.stat()
    except OSError:
        return f"{path}: no such picture"
    if not S_ISREG(status.st_mode):
        return f"{path}: not a file; a picture is expected here"
    return None if status.st_size else f"{path}: the picture is empty (0 bytes)"


def picture_problems(pictures: Pictures, indices: IntArray) -> list[str]:
    """A line for every one of these pictures that is missing or empty; nothing is decoded."""
    checked = (picture_problem(pictures.paths[i]) for i in indices.tolist())
    return [problem for problem in checked if problem is not None]


def require_pictures(dataset: Dataset, indices: IntArray) -> None:
    """Raise UserError with the first ten missing or empty pictures and their count."""
    found = picture_problems(dataset.pictures, indices)
    if found:
        rest = f"{len(found):,} of {len(indices):,} pictures needed are missing or empty"
        raise UserError.collect([*found[:_SHOWN], f"{dataset.root}: {rest}; {dataset.info.obtain}"])


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

    from benchmark.data.pictures import FORMATS

    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Warning:
        raise
    except Exception:  # damaged files make Pillow raise almost anything; they are told where pictures are decoded
        return None
