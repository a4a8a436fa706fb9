"""Pic2Word: a picture's feature becomes a word, learnt from pictures alone.

Saito, Sohn, Zhang, Li, Lee, Saenko, Pfister, "Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image
Retrieval", CVPR 2023 (arXiv 2302.03084). φ is trained so that "a photo of *", with the word in the star's place, says
what the picture shows: with v and t of unit norm and CLIP's own scale s,
loss = ½ [CE(s·v·tᵀ, diagonal) + CE(s·t·vᵀ, diagonal)].

Each epoch cuts pictures anew, and the frozen CLIP encodes what it cut. Deviations: on several cards the gradient is the
whole batch's (the release's is divided by their number); the release's star is found in a batch's first row for all,
which with its prompts is every row's first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from benchmark.dataset import Dataset, IntArray
from benchmark.encoding import Encoding
from benchmark.method import BuildContext, TrainingRows, Views
from benchmark.settings import MethodSettings, TrainingSettings

from .networks.clip_finetuning import decay_of_matrices
from .networks.clip_pictures import RandomResizedCrop
from .networks.layers import contrastive_loss, normalise
from .networks.pseudo_word_stage import PseudoWordSettings, on_clip_words, pictures_of
from .networks.pseudo_words import TEXT, FrozenText, Im2Text, PseudoWord, first_place

SENTENCE = "a photo of *"


class Pic2WordSettings(PseudoWordSettings):
    """Pic2Word's prompt, φ and pictures."""

    prompt: str = Field(f"a photo of * , {TEXT}", description="sentence of a query; {text}: the modification text")
    hidden: int = Field(512, ge=1, description="width of φ's hidden layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="of φ")
    pictures: str = Field("", description="folder of the pictures that φ is trained on")


class Pic2WordTraining(TrainingSettings):
    """How much of a picture training sees."""

    smallest_part: float = Field(
        1.0, gt=0, le=1, description="least share of a picture's area that a random crop keeps, drawn and encoded anew "
        "in every epoch; 1: no crop is drawn, and features are stored"
    )

    added_later: ClassVar[tuple[str, ...]] = (*TrainingSettings.added_later, "smallest_part")


class Pic2Word(PseudoWord):
    """φ and a frozen CLIP; its queries and targets train with each other's rows as negatives, in both directions."""

    def __init__(self, width: int, words: int, text: FrozenText, settings: Pic2WordSettings) -> None:
        super().__init__(Im2Text(width, words, settings.hidden, settings.dropout), text, settings.prompt)

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """In training what the word alone says of the picture."""
        if not self.training:
            return super().encode_query(reference, text)
        return normalise(self.text(text["sentence"], self.phi(reference["global"])))

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        scale, said, seen = self.text.backbone.cosine_scale, queries.float(), targets.float()
        return (contrastive_loss(said, seen, scale) + contrastive_loss(seen, said, scale)) / 2


def _rows(settings: MethodSettings, dataset: Dataset, assets_root: Path | None) -> TrainingRows:
    label, pictures = pictures_of(Pic2WordSettings.of(settings).pictures, dataset)

    def text(method: Any, rows: IntArray, rng: np.random.Generator) -> Views:
        assert isinstance(method, Pic2Word)
        return {"sentence": method.text.tokenize([SENTENCE]).expand(len(rows), -1)}

    return TrainingRows(text, label, pictures)


def _crop(context: BuildContext) -> RandomResizedCrop | None:
    assert context.backbone is not None
    least = Pic2WordTraining.of(context.training_settings).smallest_part
    return RandomResizedCrop(context.backbone.preprocessing, (least, 1.0), rgb_first=False) if least < 1 else None


METHOD = on_clip_words(
    Pic2Word,
    Pic2WordSettings,
    _rows,
    name="pic2word",
    placeholder="*",
    places=first_place,
    backbone_defaults={"preprocessing": "clip"},
    parameter_groups=decay_of_matrices,
    training=Pic2WordTraining,
    train=_crop,
)
