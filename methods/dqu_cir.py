"""DQU-CIR: the query becomes a text and a picture before any encoder sees it, and a small network weighs the two.

Wen, Song, Chen, Wei, Nie, Chua, "Simple but Effective Raw-Data Level Multimodal Fusion for Composed Image Retrieval",
SIGIR 2024 (arXiv 2404.15875). The text is a caption of the reference and the modification, the picture the reference
with key words written on it. For their features t and v, of unit norm::

    c = ReLU(W_c [t, v])
    s = sigmoid(w · drop(ReLU(W_s drop(c))))
    q = normalise(s·t + (1 − s)·v),  target = normalise(I_target),
    loss = cross_entropy(loss_weight · Q · Kᵀ, diagonal)

Captions (BLIP-2's) and key words (Gemini's) are supervision that other methods do not have. All of the CLIP trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.backbone import Backbone
from benchmark.facts import Initialisation
from benchmark.method import BuildContext, Method, PixelInputs, Specification, Stage, Views
from benchmark.settings import MethodSettings, TrainingSettings

from .networks.clip_finetuning import freeze_untrained
from .networks.clip_pictures import RandomResizedCrop
from .networks.drawn_words import WordDrawer
from .networks.layers import contrastive_loss, gate, gated_sum, normalise


class DquSettings(MethodSettings):
    """What the query picture shows, and how the two are weighed."""

    drawing: Literal["resized", "own-size", "one-word", "none"] = Field(
        "own-size", description="how words are written on the reference: on 512 x 512 pixels, at the picture's own "
        "size, one word on exchanged colours, or none"
    )
    dropout: float = Field(0.5, ge=0, lt=1)


class DquTraining(TrainingSettings):
    """How much of a picture training sees."""

    smallest_part: float = Field(
        0.9, gt=0, le=1, description="least share of a picture's area that a random crop keeps; 1: no crop is drawn"
    )


class DquCir(Method):
    """Queries and targets are (B, d), of unit norm. Names are the release's, but for the CLIP's beginning."""

    def __init__(self, backbone: Backbone, dropout: float) -> None:
        super().__init__()
        width = backbone.vector_width
        self.backbone = backbone
        freeze_untrained(backbone, "both")
        self.loss_weight = nn.Parameter(torch.tensor([10.0]))
        self.combiner_fc = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.scaler_fc = gate(width, width, dropout)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        textual = normalise(self.backbone.encode_text(text["tokens"]))
        visual = normalise(self.backbone.encode_image(reference["pixels"]))
        return normalise(gated_sum(self.share(self.combined(textual, visual)), textual, visual))

    def combined(self, text: Tensor, picture: Tensor) -> Tensor:
        """c, (B, d); it decides the share alone and is no part of the query."""
        mixture: Tensor = self.combiner_fc(torch.cat([text, picture], dim=-1))
        return mixture

    def share(self, combined: Tensor) -> Tensor:
        """s, (B, 1): what the query takes of the text."""
        text_share: Tensor = self.scaler_fc(self.dropout(combined))
        return text_share

    def encode_target(self, target: Views) -> Tensor:
        return normalise(self.backbone.encode_image(target["pixels"]))

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        """Query to target only; the factor is trained as it is, neither an exponential nor clamped."""
        return contrastive_loss(self.loss_weight * queries.float(), targets.float(), 1.0)

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Tokens up to the batch's longest text, (B, L), where what stands behind changes nothing."""
        return {"tokens": self.backbone.shortened(self.backbone.tokenize(texts))}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        return tuple(f"backbone.{beginning}" for beginning in self.backbone.without_gradient)


def _build(context: BuildContext) -> Method:
    assert context.backbone is not None
    return DquCir(context.backbone, DquSettings.of(context.method_settings).dropout)


def _inputs(context: BuildContext) -> PixelInputs:
    assert context.backbone is not None
    settings, training = DquSettings.of(context.method_settings), DquTraining.of(context.training_settings)
    evaluated = context.backbone.preprocessing
    return PixelInputs(
        train=RandomResizedCrop(evaluated, (training.smallest_part, 1.0)) if training.smallest_part < 1 else evaluated,
        evaluate=evaluated,
        annotator=None if settings.drawing == "none" else WordDrawer(settings.drawing),
    )


def _stages(settings: MethodSettings, initialisation: Initialisation) -> tuple[Stage, ...]:
    shows_notes = DquSettings.of(settings).drawing != "none"
    return (Stage("dqu_cir", _build, _inputs, DquTraining, shows_notes=shows_notes),)


METHOD = Specification(
    stages=_stages,
    settings=DquSettings,
    default_backbone="ViT-H-14",
    # No padding, and RGB first, as open_clip's own pipelines.
    backbone_defaults={"preprocessing": "clip", "rgb_first": True},
)
