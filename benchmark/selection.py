"""Which weights of a run are reported: the best by the paper's criterion, the last, or held out.

`paper` picks the best epoch on the reported queries, as most papers of the field do; `last` picks
nothing; `heldout` picks on a part of the training triplets that is then not trained on.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmark.dataset import Dataset, IntArray, Queries, Ragged, Task, TaskKey, Triplets
from benchmark.text_rules import TextRule

Selection = Literal["paper", "last", "heldout"]

_HELDOUT_SHARE = 20
_HELDOUT_CUTOFFS = (1, 5, 10, 50)

NOTES: dict[str, str] = {
    "paper": "best epoch on the reported split",
    "last": "last epoch",
    "heldout": "best epoch on a held-out part of the training triplets",
}


@dataclass(frozen=True)
class Score:
    """A value of a selection criterion; larger is better."""

    criterion: str
    value: float


def is_heldout_reference(name: str) -> bool:
    """Whether a reference is among the twentieth that is held out, by the digest of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _HELDOUT_SHARE == 0


def split_heldout(triplets: Triplets, names: tuple[str, ...]) -> tuple[IntArray, IntArray]:
    """Indices of the triplets to train on and of those held out.

    Held out are the triplets of a twentieth of the references; every other triplet that shares a
    picture with one of them is left out of training as well.
    """
    heldout = np.fromiter(
        (is_heldout_reference(names[r]) for r in triplets.reference), dtype=bool, count=len(triplets)
    )
    seen = np.zeros(len(names), dtype=bool)
    seen[triplets.reference[heldout]] = True
    seen[triplets.target[heldout]] = True
    touched = seen[triplets.reference] | seen[triplets.target]
    return np.flatnonzero(~touched), np.flatnonzero(heldout)


def heldout_task(dataset: Dataset, triplets: Triplets, rule: TextRule) -> Task:
    """Held-out triplets as a task: the gallery is their own pictures, the reference is removed."""
    gallery = np.unique(np.concatenate([triplets.reference, triplets.target]))
    position = {int(picture): i for i, picture in enumerate(gallery)}
    rows = [(i, text) for i, c in enumerate(triplets.captions) for text in rule.queries(c)]
    index = np.asarray([i for i, _ in rows], dtype=np.int64)
    reference = triplets.reference[index]
    target = np.asarray([position[int(t)] for t in triplets.target[index]], dtype=np.int64)
    return Task(
        key=TaskKey(dataset.label, "train", "heldout", rule.mode),
        queries=Queries(
            ids=tuple(str(n) for n in range(len(rows))),
            picture=reference,
            reference=np.asarray([position[int(r)] for r in reference], dtype=np.int64),
            texts=tuple(text for _, text in rows),
            positives=Ragged.single(target),
            group=reference,
        ),
        gallery=gallery,
        exclude_reference=True,
        cutoffs=_HELDOUT_CUTOFFS,
    )


def heldout_score(metrics: dict[str, float]) -> Score:
    """Mean of the held-out recalls at 1, 5, 10 and 50: one criterion for every dataset."""
    values = [metrics[f"R@{k}"] for k in _HELDOUT_CUTOFFS]
    return Score("mean of held-out R@1/5/10/50", sum(values) / len(values))


def criterion_score(dataset: Dataset, metrics: Mapping[str, dict[str, float]], kind: str) -> Score:
    """The value that picks an epoch, from metrics by category.

    ``kind`` "dataset" is the dataset's own criterion; "arithmetic", "geometric" and "harmonic" are
    means of all recalls (CLIP4Cir picks a checkpoint by each of them on CIRR).
    """
    if kind == "dataset":
        return Score(*dataset.criterion(dict(metrics)))
    values = [value for by_name in metrics.values() for name, value in by_name.items() if name.startswith("R")]
    if kind == "arithmetic":
        return Score("arithmetic mean of all recalls", statistics.fmean(values))
    if min(values) <= 0:
        return Score(f"{kind} mean of all recalls", 0.0)
    mean = statistics.geometric_mean(values) if kind == "geometric" else statistics.harmonic_mean(values)
    return Score(f"{kind} mean of all recalls", mean)
