"""Where a dataset's folder and its pictures lie: layouts told apart, picture files found by name, gaps told.

Directories are listed and headers read; no picture is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG

from benchmark.dataset import Dataset, DatasetInfo, IntArray, Pictures
from benchmark.errors import UserError, first_of

_SHOWN = 10
SAMPLE = 32
_FEWEST = 4
_PICTURES = frozenset(".jpg .jpeg .png .webp .gif .bmp .tif .tiff .ppm .jp2 .avif".split())


@dataclass(frozen=True)
class Layouts:
    """How a dataset's folder is recognised: ``marks`` are files, any of which makes a folder its root.

    ``told`` describes the accepted layouts to a person.
    """

    marks: tuple[str, ...]
    told: tuple[str, ...]

    def fits(self, root: Path) -> bool:
        return any((root / mark).is_file() for mark in self.marks)


def locate_root(info: DatasetInfo, layouts: Layouts, data_root: Path) -> Path:
    """The dataset's folder: ``data_root`` itself, one of its usual sub-folder names in there, or the one that fits.

    Raises UserError that names the files looked for, where, and the layouts that would do.
    """
    if not data_root.is_dir():
        raise UserError(f"--data-root {data_root}: no such folder; give the one that holds {info.title}")
    for root in (data_root, *(data_root / name for name in info.folders)):
        if layouts.fits(root):
            return root
    fitting = [root for root in sorted(data_root.iterdir()) if root.is_dir() and layouts.fits(root)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        named = first_of([root.name for root in fitting])
        raise UserError(f"--data-root {data_root}: {info.name} could be in several of its folders: {named}; name one")
    raise UserError(
        f"--data-root {data_root}: {info.name} not found: no {layouts.marks[0]} (or like it) in it or in its "
        f"sub-folders {', '.join(info.folders)}; layouts that would do: {'; '.join(layouts.told)}; "
        f"{info.obtain}"
    )


class PictureFolder:
    """Finds pictures under several roots; each folder is listed once, no picture is touched.

    ``searched``: folders below which a picture that is not at its place is looked for by its name, whatever its
    ending; they are walked through only where there is such a picture. ``doubles``: those found there several times.
    """

    def __init__(self, roots: Iterable[Path], searched: Sequence[Path] = ()) -> None:
        self.roots = tuple(dict.fromkeys(Path(os.path.normpath(root)) for root in roots))
        self.doubles: list[str] = []
        self._searched = searched
        self._listings: dict[str, list[tuple[Path, frozenset[str]]]] = {}

    def resolve(self, relative: str) -> Path:
        """The path of ``relative`` under the first root that has it.

        Where none has it, the one of its name elsewhere, and where there is none either, the path where it
        would be expected: such a picture is told as missing when something needs it.
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
        stem = os.path.splitext(name)[0]
        if stem in self._by_stem.paths:
            if stem in self._by_stem.doubles:
                self.doubles.append(stem)
            return self._by_stem.paths[stem]
        return (places[0][0] if places else self.roots[0] / folder) / name

    @cached_property
    def _by_stem(self) -> StemIndex:
        return index_by_stem(self._searched)


def _listing(folder: Path) -> frozenset[str] | None:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return None


def folder_pictures(folder: Path, given: str) -> Pictures:
    """Every picture file at or below a folder, by its path inside; raises UserError that begins with the option as it
    was given where there is none."""
    if not folder.is_dir():
        raise UserError(f"{given}: no such folder; name one that holds pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _PICTURES and p.is_file())
    if not paths:
        raise UserError(f"{given}: holds no pictures ({', '.join(sorted(_PICTURES))}); name another folder")
    return Pictures(tuple(path.relative_to(folder).as_posix() for path in paths), tuple(paths))


@dataclass(frozen=True)
class StemIndex:
    """Picture files by name without ending; ``doubles`` were there more than once."""

    paths: Mapping[str, Path]
    doubles: frozenset[str]


def index_by_stem(roots: Iterable[Path], endings: Sequence[str] = (".jpg", ".jpeg", ".png")) -> StemIndex:
    """Index every picture file below the roots, at any depth; of a double the first ending wins.

    Links to folders are followed; a folder that was seen already is passed over, so that loops end.
    """
    found: dict[str, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    for root in roots:
        for folder, subfolders, names in os.walk(root, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            subfolders.sort()
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                if ending.lower() in endings:
                    found.setdefault(stem, []).append(Path(folder, name))
    order = {ending: i for i, ending in enumerate(endings)}
    paths = {stem: min(these, key=lambda p: order[p.suffix.lower()]) for stem, these in found.items()}
    return StemIndex(paths, frozenset(stem for stem, these in found.items() if len(these) > 1))


def format_doubles(names: Iterable[str], which: str) -> tuple[str, ...]:
    """A note where pictures are there more than once, and which of them is taken; none where there are none."""
    doubles = sorted(set(names))
    if not doubles:
        return ()
    return (f"pictures that are there more than once: {len(doubles):,}, {doubles[0]} first; {which}",)


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
        advice = remedy(dataset.info, dataset.is_official, dataset.is_demo)
        raise UserError.collect([*found[:_SHOWN], f"{dataset.root}: {rest}; {advice}"])


def remedy(info: DatasetInfo, is_official: bool, is_demo: bool) -> str:
    """What to do about faults of a folder: official files can be got again, somebody's own cannot."""
    if is_official:
        return info.obtain
    return "draw it again with `data demo`" if is_demo else "correct or complete these files of your own data"


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
