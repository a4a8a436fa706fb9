"""Optimisers: the standard ones, their schedules, the moving average of weights, and an optimiser's moments.

A stage may bring its own factories; the standard ones serve all that ask for nothing special.

Moments are kept by parameter name and whole. ZeRO 1 and 2 have them in flat parts, one per process and group
of parameters, whose borders depend on the number of processes; by name they serve any number, and any stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchmark.method import ParameterGroups
from benchmark.settings import TrainingSettings


def standard_optimiser(groups: ParameterGroups, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name; a group's own keys win over the settings.

    Fused: one pass over weights, gradients and moments, where torch's other forms make ten and more.
    Adam on SPIRIT's 110 million weights took 0.11 s in place of 0.80 s (one core of an EPYC).
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=settings.betas, eps=settings.eps, weight_decay=decay, fused=True)


def standard_schedule(settings: TrainingSettings, updates_per_epoch: int) -> Callable[[int], float]:
    """Factor of the learning rate at update n, counted from 0.

    ``cosine-rising`` is ½(1 + cos(πn/T)), T = ``schedule_epochs`` epochs of updates, never
    clamped: it rises again after T (SPIRIT's released schedule). ``cosine`` reaches zero at the
    last update. ``step`` multiplies by ``schedule_factor`` every ``schedule_epochs`` epochs, or before each
    epoch of ``milestones``.
    ``one-cycle``: see `standard_momentum`, which moves the momentum against it.
    """
    total = max(settings.epochs * updates_per_epoch, 1)
    warmup = settings.warmup_updates or round(settings.warmup * total)
    period = max(settings.schedule_epochs * updates_per_epoch, 1)

    def factor(update: int) -> float:
        if settings.schedule == "one-cycle":
            start = 1 / settings.cycle_start
            return _one_cycle(settings, updates_per_epoch, update, (start, 1.0, start / settings.cycle_end))
        if update < warmup:
            return (update + 1) / warmup
        if settings.schedule == "cosine-rising":
            return 0.5 * (1 + math.cos(math.pi * update / period))
        if settings.schedule == "cosine":
            share = (update - warmup) / max(total - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        if settings.schedule == "step" and settings.milestones:
            epoch = update // updates_per_epoch + 1
            return settings.schedule_factor ** sum(milestone <= epoch for milestone in settings.milestones)
        if settings.schedule == "step":
            return settings.schedule_factor ** (update // period)
        return 1.0

    return factor


def standard_momentum(settings: TrainingSettings, updates_per_epoch: int) -> Callable[[int], float] | None:
    """Adam's β₁ (SGD's momentum) at update n, where the schedule moves it; None where it stays.

    One-cycle, of S updates with the rising share f: the peak stands at u = f·S − 1, which need not be whole;
    half cosines lead from the start to the peak and on to the end (Smith and Topin, 2019, as PyTorch has it).
    """
    if settings.schedule != "one-cycle":
        return None
    lowest, highest = settings.cycle_momentum
    return lambda update: _one_cycle(settings, updates_per_epoch, update, (highest, lowest, highest))


def _one_cycle(
    settings: TrainingSettings, updates_per_epoch: int, update: int, values: tuple[float, float, float]
) -> float:
    """Between values at the start, the peak and the end, by half cosines; after the end that of the end."""
    total = max((settings.schedule_epochs or settings.epochs) * updates_per_epoch, 1)
    peak, last = settings.warmup * total - 1, total - 1
    start, middle, end = values
    if update <= peak:
        return middle + (start - middle) * (1 + math.cos(math.pi * update / peak)) / 2 if peak else middle
    share = min((update - peak) / max(last - peak, 1), 1.0)
    return end + (middle - end) * (1 + math.cos(math.pi * share)) / 2


class MovingAverage:
    """Exponential moving average of the trained weights, updated before each weight update.

    Torch's arithmetic, but not its `AveragedModel` nor timm's: these average a deep copy of the whole
    method, frozen encoders and the hooks on its layers included, while what validates holds the method
    itself. Buffers (batch-norm statistics) are not averaged. A decay of 0 is refused: use no average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.shadow: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad
        }

    def update(self, module: nn.Module) -> None:
        self._update(tuple(self.shadow.values()), tuple(self._averaged(module)), 0)

    @contextmanager
    def in_place_of_weights(self, module: nn.Module) -> Iterator[None]:
        """Within the context the module computes with the averages."""
        parameters = self._averaged(module)
        kept = [parameter.detach().clone() for parameter in parameters]
        try:
            with torch.no_grad():
                torch._foreach_copy_(parameters, list(self.shadow.values()))
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, kept)

    def _averaged(self, module: nn.Module) -> list[Tensor]:
        """The parameters in the order of their averages."""
        parameters: dict[str, Tensor] = dict(module.named_parameters())
        return [parameters[name] for name in self.shadow]


Moments = dict[str, dict[str, Any]]
"""What an optimiser keeps of a parameter (tensors of its shape, and counts), by the parameter's name."""


