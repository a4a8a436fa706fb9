"""Baselines with nothing of their own to train: they score an encoder as it is.

`image_only` asks with the reference alone, `text_only` with the modification text alone, `sum`
with the element-wise sum of both features. On pretrained weights they score the untouched encoder
unless `--set method.encoder=finetuned` asks for stage 1's; on random weights they score stage 1's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage, Views
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.layers import normalise


class FeatureBaseline(Method):
    """Target: the normalised picture feature, (B, d)."""

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


def _specification(name: str, method: Callable[[], Method]) -> Specification:
    def build(context: BuildContext) -> Method:
        return method()

    def inputs(context: BuildContext) -> FeatureInputs:
        return FeatureInputs()

    def stages(settings: MethodSettings, start: Literal["pretrained", "random"]) -> tuple[Stage, ...]:
        scoring = Stage(name=name, build=build, inputs=inputs, trains=False)
        return (*encoder_stages(settings, start, default="untouched"), scoring)

    return Specification(stages=stages, settings=EncoderChoice)


METHODS = {
    "image_only": _specification("image_only", ImageOnly),
    "text_only": _specification("text_only", TextOnly),
    "sum": _specification("sum", Sum),
}
