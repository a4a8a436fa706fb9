"""BLIP4CIR+Bi: CLIP4Cir's two stages on BLIP, with reversed queries in both.

Liu, Sun, Hong, Teney, Gould, "Bi-directional Training for Composed Image Retrieval via Text Prompt Learning", WACV 2024
(arXiv 2303.16604). Stage 1 tunes BLIP's text encoder so that picture + text is near the target
(`networks/reversed_queries.py`), stage 2 trains the Combiner on the features that this leaves. In both, target and
backward text ask for the reference as well. With the weight 0 it is BLIP4CIR, without them.

Deviations from the release: features are computed once, not every epoch; what the Combiner makes of a batch's pairs is
computed some rows at a time and again in the backward pass, which changes no number.
Notation: B batch, d width of the features, p and h widths inside the Combiner.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmark.encoding import Encoding
from benchmark.facts import Initialisation
from benchmark.method import (
    REVERSED,
    BuildContext,
    FeatureInputs,
    Inputs,
    Method,
    PixelInputs,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import MethodSettings

from .networks.combiner import CombinerSizes
from .networks.layers import Combiner, contrastive_loss, normalise
from .networks.reversed_queries import (
    ReversedTraining,
    SumTraining,
    TextSum,
    by_epoch,
    diagonal_loss,
    projection_apart,
)

_PAIRS_AT_ONCE = 16_384
_SCALE = 100.0


class Blip4CirSettings(CombinerSizes):
    """Sizes of the Combiner, CLIP4Cir's for CLIP as they stand, and what stage 1 trains."""

    projection: int = Field(2560, ge=0, description="width of the two projections; 0: 4 d")
    hidden: int = Field(5120, ge=0, description="width of the hidden layers; 0: 8 d")
    picture_encoder: Literal["", "frozen", "trained"] = Field(
        "", description="in stage 1; by default frozen, with its vectors stored; trained, on pixels, where its weights "
        "are random"
    )


class Blip4Cir(Method):
    """Stage 2: the Combiner on stored features; query and target are (B, d), of unit norm."""

    def __init__(self, combiner: Combiner, reversed_weight: float) -> None:
        super().__init__()
        self.combiner, self._weight = combiner, reversed_weight

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        query: Tensor = self.combiner(reference["global"], text["global"])
        return query

    def encode_target(self, target: Views) -> Tensor:
        return normalise(target["global"])

    def encode_triplet(self, reference: Views, text: Views, target: Views) -> Encoding:
        """Beside the "query", raw, what its reversed form is made of: "reference", "target", "backward", (B, d)."""
        query = {"query": self.encode_query(reference, text)}
        if f"{REVERSED}global" not in text:
            return query
        pictures = {"reference": reference["global"], "target": target["global"]}
        return {**query, **pictures, "backward": text[f"{REVERSED}global"]}

    def loss(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:  # type: ignore[override]
        losses = self.losses(queries, targets)
        return losses["forward"] + self._weight * losses.get("reversed", 0.0)

    def losses(self, queries: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Each alone. Of a reversed query the batch's targets compete, each as the picture that asks with its text."""
        found = {"forward": contrastive_loss(queries["query"].float(), targets.float(), _SCALE)}
        if "backward" in queries:
            found["reversed"] = diagonal_loss(self.reversed_logits(queries, targets))
        return found

    def reversed_logits(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:
        """(B, B): row i has text and reference i, column j the target j, raw, as the picture that asks.

        The Combiner's two projections see B texts and B pictures, not B² of each: dropout comes behind them.
        """
        combiner, texts, pictures = self.combiner, queries["backward"], queries["target"]
        projected_pictures = combiner.image_projection_layer(pictures)

        def logits(text: Tensor, projected_text: Tensor, reference: Tensor) -> Tensor:
            """Of some rows (b, d), (b, p) and (b, d): (b, B)."""
            shape = (len(text), len(pictures), -1)
            images, projected_images = (tensor.expand(shape) for tensor in (pictures, projected_pictures))
            words, projected_words = (tensor[:, None].expand(shape) for tensor in (text, projected_text))
            asking = normalise(combiner.compose(images, words, projected_images, projected_words).float())
            return _SCALE * (asking * reference[:, None]).sum(dim=-1)

        rows = (texts, combiner.text_projection_layer(texts), normalise(queries["reference"].float()))
        count = max(_PAIRS_AT_ONCE // len(pictures), 1)
        if len(texts) <= count:
            return logits(*rows)
        pieces = zip(*(tensor.split(count) for tensor in rows), strict=True)
        return torch.cat([checkpoint(logits, *piece, use_reentrant=False) for piece in pieces])


def _stages(given: MethodSettings, initialisation: Initialisation) -> tuple[Stage, ...]:
    chosen = Blip4CirSettings.of(given).picture_encoder or ("trained" if initialisation == "random" else "frozen")
    pixels = chosen == "trained"

    def stage_1(context: BuildContext) -> Method:
        assert context.backbone is not None
        return TextSum(context.backbone, pixels, SumTraining.of(context.training_settings))

    def stage_2(context: BuildContext) -> Method:
        combiner = Blip4CirSettings.of(context.method_settings).build(context.width)
        return Blip4Cir(combiner, ReversedTraining.of(context.training_settings).reversed_weight)

    def pictures(context: BuildContext) -> Inputs:
        assert context.backbone is not None
        seen = context.backbone.preprocessing
        return PixelInputs(train=seen, evaluate=seen) if pixels else FeatureInputs(text="tokenized")

    return (
        Stage("blip-text", stage_1, pictures, SumTraining, projection_apart, schedule=by_epoch, output="encoder"),
        Stage("bi-combiner", stage_2, lambda context: FeatureInputs(), ReversedTraining),
    )


METHOD = Specification(
    stages=_stages,
    settings=Blip4CirSettings,
    demo_settings={"projection": 0, "hidden": 0},
    default_backbone="blip-base-384",
    demo_backbone="blip-tiny",
)
