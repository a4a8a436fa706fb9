"""VAL's loss: a triplet loss at each level, with semi-hard negatives mined in the batch.

Chen et al., CVPR 2020, section 3.3 (hierarchical matching), as released. Notation: B pairs that see
each other, C width of a level; distances d are squared Euclidean, d_ij = |q_i − t_j|².
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Mining = Literal["column", "row", "none"]
"""What a negative d_ij must not be nearer than: the positive of column j (the release's broadcasting
slip), that of row i (semi-hard as described), or nothing (the hardest of the batch)."""

_NO_NEGATIVE = 1e8


def squared_distances(queries: Tensor, targets: Tensor) -> Tensor:
    """(B, C), (B, C) → (B, B)."""
    squares = queries.square().sum(dim=1)[:, None] + targets.square().sum(dim=1)[None]
    return squares - 2 * queries @ targets.T


def hardest_allowed(distances: Tensor, mining: Mining) -> tuple[Tensor, Tensor]:
    """For each row the nearest negative that the mask leaves: distances (B,) and columns (B,).

    1e8 where none is left.
    """
    positives = distances.diagonal()
    masked = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    if mining != "none":
        masked = masked | (distances < (positives[None, :] if mining == "column" else positives[:, None]))
    nearest = distances.masked_fill(masked, _NO_NEGATIVE).min(dim=1)
    return nearest.values, nearest.indices


def matching_loss(queries: Tensor, targets: Tensor, margin: float, mining: Mining) -> Tensor:
    """One level, both directions: mean of max(0, d_ii − n_i + margin) over queries, and over targets."""
    with torch.autocast(queries.device.type, enabled=False):
        distances = squared_distances(queries, targets)
        positives = distances.diagonal()
        hinges = [
            torch.relu(positives - hardest_allowed(d, mining)[0] + margin).mean() for d in (distances, distances.T)
        ]
    return hinges[0] + hinges[1]


def hierarchical_loss(
    queries: Tensor, targets: Tensor, widths: Sequence[int], margin: float, mining: Mining
) -> Tensor:
    """Sum over the levels of vectors (B, Σwidths); all weigh 1."""
    levels = zip(torch.split(queries, list(widths), 1), torch.split(targets, list(widths), 1), strict=True)
    return torch.stack([matching_loss(q, t, margin, mining) for q, t in levels]).sum()
