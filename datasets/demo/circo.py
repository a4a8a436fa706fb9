"""The demo data in CIRCO's layout: several right answers in one gallery, drawn from the world of CIRR's demo data.

A query's reference and answers have their kind in common, and of colour and pattern what the text does not change: the
shared concept. Everything else that the text does not say is free, so that whatever of the gallery has what is shared
and said is a right answer, be it drawn for another query. CIRR's training split shows none of the subjects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import atomic_write_json

from .groups import MOST_CHANGES, varied
from .studio import SEED, Layout
from .subjects import GARMENTS, Garment, differing, is_held_out, one_of, random_subject
from .texts import modification_text

_COCO = "COCO2017_unlabeled"
_IDS = 582_000
"""COCO's ids lie below."""
_TRIES = 40


@dataclass(frozen=True)
class CircoSizes:
    """Queries of each split, each with up to ``answers`` pictures drawn for it and ``rivals`` that resemble its
    reference, and ``others`` that belong to no query."""

    val_queries: int = 80
    test_queries: int = 20
    answers: int = 3
    rivals: int = 2
    others: int = 80


@dataclass(frozen=True)
class _Query:
    """``target``: the answer that the text was written for."""

    reference: Garment
    target: Garment

    @property
    def said(self) -> tuple[str, ...]:
        return differing(self.reference, self.target)

    def is_answered_by(self, subject: Garment) -> bool:
        fixed = {"kind", *self.shared, *self.said}
        if self.reference.second != self.target.second:
            fixed.add("second")  # a text names a colour that is new
        return all(getattr(subject, facet) == getattr(self.target, facet) for facet in fixed)

    @property
    def shared(self) -> tuple[str, ...]:
        """What reference and answers have in common besides their kind."""
        return tuple(facet for facet in ("colour", "pattern") if facet not in self.said)

    @property
    def concept(self) -> str:
        words = " ".join([*(getattr(self.target, facet) for facet in self.shared[::-1]), self.target.kind])
        article = "" if self.target.kind == "trousers" else "an " if words[0] in "aeiou" else "a "
        return article + words

    def aspects(self) -> Iterator[str]:
        """By CIRCO's names, as far as drawn garments have them."""
        changes = [(getattr(self.reference, facet), getattr(self.target, facet)) for facet in self.said]
        absent = ("", "plain", False)
        if len(changes) > 1:
            yield "statement_with_conjunction"
        if any(old in absent for old, _ in changes):
            yield "addition"
        if any(new in absent for _, new in changes):
            yield "negation"
        if any(old not in absent and new not in absent for old, new in changes):
            yield "compare_change"
        if {"print", "place"} & set(self.said):
            yield "spatial_relations_background"


def write_circo_layout(root: Path, sizes: CircoSizes) -> Layout:
    """CIRCO's files. Ids are drawn, and COCO's list of pictures is in no order."""
    rng = np.random.default_rng([SEED, 4])
    taken: set[Any] = set()
    subjects: list[Garment] = []
    queries: dict[str, list[_Query]] = {}
    for split, count in (("val", sizes.val_queries), ("test", sizes.test_queries)):
        drawn = [_draw_query(GARMENTS[number % len(GARMENTS)], sizes, taken, rng) for number in range(count)]
        queries[split] = [query for query, _ in drawn]
        subjects += [subject for _, members in drawn for subject in members]
    subjects += [_new_subject(one_of(GARMENTS, rng), taken, rng) for _ in range(sizes.others)]
    gallery = [subjects[i] for i in rng.permutation(len(subjects))]
    ids = dict(zip(gallery, rng.permutation(_IDS)[: len(gallery)].tolist(), strict=True))
    files = [f"{picture:012d}.jpg" for picture in ids.values()]
    images = [{"id": picture, "file_name": file} for picture, file in zip(ids.values(), files, strict=True)]
    atomic_write_json(root / _COCO / "annotations" / "image_info_unlabeled2017.json", {"images": images})
    layout = Layout()
    for split, asked in queries.items():
        entries = [_entry(number, query, split, ids, rng) for number, query in enumerate(asked)]
        atomic_write_json(root / "annotations" / f"{split}.json", entries)
        layout.counts[split] = {"queries": len(asked), "references": len(asked), "gallery": len(gallery)}
        if split == "val":
            layout.counts[split]["positives"] = sum(len(entry["gt_img_ids"]) for entry in entries)
    layout.add("circo", [f"{_COCO}/unlabeled2017/{file}" for file in files], gallery)
    return layout


def _entry(
    number: int, query: _Query, split: str, ids: Mapping[Garment, int], rng: np.random.Generator
) -> dict[str, Any]:
    """The target is the first of the answers, as in the release; test's labels are left out."""
    entry: dict[str, Any] = {"reference_img_id": ids[query.reference]}
    caption = modification_text(query.reference, query.target, rng)
    if split == "val":
        others = [picture for subject, picture in ids.items() if query.is_answered_by(subject)]
        target = ids[query.target]
        entry["target_img_id"] = target
        entry["gt_img_ids"] = [target, *(picture for picture in others if picture != target)]
        entry["semantic_aspects"] = list(query.aspects())
    return entry | {"relative_caption": caption, "shared_concept": query.concept, "id": number}


def _draw_query(
    kind: str, sizes: CircoSizes, taken: set[Any], rng: np.random.Generator
) -> tuple[_Query, tuple[Garment, ...]]:
    """A query and the new pictures drawn for it: reference, answers and rivals."""
    while True:
        reference = _new_subject(kind, set(taken), rng)
        query = _Query(reference, target := varied(reference, rng))
        if query.shared and 1 <= len(query.said) <= MOST_CHANGES and is_held_out(target) and target not in taken:
            break
    answers = {target: None}
    for _ in range(_TRIES):
        other = varied(target, rng)
        if query.is_answered_by(other) and is_held_out(other) and other not in taken:
            answers |= {other: None}
    wanted = list(answers)[: int(rng.integers(1, sizes.answers + 1))]
    rivals: dict[Garment, None] = {}
    while len(rivals) < sizes.rivals:
        rival = varied(reference, rng)
        if rival not in taken and rival != reference and is_held_out(rival) and not query.is_answered_by(rival):
            rivals |= {rival: None}
    members = (reference, *wanted, *rivals)
    taken.update(members)
    return query, members


def _new_subject(kind: str, taken: set[Any], rng: np.random.Generator) -> Garment:
    """One that training never shows; it is added to ``taken``."""
    subject = random_subject(kind, rng)
    while subject in taken or not is_held_out(subject):
        subject = random_subject(kind, rng)
    taken.add(subject)
    assert isinstance(subject, Garment)
    return subject
