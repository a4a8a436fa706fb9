"""SEARLE: a picture's feature becomes a word, distilled from words that were optimised picture by picture.

Baldrati, Agnolucci, Bertini, Del Bimbo, "Zero-Shot Composed Image Retrieval with Textual Inversion", ICCV 2023
(arXiv 2303.15247). With o the optimised word of a picture x and u = φ(x), of unit norm z = [o; u] over a batch,
distillation draws each row to its partner and from all other rows of both sides; the phrase loss holds a sentence
about a concept that the picture resembles against the same with u in the concept's place::

    distillation = mean over 2B rows i of −log (exp(o·u/τ) / Σ_{j≠i} exp(z_i·z_j/τ)),  τ = 0.25
    phrase       = mean (1 − cos(text(p), text(p with u)))
    loss         = distillation + 0.75 phrase
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from benchmark.dataset import Dataset, IntArray
from benchmark.encoding import Encoding
from benchmark.method import TrainingRows, Views
from benchmark.settings import MethodSettings

from .networks.inverted_words import InvertedPictures, inverted_pictures
from .networks.layers import normalise
from .networks.pseudo_word_stage import PseudoWordSettings, on_clip_words
from .networks.pseudo_words import FrozenText, Phi, PseudoWord, first_place


class SearleSettings(PseudoWordSettings):
    """SEARLE's prompt, φ, losses and files."""

    temperature: float = Field(0.25, gt=0, description="of the distillation")
    phrase_weight: float = Field(0.75, ge=0, description="weight of the phrase loss")
    pictures: str = Field("", description="folder of the pictures that φ is trained on")
    oti_words: str = Field("", description="npz of these pictures' names and optimised words")
    concepts: str = Field("", description="JSON of a picture's name to the concepts that it resembles")
    phrases: str = Field("", description="JSON of a concept to phrases about it")


class Searle(PseudoWord):
    """φ and a frozen CLIP; in training a query is a word, and what it changes of a phrase."""

    def __init__(self, width: int, words: int, text: FrozenText, settings: SearleSettings) -> None:
        super().__init__(Phi(width, words, settings.hidden, settings.dropout), text, settings.prompt)
        self._temperature, self._phrase_weight = settings.temperature, settings.phrase_weight

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """In training "word" and "optimised" (B, w), of unit norm, and "phrase" (B,), 1 − cosine of the two texts."""
        if not self.training:
            return super().encode_query(reference, text)
        words = self.phi(reference["global"])
        with torch.no_grad():
            whole = self.text(text["phrase"])
        apart = 1 - cosine_similarity(whole.float(), self.text(text["masked"], words).float())
        return {"word": normalise(words), "optimised": normalise(text["optimised"]), "phrase": apart}

    def loss(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:  # type: ignore[override]
        losses = self.losses(queries)
        return losses["distillation"] + self._phrase_weight * losses["phrase"]

    def losses(self, queries: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both, each alone."""
        rows = torch.cat([queries["optimised"], queries["word"]]).float()
        count = len(rows) // 2
        alike = rows @ rows.T / self._temperature
        others = alike.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf)
        partner = torch.arange(len(rows), device=rows.device).roll(count)
        return {"distillation": cross_entropy(others, partner), "phrase": queries["phrase"].mean()}

    def training_views(self, found: InvertedPictures, rows: IntArray, rng: np.random.Generator) -> Views:
        """A phrase of each picture as it is and masked, tokens (B, L), and its optimised word (B, w)."""
        drawn = [found.drawn_phrase(int(row), rng) for row in rows]
        words = found.words_of(rows, self.text.backbone.token_width)
        return {
            "phrase": self.text.tokenize([phrase for phrase, _ in drawn]),
            "masked": self.text.tokenize([masked for _, masked in drawn]),
            "optimised": torch.from_numpy(words),
        }


def _rows(settings: MethodSettings, dataset: Dataset, assets_root: Path | None) -> TrainingRows:
    chosen = SearleSettings.of(settings)
    files = {"oti_words": chosen.oti_words, "concepts": chosen.concepts, "phrases": chosen.phrases}
    found = inverted_pictures(chosen.pictures, files, dataset)

    def text(method: Any, rows: IntArray, rng: np.random.Generator) -> Views:
        assert isinstance(method, Searle)
        return method.training_views(found, rows, rng)

    return TrainingRows(text, found.label, found.pictures, files=found.files)


METHOD = on_clip_words(
    Searle,
    SearleSettings,
    _rows,
    name="searle",
    placeholder="$",
    places=first_place,
    backbone="ViT-B-32",
    backbone_defaults={"preprocessing": "targetpad"},
)
