"""How often `compare` finds a planted difference on 4,181 queries, and how often one that is not there.

    pytest -q -s -n 0 tests/benchmark/comparison/test_power.py

Groups of up to nine queries share their fate in part, as CIRR's picture sets do; two methods agree on
most queries. Printed per planted difference, in points: the share of draws with p < 0.05.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.comparison.statistics import Stratum, group_differences, sign_flip_test

QUERIES, DRAWS = 4181, 200


def draw(rng: np.random.Generator, points: float) -> Stratum:
    """Hits of two methods near 50 %: each is better on some groups, the first on ``points`` more in a hundred."""
    group = np.repeat(np.arange(QUERIES), rng.integers(1, 10, QUERIES))[:QUERIES]
    ease = rng.normal(size=QUERIES)[group] + rng.normal(size=QUERIES)
    lean = 0.3 * rng.normal(size=QUERIES)[group]
    # The density of ease (of variance 2) at its middle turns points into a shift.
    shift = points / 100 * np.sqrt(2 * np.pi * 2)
    noise = 0.4 * rng.normal(size=(2, QUERIES))
    sides = ease + np.stack([lean / 2 + shift, -lean / 2]) + noise > 0
    return Stratum(group, (sides[:1].astype(np.float64), sides[1:].astype(np.float64)))


@pytest.mark.parametrize(
    ("points", "found_at_least", "found_at_most"),
    # Without a difference 5 % are found by chance: 10 of 200, four standard errors are 12.
    [(0.0, 0, 22), (1.0, 23, 199), (3.0, 196, 200)],
)
def test_planted_differences_are_found(points: float, found_at_least: int, found_at_most: int) -> None:
    rng = np.random.default_rng(int(points))
    differences = [group_differences([draw(rng, points)], 0, 1) for _ in range(DRAWS)]
    seen = [100 * float(by_group.sum()) for by_group in differences]
    found = sum(sign_flip_test(by_group) < 0.05 for by_group in differences)
    print(f"planted {points:.0f} points (seen {np.mean(seen):+.2f}, sd {np.std(seen):.2f}): found in {found} of {DRAWS}")
    assert abs(np.mean(seen) - points) < 4 * np.std(seen) / np.sqrt(DRAWS) + 0.15
    assert found_at_least <= found <= found_at_most
