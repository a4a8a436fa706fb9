"""A negative group that spans several ranks, as on one process: its encodings, batch norms and dropout.

Each rank encodes its rows, and has the encodings of all with exact gradients.

A batch norm's statistics are those of the whole group: each rank's are combined, and the backward pass
sends the sums that it needs, so that gradients are exact. Dropout draws the masks of the whole group
on every rank, from the same seed, and each rank takes its rows: on the CPU these are the very masks of
one process. It works on any device (torch's SyncBatchNorm refuses CPU tensors) and for every layer
that computes by `F.batch_norm` or `F.dropout`, since only these two functions are replaced, within the
layer's own call: parameters, buffers, their names and the layer's type stay as they are.

Notation: W ranks of the group, B rows of one of them, C channels, N = values of a channel in the group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from benchmark.encoding import Encoding, map_tensors


class _GatherRows(torch.autograd.Function):
    """Concatenate every rank's rows; backward sums the gradients of all ranks for one's own rows.

    Each rank then computes the whole group's loss, and DeepSpeed's averaging of gradients over
    ranks is already the right factor (no multiplication by the world size).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any) -> Tensor:
        ctx.group = group
        world = torch.distributed.get_world_size(group)
        parts = [torch.empty_like(rows) for _ in range(world)]
        torch.distributed.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        rank = torch.distributed.get_rank(ctx.group)
        world = torch.distributed.get_world_size(ctx.group)
        own = gradient.shape[0] // world
        return gradient[rank * own : (rank + 1) * own], None


def gather_rows(encoding: Encoding, group: Any) -> Encoding:
    """Rows of all processes of ``group``, in rank order, with exact gradients; None: this one alone.

    Every process must have the same number of rows.
    """
    if group is None:
        return encoding
    return map_tensors(lambda tensor: _GatherRows.apply(tensor, group), encoding)


class GroupLayers:
    """Turns a module's batch norms and dropout into those of a group of ranks, until `close`."""

    def __init__(self, module: nn.Module, group: Any) -> None:
        mode: Any = _OverTheGroup(group)
        self._hooks = []
        for layer in module.modules():
            if isinstance(layer, _BatchNorm | nn.Dropout):
                self._hooks += [
                    layer.register_forward_pre_hook(lambda *_: mode.__enter__() and None),
                    # Also after an error, or the two functions would stay replaced for all of torch.
                    layer.register_forward_hook(lambda *_: mode.__exit__(None, None, None), always_call=True),
                ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class _OverTheGroup(TorchFunctionMode):
    def __init__(self, group: Any) -> None:
        super().__init__()
        self._replaced: dict[Any, Callable[..., Tensor]] = {
            F.batch_norm: lambda *args, **named: group_batch_norm(group, *args, **named),
            F.dropout: lambda *args, **named: group_dropout(group, *args, **named),
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._replaced.get(func, func)(*args, **(kwargs or {}))


def group_batch_norm(
    group: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` over the rows of all ranks of ``group``; input (B, C, …), in float32 at least.

    All ranks have equally many rows. Running statistics, where given, move alike on all of them.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    mean, variance, count = _statistics(x.detach(), group)
    if running_mean is not None and running_var is not None:
        # As torch's own: the running variance is the unbiased one, the variance that normalises is not.
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    deviation = (variance + eps).sqrt()
    # Torch's batch norm computes in float32 under autocast; what is written out here must be told to.
    with torch.autocast(input.device.type, enabled=False):
        normed: Tensor = _Normalise.apply(x, mean.to(x.dtype), deviation.to(x.dtype), count, group)
        if weight is not None:
            normed = normed * _per_channel(weight.to(x.dtype), x)
        if bias is not None:
            normed = normed + _per_channel(bias.to(x.dtype), x)
    return normed.to(input.dtype)


def _statistics(x: Tensor, group: Any) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of each channel over the group in float64, (C,) each, and N.

    Each rank's variance is about its own mean, so nothing cancels where values are far from zero.
    """
    world = torch.distributed.get_world_size(group)
    count = world * (x.numel() // x.shape[1])
    if count < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    own = torch.stack(torch.var_mean(x.to(_summed(x)), dim=_all_but_channels(x), correction=0)).to(x.dtype)
    parts = [torch.empty_like(own) for _ in range(world)]
    torch.distributed.all_gather(parts, own, group=group)
    variances, means = torch.stack(parts, dim=1).double()
    return means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0), count


class _Normalise(torch.autograd.Function):
    """x̂ = (x − μ)/σ with μ and σ of the whole group.

    ``∂x = (∂x̂ − (Σ∂x̂ + x̂ Σ∂x̂·x̂)/N)/σ``, both sums over the group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, deviation: Tensor, count: int, group: Any) -> Tensor:
        normed = (x - _per_channel(mean, x)) / _per_channel(deviation, x)
        ctx.save_for_backward(normed, deviation)
        ctx.count, ctx.group = count, group
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = gradients
        normed, deviation = ctx.saved_tensors
        dims = _all_but_channels(normed)
        terms, wide = (gradient, gradient * normed), _summed(normed)
        sums = torch.stack([term.sum(dim=dims, dtype=wide) for term in terms]).to(normed.dtype)
        torch.distributed.all_reduce(sums, group=ctx.group)
        plain, weighted = (_per_channel(s, normed) for s in sums / ctx.count)
        return (gradient - plain - normed * weighted) / _per_channel(deviation, normed), None, None, None, None


def _summed(x: Tensor) -> torch.dtype:
    """What torch's own batch norm adds up in: float64 on a CPU, float32 on a GPU."""
    return torch.float64 if x.device.type == "cpu" else x.dtype


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) → (1, C, 1, …) beside x."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def group_dropout(
    group: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`F.dropout` of this rank's rows of a whole group, rows in the first dimension."""
    if not training or p in (0.0, 1.0):
        return F.dropout(input, p, training, inplace)
    world, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
    rows = len(input)
    # The generator moves on by the whole group's numbers on every rank, so that later draws agree as well.
    kept = input.new_empty((world * rows, *input.shape[1:])).bernoulli_(1 - p)
    return input * kept[rank * rows : (rank + 1) * rows].div_(1 - p)
