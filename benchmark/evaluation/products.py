"""Dot products in blocks, and how what float32 cannot tell apart is settled exactly.

Float32 products differ in their last digits with the shape of a chunk and the number of threads,
even between identical columns. So they only decide what is clear, by bounds that hold for any values and any
order of summation; u = 2^-24 is float32's rounding. A score s of width d is the difference between the sums of its
positive and of its negative terms, which together are at most |q| |g|: no sum of some terms is larger than
``(|q| |g| + |s|) / 2``, and d roundings lose at most u of it each. (Sums do come near that: beside a large term,
small ones are all rounded away.) What comes nearer to the score it is compared with is added up again in halves, a
row's roundings being log2(d) + 1, each of at most u |q| |g| in all. What is too near even for that is scored in
float64, the terms added in a fixed order, so that the value is the same on every device and in every chunk; it
decides, and equality there is a tie. (Products of two float32 values are exact in float64.)

A gallery picture may have T tokens: its score is the best of their products. The best of products that are
each off by no more than a bound is off by no more than it either, so that all of this holds for it as well.

Exact scores, and the numbers of the cells that they are asked for, stay where float64 is computed: of ranks, a GPU
sends nothing but counts to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmark.arithmetic import (
    exponents,
    first_twins,
    fixed_order_sum,
    float64_device,
    norms,
    spans,
    times_power_of_two,
    torch_threads,
)
from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding, take

_RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, what the gallery or the queries may each take to be sent there once."""
_UNIT = 2.0**-24
_LINE = 16
_TOKEN_CHUNK = 1024
_Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DotScorer:
    """Float32 products on ``device``; exact ones by :func:`fixed_order_sum`.

    ``queries`` (Q, d), ``gallery`` (G, d) or (G, T, d). Rows of extreme norm are scaled by powers of two first, which
    changes no digit: queries each by its own, the gallery by one for all.
    """

    def __init__(self, queries: Tensor, gallery: Tensor, task: Task, device: torch.device) -> None:
        self.queries, self.gallery, self.device = _resident(queries, device), _resident(gallery, device), device
        self._threads = torch.get_num_threads()
        self._place = float64_device(device)
        self.slack = torch.zeros(len(queries), dtype=torch.float64, device=self._place)
        query_norms = norms(self.queries, "query", task.queries.ids).to(self._place)
        rows = self.gallery.flatten(0, -2)
        largest = norms(rows, "gallery row" if gallery.ndim == 2 else "gallery token").amax(dim=0, keepdim=True)
        largest = largest.to(self._place)
        self._query_exponent = exponents(query_norms, queries.dtype)
        self._gallery_exponent = exponents(largest, gallery.dtype)
        self._is_scaled = bool(self._query_exponent.any() | self._gallery_exponent.any())
        self._width = queries.shape[1]
        # The norms are rounded as well, and roundings are of rounded sums.
        self.largest = query_norms * largest * (1 + 2 * self._width * _UNIT)
        self._floor = self._width * 2.0**-100
        self._buffer = torch.empty(0, device=device)
        self._one_token = torch.empty(0, device=device)
        self._twin = first_twins(self.gallery).to(self._place)
        # On a GPU once, not for every chunk of the gallery anew.
        self._ready = None if device.type == "cpu" else self._scaled(self.queries, self._query_exponent)

    def targets(self, start: int, stop: int) -> Encoding:
        return self._scaled(self.gallery[start:stop], self._gallery_exponent)

    def block(self, query: IntArray, targets: Encoding) -> Tensor:
        assert isinstance(targets, Tensor)
        if self._ready is None:
            scaled = self._scaled(_rows_of(self.queries, query), self._query_exponent[torch.from_numpy(query)])
        else:
            scaled = _rows_of(self._ready, query)
        # Rows that begin on a cache line: products into them are a tenth faster than into odd widths.
        stride = -(-len(targets) // _LINE) * _LINE
        size = len(query) * stride
        if size > len(self._buffer):
            self._buffer = torch.empty(size, device=self.device)
        out = self._buffer[:size].view(len(query), stride)[:, : len(targets)]
        with torch_threads(self._threads):
            if targets.ndim == 2:
                return torch.mm(scaled, targets.T, out=out)
            return self._best_of_tokens(scaled, targets, out)

    def _best_of_tokens(self, queries: Tensor, targets: Tensor, out: Tensor) -> Tensor:
        """Token by token, so that products of all of them never stand beside one another; few enough pictures
        at a time that what is compared is still in the cache."""
        size = len(queries) * _TOKEN_CHUNK
        if size > len(self._one_token):
            self._one_token = torch.empty(size, device=self.device)
        for start, stop in spans(len(targets), _TOKEN_CHUNK):
            best = out[:, start:stop]
            products = self._one_token[: len(queries) * (stop - start)].view(len(queries), stop - start)
            for token, rows in enumerate(targets[start:stop].unbind(1)):
                torch.mm(queries, rows.T, out=products)
                torch.maximum(best, products, out=best) if token else best.copy_(products)
        return out

    def bounds(self, query: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        # A rounding for the terms themselves, and two for values that float32 does not hold.
        largest = self.largest[query]
        return self._bounds(query, exact, _UNIT * (self._width * (largest + exact.abs()) / 2 + 3 * largest))

    def _bounds(self, query: Tensor, exact: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
        low, high = exact - tolerance, exact + tolerance
        if self._is_scaled:
            exponent = -(self._query_exponent[query] + self._gallery_exponent)
            low, high = times_power_of_two(low, exponent), times_power_of_two(high, exponent)
        below, above = (low - self._floor).float(), (high + self._floor).float()
        below, above = (torch.nextafter(b, b.new_full((), end)) for b, end in ((below, -torch.inf), (above, torch.inf)))
        return below.to(self.device), above.to(self.device)

    def again(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        query, picture, inverse = self._different(query, picture)

        def terms(query: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
            rows = self._scaled(_rows_at(self.gallery, picture, self.device), self._gallery_exponent)
            if self._ready is not None:
                return rows, self._ready[query.to(self.device)]
            return rows, self._scaled(_rows_at(self.queries, query, self.device), self._query_exponent[query])

        out = self._buffer.new_empty(len(query))
        return self._sums(terms, query, picture, out)[inverse.to(self.device)]

    def bounds_again(self, query: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        roundings = math.ceil(math.log2(self._width)) + 3
        return self._bounds(query, exact, _UNIT * roundings * self.largest[query])

    def settle(self, found: Tensor, query: Tensor, picture: Tensor) -> Tensor:
        query, picture, inverse = self._different(query, picture)
        return self.pairs(query, picture)[inverse]

    def _different(self, query: Tensor, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cells without those of equal pictures, and where each of all is among them; by picture, so that rows of
        the gallery are read in the order in which they lie in memory."""
        count = len(self.slack)
        different, inverse = torch.unique(self._twin[picture] * count + query, return_inverse=True)
        return different % count, different // count, inverse

    def pairs(self, query: Tensor, picture: Tensor) -> Tensor:
        def terms(query: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
            rows = _rows_at(self.gallery, picture, self._place).double()
            return rows, _rows_at(self.queries, query, self._place)

        return self._sums(terms, query, picture, self.slack.new_empty(len(query)))

    def _sums(self, terms: _Terms, query: Tensor, picture: Tensor, out: Tensor) -> Tensor:
        """Into ``out`` (m,) the products of pairs of rows, added up in a fixed order. ``terms`` gives some pairs' rows:
        of pictures (n, d) or (n, T, d), to be overwritten, and of queries (n, d)."""
        step = max(1, (2**18 if self.device.type == "cpu" else 2**23) // self.gallery[0].numel())
        for start, stop in spans(len(query), step):
            rows, own = terms(query[start:stop], picture[start:stop])
            rows.mul_(own if rows.ndim == 2 else own[:, None])
            products = fixed_order_sum(rows.flatten(0, -2)).view(rows.shape[:-1])
            out[start:stop] = products if products.ndim == 1 else products.amax(dim=1)
        return out

    def _scaled(self, part: Tensor, exponent: Tensor) -> Tensor:
        part = part.to(self.device)
        if not self._is_scaled:
            return part.float()
        wide = part if part.dtype == torch.float64 else part.float()
        factor = times_power_of_two(torch.ones_like(exponent, dtype=torch.float64), -exponent).to(wide.dtype)
        return (wide * factor.to(self.device).view(-1, *[1] * (wide.ndim - 1))).float()


def _rows_of(tensor: Tensor, index: IntArray) -> Tensor:
    """Rows by index, without a copy where they follow one another."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return tensor[int(index[0]) : int(index[-1]) + 1]
    part = take(tensor, torch.from_numpy(index).to(tensor.device))
    assert isinstance(part, Tensor)
    return part


def _rows_at(tensor: Tensor, index: Tensor, place: torch.device) -> Tensor:
    return tensor.index_select(0, index.to(tensor.device)).to(place)


def _resident(encoding: Tensor, device: torch.device) -> Tensor:
    """On a GPU where it fits; else where it lies, to be sent part by part."""
    if device.type != "cuda" or encoding.device == device:
        return encoding
    fits = encoding.numel() * encoding.element_size() <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return encoding.to(device) if fits else encoding
