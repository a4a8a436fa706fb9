"""Compositions of a picture and a text by a formula alone: a weighted sum, and spherical interpolation.

Weighted sum: query = normalise((1 − α) v + α t). Slerp (Jang et al., "Spherical Linear Interpolation and
Text-Anchoring for Zero-shot Composed Image Retrieval", ECCV 2024): with θ the angle between v and t,
query = normalise(sin((1 − α) θ) / sin θ · v + sin(α θ) / sin θ · t). Both work on features of unit norm and train
nothing. Pictures lie closer to pictures than texts do, so that at α = 0.5 the picture decides. `sweep` chooses α on
held-out triplets, which is zero-shot no more.

Notation: B batch, d width, v and t the features of reference and text, divided by their norms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.method import Fit, Method, Views
from benchmark.settings import EncoderChoice, OnlyWith

from .networks.clip_finetuning import on_clip_features
from .networks.layers import normalise

_NEARLY_EQUAL = 0.9995
"""Cosine from which on the sines are too small to divide by."""


_SHARES = tuple(number / 20 for number in range(21))


class ShareOfText(EncoderChoice):
    """Where the share of the text comes from."""

    sweep: bool = Field(False, description="choose alpha on held-out triplets (with --selection heldout)")

    counts_only_with: ClassVar[OnlyWith] = {"alpha": {"sweep": (False,)}}


class WeightedSumSettings(ShareOfText):
    """Share of the text."""

    alpha: float = Field(0.5, ge=0, le=1, description="share of the text; no paper publishes one")


class SlerpSettings(ShareOfText):
    """Share of the text."""

    alpha: float = Field(
        0.8, ge=0, le=1, description="share of the text; published: 0.9 on CIRR, 0.8 on FashionIQ and CIRCO"
    )


class WeightedSum(Method):
    """Query and target are (B, d), of unit norm."""

    def __init__(self, width: int, settings: WeightedSumSettings | SlerpSettings) -> None:
        super().__init__()
        self.alpha: Tensor
        self.register_buffer("alpha", torch.tensor(settings.alpha))

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return normalise(self.compose(normalise(reference["global"]), normalise(text["global"])))

    def encode_target(self, target: Views) -> Tensor:
        return normalise(target["global"])

    def compose(self, picture: Tensor, text: Tensor) -> Tensor:
        """(B, d) and (B, d), of unit norm → (B, d), of any norm."""
        return (1 - self.alpha) * picture + self.alpha * text


class Slerp(WeightedSum):
    """The point at α on the arc from picture to text."""

    def compose(self, picture: Tensor, text: Tensor) -> Tensor:
        cosine = (picture * text).sum(dim=-1, keepdim=True)
        angle = cosine.clamp(-1, 1).arccos()
        arc = (((1 - self.alpha) * angle).sin() * picture + (self.alpha * angle).sin() * text) / angle.sin()
        return torch.where(cosine.abs() > _NEARLY_EQUAL, super().compose(picture, text), arc)


def _choose_share(method: Method, score: Callable[[], float]) -> str:
    """The best of 21 shares; of equal ones the smallest."""
    assert isinstance(method, WeightedSum)
    scores: list[float] = []
    for share in _SHARES:
        method.alpha.fill_(share)
        scores.append(score())
    best = max(range(len(_SHARES)), key=scores.__getitem__)
    method.alpha.fill_(_SHARES[best])
    return f"share of the text {_SHARES[best]:g}, the best of {len(_SHARES)} on held-out triplets ({scores[best]:.2f})"


def _fit(settings: ShareOfText) -> Fit | None:
    return _choose_share if settings.sweep else None


METHODS = {
    "weighted_sum": on_clip_features(WeightedSum, WeightedSumSettings, stage="weighted-sum", trains=False, fit=_fit),
    "slerp": on_clip_features(Slerp, SlerpSettings, stage="slerp", trains=False, fit=_fit),
}
