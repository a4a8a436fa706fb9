"""The demo data: drawn garments and generated texts, written in a dataset's official layout.

Everything follows from a fixed seed of its own, never from a run's: two generations give the same
bytes, on any number of cores. A manifest, `dataset.json`, tells the loader that the pictures are
drawn; the same loader reads them as reads the real files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError, unknown_name
from benchmark.files import atomic_write_json, digest_of, flush_to_disk

from .demo_garments import Garment
from .demo_groups import Pair, Split, draw_split, is_held_out
from .demo_studio import Progress, Shot, shoot, usable_cores
from .demo_texts import modification_text

_SEED = 20_260
_SOURCES = (
    "demo.py", "demo_drawing.py", "demo_garments.py", "demo_groups.py", "demo_studio.py",
    "demo_tailoring.py", "demo_texts.py",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Groups of six pictures per split, and the queries drawn from each group (at most)."""

    train_groups: int = 450
    train_pairs: int = 12
    val_groups: int = 80
    val_pairs: int = 6
    test_groups: int = 20
    test_pairs: int = 3


@dataclass(frozen=True)
class Layout:
    """What a dataset's writer leaves to do once its annotation files are written."""

    shots: list[Shot]
    counts: dict[str, dict[str, int]]


def _silent(done: int, total: int) -> None:
    """No progress shown."""


def demo_folder(
    dataset: str, cache: Path | None = None, progress: Progress = _silent, workers: int | None = None
) -> Path:
    """The demo data of a dataset in the user's cache folder, generated at the first call.

    Its name carries a digest of the generator, so that a newer version never reads older files.
    Processes that ask at the same time wait for the one that generates.
    """
    from filelock import FileLock
    from platformdirs import user_cache_dir

    _writer(dataset)
    shelf = Path(cache or user_cache_dir("cir-benchmark")) / "demo"
    folder = shelf / f"{dataset}-{_version()}"
    if folder.is_dir():
        return folder
    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(shelf / f".{folder.name}.lock"):
        if not folder.is_dir():
            for left_over in shelf.glob(f".{folder.name}.*.partial"):
                shutil.rmtree(left_over, ignore_errors=True)
            write_demo(dataset, folder, progress=progress, workers=workers)
    return folder


def write_demo(
    dataset: str,
    folder: Path,
    sizes: Sizes | None = None,
    progress: Progress = _silent,
    workers: int | None = None,
) -> None:
    """Write a dataset's demo data into a new folder; it appears whole or not at all.

    Raises UserError where the dataset has no demo data, the folder exists or cannot be written.
    """
    writer = _writer(dataset)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists; name a new folder for the demo data, or remove this one")
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        layout = writer(partial, sizes or Sizes())
        shoot(layout.shots, partial, workers or usable_cores(), progress)
        manifest = {"name": f"demo-{dataset}", "drawn": True, "counts": layout.counts}
        atomic_write_json(partial / "dataset.json", manifest)
        os.replace(partial, folder)
        flush_to_disk(folder.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{folder}: the demo data cannot be written ({reason}); free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_cirr_layout(root: Path, sizes: Sizes) -> Layout:
    """CIRR's annotation files (version rc2): captions, image splits, groups of six near twins.

    Test1's targets are left out, as in the official release. `reference_rank` and `target_rank`
    number the members in an order of their own, not the one of `members`: so do the official ones.
    """
    rng = np.random.default_rng(_SEED)
    first_pair, first_set = 0, 0
    layout = Layout([], {})
    for split in _cirr_splits(sizes, rng):
        names = [[_cirr_name(split.name, g, m) for m in range(len(members))]
                 for g, members in enumerate(split.garments)]  # fmt: skip
        paths = {name: _cirr_path(split.name, g, name) for g, group in enumerate(names) for name in group}
        orders = [rng.permutation(len(group)).tolist() for group in names]
        entries = [
            _cirr_entry(split, pair, names[pair.group], orders[pair.group], first_set, first_pair + i, rng)
            for i, pair in enumerate(split.pairs)
        ]
        atomic_write_json(root / "captions" / f"cap.rc2.{split.name}.json", entries)
        atomic_write_json(root / "image_splits" / f"split.rc2.{split.name}.json", paths)
        garments = [garment for members in split.garments for garment in members]
        layout.shots.extend(_shots(split.name, list(paths.values()), garments))
        entry_word, list_word = ("triplets", "pictures") if split.name == "train" else ("queries", "gallery")
        layout.counts[split.name] = {entry_word: len(entries), list_word: len(paths)}
        first_pair, first_set = first_pair + len(entries), first_set + len(names)
    return layout


def _cirr_splits(sizes: Sizes, rng: np.random.Generator) -> tuple[Split, ...]:
    taken: set[Garment] = set()

    def trained(garment: Garment) -> bool:
        return not is_held_out(garment)

    return (
        draw_split("train", sizes.train_groups, sizes.train_pairs, trained, taken, rng),
        draw_split("val", sizes.val_groups, sizes.val_pairs, is_held_out, taken, rng),
        draw_split("test1", sizes.test_groups, sizes.test_pairs, is_held_out, taken, rng),
    )


def _cirr_entry(split: Split, pair: Pair, names: list[str], order: list[int], first_set: int, pair_id: int,
                rng: np.random.Generator) -> dict[str, Any]:  # fmt: skip
    members = split.garments[pair.group]
    caption = modification_text(members[pair.reference], members[pair.target], rng)
    entry: dict[str, Any] = {"pairid": pair_id, "reference": names[pair.reference]}
    img_set: dict[str, Any] = {"id": first_set + pair.group, "members": [names[m] for m in order]}
    if split.name != "test1":
        entry |= {"target_hard": names[pair.target], "target_soft": {names[pair.target]: 1.0}}
        img_set |= {"reference_rank": pair.reference, "target_rank": pair.target}
    return entry | {"caption": caption, "img_set": img_set}


def _cirr_name(split: str, group: int, member: int) -> str:
    return f"{'dev' if split == 'val' else split}-{group}-{member // 2}-img{member % 2}"


def _cirr_path(split: str, group: int, name: str) -> str:
    folder = {"train": f"train/{group % 100}", "val": "dev"}.get(split, split)
    return f"./{folder}/{name}.png"


def _shots(split: str, paths: list[str], garments: list[Garment]) -> list[Shot]:
    """Every picture's seed is its own: the split's name and its place in the split."""
    key = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4])
    return [
        Shot(path, garment, (_SEED, key, i))
        for i, (path, garment) in enumerate(zip(paths, garments, strict=True))
    ]


_LAYOUTS: dict[str, Callable[[Path, Sizes], Layout]] = {"cirr": write_cirr_layout}


def _writer(dataset: str) -> Callable[[Path, Sizes], Layout]:
    if dataset not in _LAYOUTS:
        raise unknown_name("demo data", dataset, _LAYOUTS)
    return _LAYOUTS[dataset]


def _version() -> str:
    """Digest of all that decides the generated bytes; 12 hexadecimal digits."""
    here = Path(__file__).parent
    sources = {name: hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _SOURCES}
    return digest_of({"sources": sources, "sizes": asdict(Sizes())})[:12]
