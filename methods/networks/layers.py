"""Layers and the loss that several methods share.

Notation: B batch, d width of the backbone. Shapes are written like ``(B, d)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalise(vectors: Tensor) -> Tensor:
    """Each row divided by its L2 norm, ``(..., d) -> (..., d)``; a row of zeros stays zero."""
    return F.normalize(vectors, dim=-1, eps=1e-8)


def contrastive_loss(queries: Tensor, targets: Tensor, scale: float | Tensor = 100.0) -> Tensor:
    """In-batch contrastive loss, one direction: ``cross_entropy(scale · Q · Kᵀ, diagonal)``.

    queries, targets: ``(B, d)`` of unit norm; row i of the targets is the answer to query i and
    every other row one of its negatives. Gives a scalar. CLIP4Cir (TOMM 2023) and SPIRIT (TOMM
    2024) both use it with the constant scale 100.
    """
    logits = scale * queries @ targets.T
    return F.cross_entropy(logits, torch.arange(len(queries), device=queries.device))


def with_zero_gradient(tensor: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """``tensor`` unchanged, with the given parameters taking part in it without effect.

    For parameters whose gradient is zero in exact arithmetic and that are therefore not computed
    with: they must get a gradient of zeros, not none, since coupled weight decay moves the one
    and, in plain torch, skips the other. No weight is read, and ``tensor`` is not copied.
    """
    same: Tensor = _TakingPart.apply(tensor, *parameters)
    return same


class _TakingPart(torch.autograd.Function):
    """The first argument; the gradient of all others is zero."""

    @staticmethod
    def forward(tensor: Tensor, *parameters: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return (gradient, *map(torch.zeros_like, ctx.saved_tensors))


def cast_once(tensor: Tensor) -> Tensor:
    """``tensor`` in autocast's type where autocast is on, else as it is.

    For what several products read: each of them would cast it anew, and bring its gradient back on its own.
    """
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


class Combiner(nn.Module):
    """Adds a learned mixture to a gated sum of a picture's and a text's vector.

    CLIP4Cir's second stage (Baldrati et al., TOMM 2023) at width d, projection 4d, hidden 8d, and
    SPIRIT's style fusion at width d, projection d/2, hidden d. For x the image and t the text::

        r = [drop(relu(W_t t)), drop(relu(W_x x))]
        s = sigmoid(w · drop(relu(W_s r)))
        q = normalise(W_o drop(relu(W_c r)) + s·t + (1 − s)·x)

    Every linear has a bias. Attribute names are those of the released state dict.
    """

    def __init__(self, width: int, projection: int, hidden: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.text_projection_layer = nn.Linear(width, projection)
        self.image_projection_layer = nn.Linear(width, projection)
        self.dropout = nn.Dropout(dropout)
        self.combiner_layer = nn.Linear(2 * projection, hidden)
        self.output_layer = nn.Linear(hidden, width)
        self.dynamic_scalar = gate(2 * projection, hidden, dropout)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """image, text: ``(B, width)``, as the encoders give them. Gives ``(B, width)`` of unit norm."""
        return normalise(self.combine(image, text, self.text_projection_layer(text)))

    def combine(self, image: Tensor, text: Tensor, projected_text: Tensor) -> Tensor:
        """The query before its normalisation, ``(B, width)``, from W_t t already computed."""
        return self.compose(image, text, self.image_projection_layer(image), projected_text)

    def compose(self, image: Tensor, text: Tensor, projected_image: Tensor, projected_text: Tensor) -> Tensor:
        """As `combine`, from W_x x as well; of any number of dimensions before the last, ``(..., width)``."""
        joint = torch.cat([self.active(projected_text), self.active(projected_image)], dim=-1)
        mixture: Tensor = self.output_layer(self.active(self.combiner_layer(joint)))
        return mixture + gated_sum(self.dynamic_scalar(joint), text, image)

    def active(self, vectors: Tensor) -> Tensor:
        """``drop(relu(u))``, a new draw at each call."""
        dropped: Tensor = self.dropout(F.relu(vectors))
        return dropped


def gate(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """``(B, width) -> (B, 1)`` between 0 and 1: how much of the text the sum takes."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1), nn.Sigmoid())


def gated_sum(share: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """``s·t + (1 − s)·x`` for a share s ``(B, 1)`` and vectors t, x ``(B, width)``."""
    return share * text + (1 - share) * image
