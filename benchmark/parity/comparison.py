"""Comparing what an implementation gives with golden numbers, each beside its tolerance.

Every comparison gives a :class:`Deviation`: the place where a tolerance is used up most. What is
not finite, missing or of another shape deviates infinitely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.parity.files import Expected, Matrix, Places, Rows, TokenRows
from benchmark.parity.rules import Shape


@dataclass(frozen=True)
class Deviation:
    """The largest deviation of one output beside its tolerance, both in the same unit.

    ``at``: where it is (a parameter, a row, a step). ``note``: what else is worth telling.
    """

    output: str
    value: float
    tolerance: float
    at: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.value <= self.tolerance

    def with_note(self, note: str) -> Deviation:
        return replace(self, note=note)


@dataclass(frozen=True)
class Difference:
    """One number's difference, ``relative`` and ``floor`` of its tolerance ``relative · scale + floor``."""

    at: str
    found: float
    expected: float
    relative: float
    floor: float = 0.0
    scale: float | None = None

    @property
    def share(self) -> float:
        """Share of the tolerance that is used up; infinite where a tolerance of zero is not met."""
        difference, allowed = abs(self.found - self.expected), self._allowed
        if not math.isfinite(difference):
            return math.inf
        return difference / allowed if allowed else (math.inf if difference else 0.0)

    @property
    def _scale(self) -> float:
        return abs(self.expected) if self.scale is None else self.scale

    @property
    def _allowed(self) -> float:
        return self.relative * self._scale + self.floor

    def deviation(self, output: str) -> Deviation:
        """In units of the scale, or absolute where the scale is zero."""
        unit = self._scale or 1.0
        difference = abs(self.found - self.expected)
        value = difference / unit if math.isfinite(difference) else math.inf
        return Deviation(output, value, self._allowed / unit, self.at if value else "")


def worst(output: str, differences: Iterable[Difference]) -> Deviation:
    """The difference that uses up most of its tolerance; nothing at all deviates by nothing."""
    largest = max(differences, key=lambda difference: difference.share, default=None)
    return Deviation(output, 0.0, 0.0, note="nothing to compare") if largest is None else largest.deviation(output)


def missing(output: str, note: str) -> Deviation:
    return Deviation(output, math.inf, 0.0, note=note)


