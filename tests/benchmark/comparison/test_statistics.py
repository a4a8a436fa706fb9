"""Intervals and tests against scipy, and against plain loops that know nothing of kinds or exact tails."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from benchmark.comparison.statistics import (
    Stratum,
    bootstrap,
    group_differences,
    holm,
    means,
    percentile_interval,
    sign_flip_test,
)


def hits(rng: np.random.Generator, seeds: int, queries: int, chance: float) -> np.ndarray:
    return (rng.random((seeds, queries)) < chance).astype(np.float64)


def test_groups_of_one_are_mcnemars_exact_test() -> None:
    rng = np.random.default_rng(1)
    first, second = hits(rng, 1, 300, 0.55), hits(rng, 1, 300, 0.5)
    stratum = Stratum(np.arange(300), (first, second))
    wins, losses = int((first > second).sum()), int((first < second).sum())
    expected = stats.binomtest(wins, wins + losses, 0.5).pvalue
    assert sign_flip_test(group_differences([stratum], 0, 1)) == pytest.approx(expected, rel=1e-9)


def test_few_groups_are_flipped_in_every_way_as_scipy_does() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(9), rng.integers(1, 8, 9))
    stratum = Stratum(group, (hits(rng, 2, len(group), 0.6), hits(rng, 2, len(group), 0.5)))
    differences = group_differences([stratum], 0, 1)
    signs = np.array(list(product([1, -1], repeat=len(differences))))
    plain = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean()
    of_scipy = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert sign_flip_test(differences) == pytest.approx(plain, rel=1e-9) == pytest.approx(of_scipy, rel=1e-9)


def test_many_unequal_groups_are_drawn_and_agree_with_scipys_draws() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(200), rng.integers(1, 9, 200))
    stratum = Stratum(group, (hits(rng, 3, len(group), 0.53), hits(rng, 1, len(group), 0.5)))
    differences = group_differences([stratum], 0, 1)
    of_scipy = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=20_000, rng=np.random.default_rng(4),
    ).pvalue  # fmt: skip
    # Four standard errors of both draws.
    slack = 4 * np.sqrt(of_scipy * (1 - of_scipy) * (1 / 10_000 + 1 / 20_000))
    assert 0.001 < of_scipy < 0.999 and abs(sign_flip_test(differences) - of_scipy) < slack


def test_no_difference_has_no_significance() -> None:
    assert sign_flip_test(np.zeros(50)) == 1


def test_the_interval_is_that_of_a_loop_over_drawn_groups_seeds_and_strata() -> None:
    rng = np.random.default_rng(5)
    strata = []
    for count in (40, 60):
        group = np.repeat(np.arange(count), rng.integers(1, 5, count))
        strata.append(Stratum(group, (hits(rng, 3, len(group), 0.6), hits(rng, 2, len(group), 0.5))))
    drawn = []
    for _ in range(4000):
        picks = [rng.integers(0, len(side), len(side)) for side in strata[0].values]
        values = np.zeros(2)
        for stratum in strata:
            groups = rng.integers(0, stratum.group.max() + 1, stratum.group.max() + 1)
            queries = np.concatenate([np.flatnonzero(stratum.group == g) for g in groups])
            values += [side[pick][:, queries].mean() / 2 for side, pick in zip(stratum.values, picks, strict=True)]
        drawn.append(values[0] - values[1])
    plain = np.quantile(drawn, [0.025, 0.975])
    replicates = bootstrap(strata)
    low, high = percentile_interval(replicates[:, 0] - replicates[:, 1])
    assert np.abs(np.array([low, high]) - plain).max() < 0.12 * (plain[1] - plain[0])
    assert replicates.mean(axis=0) == pytest.approx(means(strata), abs=0.005)


def test_the_interval_of_single_queries_is_scipys() -> None:
    rng = np.random.default_rng(6)
    first = hits(rng, 1, 400, 0.55)
    second = np.where(rng.random((1, 400)) < 0.8, first, hits(rng, 1, 400, 0.5))
    replicates = bootstrap([Stratum(np.arange(400), (first, second))])
    low, high = percentile_interval(replicates[:, 0] - replicates[:, 1])
    of_scipy = stats.bootstrap(
        (first[0], second[0]), lambda a, b, axis: (a - b).mean(axis=axis), paired=True, method="percentile",
        n_resamples=10_000, rng=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((of_scipy.low, of_scipy.high), abs=0.0051)


def test_sides_that_agree_everywhere_differ_by_nothing_in_every_replicate() -> None:
    same = hits(np.random.default_rng(8), 1, 100, 0.5)
    replicates = bootstrap([Stratum(np.arange(100) // 4, (same, same.copy()))])
    assert (replicates[:, 0] == replicates[:, 1]).all() and replicates[:, 0].std() > 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
