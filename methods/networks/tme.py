"""What TME adds to SPRC's network and training: the difference of two pictures as words, phases with an optimiser of
their own, and labels from a mixture of losses.

Notation: B batch, T tokens of a picture of width w, n query tokens, h width of the Q-Former, N training entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.adamw import adamw

from benchmark.errors import UserError
from benchmark.method import ParameterGroups
from benchmark.settings import TrainingSettings

from .blip2 import Blip2Sizes, PromptedStage

PhaseName = Literal["qformer", "proj", "last", "full"]

_CLEAN_ABOVE = 0.5
_SECOND = "second_"


class DifferenceStage(PromptedStage):
    """With a linear that turns the difference of two pictures' tokens into a picture of its own."""

    def __init__(self, picture_width: int, sizes: Blip2Sizes) -> None:
        super().__init__(picture_width, sizes)
        self.d2t_proj = nn.Linear(picture_width, picture_width)

    def difference(self, reference: Tensor, target: Tensor) -> Tensor:
        """What the n query tokens read off the difference of two pictures (B, T, w) behind ln_vision, (B, n, h)."""
        return self.picture_queries(self.d2t_proj(target - reference))

    def second_pass_of_difference(self, queries: Tensor, difference: Tensor) -> Tensor:
        """`second_pass` with the n rows of a difference (B, n, h) in the place of the words, (B, 2 n, h)."""
        rows = torch.cat([queries, self.bert.at_positions(difference)], dim=1)
        found: Tensor = self.bert(rows, rows.new_ones(rows.shape[:2], dtype=torch.bool))
        return found


@dataclass
class Phase:
    """The phase that training is in: the loss and the optimiser look at the same one."""

    name: PhaseName = "full"


class PhasedAdamW(torch.optim.AdamW):
    """AdamW, and a second one of some groups, which steps alone in the phase "proj"; they share no state.

    A group that the second has says so by "second_rate", its constant rate. In the phase "qformer" the loss does
    not see these parameters: they stand still, and do not decay.
    """

    def __init__(self, groups: ParameterGroups, settings: TrainingSettings) -> None:
        super().__init__(
            groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        self._betas = settings.betas

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        phase: Phase = self.param_groups[0]["phase"]
        own = [group for group in self.param_groups if "second_rate" in group]
        if phase.name == "proj":
            for group in own:
                self._step_of_second(group)
            return
        gradients = [(p, p.grad) for group in own for p in group["params"]] if phase.name == "qformer" else []
        for parameter, _ in gradients:
            parameter.grad = None
        super().step(closure)
        for parameter, gradient in gradients:
            parameter.grad = gradient

    def _step_of_second(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            # The first's, too: it takes a state that is not empty for its own.
            for prefix in ("", _SECOND):
                if f"{prefix}step" not in state:
                    state[f"{prefix}step"] = torch.zeros(())
                    state[f"{prefix}exp_avg"] = torch.zeros_like(parameter)
                    state[f"{prefix}exp_avg_sq"] = torch.zeros_like(parameter)
        kept: list[list[Tensor]] = [
            [self.state[p][f"{_SECOND}{key}"] for p in parameters] for key in ("exp_avg", "exp_avg_sq", "step")
        ]
        adamw(
            parameters, [p.grad for p in parameters if p.grad is not None], kept[0], kept[1], [], kept[2],
            amsgrad=False, beta1=self._betas[0], beta2=self._betas[1], lr=group["second_rate"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def clean_probabilities(losses: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Of every entry (N,), the probability of belonging to the component of the smaller losses.

    The losses are brought to 0…1 and a Gaussian mixture of two fitted. Raises UserError without scikit-learn.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise UserError(
            "scikit-learn is not installed, by which TME tells clean triplets from noisy ones: pip install "
            "'cir-benchmark[tme]'"
        ) from None
    spread = losses.max() - losses.min()
    if not spread:
        return np.ones(len(losses))
    scaled = ((losses - losses.min()) / spread)[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed % 2**32)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        mixture.fit(scaled)
    found: NDArray[np.float64] = mixture.predict_proba(scaled)[:, int(mixture.means_.argmin())]
    return found


def are_clean(losses: NDArray[np.float64], seed: int) -> NDArray[np.bool_]:
    """(N,)."""
    return clean_probabilities(losses, seed) > _CLEAN_ABOVE


def robust_contrast(logits: Tensor, clean: Tensor) -> Tensor:
    """RCL: what wrong answers are believed, ``−Σ_{j≠i} log(1 − p_ij)``, a mean over clean rows; 0 with none.

    ``logits`` (B, B), right answers on the diagonal, ``clean`` (B,). Both bounds of p are float32's.
    """
    p = logits.softmax(dim=1).clamp(1e-7, 1 - 1e-7)
    wrong = ~torch.eye(len(p), dtype=torch.bool, device=p.device)
    each = -(torch.log(1 - p) * wrong).sum(dim=1)
    return (each * clean).sum() / clean.sum().clamp(min=1)
