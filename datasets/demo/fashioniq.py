"""The demo data in FashionIQ's layout: three categories, two captions a pair, names like Amazon's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from benchmark.files import atomic_write_json

from .groups import GROUP_SIZE, DemoSplit, Sizes, draw_splits
from .studio import SEED, Layout
from .subjects import Garment
from .texts import relative_captions

SIZES = Sizes(train_groups=110, train_pairs=12, val_groups=40, val_pairs=6, test_groups=6, test_pairs=3)
"""Of every category."""

_KINDS = {"dress": "dress", "shirt": "shirt", "toptee": "t-shirt"}
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write_fashioniq_layout(root: Path, sizes: Sizes) -> Layout:
    """FashionIQ's annotation files. Entries of `test` have no target, as in the official release."""
    rng = np.random.default_rng([SEED, 1])
    layout = Layout()
    for category in _KINDS:
        for split in fashioniq_splits(category, sizes, rng):
            names = [asin(f"{category} {split.name} {i}") for i in range(len(split.flat))]
            entries = []
            for pair in split.pairs:
                first = pair.group * GROUP_SIZE
                target = {} if split.name == "test" else {"target": names[first + pair.target]}
                captions = list(relative_captions(*split.of(pair), rng))
                entries.append(target | {"candidate": names[first + pair.reference], "captions": captions})
            atomic_write_json(root / "captions" / f"cap.{category}.{split.name}.json", entries)
            atomic_write_json(root / "image_splits" / f"split.{category}.{split.name}.json", sorted(names))
            layout.add(f"{category} {split.name}", [f"images/{name}.png" for name in names], split.flat)
            layout.counts.setdefault(split.name, {}).update(_counts(category, split))
    return layout


def fashioniq_splits(category: str, sizes: Sizes, rng: np.random.Generator) -> tuple[DemoSplit[Garment], ...]:
    return draw_splits(("train", "val", "test"), sizes, (_KINDS[category],), rng)


def asin(seed: str) -> str:
    """A name of Amazon's form: ten characters, B00 first."""
    digest = hashlib.sha256(seed.encode()).digest()
    return "B00" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:7])


def _counts(category: str, split: DemoSplit[Garment]) -> dict[str, int]:
    pairs, pictures = len(split.pairs), len(split.flat)
    if split.name == "train":
        found = {"triplets": pairs, "pictures": pictures, "per-caption triplets": 2 * pairs}
    elif split.name == "val":
        used = {(pair.group, member) for pair in split.pairs for member in (pair.reference, pair.target)}
        found = {"queries": pairs, "gallery": pictures, "VAL gallery": len(used), "per-caption queries": 2 * pairs}
    else:
        found = {"queries": pairs, "gallery": pictures}
    return {f"{category} {what}": number for what, number in found.items()}
