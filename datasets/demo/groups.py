"""Groups of near twins, the pairs among them that become queries, and the splits of a collection.

A group is a base and its variants, each with one or two facets changed. All subjects of a collection
differ, so a reference and a text that names every change have exactly one answer. Combinations of kind,
colour and pattern are shared out between training and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from .subjects import S, differing, facets, is_held_out, one_of, options, random_subject, settle

GROUP_SIZE = 6
MOST_CHANGES = 2
# How often a facet is chosen to change, beside 1 for every other: colours are what a first glance
# sees, and a target that looks unlike its reference is what makes the text needed.
_WEIGHTS = {"colour": 3.0, "pattern": 1.5, "second": 1.5, "print": 2.0, "place": 2.0}


@dataclass(frozen=True)
class Sizes:
    """Groups of six pictures per split, and the queries drawn from each group (at most).

    A split that a dataset lacks has no groups.
    """

    train_groups: int = 400
    train_pairs: int = 12
    val_groups: int = 80
    val_pairs: int = 6
    test_groups: int = 20
    test_pairs: int = 3


@dataclass(frozen=True)
class Pair:
    """A query: indices of its reference and its target within one group."""

    group: int
    reference: int
    target: int


@dataclass(frozen=True)
class DemoSplit(Generic[S]):
    """``subjects[g]`` are the GROUP_SIZE subjects of group g."""

    name: str
    subjects: tuple[tuple[S, ...], ...]
    pairs: tuple[Pair, ...]

    @property
    def flat(self) -> tuple[S, ...]:
        """All subjects, group after group; member m of group g is GROUP_SIZE · g + m."""
        return tuple(subject for members in self.subjects for subject in members)

    def of(self, pair: Pair) -> tuple[S, S]:
        """Reference and target."""
        members = self.subjects[pair.group]
        return members[pair.reference], members[pair.target]


def draw_splits(
    names: tuple[str, str, str], sizes: Sizes, kinds: tuple[str, ...], rng: np.random.Generator
) -> tuple[DemoSplit[Any], ...]:
    """The splits called ``names``: for training, validation and testing, as ``sizes`` has them.

    Training never shows a held-out subject, the others show nothing else; no subject occurs twice.
    """
    taken: set[Any] = set()
    asked = (
        (names[0], sizes.train_groups, sizes.train_pairs, lambda subject: not is_held_out(subject)),
        (names[1], sizes.val_groups, sizes.val_pairs, is_held_out),
        (names[2], sizes.test_groups, sizes.test_pairs, is_held_out),
    )
    return tuple(
        draw_split(name, groups, pairs, kinds, allowed, taken, rng) for name, groups, pairs, allowed in asked if groups
    )


def draw_split(
    name: str, groups: int, pairs_per_group: int, kinds: tuple[str, ...],
    allowed: Callable[[Any], bool], taken: set[Any], rng: np.random.Generator,
) -> DemoSplit[Any]:  # fmt: skip
    """Groups of new subjects and their pairs; the kinds take turns. The subjects are added to ``taken``."""
    subjects, pairs = [], []
    for group in range(groups):
        members = _draw_group(kinds[group % len(kinds)], allowed, taken, rng)
        close = [
            Pair(group, i, j)
            for i, reference in enumerate(members)
            for j, target in enumerate(members)
            if i != j and len(differing(reference, target)) <= MOST_CHANGES
        ]
        subjects.append(members)
        pairs += [close[i] for i in sorted(rng.permutation(len(close))[:pairs_per_group])]
    return DemoSplit(name, tuple(subjects), tuple(pairs))


def _draw_group(
    kind: str, allowed: Callable[[Any], bool], taken: set[Any], rng: np.random.Generator
) -> tuple[Any, ...]:
    base: Any = random_subject(kind, rng)
    while base in taken or not allowed(base):
        base = random_subject(kind, rng)
    taken.add(base)
    members = [base]
    while len(members) < GROUP_SIZE:
        variant = varied(base, rng)
        if variant not in taken and allowed(variant) and 1 <= len(differing(base, variant)) <= MOST_CHANGES:
            taken.add(variant)
            members.append(variant)
    return tuple(members[i] for i in rng.permutation(GROUP_SIZE))


def varied(subject: S, rng: np.random.Generator) -> S:
    """Another subject of its kind, with one facet or two changed; now and then itself."""
    for _ in range(1 + int(rng.random() < 0.65)):
        changeable = [facet for facet in facets(subject) if options(subject, facet)]
        weights = np.asarray([_WEIGHTS.get(facet, 1.0) for facet in changeable])
        facet = changeable[int(rng.choice(len(changeable), p=weights / weights.sum()))]
        change: dict[str, Any] = {facet: one_of(options(subject, facet), rng)}
        subject = settle(replace(subject, **change), rng)
    return subject
