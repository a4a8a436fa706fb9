"""How VAL is trained: its loss, its optimiser as released, its L2 penalty, and the drop of its learning rate.

The loss is a triplet loss at each level, with semi-hard negatives mined in the batch (Chen et al., CVPR 2020,
section 3.3, hierarchical matching), as released.

The released trainer ends every step before Adam's step counter moves (the gradient of the LSTM's
initial state is never evaluated): its bias correction stays that of the first step for ever, and
the initial state at its random start.

Notation: B pairs that see each other, C width of a level; distances d are squared Euclidean, d_ij = |q_i − t_j|².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.method import ParameterGroups
from benchmark.settings import TrainingSettings

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


class ReleasedAdam(torch.optim.Optimizer):
    """θ −= lr · √(1−β₂)/(1−β₁) · m / (√v + ε), m and v the uncorrected running averages.

    With β = 0.9, 0.999 the factor is 0.316: the first step is lr, as with Adam; in the long run it
    is Adam at 0.316 lr. Weight decay is added to the gradient.
    """

    def __init__(
        self, groups: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if trained:
                self._step_group(group, [p for p, _ in trained], [gradient for _, gradient in trained])
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        first, second = group["betas"]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        m = [self.state[p]["exp_avg"] for p in parameters]
        v = [self.state[p]["exp_avg_sq"] for p in parameters]
        torch._foreach_lerp_(m, gradients, 1 - first)
        torch._foreach_mul_(v, second)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - second)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, group["eps"])
        factor = group["lr"] * math.sqrt(1 - second) / (1 - first)
        torch._foreach_addcdiv_(parameters, m, denominators, -factor)


def penalised(module: nn.Module) -> list[nn.Parameter]:
    """The weights under the L2 penalty: every convolution but depthwise ones, and the text projection.

    Biases, batch norms, LSTM, word vectors, the self-attention's linear maps and the two scalars
    of a level are not.
    """
    found = []
    for name, layer in module.named_modules():
        is_projection = isinstance(layer, nn.Linear) and name.endswith("projection")
        if is_projection or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            found.append(layer.weight)
    return found


def l2_penalty(module: nn.Module, decay: float) -> Tensor:
    """decay · ½‖W‖² over these weights; its gradient is coupled weight decay."""
    return decay / 2 * torch.stack([weight.square().sum() for weight in penalised(module)]).sum()


def penalty_groups(method: nn.Module) -> ParameterGroups:
    """All trained parameters, those without penalty in a group of their own."""
    chosen = set(penalised(method))
    trained = [p for p in method.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p in chosen]},
        {"params": [p for p in trained if p not in chosen], "weight_decay": 0.0},
    ]


def dropping_schedule(settings: TrainingSettings, updates: int, drop_at: float) -> Callable[[int], float]:
    """A constant rate, times ``schedule_factor`` from the share ``drop_at`` of all updates on."""
    drop = round(drop_at * updates)
    return lambda update: settings.schedule_factor if update >= drop else 1.0
