"""Arithmetic whose outcome does not depend on the machine: norms, sums in a fixed order, precision, threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.dataset import IntArray
from benchmark.errors import UserError

Scores = NDArray[np.float64]


def norms(tensor: Tensor, kind: str, ids: Sequence[str] = ()) -> Scores:
    """Euclidean norms (rows,) of ``(rows, d)``; raises UserError where a row is not finite.

    ``ids`` (rows,) name the rows in the message."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    lengths: Scores = torch.linalg.vector_norm(wide, dim=1).double().cpu().numpy()
    # Squares of float32 leave its range long before the values do: such rows are measured again.
    extreme = np.flatnonzero(~((lengths > 1e-15) & (lengths < 1e15)))
    again = tensor[torch.from_numpy(extreme).to(tensor.device)].cpu().double()
    lengths[extreme] = torch.linalg.vector_norm(again, dim=1).numpy()
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        name = f" ({ids[bad[0]]})" if ids else ""
        where = f"the encoding of {kind} {bad[0]}{name} is not finite"
        raise UserError(f"{where}, {len(bad)} such in all: check the checkpoint or the file it comes from")
    return lengths


def exponents(lengths: Scores, dtype: torch.dtype) -> IntArray:
    """Powers of two to divide rows by; 0 for ordinary norms, so that nothing is copied for them."""
    exponent = np.frexp(lengths)[1].astype(np.int64)
    limit = 900 if dtype == torch.float64 else 100
    return np.where(np.abs(exponent) > 16, np.clip(exponent, -limit, limit), 0)


def first_twins(gallery: Tensor) -> IntArray:
    """For every row the first row with the same bytes, (G,)."""
    first: dict[int, int] = {}
    twins = np.arange(len(gallery))
    for start, stop in spans(len(gallery), 1024):
        part = gallery[start:stop].detach().contiguous().cpu().view(torch.uint8).numpy()
        for i, row in enumerate(part, start):
            other = first.setdefault(hash(row.tobytes()), i)
            if other != i and bool((gallery[other] == gallery[i]).all()):
                twins[i] = other
    return twins


def fixed_order_sum(terms: Tensor) -> Tensor:
    """Row sums ``(m, d)`` to ``(m,)`` by adding the second half to the first until one column is left.

    Additions of whole columns: the order of a row's terms depends on d alone, not on m, threads or
    device. Overwrites ``terms``.
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        # Not `+=`, which would copy the sums onto themselves once more.
        terms[:, : width - half].add_(terms[:, half:width])
        width = half
    return terms[:, 0]


def float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed: Apple's devices have none."""
    return torch.device("cpu") if device.type == "mps" else device


def spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, length)) for start in range(0, length, step))


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32: no TF32 or bfloat16 in their place, no autocast; restored afterwards."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        # Older functions for the same settings refuse to answer where somebody has used these.
        for backend in (torch.backends.cuda, torch.backends.mkldnn):
            products = getattr(backend, "matmul")  # noqa: B009 - typed for one of them only
            stack.callback(setattr, products, "fp32_precision", products.fp32_precision)
            products.fp32_precision = "ieee"
        yield


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's operations of this thread on ``count`` CPU threads; restored afterwards.

    One is for the small operations between large products: where other programs want the cores too,
    each of them would wait for a thread that is not running, far longer than the second core saves.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
