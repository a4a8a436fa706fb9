"""Draws the demo data's garments: groups of near twins, and the pairs among them that become queries.

A group is a base and its variants, each with one or two facets changed. All garments of a
collection differ, so a reference and a text that names every change have exactly one answer.
Combinations of kind, colour and pattern are shared out between training and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .demo_garments import (
    COLOURS,
    FACETS,
    KINDS,
    PATTERNS,
    Garment,
    differing,
    options,
    random_garment,
    settle,
)

Allowed = Callable[[Garment], bool]
GROUP_SIZE = 6
MOST_CHANGES = 2
# How often a facet is chosen to change, beside 1 for every other: colours are what a first glance
# sees, and a target that looks unlike its reference is what makes the text needed.
_WEIGHTS = {"colour": 3.0, "pattern": 1.5, "second": 1.5, "print": 2.0, "place": 2.0}


@dataclass(frozen=True)
class Pair:
    """A query: indices of its reference and its target within one group."""

    group: int
    reference: int
    target: int


@dataclass(frozen=True)
class Split:
    """``garments[g]`` are the GROUP_SIZE garments of group g."""

    name: str
    garments: tuple[tuple[Garment, ...], ...]
    pairs: tuple[Pair, ...]


def is_held_out(garment: Garment) -> bool:
    """True for the third of all (kind, colour, pattern) that training never shows.

    Every kind is trained in every colour and pattern, every colour in every pattern.
    """
    kind = tuple(KINDS).index(garment.kind)
    return (COLOURS.index(garment.colour) + 2 * PATTERNS.index(garment.pattern) + kind) % 3 == 0


def draw_split(name: str, groups: int, pairs_per_group: int, allowed: Allowed, taken: set[Garment],
               rng: np.random.Generator, kinds: tuple[str, ...] = tuple(KINDS)) -> Split:  # fmt: skip
    """Groups of new garments and their pairs; the garments drawn are added to ``taken``."""
    garments, pairs = [], []
    for number in range(groups):
        members = _draw_group(kinds[number % len(kinds)], allowed, taken, rng)
        garments.append(members)
        pairs += _draw_pairs(number, members, pairs_per_group, rng)
    return Split(name, tuple(garments), tuple(pairs))


def _draw_group(
    kind: str, allowed: Allowed, taken: set[Garment], rng: np.random.Generator
) -> tuple[Garment, ...]:
    base = random_garment(kind, rng)
    while base in taken or not allowed(base):
        base = random_garment(kind, rng)
    taken.add(base)
    members = [base]
    while len(members) < GROUP_SIZE:
        variant = _varied(base, rng)
        if variant not in taken and allowed(variant) and 1 <= len(differing(base, variant)) <= MOST_CHANGES:
            taken.add(variant)
            members.append(variant)
    return tuple(members[i] for i in rng.permutation(GROUP_SIZE))


def _varied(garment: Garment, rng: np.random.Generator) -> Garment:
    for _ in range(1 + int(rng.random() < 0.65)):
        facets = _changeable(garment)
        weights = np.asarray([_WEIGHTS.get(facet, 1.0) for facet in facets])
        facet = facets[int(rng.choice(len(facets), p=weights / weights.sum()))]
        values = options(garment, facet)
        change: dict[str, Any] = {facet: values[int(rng.integers(len(values)))]}
        garment = settle(replace(garment, **change), rng)
    return garment


def _changeable(garment: Garment) -> list[str]:
    return [facet for facet in FACETS if options(garment, facet)]


def _draw_pairs(group: int, members: tuple[Garment, ...], count: int, rng: np.random.Generator) -> list[Pair]:
    close = [
        Pair(group, i, j)
        for i, reference in enumerate(members)
        for j, target in enumerate(members)
        if i != j and len(differing(reference, target)) <= MOST_CHANGES
    ]
    return [close[i] for i in sorted(rng.permutation(len(close))[:count])]
