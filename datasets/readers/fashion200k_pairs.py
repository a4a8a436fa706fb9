"""Fashion200k's training pairs: two pictures whose descriptions differ by one word, drawn on the fly.

Source: N. Vo et al., "Composing Text and Image for Image Retrieval - An Empirical Odyssey"
(TIRG), CVPR 2019, whose release made the rule; VAL's, SPIRIT's and FashionERN's draw by it in
schemes of their own (:data:`PAIR_SAMPLINGS`).

Notation: N pictures, C different captions, T pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmark.dataset import IntArray, Ragged
from benchmark.errors import UserError, unknown_name

_PAIRS = 4


@dataclass(frozen=True)
class PairSampling:
    """A scheme: how often each picture becomes a reference, and when.

    ``per_picture``: draws for each modifiable picture. ``every_picture``: the others have their
    draws as well, each by a random modifiable one in its place, and all pairs stay; without it,
    pairs of equal word sets and pairs drawn before in either direction are dropped. ``once``: all
    epochs show the same pairs. ``blanks``: how many blanks in a row become one in a parent.
    """

    per_picture: int
    every_picture: bool
    once: bool
    blanks: int = 2


PAIR_SAMPLINGS: dict[str, PairSampling] = {
    "one-per-image": PairSampling(1, every_picture=True, once=False),
    "one-per-modifiable-image": PairSampling(1, every_picture=False, once=False),
    "five-per-image": PairSampling(5, every_picture=False, once=True),
    "five-per-image-four-blanks": PairSampling(5, every_picture=False, once=True, blanks=4),
}
"""TIRG's, VAL's, and SPIRIT's and FashionERN's; the last with a flaw of SPIRIT's release."""

_DEFAULT = "one-per-image"


def pair_sampling_named(name: str) -> PairSampling:
    """The scheme of that name, "" for TIRG's; raises UserError naming the nearest."""
    if name and name not in PAIR_SAMPLINGS:
        raise unknown_name("pair sampling of fashion200k", name, PAIR_SAMPLINGS)
    return PAIR_SAMPLINGS[name or _DEFAULT]


def grouped(keys: IntArray, values: IntArray, count: int) -> Ragged:
    """The values of each key 0 to ``count`` - 1, in their order; ``keys`` and ``values`` are (n,)."""
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=offsets[1:])
    return Ragged(offsets, values[np.argsort(keys, kind="stable")])


def modification_texts(captions: Sequence[str], reference: IntArray, target: IntArray) -> tuple[str, ...]:
    """The texts "replace a with b" for pairs of captions, given as indices (T,).

    a is the first word of the reference's caption that the target's lacks, b the reverse. Where
    no word is lacking, it is the last one, as in TIRG's release: "red dress" and "red long dress"
    give "replace dress with long".
    """
    words = [caption.split() for caption in captions]
    known = [frozenset(own) for own in words]

    def first_lacking(own: int, other: int) -> str:
        lacking = known[other]
        return next((word for word in words[own] if word not in lacking), words[own][-1])

    pairs = zip(reference.tolist(), target.tolist(), strict=True)
    return tuple(f"replace {first_lacking(r, t)} with {first_lacking(t, r)}" for r, t in pairs)


def parent_of(caption: str, word: str, blanks: int = 2) -> str:
    """The caption without the word: every occurrence of its letters goes, inside of other words too.

    Runs of ``blanks`` blanks are made single once: "red tailored dress" without "red" is
    "tailo dress".
    """
    return caption.replace(word, "").replace(" " * blanks, " ").strip()


@dataclass(frozen=True)
class Siblings:
    """Which captions share which parents; only parents of two or more captions count.

    ``parents``: of each caption (C sets). ``children``: of each parent, captions by index.
    """

    parents: Ragged
    children: Ragged

    @classmethod
    def of(cls, captions: Sequence[str], blanks: int) -> Siblings:
        numbers: dict[str, int] = {}
        links = [
            (numbers.setdefault(parent_of(caption, word, blanks), len(numbers)), child)
            for child, caption in enumerate(captions)
            for word in dict.fromkeys(caption.split())
        ]
        # Two words of a caption may give one parent: it is one parent, and one child.
        link = np.unique(np.asarray(links, dtype=np.int64).reshape(-1, 2), axis=0)
        parent, child = link[:, 0], link[:, 1]
        shared = np.bincount(parent, minlength=len(numbers)) >= 2
        kept = shared[parent]
        number = (np.cumsum(shared) - 1)[parent[kept]]
        return cls(
            grouped(child[kept], number, len(captions)),
            grouped(number, child[kept], int(shared.sum())),
        )


