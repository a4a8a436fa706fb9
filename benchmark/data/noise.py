"""Training triplets of which a share is made wrong: noisy triplet correspondence (NTC).

Li, He, Liu, Zhou, Peng, Hu, "Learning with Noisy Triplet Correspondence for Composed Image Retrieval", CVPR 2025,
introduced it; HABIT and ConeSep shuffle alike. Of n triplets in file order ``int(share * n)`` are drawn. The first
third of these exchange their references among themselves, the second their texts (all captions of a triplet
together), the last their targets: each has one wrong part, but for the few that a shuffle gives back their own. The
noise is made once, before the first epoch, and depends on the data and the noise's own seed alone: it is the same for
every method and every seed of a run. No validation or test entry is touched. Triplets held out for selection are
noisy, too.

Notation: n triplets, m of them drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.data.wrapped import Noise, WrappedDataset
from benchmark.dataset import Captions, CategoryCaptions, Dataset, IntArray, SideTexts, Triplets
from benchmark.errors import Inapplicable
from benchmark.files import digest_of

SCHEMES = ("ntc", "ntc-front")
"""From which end of the shuffled list entries are given back: its end, or, as TME's release does on CIRR, its front."""


@dataclass(frozen=True)
class Exchange:
    """For every triplet the number of the one whose reference, text or target it bears, (n,) each.

    ``drawn`` (m,): the triplets among which parts were exchanged, in the order of the draw.
    """

    reference: IntArray
    text: IntArray
    target: IntArray
    drawn: IntArray

    @property
    def digest(self) -> str:
        return digest_of([part.tolist() for part in (self.reference, self.text, self.target)])


def exchange(count: int, share: float, seed: int, scheme: str = "ntc") -> Exchange:
    """Who bears whose parts; a share of 0 draws nothing."""
    # Python's own generator and its methods, call by call: published noise is made with them.
    draw = random.Random(seed)
    drawn = draw.sample(range(count), int(share * count)) if share else []
    first, second = int(len(drawn) * (1 / 3)), int(len(drawn) * (2 / 3))
    parts = []
    for thirds in (drawn[:first], drawn[first:second], drawn[second:]):
        shuffled = list(thirds)
        draw.shuffle(shuffled)
        given = shuffled if scheme == "ntc-front" else shuffled[::-1]
        source = np.arange(count, dtype=np.int64)
        source[thirds] = given
        parts.append(source)
    reference, text, target = parts
    return Exchange(reference, text, target, drawn=np.asarray(drawn, dtype=np.int64))


@dataclass(frozen=True)
class _ExchangedSide:
    """The caption goes with the picture, the words with the text that asks for them."""

    of_reference: SideTexts
    of_text: SideTexts

    @property
    def picture_text(self) -> str:
        return self.of_reference.picture_text

    @property
    def note(self) -> str:
        return self.of_text.note


def _behind(captions: Captions, of_reference: Captions) -> Captions:
    """Captions as they stand behind the reference of others."""
    if captions is of_reference or not isinstance(captions, CategoryCaptions) or captions.side is None:
        return captions
    assert isinstance(of_reference, CategoryCaptions) and of_reference.side is not None
    return CategoryCaptions(captions, captions.dictionary, _ExchangedSide(of_reference.side, captions.side))


class NoisyDataset(WrappedDataset):
    """A dataset with noisy training triplets. Raises Inapplicable where training pairs are drawn anew every epoch: the
    noise needs fixed ones."""

    def __init__(self, dataset: Dataset, share: float, seed: int, scheme: str) -> None:
        clean, other = dataset.train_triplets(0, 0), dataset.train_triplets(1, 1)
        if not np.array_equal(clean.target_picture, other.target_picture):
            raise Inapplicable(
                f"--noise: {dataset.label} draws its training pairs anew every epoch, and noisy triplets are made once "
                "of fixed ones; leave it out, or choose another dataset"
            )
        found = exchange(len(clean), share, seed, scheme)
        super().__init__(dataset, noise=Noise(share, seed, scheme, found.digest))
        self._triplets = Triplets(
            clean.reference_picture[found.reference],
            clean.target_picture[found.target],
            tuple(
                _behind(clean.captions[text], clean.captions[reference])
                for text, reference in zip(found.text.tolist(), found.reference.tolist(), strict=True)
            ),
        )

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        """The same in every epoch."""
        return self._triplets


def trained_with(dataset: Dataset, told: Mapping[str, Any]) -> Dataset:
    """The dataset, known to have been trained on with the noise that a weights file tells; itself without any."""
    return WrappedDataset(dataset, noise=Noise(**told)) if told else dataset
