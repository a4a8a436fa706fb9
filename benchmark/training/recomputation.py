"""Gradient checkpointing: what the blocks of a network compute is computed again in the backward pass.

Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016. A block is what a
network is a sequence of (the bottlenecks of a ResNet, the layers of a transformer). Nothing of the
result changes: dropout is drawn again from the same state, and running statistics move once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_NORMS = nn.modules.batchnorm._BatchNorm


class RecomputedBlocks:
    """The blocks of a module, recomputed until `restore`."""

    def __init__(self, module: nn.Module) -> None:
        self._blocks = list(blocks_of(module))
        for block in self._blocks:
            block.forward = _recomputed(block, block.forward)

    def restore(self) -> None:
        for block in self._blocks:
            del block.__dict__["forward"]


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Modules with modules inside that a Sequential or a ModuleList holds; no block within a block."""
    for child in module.children():
        is_sequence = isinstance(module, nn.Sequential | nn.ModuleList)
        if is_sequence and any(True for _ in child.children()) and not isinstance(child, nn.Sequential | nn.ModuleList):
            yield child
        else:
            yield from blocks_of(child)


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    norms = [norm for norm in block.modules() if isinstance(norm, _NORMS)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
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
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