@dataclass(frozen=True)
class PairSource:
    """The pictures of a training split and the captions that they may be changed to.

    ``captions`` (C,) are different from each other; ``caption`` (N,) is each picture's.
    """

    captions: tuple[str, ...]
    caption: IntArray
    siblings: Siblings

    @classmethod
    def of(cls, captions: tuple[str, ...], caption: IntArray, blanks: int = 2) -> PairSource:
        return cls(captions, caption, Siblings.of(captions, blanks))

    @cached_property
    def modifiable(self) -> IntArray:
        """Pictures whose caption has a parent in common with another caption."""
        return np.flatnonzero(self.siblings.parents.sizes()[self.caption] > 0)

    @cached_property
    def _pictures(self) -> Ragged:
        return grouped(self.caption, np.arange(len(self.caption)), len(self.captions))

    def draw(self, sampling: PairSampling, seed: int, epoch: int) -> tuple[IntArray, IntArray]:
        """References and targets (T,) of an epoch, a function of its arguments alone."""
        if not len(self.modifiable):
            raise UserError(
                "fashion200k: no two captions of the training labels differ by one word, so that there is "
                "no pair to train on; complete the label files"
            )
        rng = np.random.default_rng([_PAIRS, seed, 0 if sampling.once else epoch])
        reference = self._references(sampling, rng)
        target = self._targets(reference, rng)
        if sampling.every_picture:
            return reference, target
        kept = new_pairs(reference, target, word_sets(self.captions)[self.caption])
        return reference[kept], target[kept]

    def _references(self, sampling: PairSampling, rng: np.random.Generator) -> IntArray:
        if not sampling.every_picture:
            return np.repeat(self.modifiable, sampling.per_picture)
        reference = rng.choice(self.modifiable, len(self.caption))
        reference[self.modifiable] = self.modifiable
        return np.repeat(reference, sampling.per_picture)

    def _targets(self, reference: IntArray, rng: np.random.Generator) -> IntArray:
        """A picture for each reference: of a parent, then of a caption of it, both drawn again until
        the caption is another one, then of its pictures; all uniform."""
        own = self.caption[reference]
        found, open_ = own.copy(), np.arange(len(own))
        while len(open_):
            parent = _one_of(self.siblings.parents, own[open_], rng)
            found[open_] = _one_of(self.siblings.children, parent, rng)
            open_ = open_[found[open_] == own[open_]]
        return _one_of(self._pictures, found, rng)


def word_sets(captions: Sequence[str]) -> IntArray:
    """A number for each caption (C,), the same for captions of the same set of words."""
    numbers: dict[frozenset[str], int] = {}
    sets = (frozenset(caption.split()) for caption in captions)
    return np.fromiter((numbers.setdefault(words, len(numbers)) for words in sets), np.int64, len(captions))


def new_pairs(reference: IntArray, target: IntArray, words: IntArray) -> IntArray:
    """Indices, in order, of the pairs of different word sets that no earlier pair is, either way round.

    ``reference`` and ``target`` are pictures (T,); ``words`` (N,) numbers each picture's word set.
    """
    differ = np.flatnonzero(words[reference] != words[target])
    ends = np.stack([reference[differ], target[differ]])
    pair = ends.min(axis=0) * len(words) + ends.max(axis=0)
    kept: IntArray = differ[np.sort(np.unique(pair, return_index=True)[1])]
    return kept


def _one_of(sets: Ragged, index: IntArray, rng: np.random.Generator) -> IntArray:
    """A uniformly drawn member of each of these sets, (n,)."""
    drawn: IntArray = sets.values[sets.offsets[index] + rng.integers(sets.sizes()[index])]
    return drawn
