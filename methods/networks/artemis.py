"""ARTEMIS's text attentions and its versions of the score, each as products of matrices.

Delmas, Sampaio de Rezende, Csurka, Larlus, "ARTEMIS: Attention-based Retrieval with Text-Explicit
Matching and Implicit Similarity", ICLR 2022.

Notation: B queries, N targets, d width; ℓ(u) = u / ‖u‖; r reference, m text, t target.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.encoding import Encoding
from benchmark.method import Views

from .artemis_encoders import ArtemisMethod, Encoders, LinearPicture
from .cnn import unit

Version = Literal["ARTEMIS", "EM-only", "IS-only", "late-fusion", "cross-modal", "visual-search"]
VERSION_HELP = "which score: the sum, one of its halves, or a plain dot product"


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


class Artemis(ArtemisMethod):
    """EM + IS, or one of the two alone."""

    def __init__(self, encoders: Encoders, width: int, version: Version, frozen: bool = False) -> None:
        super().__init__(encoders, frozen)
        self._matches, self._compares = version != "IS-only", version != "EM-only"
        if self._matches:
            self.Transform_m = nn.Sequential(nn.Linear(width, width))
            self.Attention_EM = Attention(width)
        if self._compares:
            self.Attention_IS = Attention(width)

    def encode_query(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """(B, d) each: "wanted" T and "explicit" A for EM, "reference" ℓ(A' ⊙ r) and "implicit" A' for IS."""
        vectors = self.encoders.text(text)
        self._require_rows(len(vectors))
        encoding: dict[str, Tensor] = {}
        if self._matches:
            encoding |= {"wanted": unit(self.Transform_m(vectors)), "explicit": self.Attention_EM(vectors)}
        if self._compares:
            attention = self.Attention_IS(vectors)
            picture = self.encoders.picture(reference)
            encoding |= {"reference": implicit_reference(attention, picture), "implicit": attention}
        return encoding

    def score(self, queries: Encoding, targets: Encoding) -> Tensor:
        """(b, n) from blocks of queries and targets, in [−2, 2]."""
        assert isinstance(queries, dict) and isinstance(targets, Tensor)
        scores = []
        if self._matches:
            scores.append(matching(queries["wanted"], queries["explicit"], targets))
        if self._compares:
            scores.append(matching(queries["reference"], queries["implicit"], targets))
        return torch.stack(scores).sum(dim=0)

    def explain(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """The attentions over the d coordinates, (B, d)."""
        encoding = self.encode_query(reference, text)
        return {name: encoding[name] for name in ("explicit", "implicit") if name in encoding}


class PlainFusion(ArtemisMethod):
    """The release's versions whose score is a dot product: ⟨ℓ(r + m), t⟩, ⟨m, t⟩, ⟨r, t⟩."""

    def __init__(self, encoders: Encoders, version: Version, frozen: bool = False) -> None:
        super().__init__(encoders, frozen)
        self._kind = version

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """The version that reads no text leaves the text encoder alone; where texts alone ask, a linear layer's
        bias moves all targets alike, which the softmax removes."""
        still = super().without_gradient
        if self._kind == "visual-search" and self.encoders.vocabulary is not None:
            return (*still, "encoders.txt_enc.")
        if self._kind == "cross-modal" and isinstance(self.encoders.img_enc, LinearPicture):
            return (*still, "encoders.img_enc.linear.bias")
        return still

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d)."""
        if self._kind == "cross-modal":
            return self.encoders.text(text)
        picture = self.encoders.picture(reference)
        self._require_rows(len(picture))
        return picture if self._kind == "visual-search" else unit(picture + self.encoders.text(text))


def artemis_of_version(encoders: Encoders, width: int, version: Version, frozen: bool = False) -> ArtemisMethod:
    """The method of a version."""
    if version in ("ARTEMIS", "EM-only", "IS-only"):
        return Artemis(encoders, width, version, frozen)
    return PlainFusion(encoders, version, frozen)
