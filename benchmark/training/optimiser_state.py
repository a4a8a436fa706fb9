"""An optimiser's moments by parameter name, whole, whichever process keeps them.

ZeRO 1 and 2 keep moments in flat parts, one per process and group of parameters, whose borders
depend on the number of processes. By name and whole they serve any number of processes and any stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

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