def compare_output(output: str, found: Tensor, expected: Expected, tolerance: float) -> Deviation:
    """Relative to the largest of the entries that are listed, or of the row norms."""
    if isinstance(expected, float | int):
        return worst(output, [Difference("", float(found.detach()), expected, tolerance)])
    if isinstance(expected, Places):
        values = torch.stack([found[: len(values), row, column] for row, column, values in expected.root])
        return compare_tensor(output, values, [values for _, _, values in expected.root], tolerance)
    if isinstance(expected, TokenRows):
        if list(found.shape) != expected.shape:
            return missing(output, f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
        norms = compare_tensor(output, found.double().norm(dim=2), expected.norms, tolerance, "norms")
        listed = [entries for sample in expected.first8 for entries in sample]
        some = found[:, expected.positions, :8].flatten(0, 1)
        return max(norms, compare_tensor(output, some, listed, tolerance, "entries"), key=lambda d: d.value)
    if isinstance(expected, Rows):
        if expected.shape is not None and list(found.shape) != expected.shape:
            return missing(output, f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
        found = found.flatten(1)
        norms = compare_tensor(output, found.double().norm(dim=1), expected.norms, tolerance, "norms")
        first = compare_tensor(output, found[:, :16], expected.first16, tolerance, "entries")
        return max(norms, first, key=lambda deviation: deviation.value)
    return compare_tensor(output, found[: len(expected)] if found.ndim == 1 else found, expected, tolerance)


def compare_tensor(
    output: str, found: Tensor, expected: Sequence[float] | Matrix, tolerance: float, what: str = ""
) -> Deviation:
    """The largest difference over the largest expected entry."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    if found.shape != wanted.shape:
        return missing(output, f"{what} of shape {tuple(found.shape)} instead of {tuple(wanted.shape)}".strip())
    difference = (found.detach().double() - wanted).abs().nan_to_num(nan=math.inf)
    if not difference.numel():
        return missing(output, "no numbers are listed")
    value = float((difference.max() / wanted.abs().max().clamp(min=1e-30)).nan_to_num(nan=math.inf))
    row = int(difference.flatten(1).amax(1).argmax()) if difference.ndim > 1 else int(difference.argmax())
    return Deviation(output, value, tolerance, f"{what} of row {row}" if what else f"row {row}")


def compare_names(output: str, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Deviation:
    """Names and shapes of a state dict: the number of entries that differ."""
    both = found.keys() | expected.keys()
    wrong = sorted(n for n in both if list(found.get(n, [-1])) != list(expected.get(n, [-1])))
    note = f"{len(expected)} entries" if not wrong else f"{len(wrong)} of {len(both)} entries differ"
    return Deviation(output, len(wrong), 0, wrong[0] if wrong else "", note)


def compare_count(output: str, found: int, expected: int) -> Deviation:
    note = f"{found:,}" if found == expected else f"{found:,} instead of {expected:,}"
    return Deviation(output, abs(found - expected), 0, note=note)


@dataclass(frozen=True)
class GradientTolerance:
    """``relative`` to each norm, with an absolute ``floor``.

    Where ``is_noise`` says that a gradient vanishes in exact arithmetic and is nothing but rounding
    noise, the floor is ``noise_share`` of the largest gradient, if that is more.
    """

    relative: float
    floor: float = 1e-8
    is_noise: Callable[[str], bool] = lambda name: False
    noise_share: float = 1e-7

    def floor_of(self, name: str, largest: float) -> float:
        return max(self.floor, self.noise_share * largest) if self.is_noise(name) else self.floor


Gradients = Mapping[str, Tensor | None]

_VANISHES = 1e-12
"""Of the largest gradient: what is smaller in float64 is zero in exact arithmetic."""


def compare_gradients(
    output: str,
    gradients: Callable[[torch.dtype], Gradients],
    expected: Mapping[str, float],
    tolerance: GradientTolerance,
) -> list[Deviation]:
    """Gradient norms per parameter, which ``gradients`` computes in a given precision.

    None and zeros are equal; a parameter that is not listed must have one of them. Norms that the
    floor decides about are told apart, in absolute numbers.

    Where float32 misses a tolerance, float64 decides: a rectifier whose input is within rounding
    distance of zero makes a float32 gradient jump, so each parameter may be met by its float64
    gradient too, and a gradient that vanishes there is rounding noise.
    """
    single = gradients(torch.float32)
    absent = sorted(expected.keys() - single.keys())
    if absent:
        return [missing(output, f"{len(absent)} parameters are missing, the first is {absent[0]}")]
    result = _compare_norms(output, {n: [g] for n, g in single.items()}, expected, tolerance)
    if all(deviation.ok for deviation in result):
        return result
    double = gradients(torch.float64)
    least = _VANISHES * max(_norms(gradient)[-1] for gradient in double.values())
    vanishing = {name for name, gradient in double.items() if _norms(gradient)[-1] <= least}
    lenient = replace(tolerance, is_noise=lambda name: tolerance.is_noise(name) or name in vanishing)
    result = _compare_norms(output, {n: [g, double[n]] for n, g in single.items()}, expected, lenient)
    return [deviation.with_note("the nearer of float32 and float64") for deviation in result]


def _compare_norms(
    output: str,
    gradients: Mapping[str, Sequence[Tensor | None]],
    expected: Mapping[str, float],
    tolerance: GradientTolerance,
) -> list[Deviation]:
    largest = max(expected.values(), default=0.0)
    relative: list[Difference] = []
    absolute: list[Difference] = []
    for name, candidates in gradients.items():
        norm, floor = expected.get(name, 0.0), tolerance.floor_of(name, largest)
        norms = [value for gradient in candidates for value in _norms(gradient)]
        nearest = min(norms, key=lambda value: abs(value - norm))
        if floor < tolerance.relative * norm:
            relative.append(Difference(name, nearest, norm, tolerance.relative, floor))
        else:
            absolute.append(Difference(name, nearest, norm, 0.0, floor + tolerance.relative * norm, scale=0.0))
    return [worst(output, relative), *([worst(f"{output} near zero", absolute)] if absolute else [])]


def _norms(gradient: Tensor | None) -> tuple[float, ...]:
    """Golden norms were summed by torch in float32, which loses up to 0.2 % of the largest matrices;
    a file may as well have summed them exactly."""
    if gradient is None:
        return (0.0,)
    return float(gradient.norm()), float(gradient.double().norm())
