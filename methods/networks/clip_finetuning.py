"""CLIP4Cir's stage 1, the first stage of every method on a fine-tuned CLIP, and what puts a method on CLIP's features.

Both encoders are trained so that the plain sum of a reference's and a text's feature retrieves the
target (Baldrati et al., TOMM 2023, "task-oriented fine-tuning")::

    query = normalise(I + T),  target = normalise(I_target),
    loss  = cross_entropy(100 · Q · Kᵀ, diagonal)

What it leaves, the fine-tuned encoders, is an artefact that is trained once per configuration and
seed and reused by all methods (:func:`on_clip_features`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.backbone import Backbone
from benchmark.errors import UserError
from benchmark.facts import Initialisation
from benchmark.method import (
    BuildContext,
    FeatureInputs,
    Fit,
    Method,
    ParameterGroups,
    PixelInputs,
    Specification,
    Stage,
    Views,
    all_parameters,
)
from benchmark.settings import EncoderChoice, MethodSettings, TrainingSettings

from .layers import contrastive_loss, normalise


class FinetuningSettings(TrainingSettings):
    """Settings of stage 1."""

    trained: Literal["both", "text", "image"] = Field("both", description="which encoders are trained")
    scale: float = Field(100.0, gt=0, description="factor of the cosine in the loss")
    learn_scale: bool = Field(False, description="start the factor at `scale` and train it")
    decay_matrices_only: bool = Field(False, description="no weight decay on vectors (norms, biases, scale)")


class ClipSum(Method):
    """CLIP's two encoders and the plain sum of their features. Takes pixels or stored features."""

    def __init__(self, backbone: Backbone, settings: FinetuningSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._scale, self._trained = settings.scale, settings.trained
        self.log_scale: nn.Parameter | None = None
        if settings.learn_scale:
            self.log_scale = nn.Parameter(torch.tensor([math.log(settings.scale)]))
        freeze_untrained(backbone, settings.trained)

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
        """The encoder that is not trained, and what no loss on the backbone's outputs can move."""
        untrained = {"text": "image", "image": "text"}.get(self._trained, "")
        still = (*self.backbone.without_gradient, *self.backbone.parts.get(untrained, ()))
        return tuple(f"backbone.{beginning}" for beginning in still)

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Tokens up to the batch's longest text, (B, L), where what stands behind changes nothing."""
        return {"tokens": self.backbone.shortened(self.backbone.tokenize(texts))}

    def _image(self, views: Views) -> Tensor:
        return views["global"] if "global" in views else self.backbone.encode_image(views["pixels"])

    def _text(self, views: Views) -> Tensor:
        return views["global"] if "global" in views else self.backbone.encode_text(views["tokens"])


def freeze_untrained(backbone: Backbone, trained: str) -> None:
    """What belongs to neither encoder (CLIP's own logit scale) takes no part; DeepSpeed would decay it if it asked
    for a gradient."""
    chosen = [part for side, part in backbone.parts.items() if trained in ("both", side)]
    beginnings = tuple(beginning for part in chosen for beginning in part)
    if not beginnings:
        told = f"does not say which parameters '{trained}' means (Backbone.parts)"
        raise UserError(f"--backbone {backbone.identity.name}: {told}; choose another one, or an untouched encoder")
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.startswith(beginnings))


def _build(context: BuildContext) -> Method:
    assert context.backbone is not None
    return ClipSum(context.backbone, FinetuningSettings.of(context.training_settings))


def _inputs(context: BuildContext) -> PixelInputs:
    assert context.backbone is not None
    preprocessing = context.backbone.preprocessing
    return PixelInputs(train=preprocessing, evaluate=preprocessing)


def _parameter_groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    chosen = decay_of_matrices if FinetuningSettings.of(settings).decay_matrices_only else all_parameters
    return chosen(method, settings)


def decay_of_matrices(method: Method, settings: TrainingSettings) -> ParameterGroups:
    """Vectors (norms, biases) do not decay."""
    trained = [p for p in method.parameters() if p.requires_grad]
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

S = TypeVar("S", bound=EncoderChoice)


def behind_its_encoder(
    own: Stage, chosen: EncoderChoice, initialisation: Initialisation, default: Literal["untouched", "finetuned"]
) -> tuple[Stage, ...]:
    """A method's own stage, and before it stage 1 where its CLIP is a tuned one: ``default`` where the user does not
    say, and always one then that starts at random, whose features say nothing until they are trained."""
    by_itself = "finetuned" if initialisation == "random" else default
    return (FINETUNING, own) if (chosen.encoder or by_itself) == "finetuned" else (own,)


def on_clip_features(
    build: Callable[[int, S], Method],
    settings: type[S],
    *,
    encoder: Literal["untouched", "finetuned"] = "untouched",
    inputs: Callable[[S], FeatureInputs] = lambda settings: FeatureInputs(),
    stage: str = "",
    trains: bool = True,
    fit: Callable[[S], Fit | None] = lambda settings: None,
) -> Specification:
    """A method on the stored features of one CLIP: all that the last line of its file has to say.

    ``build``, the class itself in general, makes it from the features' width d and its settings.
    ``encoder``: whose features where the user does not say: those of a CLIP as it is, or of one that stage 1
    tuned first. ``inputs``: the views that it reads, by default "global" of all. ``stage``: the name of its
    own stage in recipes and `--set`, by default the class's in lower case. ``trains``: False for a method
    with nothing to train, ``fit`` what is then chosen on held-out triplets. Raises UserError where the settings do not
    derive from `EncoderChoice`.
    """
    if not issubclass(settings, EncoderChoice):
        raise UserError(f"{settings.__name__}: settings of a method on CLIP features derive from EncoderChoice")
    own = Stage(
        name=stage or getattr(build, "__name__", "head").lower(),
        build=lambda context: build(context.width, settings.of(context.method_settings)),
        inputs=lambda context: inputs(settings.of(context.method_settings)),
        trains=trains,
    )

    def stages(chosen: MethodSettings, initialisation: Initialisation) -> tuple[Stage, ...]:
        given = settings.of(chosen)
        return behind_its_encoder(replace(own, fit=fit(given)), given, initialisation, encoder)

    return Specification(stages=stages, settings=settings)
