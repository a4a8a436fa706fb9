"""Reversed queries: the target and a text that is marked as backward ask for the reference.

Liu, Sun, Hong, Teney, Gould, "Bi-directional Training for Composed Image Retrieval via Text Prompt Learning", WACV 2024
(arXiv 2303.16604). Text rules `directed-…` mark each text with its direction and draw the second one.

Notation: B batch, d width of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmark.backbone import Backbone
from benchmark.encoding import Encoding
from benchmark.method import REVERSED, Method, ParameterGroups, Views
from benchmark.settings import TrainingSettings
from benchmark.text_rules import with_marks, without_marks
from benchmark.training.optimisation import standard_schedule

from .clip_finetuning import ClipSum, FinetuningSettings
from .layers import contrastive_loss, normalise


class ReversedTraining(TrainingSettings):
    """How much reversed queries count; without them no marks stand in the texts."""

    reversed_weight: float = Field(
        0.4, ge=0, description="weight of the reversed queries' loss; 0: there are none, and no marks in the texts"
    )

    @model_validator(mode="before")
    @classmethod
    def _marked_as_weighted(cls, values: Any) -> Any:
        """The text rule is named without its marks, or with them: the weight decides which it is."""
        if not isinstance(values, dict) or not isinstance(name := values.get("text_rule", "as-is"), str):
            return values
        if values.get("reversed_weight", cls.model_fields["reversed_weight"].default) == 0:
            return {**values, "text_rule": without_marks(name)}
        if not with_marks(name):
            raise ValueError(f"text rule {name} has no marks of direction; choose another, or reversed_weight=0")
        return {**values, "text_rule": with_marks(name)}


class SumTraining(ReversedTraining):
    """Of stage 1."""

    scale: float = Field(100.0, gt=0, description="factor of the cosine in the loss")
    projection_rate: float = Field(
        100.0, gt=0, description="learning rate of the text's projection, of that of the rest; it stays constant"
    )


class TextSum(ClipSum):
    """CLIP4Cir's stage 1 with reversed queries: the sum of a picture's and a text's vector, each (B, d), of unit norm.

    Pictures are stored vectors, and the text encoder alone trains; or pixels, where both encoders do.
    """

    def __init__(self, backbone: Backbone, pixels: bool, training: SumTraining) -> None:
        super().__init__(backbone, FinetuningSettings(trained="both" if pixels else "text", scale=training.scale))
        self._weight = training.reversed_weight

    def encode_triplet(self, reference: Views, text: Views, target: Views) -> Encoding:
        """Beside the "query" the "reference" itself and what the "backward" text says, raw, (B, d)."""
        picture = self._image(reference)
        query = {"query": normalise(picture + self._text(text))}
        if f"{REVERSED}tokens" not in text:
            return query
        return {**query, "reference": picture, "backward": self.backbone.encode_text(text[f"{REVERSED}tokens"])}

    def loss(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:  # type: ignore[override]
        losses = self.losses(queries, targets)
        return losses["forward"] + self._weight * losses.get("reversed", 0.0)

    def losses(self, queries: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Each alone. Of a reversed query the batch's targets compete, each as the picture that asks with its text."""
        found = {"forward": contrastive_loss(queries["query"].float(), targets.float(), self._scale)}
        if "backward" in queries:
            found["reversed"] = diagonal_loss(self.reversed_logits(queries, targets))
        return found

    def reversed_logits(self, queries: dict[str, Tensor], targets: Tensor) -> Tensor:
        """(B, B): row i has text and reference i, column j the target j, of unit norm, as the picture that asks."""
        backward, pictures = queries["backward"].float(), targets.float()
        asking, references = normalise(pictures[None] + backward[:, None]), normalise(queries["reference"].float())
        # A product by elements: autocast would round a matrix product's to half precision.
        return self._scale * (asking * references[:, None]).sum(dim=-1)


def diagonal_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of rows (B, B) whose right answer stands on the diagonal."""
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def projection_apart(method: Method, settings: TrainingSettings) -> ParameterGroups:
    """The text's projection has a rate of its own, which no schedule moves."""
    rate = settings.learning_rate * SumTraining.of(settings).projection_rate
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    apart = [p for name, p in named if name.startswith("backbone.text_proj.")]
    rest = [p for name, p in named if not name.startswith("backbone.text_proj.")]
    groups: ParameterGroups = [{"params": rest}, {"params": apart, "lr": rate, "scheduled": False}]
    # Low-rank changes leave the projection as it is.
    return [group for group in groups if group["params"]]


def by_epoch(settings: TrainingSettings, updates_per_epoch: int) -> Callable[[int], float]:
    """The standard schedule, in steps of whole epochs."""
    factor = standard_schedule(settings, 1)
    return lambda update: factor(update // updates_per_epoch)
