"""Draws the demo data's subjects: groups of near twins, and the pairs among them that become queries.

A subject is what a picture shows, a garment or a shoe. A group is a base and its variants, each with
one or two facets changed. All subjects of a collection differ, so a reference and a text that names
every change have exactly one answer. Combinations of kind, colour and pattern are shared out between
training and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from . import garments, shoes
from .garments import COLOURS, KINDS, PATTERNS, Garment
from .shoes import SHOES, Shoe

S = TypeVar("S", Garment, Shoe)
GROUP_SIZE = 6
MOST_CHANGES = 2
# How often a facet is chosen to change, beside 1 for every other: colours are what a first glance
# sees, and a target that looks unlike its reference is what makes the text needed.
_WEIGHTS = {"colour": 3.0, "pattern": 1.5, "second": 1.5, "print": 2.0, "place": 2.0}


@dataclass(frozen=True)
class Catalogue(Generic[S]):
    """What can be drawn: the kinds, a random subject of one, and how a subject can change.

    ``options``: the other values of a facet, none where it is fixed. ``settle`` makes a changed
    subject valid. ``differing``: the facets that a text must name.
    """

    kinds: tuple[str, ...]
    facets: tuple[str, ...]
    random: Callable[[str, np.random.Generator], S]
    options: Callable[[S, str], tuple[str | bool, ...]]
    settle: Callable[[S, np.random.Generator], S]
    differing: Callable[[S, S], tuple[str, ...]]


GARMENTS = Catalogue(
    tuple(KINDS), garments.FACETS, garments.random_garment, garments.options,
    garments.settle, garments.differing,
)  # fmt: skip
SHOE_SHELF = Catalogue(
    tuple(SHOES), shoes.FACETS, shoes.random_shoe, shoes.options,
    shoes.settle, shoes.differing,
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A query: indices of its reference and its target within one group."""

    group: int
    reference: int
    target: int


@dataclass(frozen=True)
class Split(Generic[S]):
    """``subjects[g]`` are the GROUP_SIZE subjects of group g."""

    name: str
    subjects: tuple[tuple[S, ...], ...]
    pairs: tuple[Pair, ...]

    @property
    def flat(self) -> tuple[S, ...]:
        """All subjects, group after group; member m of group g is GROUP_SIZE · g + m."""
        return tuple(subject for members in self.subjects for subject in members)


def is_held_out(garment: Garment) -> bool:
    """True for the third of all (kind, colour, pattern) that training never shows.

    Every kind is trained in every colour and pattern, every colour in every pattern.
    """
    kind = tuple(KINDS).index(garment.kind)
    return (COLOURS.index(garment.colour) + 2 * PATTERNS.index(garment.pattern) + kind) % 3 == 0


def draw_split(name: str, groups: int, pairs_per_group: int, allowed: Callable[[S], bool], taken: set[S],
               rng: np.random.Generator, catalogue: Catalogue[S],
               kinds: tuple[str, ...] = ()) -> Split[S]:  # fmt: skip
    """Groups of new subjects and their pairs; the kinds take turns, all of the catalogue's by default.

    The subjects drawn are added to ``taken``.
    """
    kinds = kinds or catalogue.kinds
    subjects, pairs = [], []
    for number in range(groups):
        members = _draw_group(catalogue, kinds[number % len(kinds)], allowed, taken, rng)
        subjects.append(members)
        pairs += _draw_pairs(catalogue, number, members, pairs_per_group, rng)
    return Split(name, tuple(subjects), tuple(pairs))


def _draw_group(catalogue: Catalogue[S], kind: str, allowed: Callable[[S], bool], taken: set[S],
                rng: np.random.Generator) -> tuple[S, ...]:  # fmt: skip
    base = catalogue.random(kind, rng)
    while base in taken or not allowed(base):
        base = catalogue.random(kind, rng)
    taken.add(base)
    members = [base]
    while len(members) < GROUP_SIZE:
        variant = _varied(catalogue, base, rng)
        changes = len(catalogue.differing(base, variant))
        if variant not in taken and allowed(variant) and 1 <= changes <= MOST_CHANGES:
            taken.add(variant)
            members.append(variant)
    return tuple(members[i] for i in rng.permutation(GROUP_SIZE))


def _varied(catalogue: Catalogue[S], subject: S, rng: np.random.Generator) -> S:
    for _ in range(1 + int(rng.random() < 0.65)):
        facets = [facet for facet in catalogue.facets if catalogue.options(subject, facet)]
        weights = np.asarray([_WEIGHTS.get(facet, 1.0) for facet in facets])
        facet = facets[int(rng.choice(len(facets), p=weights / weights.sum()))]
        values = catalogue.options(subject, facet)
        change: dict[str, Any] = {facet: values[int(rng.integers(len(values)))]}
        subject = catalogue.settle(replace(subject, **change), rng)
    return subject


def _draw_pairs(catalogue: Catalogue[S], group: int, members: tuple[S, ...], count: int,
                rng: np.random.Generator) -> list[Pair]:  # fmt: skip
    close = [
        Pair(group, i, j)
        for i, reference in enumerate(members)
        for j, target in enumerate(members)
        if i != j and len(catalogue.differing(reference, target)) <= MOST_CHANGES
    ]
    return [close[i] for i in sorted(rng.permutation(len(close))[:count])]
