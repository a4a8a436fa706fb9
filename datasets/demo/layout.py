"""What the writers of the demo data's layouts share: sizes, the splits of a collection, pictures to draw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .garments import Garment
from .groups import Catalogue, S, Split, draw_split
from .shoes import Shoe
from .studio import Shot

SEED = 20_260


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
class Layout:
    """What a dataset's writer leaves to do once its annotation files are written."""

    shots: list[Shot]
    counts: dict[str, dict[str, int]]


def draw_splits(
    names: tuple[str, str, str], sizes: Sizes, catalogue: Catalogue[S], held_out: Callable[[S], bool],
    rng: np.random.Generator, kinds: tuple[str, ...] = (),
) -> tuple[Split[S], ...]:  # fmt: skip
    """The splits called ``names``: for training, validation and testing, as ``sizes`` has them.

    Training never shows a held-out subject, the others show nothing else; no subject occurs twice.
    """
    taken: set[S] = set()

    def trained(subject: S) -> bool:
        return not held_out(subject)

    asked = (
        (names[0], sizes.train_groups, sizes.train_pairs, trained),
        (names[1], sizes.val_groups, sizes.val_pairs, held_out),
        (names[2], sizes.test_groups, sizes.test_pairs, held_out),
    )
    return tuple(
        draw_split(name, groups, pairs, allowed, taken, rng, catalogue, kinds)
        for name, groups, pairs, allowed in asked
        if groups
    )


def shots(name: str, paths: Sequence[str], subjects: Sequence[Garment | Shoe]) -> list[Shot]:
    """One shot for each subject; its seed is its own: the name of its split and its place in it."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return [
        Shot(path, subject, (SEED, key, i)) for i, (path, subject) in enumerate(zip(paths, subjects, strict=True))
    ]
