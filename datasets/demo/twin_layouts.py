"""The demo data in the layouts of CIRR, FashionIQ and Shoes: groups of near twins, each in its release's files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import atomic_write_json, atomic_write_text

from .groups import GROUP_SIZE, DemoSplit, Pair, Sizes, draw_splits
from .side_texts import without_typos, write_side_texts
from .studio import SEED, Layout
from .subjects import GARMENTS, SHOES, Garment, Shoe
from .texts import modification_text, relative_caption, relative_captions

CIRR_SIZES = Sizes()
FASHIONIQ_SIZES = Sizes(train_groups=110, train_pairs=12, val_groups=40, val_pairs=6, test_groups=6, test_pairs=3)
"""Of every category."""
SHOES_SIZES = Sizes(train_groups=360, train_pairs=12, val_groups=0, val_pairs=0, test_groups=80, test_pairs=6)

_CATEGORIES = {"dress": "dress", "shirt": "shirt", "toptee": "t-shirt"}
_ASIN_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHOES_PER_FOLDER = 100


def write_cirr_layout(root: Path, sizes: Sizes) -> Layout:
    """CIRR's annotation files, version rc2: captions and image splits, one text a pair.

    Test1's targets are left out, as in the official release. `reference_rank` and `target_rank`
    number the members in an order of their own, not the one of `members`: so do the official ones.
    """
    rng = np.random.default_rng(SEED)
    first_pair, first_set = 0, 0
    layout = Layout()
    for split in cirr_splits(sizes, rng):
        groups = range(len(split.subjects))
        names = [[_cirr_name(split.name, g, member) for member in range(GROUP_SIZE)] for g in groups]
        paths = {name: _cirr_path(split.name, g, name) for g, group in enumerate(names) for name in group}
        orders = [rng.permutation(len(group)).tolist() for group in names]
        entries = [
            _cirr_entry(split, pair, names[pair.group], orders[pair.group], first_set, first_pair + i, rng)
            for i, pair in enumerate(split.pairs)
        ]
        atomic_write_json(root / "captions" / f"cap.rc2.{split.name}.json", entries)
        atomic_write_json(root / "image_splits" / f"split.rc2.{split.name}.json", paths)
        pairs = {
            f"{entry['pairid']}+{entry['reference']}" if split.name == "test1"
            else f"{entry['reference']}+{entry['target_hard']}": (entry["caption"], *split.of(pair))
            for entry, pair in zip(entries, split.pairs, strict=True)
        }  # fmt: skip
        captions, words = (f"{kind}_cirr_{split.name}.json" for kind in ("image_captions", "keywords_in_mods"))
        subjects = dict(zip((name for group in names for name in group), split.flat, strict=True))
        write_side_texts(root / "captions", captions, words, subjects, pairs)
        layout.add(split.name, list(paths.values()), split.flat)
        layout.count(split.name, len(entries), len(paths))
        first_pair, first_set = first_pair + len(entries), first_set + len(names)
    return layout


def cirr_splits(sizes: Sizes, rng: np.random.Generator) -> tuple[DemoSplit[Garment], ...]:
    return draw_splits(("train", "val", "test1"), sizes, GARMENTS, rng)


def _cirr_entry(split: DemoSplit[Garment], pair: Pair, names: list[str], order: list[int], first_set: int, pair_id: int,
                rng: np.random.Generator) -> dict[str, Any]:  # fmt: skip
    entry: dict[str, Any] = {"pairid": pair_id, "reference": names[pair.reference]}
    img_set: dict[str, Any] = {"id": first_set + pair.group, "members": [names[m] for m in order]}
    if split.name != "test1":
        entry |= {"target_hard": names[pair.target], "target_soft": {names[pair.target]: 1.0}}
        img_set |= {"reference_rank": pair.reference, "target_rank": pair.target}
    return entry | {"caption": modification_text(*split.of(pair), rng), "img_set": img_set}


def _cirr_name(split: str, group: int, member: int) -> str:
    return f"{'dev' if split == 'val' else split}-{group}-{member // 2}-img{member % 2}"


def _cirr_path(split: str, group: int, name: str) -> str:
    folder = {"train": f"train/{group % 100}", "val": "dev"}.get(split, split)
    return f"./{folder}/{name}.png"


def write_fashioniq_layout(root: Path, sizes: Sizes) -> Layout:
    """FashionIQ's annotation files: three categories, two captions a pair.

    Entries of `test` have no target, as in the official release.
    """
    rng = np.random.default_rng([SEED, 1])
    layout = Layout()
    for category in _CATEGORIES:
        # Drawn texts have nothing to correct.
        atomic_write_json(root / "captions" / f"correction_dict_{category}.json", {})
        words: dict[str, tuple[str, Garment, Garment]] = {}
        for split in fashioniq_splits(category, sizes, rng):
            names = [asin(f"{category} {split.name} {i}") for i in range(len(split.flat))]
            entries = []
            pictures = dict(zip(names, split.flat, strict=True))
            for pair in split.pairs:
                first = pair.group * GROUP_SIZE
                target = {} if split.name == "test" else {"target": names[first + pair.target]}
                captions = list(relative_captions(*split.of(pair), rng))
                entries.append(target | {"candidate": names[first + pair.reference], "captions": captions})
                if split.name != "test":
                    key = f"{names[first + pair.reference]}_{names[first + pair.target]}"
                    words[key] = (without_typos(captions), *split.of(pair))
            if split.name != "test":
                captioned = f"image_captions_{category}_{split.name}.json"
                write_side_texts(root / "captions", captioned, f"keywords_in_mods_{category}.json", pictures, words)
            atomic_write_json(root / "captions" / f"cap.{category}.{split.name}.json", entries)
            atomic_write_json(root / "image_splits" / f"split.{category}.{split.name}.json", sorted(names))
            layout.add(f"{category} {split.name}", [f"images/{name}.png" for name in names], split.flat)
            layout.counts.setdefault(split.name, {}).update(_fashioniq_counts(category, split))
    return layout


def fashioniq_splits(category: str, sizes: Sizes, rng: np.random.Generator) -> tuple[DemoSplit[Garment], ...]:
    return draw_splits(("train", "val", "test"), sizes, (_CATEGORIES[category],), rng)


def asin(seed: str) -> str:
    """A name of Amazon's form: ten characters, B00 first."""
    digest = hashlib.sha256(seed.encode()).digest()
    return "B00" + "".join(_ASIN_LETTERS[byte % len(_ASIN_LETTERS)] for byte in digest[:7])


