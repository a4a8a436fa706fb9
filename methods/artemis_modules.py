"""ARTEMIS's text attentions and its two scores, each as products of matrices.

Delmas, Sampaio de Rezende, Csurka, Larlus, "ARTEMIS: Attention-based Retrieval with Text-Explicit
Matching and Implicit Similarity", ICLR 2022.

Notation: B queries, N targets, d width; ℓ(u) = u / ‖u‖; r reference, m text, t target.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cnn import unit


class Attention(nn.Module):
    """``softmax(W₂ relu(W₁ m))`` over the d coordinates, (B, d) → (B, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Softmax(dim=-1)
        )

    def forward(self, text: Tensor) -> Tensor:
        weights: Tensor = self.attention(text)
        return weights


def matching(left: Tensor, attention: Tensor, targets: Tensor) -> Tensor:
    """``⟨left_i, ℓ(attention_i ⊙ t_j)⟩`` for all i, j: (B, d), (B, d), (N, d) → (B, N).

    ℓ only divides by a norm that is a product of two matrices itself::

        ((left ⊙ A) tᵀ) / sqrt((A ⊙ A)(t ⊙ t)ᵀ)

    so that no (B, N, d) tensor is made. The value does not change with the length of A's rows, which
    are brought to length 1 here to keep the squares away from the smallest numbers.
    """
    attention = unit(attention)
    products = (left * attention) @ targets.T
    squares = attention.square() @ targets.square().T
    return products / squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


def implicit_reference(attention: Tensor, reference: Tensor) -> Tensor:
    """``ℓ(A' ⊙ r)``, (B, d): the reference under the text's attention."""
    return unit(attention * reference)
