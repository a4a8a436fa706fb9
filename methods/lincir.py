"""LinCIR: a picture's feature becomes a word, learnt from sentences alone.

Gu, Chun, Kim, Kang, Yun, "Language-only Efficient Training of Zero-shot Composed Image Retrieval", CVPR 2024
(arXiv 2312.01998). The feature of a sentence stands for a picture's: with noise added it becomes a word, which takes
the place of the sentence's key words, and what the tower says then has to be the sentence's feature again::

    y = f + u·ε,  u uniform in [0, 1) for a row, ε standard normal,
    loss = mean of (text(masked sentence with φ(y)) − f)²,  nothing normalised

Deviation: the features f of the sentences are computed once and stored, in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.dataset import Dataset, IntArray
from benchmark.encoding import Encoding
from benchmark.method import RequiredFile, TrainingRows, Views
from benchmark.settings import MethodSettings

from .networks.keyword_masking import MARK, TaggedSentence, masked, tagged_sentences
from .networks.layers import normalise
from .networks.pseudo_word_stage import PseudoWordSettings, on_clip_words
from .networks.pseudo_words import FrozenText, Phi, PseudoWord, every_place


class LincirSettings(PseudoWordSettings):
    """LinCIR's prompt, φ and sentences."""

    sentences: str = Field(
        "", description="file of what φ is trained on: lines of JSON, a sentence with its words' parts of speech, or "
        "plain lines, which spaCy tags"
    )
    tagger: str = Field("", description="meta.json of spaCy's model (en_core_web_sm) that tags plain lines")


class Lincir(PseudoWord):
    """φ and a frozen CLIP; in training a "query" is the masked sentence's feature, its "target" the sentence's own."""

    def __init__(self, width: int, words: int, text: FrozenText, settings: LincirSettings) -> None:
        super().__init__(Phi(width, words, settings.hidden, settings.dropout), text, settings.prompt)

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """In training (B, d), raw."""
        if not self.training:
            return super().encode_query(reference, text)
        said: Tensor = self.text(text["masked"], self.phi(reference["global"] + text["noise"]))
        return said

    def encode_target(self, target: Views) -> Tensor:
        """In training (B, d), raw."""
        return target["global"] if self.training else normalise(target["global"])

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return mse_loss(queries.float(), targets.float())

    def training_views(self, sentences: list[TaggedSentence], rng: np.random.Generator) -> Views:
        """Masked sentences as tokens (B, L), and noise (B, d) of a strength drawn for each."""
        strength = rng.random((len(sentences), 1), dtype=np.float32)
        noise = strength * rng.standard_normal((len(sentences), self.text.backbone.width), dtype=np.float32)
        texts = [masked(sentence, rng) for sentence in sentences]
        return {"masked": self.text.tokenize_marked(texts, MARK), "noise": torch.from_numpy(noise)}


def _rows(settings: MethodSettings, dataset: Dataset, assets_root: Path | None) -> TrainingRows:
    chosen = LincirSettings.of(settings)
    found = tagged_sentences(chosen.sentences, chosen.tagger, dataset, assets_root)

    def text(method: Any, rows: IntArray, rng: np.random.Generator) -> Views:
        assert isinstance(method, Lincir)
        return method.training_views([found.sentences[row] for row in rows], rng)

    return TrainingRows(text, found.label, sentences=tuple(s.text for s in found.sentences), files=found.files)


METHOD = on_clip_words(
    Lincir,
    LincirSettings,
    _rows,
    name="lincir",
    placeholder="$",
    places=every_place,
    backbone_defaults={"preprocessing": "clip-hf", "rgb_first": True},
    required_files=lambda settings: (RequiredFile("spacy-tagger", LincirSettings.of(settings).tagger),),
)
