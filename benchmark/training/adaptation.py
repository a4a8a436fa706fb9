"""What of a method moves, and how fast: parts frozen by name, rates by name, and low-rank changes of attention.

All of it is asked for by settings of a stage (``frozen``, ``rates``, ``lora``), so that a recipe says it as data.

Low-rank adaptation: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1:
``W + (alpha / r)·B·A`` in place of W, where A (r, n) starts at random and B (m, r) at zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.backbone import Backbone
from benchmark.errors import UserError, unknown_name
from benchmark.method import Method, ParameterGroups
from benchmark.settings import TrainingSettings

_MATRICES = ("weight", "in_proj_weight")
_ATTENTION = "attn", "attention"
_PARAMETRIZATIONS, _ORIGINAL = "parametrizations", "original"


class LowRankChange(nn.Module):
    """``W + scale·B·A`` of a matrix W (m, n)."""

    def __init__(self, matrix: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = matrix.shape
        self.a = nn.Parameter(torch.empty(rank, columns))
        self.b = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank
        self.to(matrix.device)

    def forward(self, matrix: Tensor) -> Tensor:
        """(m, n) → (m, n)."""
        return matrix + self.scale * (self.b @ self.a)


def adapt(method: Method, settings: TrainingSettings, stage: str, seed: int) -> None:
    """Freeze what the settings name, and give the backbone's attention its low-rank changes, drawn by ``seed``.

    Raises UserError for a name that no parameter has.
    """
    names = [name for name, _ in method.named_parameters()]
    for beginning in (*settings.frozen, *settings.rates):
        if not any(name.startswith(beginning) for name in names):
            known = {name.partition(".")[0] for name in names} | {".".join(name.split(".")[:2]) for name in names}
            raise unknown_name(f"part of stage {stage}", beginning, known)
    for name, parameter in method.named_parameters():
        if name.startswith(settings.frozen):
            parameter.requires_grad_(False)
    if settings.lora:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            _add_low_rank_changes(method, settings, stage)


def _add_low_rank_changes(method: Method, settings: TrainingSettings, stage: str) -> None:
    changed = list(_attention_matrices(method))
    if not changed:
        raise UserError(f"--set {stage}.lora: the stage trains no attention of a backbone; leave it out")
    for backbone in (module for module in method.modules() if isinstance(module, Backbone)):
        backbone.requires_grad_(False)
    for module, name in changed:
        change = LowRankChange(getattr(module, name), settings.lora, settings.lora_alpha)
        parametrize.register_parametrization(module, name, change)


def _attention_matrices(method: Method) -> Iterator[tuple[nn.Module, str]]:
    """The matrices of a backbone's attention layers that the stage trains."""
    for backbone in (module for module in method.modules() if isinstance(module, Backbone)):
        for path, module in backbone.named_modules():
            if not any(word in path for word in _ATTENTION):
                continue
            for name in _MATRICES:
                matrix = getattr(module, name, None)
                if isinstance(matrix, nn.Parameter) and matrix.requires_grad and matrix.ndim == 2:
                    yield module, name


def with_rates(groups: ParameterGroups, method: Method, rates: Mapping[str, float]) -> ParameterGroups:
    """Parameter groups cut up so that what begins with a name of ``rates`` has that rate; the longest name wins."""
    if not rates:
        return groups
    rate_of = {parameter: _rate(name, rates) for name, parameter in method.named_parameters()}
    cut: ParameterGroups = []
    for group in groups:
        for rate in dict.fromkeys(rate_of[parameter] for parameter in group["params"]):
            chosen = [parameter for parameter in group["params"] if rate_of[parameter] == rate]
            cut.append({**group, "params": chosen, **({} if rate is None else {"lr": rate})})
    return cut


def _rate(name: str, rates: Mapping[str, float]) -> float | None:
    fitting = [beginning for beginning in rates if name.startswith(beginning)]
    return rates[max(fitting, key=len)] if fitting else None


def merge(method: Method, states: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """States of an adapted method as states of the method as it was built, low-rank changes added to their matrices.

    The method is left as it was built, with the last of the states; states that are one object stay one.
    """
    if not any(parametrize.is_parametrized(module) for module in method.modules()):
        return list(states)
    merged = {id(state): _merged(method, state) for state in states}
    adapted: list[Any] = [module for module in method.modules() if parametrize.is_parametrized(module)]
    for module in adapted:
        for name in list(module.parametrizations):
            parametrize.remove_parametrizations(module, str(name), leave_parametrized=True)
    return [merged[id(state)] for state in states]


def _merged(method: Method, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method.load_state_dict(state)
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, marker, rest = name.partition(f"{_PARAMETRIZATIONS}.")
        if not marker:
            found[name] = tensor
        elif rest.endswith(f".{_ORIGINAL}"):
            matrix = rest.removesuffix(f".{_ORIGINAL}")
            with torch.no_grad():
                value: Tensor = getattr(method.get_submodule(module.rstrip(".")), matrix)
            found[f"{module}{matrix}"] = value.detach().cpu().clone()
    return found
