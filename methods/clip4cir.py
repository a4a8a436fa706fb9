"""CLIP4Cir: a Combiner on the frozen features of a CLIP fine-tuned for the task.

Baldrati, Bertini, Uricchio, Del Bimbo, "Composed Image Retrieval using Contrastive Learning and
Task-oriented CLIP-based Features", ACM TOMM 2023 (arXiv 2308.11485). Stage 1 is
`clip_finetuning.py`, stage 2 is here. Query = Combiner(I, T), target = normalise(I_target), loss =
cross_entropy(100 · Q · Kᵀ, diagonal). Deviation: features are computed once, not every epoch.
"""

from __future__ import annotations

from torch import Tensor

from benchmark.method import Method, Views
from benchmark.settings import EncoderChoice

from .networks.clip_finetuning import on_clip_features
from .networks.combiner import CombinerSizes
from .networks.layers import contrastive_loss, normalise


class CombinerSettings(CombinerSizes, EncoderChoice):
    """Sizes of the Combiner, and the encoder whose features it reads."""


class Clip4Cir(Method):
    """The Combiner on stored features of width d."""

    def __init__(self, width: int, settings: CombinerSettings) -> None:
        super().__init__()
        self.combiner = settings.build(width)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d), unit norm."""
        query: Tensor = self.combiner(reference["global"], text["global"])
        return query

    def encode_target(self, target: Views) -> Tensor:
        """(B, d), unit norm; no layer."""
        return normalise(target["global"])

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return contrastive_loss(queries.float(), targets.float())


METHOD = on_clip_features(Clip4Cir, CombinerSettings, encoder="finetuned", stage="combiner")
