"""Compositions of a picture and a text by a formula alone: a weighted sum, and spherical interpolation.

Weighted sum: query = normalise((1 − α) v + α t). Slerp (Jang et al., "Spherical Linear Interpolation and
Text-Anchoring for Zero-shot Composed Image Retrieval", ECCV 2024): with θ the angle between v and t,
query = normalise(sin((1 − α) θ) / sin θ · v + sin(α θ) / sin θ · t). Both work on features of unit norm and train
nothing. Pictures lie closer to pictures than texts do, so that at α = 0.5 the picture decides.

Notation: B batch, d width, v and t the features of reference and text, divided by their norms.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from benchmark.method import Method, Views
from benchmark.settings import EncoderChoice

from .networks.clip_finetuning import on_clip_features
from .networks.layers import normalise

_NEARLY_EQUAL = 0.9995
"""Cosine from which on the sines are too small to divide by."""


class WeightedSumSettings(EncoderChoice):
    """Share of the text."""

    alpha: float = Field(0.5, ge=0, le=1, description="share of the text; no paper publishes one")


class SlerpSettings(EncoderChoice):
    """Share of the text."""

    alpha: float = Field(
        0.8, ge=0, le=1, description="share of the text; published: 0.9 on CIRR, 0.8 on FashionIQ and CIRCO"
    )


class WeightedSum(Method):
    """Query and target are (B, d), of unit norm."""

    def __init__(self, width: int, settings: WeightedSumSettings | SlerpSettings) -> None:
        super().__init__()
        self._alpha = settings.alpha

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return normalise(self.compose(normalise(reference["global"]), normalise(text["global"])))

    def encode_target(self, target: Views) -> Tensor:
        return normalise(target["global"])

    def compose(self, picture: Tensor, text: Tensor) -> Tensor:
        """(B, d) and (B, d), of unit norm → (B, d), of any norm."""
        return (1 - self._alpha) * picture + self._alpha * text


class Slerp(WeightedSum):
    """The point at α on the arc from picture to text."""

    def compose(self, picture: Tensor, text: Tensor) -> Tensor:
        cosine = (picture * text).sum(dim=-1, keepdim=True)
        angle = cosine.clamp(-1, 1).arccos()
        arc = (((1 - self._alpha) * angle).sin() * picture + (self._alpha * angle).sin() * text) / angle.sin()
        return torch.where(cosine.abs() > _NEARLY_EQUAL, super().compose(picture, text), arc)


METHODS = {
    "weighted_sum": on_clip_features(WeightedSum, WeightedSumSettings, stage="weighted-sum", trains=False),
    "slerp": on_clip_features(Slerp, SlerpSettings, stage="slerp", trains=False),
}