def moments_of(optimiser: Any, module: nn.Module, keep: bool = True) -> Moments:
    """Copies on the host; every process must call it. ``keep`` False takes part and gives nothing."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    moments: Moments = {}
    if not is_split(optimiser):
        for parameter, kept in optimiser.state.items() if keep else ():
            moments[names[parameter]] = {key: _copied(value) for key, value in kept.items()}
        return moments
    for group, flat in enumerate(optimiser.single_partition_of_fp32_groups):
        state = optimiser.state.get(flat, {})
        for key, value in state.items():
            is_split_up = isinstance(value, Tensor) and value.shape == flat.shape
            whole = value
            if is_split_up:
                processes = optimiser.real_dp_process_group[group]
                parts = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size(processes))]
                torch.distributed.all_gather(parts, value.contiguous(), group=processes)
                whole = torch.cat(parts)
            if not keep:
                continue
            for parameter, offset in _places(optimiser, group):
                part = whole[offset : offset + parameter.numel()].view_as(parameter) if is_split_up else whole
                moments.setdefault(names[parameter], {})[key] = _copied(part)
    return moments


def give_moments(optimiser: Any, module: nn.Module, moments: Mapping[str, Mapping[str, Any]]) -> None:
    """Put moments into an optimiser that has none yet; parameters that are not named start afresh.

    Raises ValueError where one group of split moments has parameters of different counts of updates.
    """
    parameters = dict(module.named_parameters())
    known = {parameters[name]: kept for name, kept in moments.items() if name in parameters}
    if not is_split(optimiser):
        for options in optimiser.param_groups:
            for parameter in options["params"]:
                if parameter in known:
                    optimiser.state[parameter] = _placed(known[parameter], parameter, options)
        return
    for group, flat in enumerate(optimiser.single_partition_of_fp32_groups):
        places = [(p, offset) for p, offset in _places(optimiser, group) if p in known]
        if places:
            own = _own_part(optimiser, group, flat, {p: known[p] for p, _ in places}, places)
            optimiser.state[flat] = _placed(own, flat, optimiser.param_groups[group])


def is_split(optimiser: Any) -> bool:
    """Whether it is ZeRO's, whose processes keep a part each."""
    return hasattr(optimiser, "single_partition_of_fp32_groups")


def groups_by_count(groups: list[dict[str, Any]], module: nn.Module, moments: Moments) -> list[dict[str, Any]]:
    """Parameter groups cut up so that no group has parameters of different counts of updates."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    cut = []
    for group in groups:
        by_count: dict[float | None, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            count = moments.get(names[parameter], {}).get("step")
            by_count.setdefault(None if count is None else float(count), []).append(parameter)
        cut += [{**group, "params": parameters} for parameters in by_count.values()]
    return cut


def _places(optimiser: Any, group: int) -> list[tuple[nn.Parameter, int]]:
    """The parameters of a group and where each begins in the flat whole."""
    # Stage 2 may deal parameters out in turn, so the group's own order would give other places.
    parameters = optimiser.round_robin_bit16_groups[group]
    return list(zip(parameters, optimiser.round_robin_bit16_offsets[group], strict=True))


def _own_part(
    optimiser: Any,
    group: int,
    flat: Tensor,
    known: Mapping[nn.Parameter, Mapping[str, Any]],
    places: list[tuple[nn.Parameter, int]],
) -> dict[str, Any]:
    first = known[places[0][0]]
    rank = torch.distributed.get_rank(optimiser.real_dp_process_group[group])
    size = int(optimiser.partition_size[group])
    state: dict[str, Any] = {}
    for key, value in first.items():
        # A count of updates, which ZeRO keeps once for the whole group; the rest has the parameter's shape.
        if not _is_moment(key, value, places[0][0]):
            if any(float(kept[key]) != float(value) for kept in known.values()):
                raise ValueError(f"parameters of one group differ in '{key}', which ZeRO keeps once per group")
            state[key] = _copied(value)
            continue
        own = torch.zeros(size, dtype=flat.dtype)
        for parameter, offset in places:
            begin, end = max(offset, rank * size), min(offset + parameter.numel(), (rank + 1) * size)
            if begin < end:
                values = known[parameter][key].flatten()
                own[begin - rank * size : end - rank * size] = values[begin - offset : end - offset]
        state[key] = own
    return state


def _is_moment(key: str, value: Any, parameter: Tensor) -> bool:
    """Whether an entry is of the parameter's shape; of a parameter without a dimension the count is, too."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and key != "step"


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _placed(kept: Mapping[str, Any], parameter: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
    """Copies where the optimiser looks for them: counts stay on the host unless its kernels read them."""
    counts = parameter.device if options.get("fused") or options.get("capturable") else torch.device("cpu")
    return {
        key: value.detach().clone().to(parameter.device if _is_moment(key, value, parameter) else counts)
        if isinstance(value, Tensor)
        else value
        for key, value in kept.items()
    }
