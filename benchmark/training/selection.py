"""Which weights of a run are reported: the best by the paper's criterion, the last, or held out.

`paper` picks the best epoch on the reported queries, as most papers of the field do; `last` picks
nothing; `heldout` picks on a part of the training triplets that is then not trained on.
"""

from __future__ import annotations

import hashlib
import heapq
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.dataset import Dataset, IntArray, Queries, Ragged, Task, TaskKey, Triplets
from benchmark.errors import UserError
from benchmark.text_rules import TextRule

Selection = Literal["paper", "last", "heldout"]

_HELDOUT_SHARE = 20
_HELDOUT_CUTOFFS = (1, 5, 10, 50)

_NOTES: dict[str, str] = {
    "paper": "best epoch on the reported split",
    "last": "last epoch",
    "heldout": "best epoch on a held-out part of the training triplets",
}


def selection_note(selection: str, picks_an_epoch: bool) -> str:
    """What a person is told of a selection; "" where nothing is trained."""
    if selection == "paper" and not picks_an_epoch:
        return "last epoch, the only one that is validated"
    return _NOTES.get(selection, "")


@dataclass(frozen=True)
class Score:
    """A value of a selection criterion; larger is better."""

    criterion: str
    value: float


def margin_of(scores: Iterable[float]) -> float | None:
    """The best score's margin over the next best; None of a single one.

    Where it is small, a query that tips (another number of processes, another machine) picks another epoch.
    """
    best = heapq.nlargest(2, scores)
    return best[0] - best[1] if len(best) == 2 else None


def is_heldout_reference(name: str) -> bool:
    """Whether a reference is among the twentieth that is held out, by the digest of its name."""
    # By name, not by draw: the same references are held out for every seed, limit and order of the file.
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _HELDOUT_SHARE == 0


@dataclass(frozen=True)
class Heldout:
    """The triplets of a twentieth of the references, and which pictures these show, (P,) bool.

    Where pairs are drawn anew every epoch, the first epoch's are held out, and their pictures are
    kept from every epoch's training.
    """

    triplets: Triplets
    pictures: NDArray[np.bool_]

    @classmethod
    def of(cls, triplets: Triplets, names: tuple[str, ...]) -> Heldout:
        """Raises UserError where there is nothing to hold out or nothing left to train on."""
        chosen = np.asarray([is_heldout_reference(names[r]) for r in triplets.reference_picture], dtype=bool)
        heldout = triplets.take(np.flatnonzero(chosen))
        pictures = np.zeros(len(names), dtype=bool)
        pictures[heldout.reference_picture] = True
        pictures[heldout.target_picture] = True
        found = cls(heldout, pictures)
        if not len(heldout) or not len(found.trained(triplets)):
            raise UserError(
                f"--selection heldout: {len(triplets)} training triplets are too few to hold some out; "
                "use --selection last"
            )
        return found

    def trained(self, triplets: Triplets) -> IntArray:
        """Indices of the triplets that share no picture with those held out."""
        return np.flatnonzero(~(self.pictures[triplets.reference_picture] | self.pictures[triplets.target_picture]))


def heldout_task(dataset: Dataset, triplets: Triplets, rule: TextRule) -> Task:
    """Held-out triplets as a task: the gallery is their own pictures, the reference is removed."""
    gallery = np.unique(np.concatenate([triplets.reference_picture, triplets.target_picture]))
    position = {int(picture): i for i, picture in enumerate(gallery)}
    rows = [(i, text) for i, c in enumerate(triplets.captions) for text in rule.queries(c)]
    index = np.asarray([i for i, _ in rows], dtype=np.int64)
    reference = triplets.reference_picture[index]
    target = [position[int(t)] for t in triplets.target_picture[index]]
    return Task(
        key=TaskKey(dataset.label, "train", "heldout", rule.mode),
        queries=Queries(
            ids=tuple(str(n) for n in range(len(rows))),
            reference_picture=reference,
            reference_in_gallery=np.asarray([position[int(r)] for r in reference], dtype=np.int64),
            texts=tuple(text for _, text in rows),
            positives=Ragged.of(_answers(dataset, gallery, target)),
            group=reference,
            captions=tuple(triplets.captions[i] for i in index.tolist()),
        ),
        gallery=gallery,
        exclude_reference=True,
        cutoffs=_HELDOUT_CUTOFFS,
    )


def _answers(dataset: Dataset, gallery: IntArray, target: list[int]) -> list[list[int]]:
    """Gallery positions of the right answers of each query: its target, and what counts as equal to it."""
    if not dataset.info.equal_captions_answer:
        return [[t] for t in target]
    texts = dataset.side_texts()
    captions = [texts[dataset.pictures.names[picture]] for picture in gallery.tolist()]
    having: dict[tuple[str, ...], list[int]] = {}
    for position, caption in enumerate(captions):
        having.setdefault(caption, []).append(position)
    return [having[captions[t]] for t in target]


def heldout_score(metrics: dict[str, float]) -> Score:
    """Mean of the held-out recalls at 1, 5, 10 and 50: one criterion for every dataset."""
    values = [metrics[f"R@{k}"] for k in _HELDOUT_CUTOFFS]
    return Score("mean of held-out R@1/5/10/50", sum(values) / len(values))


def criterion_score(dataset: Dataset, metrics: Mapping[str, dict[str, float]], kind: str) -> Score:
    """The value that picks an epoch, from metrics by category.

    ``kind`` "dataset" is the dataset's own criterion; "arithmetic", "geometric" and "harmonic" are
    means of all recalls (CLIP4Cir picks a checkpoint by each of them on CIRR); "R@10" is that recall's mean
    over the categories (ENCODER on FashionIQ).
    """
    if kind == "dataset":
        return Score(*dataset.criterion(dict(metrics)))
    if kind == "R@10":
        return Score("R@10, mean of the categories", statistics.fmean(recalls[kind] for recalls in metrics.values()))
    values = [value for by_name in metrics.values() for name, value in by_name.items() if name.startswith("R")]
    if kind == "arithmetic":
        return Score("arithmetic mean of all recalls", statistics.fmean(values))
    # Both means are 0 where a recall is; `statistics` refuses to take the geometric one.
    if min(values) <= 0:
        return Score(f"{kind} mean of all recalls", 0.0)
    mean = statistics.geometric_mean(values) if kind == "geometric" else statistics.harmonic_mean(values)
    return Score(f"{kind} mean of all recalls", mean)
