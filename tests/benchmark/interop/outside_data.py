"""Small annotation folders without pictures, embeddings for them, and a slow, plain scorer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.dataset import Dataset, Task
from benchmark.registry import discover

Matrix = NDArray[np.float32]

GROUPS, PAIRS = 12, 3
CATEGORIES = ("dress", "shirt", "toptee")


def write_cirr(root: Path) -> Path:
    """CIRR's layout: 72 pictures in sets of six and 36 pairs in each split."""
    counts = {}
    for split, prefix in (("train", "train"), ("val", "dev"), ("test1", "test1")):
        names = [f"{prefix}-{g}-{m // 2}-img{m % 2}" for g in range(GROUPS) for m in range(6)]
        entries = [
            _cirr_entry(names[6 * g : 6 * g + 6], g, pair, split) for g in range(GROUPS) for pair in range(PAIRS)
        ]
        _write(root / f"captions/cap.rc2.{split}.json", entries)
        _write(root / f"image_splits/split.rc2.{split}.json", {n: f"./{prefix}/{n}.png" for n in names})
        words = ("triplets", "pictures") if split == "train" else ("queries", "gallery")
        counts[split] = dict(zip(words, (len(entries), len(names)), strict=True))
    _write(root / "dataset.json", {"name": "small-cirr", "counts": counts})
    return root


def _cirr_entry(members: list[str], group: int, pair: int, split: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "pairid": 1000 + (7 * (PAIRS * group + pair)) % 36,
        "reference": members[pair],
        "caption": f"change {pair} of {group}",
        "img_set": {"id": group, "members": members[::-1]},
    }
    return entry if split == "test1" else entry | {"target_hard": members[pair + 2]}


def write_fashioniq(root: Path, size: int = 60, count: int = 12) -> Path:
    """FashionIQ's layout: three categories of 60 names, one name in two of them, 12 entries each."""
    for number, category in enumerate(CATEGORIES):
        names = [f"B{number}{i:04}" for i in range(size)]
        if category == "toptee":
            names[7] = "B10003"
        entries = [
            {
                "candidate": names[i],
                "target": names[size // 3 + (5 * i) % (size // 2)],
                "captions": [f"is {category} {i}", f"has {i} buttons."],
            }
            for i in range(count)
        ]
        _write(root / f"captions/cap.{category}.val.json", entries)
        _write(root / f"image_splits/split.{category}.val.json", names)
    _write(root / "dataset.json", {"name": "small-fashioniq"})
    return root


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def load(name: str, root: Path, splits: tuple[str, ...] = ("val",)) -> Dataset:
    return discover().load_dataset(name, root, splits)


def vectors(ids: list[str] | tuple[str, ...], width: int = 8) -> Matrix:
    """A fixed random row for each id; float16 holds the values exactly."""
    seeds = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") for name in ids]
    rows = [np.random.default_rng(seed).standard_normal(width) for seed in seeds]
    return np.stack(rows).astype(np.float16).astype(np.float32)


def gallery_names(task: Task, dataset: Dataset) -> list[str]:
    return [dataset.pictures.names[i] for i in task.gallery]


def arrays(tasks: tuple[Task, ...] | list[Task], dataset: Dataset) -> dict[str, Any]:
    """What a person would store for tasks: one matrix of all queries, one of all galleries."""
    queries = [name for task in tasks for name in task.queries.ids]
    gallery = list(dict.fromkeys(name for task in tasks for name in gallery_names(task, dataset)))
    return {
        "queries": vectors([f"query {name}" for name in queries]),
        "query_ids": np.array(queries),
        "gallery": vectors(gallery),
        "gallery_ids": np.array(gallery),
    }


def order(task: Task, dataset: Dataset) -> list[list[str]]:
    """Every query's whole ranking by those vectors, by a plain sort."""
    names = gallery_names(task, dataset)
    gallery = vectors(names).astype(np.float64)
    found = []
    for i, query in enumerate(task.queries.ids):
        scores = gallery @ vectors([f"query {query}"])[0].astype(np.float64)
        ranked = [names[g] for g in np.argsort(-scores, kind="stable")]
        if task.exclude_reference:
            ranked.remove(names[task.queries.reference_in_gallery[i]])
        found.append(ranked)
    return found


def plain_metrics(task: Task, dataset: Dataset) -> dict[str, float]:
    """Recalls by looking for the target in each ranking."""
    names = gallery_names(task, dataset)
    places, in_subset = [], []
    for i, ranked in enumerate(order(task, dataset)):
        (target,) = (names[p] for p in task.queries.positives[i])
        places.append(1 + ranked.index(target))
        if task.queries.subset is not None:
            members = {names[m] for m in task.queries.subset[i]}
            in_subset.append(1 + [name for name in ranked if name in members].index(target))
    metrics = {f"R@{k}": 100 * float(np.mean([p <= k for p in places])) for k in task.cutoffs}
    metrics |= {f"R_subset@{k}": 100 * float(np.mean([p <= k for p in in_subset])) for k in task.subset_cutoffs}
    if in_subset:
        return metrics | {"(R@5+R_subset@1)/2": (metrics["R@5"] + metrics["R_subset@1"]) / 2}
    return metrics | {"mean(R@10,R@50)": (metrics["R@10"] + metrics["R@50"]) / 2}
