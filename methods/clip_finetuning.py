"""CLIP4Cir's stage 1: a method of its own, and the start of every method on a fine-tuned CLIP.

Both encoders are trained so that the plain sum of a reference's and a text's feature retrieves the
target (Baldrati et al., TOMM 2023, "task-oriented fine-tuning")::

    query = normalise(I + T),  target = normalise(I_target),
    loss  = cross_entropy(100 · Q · Kᵀ, diagonal)

What it leaves, the fine-tuned encoders, is an artefact that is trained once per configuration and
seed and reused by all methods. `clip4cir_sum` evaluates it as it is, which CLIP4Cir's evaluation
script offers too ("element-wise sum").

Known flaw of the adapted recipe on Fashion200k: pictures that share the target's caption are right
answers, and count as negatives where they meet in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.method import (
    BuildContext,
    Method,
    ParameterGroups,
    PixelInputs,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import EncoderChoice, MethodSettings, TrainingSettings

from .networks.layers import contrastive_loss, normalise

if TYPE_CHECKING:
    from benchmark.encoders.backbones import ClipBackbone

_TEXT_SIDE = [
    "clip.positional_embedding", "clip.text_projection", "clip.token_embedding.", "clip.transformer.", "clip.ln_final.",
]  # fmt: skip


class FinetuningSettings(TrainingSettings):
    """Settings of stage 1."""

    trained: Literal["both", "text", "image"] = Field("both", description="which encoders are trained")
    scale: float = Field(100.0, gt=0, description="factor of the cosine in the loss")
    learn_scale: bool = Field(False, description="start the factor at `scale` and train it")
    decay_matrices_only: bool = Field(False, description="no weight decay on vectors (norms, biases, scale)")


class ClipSum(Method):
    """CLIP's two encoders and the plain sum of their features. Takes pixels or stored features."""

    def __init__(self, backbone: ClipBackbone, settings: FinetuningSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._scale, self._trained = settings.scale, settings.trained
        self.log_scale: nn.Parameter | None = None
        if settings.learn_scale:
            self.log_scale = nn.Parameter(torch.tensor([math.log(settings.scale)]))
        _freeze_untrained(backbone, settings.trained)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d), unit norm."""
        return normalise(self._image(reference) + self._text(text))

    def encode_target(self, target: Views) -> Tensor:
        """(B, d), unit norm."""
        return normalise(self._image(target))

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        """Query to target only; the factor is a constant 100 unless it is learnt."""
        if self.log_scale is None:
            return contrastive_loss(queries, targets, self._scale)
        return contrastive_loss(self.log_scale.exp().clamp(max=100.0) * queries, targets, 1.0)

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """The encoder that is not trained; CLIP's own scale; a shift that the attention pool's softmax removes."""
        still = ["clip.logit_scale"]
        still += ["clip.visual."] if self._trained == "text" else ["clip.visual.attnpool.k_proj.bias"]
        still += _TEXT_SIDE if self._trained == "image" else []
        names = [name for name, _ in self.backbone.named_parameters()]
        return tuple(f"backbone.{begin}" for begin in still if any(name.startswith(begin) for name in names))

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Tokens up to the batch's longest text, (B, L)."""
        tokens = self.backbone.tokenize(texts)
        return {"tokens": tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]}

    def _image(self, views: Views) -> Tensor:
        return views["global"] if "global" in views else self.backbone.encode_image(views["pixels"])

    def _text(self, views: Views) -> Tensor:
        return views["global"] if "global" in views else self.backbone.encode_text(views["tokens"])


def _freeze_untrained(backbone: ClipBackbone, trained: str) -> None:
    """CLIP's own logit scale takes no part; DeepSpeed would decay it if it asked for a gradient."""
    for name, parameter in backbone.named_parameters():
        side = "image" if ".visual." in f".{name}" else "text"
        parameter.requires_grad_(trained in ("both", side) and not name.endswith("logit_scale"))


def _build(context: BuildContext) -> Method:
    assert context.backbone is not None and isinstance(context.training_settings, FinetuningSettings)
    return ClipSum(context.backbone, context.training_settings)


def _inputs(context: BuildContext) -> PixelInputs:
    assert context.backbone is not None
    preprocessing = context.backbone.preprocessing
    return PixelInputs(train=preprocessing, evaluate=preprocessing)


def _parameter_groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    trained = [p for p in method.parameters() if p.requires_grad]
    if not (isinstance(settings, FinetuningSettings) and settings.decay_matrices_only):
        return [{"params": trained}]
    return [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


FINETUNING = Stage(
    name="encoders",
    build=_build,
    inputs=_inputs,
    settings=FinetuningSettings,
    parameter_groups=_parameter_groups,
    output="encoder",
)


def encoder_stages(
    settings: MethodSettings, start: Literal["pretrained", "random"], default: Literal["untouched", "finetuned"]
) -> tuple[Stage, ...]:
    """Stage 1 or nothing, as the method's settings ask; a random backbone says nothing untrained."""
    assert isinstance(settings, EncoderChoice)
    chosen = settings.encoder or ("finetuned" if start == "random" else default)
    return (FINETUNING,) if chosen == "finetuned" else ()


METHOD = Specification(stages=lambda settings, start: (FINETUNING,))
