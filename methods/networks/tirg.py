"""TIRG's three compositions of a picture x and a text t, and its two losses.

Vo, Jiang, Sun, Murphy, Li, Fei-Fei, Hays, "Composing Text and Image for Image Retrieval: An Empirical
Odyssey", CVPR 2019, and the authors' release. Attribute names are those of the released state dict.

Notation: B batch, c width of x, d width of t, [x, t] the two side by side, picture first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.prefetching import handed_over

RELEASED_SHARES = (1.0, 10.0, 1.0, 1.0)
"""a of the release: only the first two are used; the others get a gradient of zero."""


class GatedResidual(nn.Module):
    """TIRG on vectors: ``q = a₀ · f_g ⊙ x + a₁ · f_r``, paper's equations 1 to 3::

        f_g = sigmoid(W_g relu(BN([x, t])))
        f_r = W₂ relu(W₁ relu(BN'([x, t])))

    The gate multiplies the raw x. x ``(B, c)``, t ``(B, d)``, q ``(B, c)``, not normalised.
    """

    def __init__(self, picture: int, text: int, shares: Sequence[float] = RELEASED_SHARES) -> None:
        super().__init__()
        both = picture + text
        self.a = nn.Parameter(torch.tensor(shares))
        self.gated_feature_composer = nn.Sequential(
            OrderedDict([("1", nn.BatchNorm1d(both)), ("2", nn.ReLU()), ("3", nn.Linear(both, picture))])
        )
        self.res_info_composer = nn.Sequential(
            OrderedDict(
                [
                    ("1", nn.BatchNorm1d(both)), ("2", nn.ReLU()), ("3", nn.Linear(both, both)),
                    ("4", nn.ReLU()), ("5", nn.Linear(both, picture)),
                ]
            )
        )  # fmt: skip

    def forward(self, picture: Tensor, text: Tensor) -> Tensor:
        gate, residual = self.parts(picture, text)
        return self.a[0] * gate * picture + self.a[1] * residual

    def parts(self, picture: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """f_g and f_r, each (B, c)."""
        both = torch.cat([picture, text], dim=-1)
        return torch.sigmoid(self.gated_feature_composer(both)), self.res_info_composer(both)


class MapGatedResidual(nn.Module):
    """TIRG (last conv), on the last map: ``Y = a₀ · F_g ⊙ X + a₁ · F_r`` with Z = [X, t at every position]::

        F_g = sigmoid(C₂ relu(C₁ BN(Z))),  F_r = C₂' relu(C₁' BN'(Z))

    3×3 convolutions with padding 1; no ReLU between BN and C₁. X and Y ``(B, C, h, w)``, t ``(B, d)``.
    """

    def __init__(self, channels: int, text: int, shares: Sequence[float] = RELEASED_SHARES) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(shares))
        self.mod2d = _two_convolutions(channels + text, channels)
        self.mod2d_gate = _two_convolutions(channels + text, channels)

    def forward(self, last_map: Tensor, text: Tensor) -> Tensor:
        gate, residual = self.parts(last_map, text)
        return self.a[0] * gate * last_map + self.a[1] * residual

    def parts(self, last_map: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """F_g and F_r, each (B, C, h, w)."""
        repeated = text[:, :, None, None].expand(-1, -1, *last_map.shape[2:])
        both = torch.cat([last_map, repeated], dim=1)
        return torch.sigmoid(self.mod2d_gate(both)), self.mod2d(both)


def _two_convolutions(both: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(both),
        nn.Conv2d(both, both, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(both, channels, 3, padding=1),
    )


class Concatenation(nn.Module):
    """Concat + MLP: ``q = W₂ drop(relu(BN(W₁ relu(BN'([x, t])))))``, (B, c)."""

    def __init__(self, picture: int, text: int, dropout: float = 0.1) -> None:
        super().__init__()
        both = picture + text
        self.m = nn.Sequential(
            nn.BatchNorm1d(both),
            nn.ReLU(),
            nn.Linear(both, both),
            nn.BatchNorm1d(both),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(both, picture),
        )

    def forward(self, picture: Tensor, text: Tensor) -> Tensor:
        query: Tensor = self.m(torch.cat([picture, text], dim=-1))
        return query


Composition = GatedResidual | MapGatedResidual | Concatenation


def classification_loss(queries: Tensor, targets: Tensor) -> Tensor:
    """``mean_i −log softmax_j(q_i · y_j)`` at j = i: the batch's targets as classes, one direction.

    queries, targets: (B, d), scaled already.
    """
    return F.cross_entropy(queries @ targets.T, torch.arange(len(queries), device=queries.device))


def draw_triplets(pairs: int, of_each: int = 3) -> Tensor:
    """For each of the 2B rows of [queries; targets] as anchor, up to three triplets, (≤ 6B, 3).

    Columns: anchor, positive (the other row of its pair), negative (any row of another pair, of either
    kind), drawn without replacement from torch's generator on the host.
    """
    rows = 2 * pairs
    anchor = torch.arange(rows)
    positive = (anchor + pairs) % rows
    chance = torch.rand(rows, rows)
    chance[anchor, anchor] = chance[anchor, positive] = -1.0
    negative = chance.topk(min(of_each, rows - 2), dim=1).indices
    columns = (anchor[:, None].expand_as(negative), positive[:, None].expand_as(negative), negative)
    return torch.stack([column.reshape(-1) for column in columns], dim=1)


def soft_triplet_loss(queries: Tensor, targets: Tensor, triplets: Tensor) -> Tensor:
    """``mean over triplets of log(1 + exp(d_ij − d_ik))``, d the squared distance of scaled rows.

    queries, targets: (B, d), scaled. triplets: (T, 3). The released gradient lacks the factor 2 of a
    squared distance, so what goes back is half of the true gradient; the value is the loss itself.
    """
    rows = torch.cat([queries, targets])
    anchor, positive, negative = (rows[column] for column in handed_over(triplets, rows.device).T)
    difference = (anchor - positive).square().sum(dim=-1) - (anchor - negative).square().sum(dim=-1)
    loss = F.softplus(difference).mean()
    return 0.5 * loss + 0.5 * loss.detach()