def _fashioniq_counts(category: str, split: DemoSplit[Garment]) -> dict[str, int]:
    pairs, pictures = len(split.pairs), len(split.flat)
    if split.name == "train":
        found = {"triplets": pairs, "pictures": pictures, "per-caption triplets": 2 * pairs}
    elif split.name == "val":
        used = {(pair.group, member) for pair in split.pairs for member in (pair.reference, pair.target)}
        found = {"queries": pairs, "gallery": pictures, "VAL gallery": len(used), "per-caption queries": 2 * pairs}
    else:
        found = {"queries": pairs, "gallery": pictures}
    return {f"{category} {what}": number for what, number in found.items()}


def write_shoes_layout(root: Path, sizes: Sizes) -> Layout:
    """Shoes' files: ten types in a folder each, one caption a pair for both splits in one list, two image lists.

    `ImageName` is the target. Both lists name all their pictures, asked about or not.
    """
    rng = np.random.default_rng([SEED, 2])
    layout = Layout()
    entries: list[dict[str, str]] = []
    taken: dict[str, int] = {}
    pictures: dict[str, Shoe] = {}
    words: dict[str, tuple[str, Shoe, Shoe]] = {}
    for split in draw_splits(("train", "val", "test"), sizes, SHOES, rng):
        paths = [_shoe_path(shoe.kind, taken) for shoe in split.flat]
        names = [path.rpartition("/")[2] for path in paths]
        for pair in split.pairs:
            first = pair.group * GROUP_SIZE
            entries.append({
                "ImageName": names[first + pair.target],
                "ReferenceImageName": names[first + pair.reference],
                "RelativeCaption": relative_caption(*split.of(pair), rng),
            })  # fmt: skip
            key = f"{entries[-1]['ReferenceImageName']}+{entries[-1]['ImageName']}"
            words[key] = (without_typos([entries[-1]["RelativeCaption"]]), *split.of(pair))
        pictures |= dict(zip(names, split.flat, strict=True))
        listed = "train_im_names.txt" if split.name == "train" else "eval_im_names.txt"
        atomic_write_text(root / listed, "".join(f"{name}\n" for name in sorted(names)))
        layout.add(f"shoes {split.name}", paths, split.flat)
        layout.count(split.name, len(split.pairs), len(names))
    mixed = [entries[i] for i in rng.permutation(len(entries))]
    atomic_write_json(root / "relative_captions_shoes.json", mixed)
    atomic_write_json(root / "correction_dict_shoes.json", {})
    write_side_texts(root, "image_captions_shoes.json", "keywords_in_mods_shoes.json", pictures, words)
    return layout


def _shoe_path(kind: str, taken: dict[str, int]) -> str:
    """The next free number of a type; a hundred pictures share a folder."""
    number = taken[kind] = taken.get(kind, 0) + 1
    return f"womens_{kind}/{number // _SHOES_PER_FOLDER}/img_womens_{kind}_{number}.jpg"
