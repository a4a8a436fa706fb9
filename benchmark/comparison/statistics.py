"""Paired statistics over groups of queries: bootstrap intervals, sign-flip tests, Holm's correction.

Queries of one group (a picture set, a reference, a product) succeed and fail together, so whole groups
are drawn, and whole groups change their sign. A *stratum* is one category; the statistic is the mean over
strata of the mean over a stratum's queries, as FashionIQ's average is.

Notation: C sides, S seeds of a side, Q queries and G groups of a stratum, R replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.dataset import IntArray
from benchmark.evaluation.metrics import LEVEL, FloatArray, resampled

REPLICATES = 10_000
FLIPS = 10_000
STANDARD_ERRORS = 1.96
"""Of a normal error in half of its 95 % interval."""
_EXACT = 2**20
_DRAWN_AT_ONCE = 2**22
_DIGITS = 12


@dataclass(frozen=True)
class Stratum:
    """``group`` (Q,): number of each query's group. ``values``: per side ``(S, Q)``, each between 0 and 1."""

    group: IntArray
    values: tuple[FloatArray, ...]

    def sums(self) -> tuple[list[FloatArray], IntArray]:
        """Sums of every group, per side ``(S, G)``, and the groups' sizes ``(G,)``."""
        _, member = np.unique(self.group, return_inverse=True)
        sizes = np.bincount(member)
        return [np.stack([np.bincount(member, v, len(sizes)) for v in side]) for side in self.values], sizes


def means(strata: Sequence[Stratum]) -> FloatArray:
    """The statistic of every side, its seeds averaged, (C,)."""
    found: FloatArray = np.mean([[side.mean() for side in stratum.values] for stratum in strata], axis=0)
    return found


def bootstrap(
    strata: Sequence[Stratum], seed: int = 0, replicates: int = REPLICATES, seeds: Sequence[Hashable] = ()
) -> FloatArray:
    """Replicates of every side's statistic, (R, C).

    Two levels: groups are drawn with replacement within each stratum, the same for all sides (so that
    differences of the columns are paired), and each side's seeds, where it has several. ``seeds``: what each side's
    are; sides with the same ones, in the same order, share their draws, since a seed also fixes what they may have in
    common, such as a tuned encoder.
    """
    generator = np.random.default_rng(seed)
    sides = dict(zip(seeds or range(len(strata[0].values)), strata[0].values, strict=True))
    drawn = {
        name: generator.multinomial(len(side), np.full(len(side), 1 / len(side)), size=replicates) / len(side)
        for name, side in sides.items()
    }
    shares = [drawn[name] for name in (seeds or sides)]
    ends = np.cumsum([each.shape[1] for each in shares])[:-1]
    total = np.zeros((replicates, len(shares)))
    for stratum in strata:
        sums, sizes = stratum.sums()
        first = 0
        for totals, weights in resampled(np.vstack(sums).round(_DIGITS), sizes, generator, replicates):
            block = slice(first, first := first + len(weights))
            for side, of_seeds in enumerate(np.split(totals, ends, axis=1)):
                total[block, side] += (of_seeds * shares[side][block]).sum(axis=1) / weights
    return total / len(strata)


def percentile_interval(values: FloatArray) -> tuple[float, float]:
    """Both ends of the 95 % interval of replicates (R,); of the finite ones, NaN where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def group_differences(strata: Sequence[Stratum], first: int, second: int) -> FloatArray:
    """What every group adds to the difference of two sides, seeds averaged; their sum is the difference, (G,)."""
    parts = []
    for stratum in strata:
        sums, sizes = stratum.sums()
        parts.append((sums[first].mean(axis=0) - sums[second].mean(axis=0)) / (sizes.sum() * len(strata)))
    return np.concatenate(parts)


def sign_flip_test(differences: FloatArray, seed: int = 0, flips: int = FLIPS) -> float:
    """Two-sided p-value of a difference that is the sum of ``differences`` (G,), by flips of whole groups' signs.

    Exact where the distinct outcomes can be listed (always where all groups weigh alike: McNemar's
    test); otherwise from ``flips`` random draws, the observed one counted among them.
    """
    size = np.abs(differences).round(_DIGITS)
    kinds, count = np.unique(size[size > 0], return_counts=True)
    observed = abs(float(differences.sum())) - 10.0**-_DIGITS * max(1, len(differences))
    if np.prod(count + 1.0) <= _EXACT:
        return _exact_tail(kinds, count, observed)
    generator = np.random.default_rng(seed)
    reached = 0
    step = max(1, _DRAWN_AT_ONCE // len(kinds))
    for start in range(0, flips, step):
        drawn = min(step, flips - start)
        # Of n equal groups the number that stay positive is binomial.
        positive = generator.binomial(count, 0.5, size=(drawn, len(count)))
        reached += int(np.count_nonzero(np.abs((2 * positive - count) @ kinds) >= observed))
    return (1 + reached) / (1 + flips)


def _exact_tail(kinds: FloatArray, count: IntArray, observed: float) -> float:
    sums, weights = np.zeros(1), np.ones(1)
    for kind, number in zip(kinds, count, strict=True):
        positive = np.arange(number + 1)
        logs = np.cumsum(np.concatenate([np.zeros(1), np.log((number - positive[:-1]) / (positive[:-1] + 1))]))
        chance = np.exp(logs - number * np.log(2.0))
        sums = np.add.outer(sums, (2 * positive - number) * kind).reshape(-1)
        weights = np.multiply.outer(weights, chance).reshape(-1)
    return float(min(1.0, weights[np.abs(sums) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
