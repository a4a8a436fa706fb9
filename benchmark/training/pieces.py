"""Gradient caching: a batch of any size is encoded a piece at a time, with the gradients of the whole.

Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(RepL4NLP 2021): encodings are small, what the encoders keep for the backward pass is not. Each piece
is encoded and forgotten; the loss sees the encodings of all; going back, each piece is encoded again,
with the same dropout, and its part of the gradient computed. To autograd it is one graph, so that
gathering over processes, loss scaling and ZeRO need not know of it, and the optimiser sees one gradient.

A batch norm in train mode would see a piece instead of the group: such methods are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmark.encoding import Encoding, concatenate
from benchmark.method import Views


def encode_in_pieces(
    encode: Callable[..., Encoding], views: tuple[Views, ...], rows: int, device: torch.device | None = None
) -> Encoding:
    """``encode(*views)``, computed ``rows`` rows at a time (0: all); every view has the batch's rows.

    Pieces are of equal size, or differ by one row, and have two rows at least, as methods ask for. Views
    may lie on the host: each piece is moved to ``device`` when it is needed.
    """
    total = len(next(iter(views[0].values())))
    pieces = min(-(-total // rows), total // 2) if rows else 1

    def encode_there(*piece: Views) -> Encoding:
        return encode(*({name: tensor.to(device) for name, tensor in view.items()} for view in piece))

    if pieces <= 1 or not torch.is_grad_enabled():
        return encode_there(*views)
    parts = []
    with _weights_cast_in_each_piece():
        for index in torch.arange(total).tensor_split(pieces):
            own = slice(int(index[0]), int(index[-1]) + 1)
            piece = [{name: tensor[own] for name, tensor in view.items()} for view in views]
            encoded: Encoding = checkpoint(encode_there, *piece, use_reentrant=False)
            parts.append(encoded)
    return concatenate(parts)


@contextmanager
def _weights_cast_in_each_piece() -> Iterator[None]:
    """Autocast would cast a weight once for all pieces, and sum their gradients in half precision."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def trains_batch_norm(method: nn.Module) -> str:
    """Name of a batch norm that is in train mode, "" for none."""
    for name, module in method.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            return str(name)
    return ""
