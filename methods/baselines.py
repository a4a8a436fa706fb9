"""Baselines with nothing of their own to train: they score an encoder as it is.

`image_only` asks with the reference alone, `text_only` with the modification text alone, `sum`
with the element-wise sum of both features. On pretrained weights they score the untouched encoder
unless `--set method.encoder=finetuned` asks for stage 1's; on random weights they score stage 1's.
"""

from __future__ import annotations

from torch import Tensor

from benchmark.method import Method, Views
from benchmark.settings import EncoderChoice

from .networks.clip_finetuning import on_clip_features
from .networks.layers import normalise


class FeatureBaseline(Method):
    """Target: the normalised picture feature, (B, d)."""

    def __init__(self, width: int, settings: EncoderChoice) -> None:
        super().__init__()

    def encode_target(self, target: Views) -> Tensor:
        return normalise(target["global"])


class ImageOnly(FeatureBaseline):
    """query = normalise(I), (B, d)."""

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return normalise(reference["global"])


class TextOnly(FeatureBaseline):
    """query = normalise(T), (B, d)."""

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return normalise(text["global"])


class Sum(FeatureBaseline):
    """query = normalise(I + T), (B, d)."""

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return normalise(reference["global"] + text["global"])


METHODS = {
    "image_only": on_clip_features(ImageOnly, EncoderChoice, stage="image_only", trains=False),
    "text_only": on_clip_features(TextOnly, EncoderChoice, stage="text_only", trains=False),
    "sum": on_clip_features(Sum, EncoderChoice, stage="sum", trains=False),
}
