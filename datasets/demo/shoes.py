"""The demo data in the layout of Shoes: ten types in a folder each, one caption a pair, two image lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.files import atomic_write_json, atomic_write_text

from .groups import GROUP_SIZE, Sizes, draw_splits
from .studio import SEED, Layout
from .subjects import SHOES
from .texts import relative_caption

SIZES = Sizes(train_groups=360, train_pairs=12, val_groups=0, val_pairs=0, test_groups=80, test_pairs=6)
_PER_FOLDER = 100


def write_shoes_layout(root: Path, sizes: Sizes) -> Layout:
    """Shoes' files: relative captions of both splits in one list, and a list of names for each.

    `ImageName` is the target. Both lists name all their pictures, asked about or not.
    """
    rng = np.random.default_rng([SEED, 2])
    layout = Layout()
    entries: list[dict[str, str]] = []
    taken: dict[str, int] = {}
    for split in draw_splits(("train", "val", "test"), sizes, SHOES, rng):
        paths = [_path(shoe.kind, taken) for shoe in split.flat]
        names = [path.rpartition("/")[2] for path in paths]
        for pair in split.pairs:
            first = pair.group * GROUP_SIZE
            entries.append({
                "ImageName": names[first + pair.target],
                "ReferenceImageName": names[first + pair.reference],
                "RelativeCaption": relative_caption(*split.of(pair), rng),
            })  # fmt: skip
        listed = "train_im_names.txt" if split.name == "train" else "eval_im_names.txt"
        atomic_write_text(root / listed, "".join(f"{name}\n" for name in sorted(names)))
        layout.add(f"shoes {split.name}", paths, split.flat)
        layout.count(split.name, len(split.pairs), len(names))
    mixed = [entries[i] for i in rng.permutation(len(entries))]
    atomic_write_json(root / "relative_captions_shoes.json", mixed)
    return layout


def _path(kind: str, taken: dict[str, int]) -> str:
    """The next free number of a type; a hundred pictures share a folder."""
    number = taken[kind] = taken.get(kind, 0) + 1
    return f"womens_{kind}/{number // _PER_FOLDER}/img_womens_{kind}_{number}.jpg"
