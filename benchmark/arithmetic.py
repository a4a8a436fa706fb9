"""Arithmetic whose outcome does not depend on the machine: norms, sums in a fixed order, precision, threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import UserError

Scores = NDArray[np.float64]
_KEYED_CELLS = 2**24
"""Cells of a gallery that are looked at together: 134 MB as whole numbers."""


def norms(tensor: Tensor, kind: str, ids: Sequence[str] = ()) -> Tensor:
    """Euclidean norms (rows,) of ``(rows, d)``, in float64; raises UserError where a row is not finite.

    ``ids`` (rows,) name the rows in the message."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    lengths: Tensor = torch.linalg.vector_norm(wide, dim=1).to(float64_device(tensor.device)).double()
    # Squares of float32 leave its range long before the values do: such rows are measured again.
    extreme = ((lengths > 1e-15) & (lengths < 1e15)).logical_not_().nonzero()[:, 0]
    if len(extreme):
        again = tensor[extreme.to(tensor.device)].cpu().double()
        lengths[extreme] = torch.linalg.vector_norm(again, dim=1).to(lengths.device)
        bad = lengths.isfinite().logical_not_().nonzero()[:, 0].tolist()
        if bad:
            name = f" ({ids[bad[0]]})" if ids else ""
            where = f"the encoding of {kind} {bad[0]}{name} is not finite"
            raise UserError(f"{where}, {len(bad)} such in all: check the checkpoint or the file it comes from")
    return lengths


def exponents(lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """Powers of two, int64, to divide rows by; 0 for ordinary norms, so that nothing is copied for them."""
    exponent = torch.frexp(lengths).exponent.long()
    limit = 900 if dtype == torch.float64 else 100
    return torch.where(exponent.abs() > 16, exponent.clamp(-limit, limit), 0)


def times_power_of_two(values: Tensor, exponent: Tensor) -> Tensor:
    """Float64 ``values`` times 2 to the ``exponent`` (int64, up to ±2,000, of a shape that fits), as C's ldexp.

    Torch's own takes the power first, which leaves float64's range where the outcome does not.
    """
    half = exponent // 2
    for part in (half, exponent - half):
        values = values * ((part + 1023) << 52).view(torch.float64)
    return values


def first_twins(gallery: Tensor) -> Tensor:
    """For every row of a gallery (G, d) or (G, T, d) the first row with the same bytes, int64 (G,)."""
    gallery = gallery.detach().flatten(1)
    keys = _keys_on_host(gallery) if gallery.device.type == "cpu" else keys_on_device(gallery)
    ordered, order = keys.to(float64_device(gallery.device)).sort(stable=True)
    place = torch.arange(len(order), device=order.device)
    # Where each run of equal keys begins; the sort is stable, so that it is the lowest row.
    begins = place.clone()
    begins[1:].masked_fill_(ordered[1:] == ordered[:-1], 0)
    twins = torch.empty_like(order)
    twins[order] = order[begins.cummax(dim=0).values]
    again = (twins != place).nonzero()[:, 0]
    for start, stop in spans(len(again), max(1, _KEYED_CELLS // gallery.shape[1])):
        rows = again[start:stop]
        one, other = (gallery[part.to(gallery.device)] for part in (rows, twins[rows]))
        alike = (one == other).all(dim=1).to(rows.device)
        twins[rows] = torch.where(alike, twins[rows], rows)  # different rows may share a key by chance
    return twins


def _keys_on_host(gallery: Tensor) -> Tensor:
    """A number for each row's bytes, int64 (G,)."""
    every = (hash(row.tobytes()) for row in gallery.contiguous().view(torch.uint8).numpy())
    return torch.from_numpy(np.fromiter(every, dtype=np.int64, count=len(gallery)))


def keys_on_device(gallery: Tensor) -> Tensor:
    """The same where rows lie on a GPU, which adds whole numbers up faster than it sends them to the host.

    A sum wraps around, alike on every device and in any order.
    """
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[gallery.element_size()]
    factors = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63, gallery.shape[1])).to(gallery.device)
    parts = torch.split(gallery, max(1, _KEYED_CELLS // gallery.shape[1]))
    return torch.cat([(part.contiguous().view(whole) * factors).sum(dim=1) for part in parts])


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
        try:
            # Torch has an older and a newer setting of the same, and on a GPU no product where the two contradict
            # each other. The older one sets both.
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        except RuntimeError:
            pass  # somebody has used the newer one, which then is to be set alone
        for backend in (torch.backends.cuda, torch.backends.mkldnn):
            products = getattr(backend, "matmul")  # noqa: B009 - typed for one of them only
            stack.callback(setattr, products, "fp32_precision", products.fp32_precision)
            products.fp32_precision = "ieee"
        yield


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """cuDNN's convolutions and recurrent layers in float32, where torch would have them in TF32; restored afterwards.

    A run that says fp32 means it, on a GPU as on a CPU. Products are in float32 unless somebody asks otherwise.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
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
