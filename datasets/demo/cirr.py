"""The demo data in CIRR's layout, version rc2: groups of six near twins, one text a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import atomic_write_json

from .groups import DemoSplit, Pair, Sizes, draw_splits
from .studio import SEED, Layout
from .subjects import GARMENTS, Garment
from .texts import modification_text

SIZES = Sizes()


def write_cirr_layout(root: Path, sizes: Sizes) -> Layout:
    """CIRR's annotation files: captions and image splits.

    Test1's targets are left out, as in the official release. `reference_rank` and `target_rank`
    number the members in an order of their own, not the one of `members`: so do the official ones.
    """
    rng = np.random.default_rng(SEED)
    first_pair, first_set = 0, 0
    layout = Layout()
    for split in cirr_splits(sizes, rng):
        names = [[_name(split.name, g, m) for m in range(len(members))] for g, members in enumerate(split.subjects)]
        paths = {name: _path(split.name, g, name) for g, group in enumerate(names) for name in group}
        orders = [rng.permutation(len(group)).tolist() for group in names]
        entries = [
            _entry(split, pair, names[pair.group], orders[pair.group], first_set, first_pair + i, rng)
            for i, pair in enumerate(split.pairs)
        ]
        atomic_write_json(root / "captions" / f"cap.rc2.{split.name}.json", entries)
        atomic_write_json(root / "image_splits" / f"split.rc2.{split.name}.json", paths)
        layout.add(split.name, list(paths.values()), split.flat)
        layout.count(split.name, len(entries), len(paths))
        first_pair, first_set = first_pair + len(entries), first_set + len(names)
    return layout


def cirr_splits(sizes: Sizes, rng: np.random.Generator) -> tuple[DemoSplit[Garment], ...]:
    return draw_splits(("train", "val", "test1"), sizes, GARMENTS, rng)


def _entry(split: DemoSplit[Garment], pair: Pair, names: list[str], order: list[int], first_set: int, pair_id: int,
           rng: np.random.Generator) -> dict[str, Any]:  # fmt: skip
    entry: dict[str, Any] = {"pairid": pair_id, "reference": names[pair.reference]}
    img_set: dict[str, Any] = {"id": first_set + pair.group, "members": [names[m] for m in order]}
    if split.name != "test1":
        entry |= {"target_hard": names[pair.target], "target_soft": {names[pair.target]: 1.0}}
        img_set |= {"reference_rank": pair.reference, "target_rank": pair.target}
    return entry | {"caption": modification_text(*split.of(pair), rng), "img_set": img_set}


def _name(split: str, group: int, member: int) -> str:
    return f"{'dev' if split == 'val' else split}-{group}-{member // 2}-img{member % 2}"


def _path(split: str, group: int, name: str) -> str:
    folder = {"train": f"train/{group % 100}", "val": "dev"}.get(split, split)
    return f"./{folder}/{name}.png"
