"""Batches that a card does not hold at once: gradient cache, gradient checkpointing, and the error without them.

Neither changes a result beyond the rounding of sums.

Gradient cache (Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", RepL4NLP 2021): encodings are small, what the encoders keep for the backward pass is
not. Each micro-batch is encoded and forgotten; the loss sees the encodings of all; going back, each is
encoded again, with the same dropout, and its part of the gradient computed. To autograd it is one graph,
so that gathering over processes, loss scaling and ZeRO need not know of it.

Gradient checkpointing (Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost",
2016): what the blocks of a network compute is computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from benchmark.distributed.process import Process
from benchmark.encoding import Encoding, concatenate, encode
from benchmark.errors import UserError
from benchmark.method import Views
from benchmark.prefetching import handed_over
from benchmark.settings import TrainingSettings
from benchmark.training.batches import GroupLayout


def encode_in_micro_batches(
    how: Callable[..., Encoding], rows: int, device: torch.device | None = None, **views: Views
) -> Encoding:
    """``encode(how, **views)``, computed ``rows`` rows at a time (0: all); every view has the batch's rows.

    Micro-batches are of equal size, or differ by one row, and have two rows at least, as methods ask for.
    Views may lie on the host: each micro-batch is moved to ``device`` when it is needed.
    """
    total = len(next(iter(next(iter(views.values())).values())))
    count = min(-(-total // rows), total // 2) if rows else 1

    def encode_there(parts: dict[str, Views], place: Tensor | None = None) -> Encoding:
        if device is None:
            return encode(how, **parts)
        return encode(how, **{of: {n: handed_over(t, device) for n, t in view.items()} for of, view in parts.items()})

    if count <= 1 or not torch.is_grad_enabled():
        return encode_there(views)
    encodings = []
    # Torch draws dropout again as it was on the devices of its arguments alone, and the views may lie elsewhere.
    place = torch.empty(0, device=device)
    cached = torch.is_autocast_cache_enabled()
    # Autocast would cast a weight once for all micro-batches, and sum their gradients in half precision.
    torch.set_autocast_cache_enabled(False)
    try:
        for index in np.array_split(np.arange(total), count):
            own = slice(int(index[0]), int(index[-1]) + 1)
            parts = {of: {name: tensor[own] for name, tensor in view.items()} for of, view in views.items()}
            encoding: Encoding = checkpoint(encode_there, parts, place, use_reentrant=False)
            encodings.append(encoding)
    finally:
        torch.set_autocast_cache_enabled(cached)
    return concatenate(encodings)


class CheckpointedBlocks:
    """The blocks of a module, computed again in the backward pass until `restore`.

    open_clip's own switch (`set_grad_checkpointing`) does nothing for its ResNets, and timm's lets a second
    forward pass move the running statistics of batch norms a second time.
    """

    def __init__(self, module: nn.Module) -> None:
        self._blocks = list(blocks_of(module))
        for block in self._blocks:
            # On the instance, not by a wrapping module: names in the state dict stay as they are.
            block.forward = _checkpointed(block, block.forward)

    def restore(self) -> None:
        for block in self._blocks:
            del block.__dict__["forward"]


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """What a network is a sequence of: the bottlenecks of a ResNet, the layers of a transformer.

    Modules with modules inside that a Sequential or a ModuleList holds; no block within a block.
    """
    for child in module.children():
        is_sequence = isinstance(module, nn.Sequential | nn.ModuleList)
        if is_sequence and any(True for _ in child.children()) and not isinstance(child, nn.Sequential | nn.ModuleList):
            yield child
        else:
            yield from blocks_of(child)


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # Of the first pass and of the second one.
        return nullcontext(), _statistics_kept(norms)

    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)

    return run


@contextmanager
def _statistics_kept(norms: list[Any]) -> Iterator[None]:
    """Batch norms compute as before, but their running statistics move by nothing."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        # Without a counter none is counted up; the module takes the momentum as it stands then.
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


@contextmanager
def enough_memory(process: Process, settings: TrainingSettings, layout: GroupLayout) -> Iterator[None]:
    """Raises UserError where the computation within runs out of memory: a group is never made smaller."""
    try:
        yield
    except RuntimeError as error:
        # The host's allocator says it in words only.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        rows, group = layout.rows_per_rank, settings.group
        share = "" if rows == group else f" ({rows} on each of {process.world_size} processes)"
        raise UserError(
            f"out of memory: {process.device} cannot hold a negative group of {group} pairs{share}; encode it in "
            f"micro-batches (--set trainer.micro_batch={max(rows // 4, 1)}) or share it between more processes; "
            "a smaller --negative-group fits, too, but is another recipe"
        ) from error
