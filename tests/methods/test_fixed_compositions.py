"""Weighted sum and slerp: their formulas, and the published share of the text on each dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark.methods.fixed_compositions import Slerp, SlerpSettings, WeightedSum, WeightedSumSettings

from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan


def views(*vectors: list[float]) -> dict[str, torch.Tensor]:
    return {"global": torch.tensor(vectors)}


def test_slerp_walks_along_the_arc_whatever_the_norms() -> None:
    picture, text, alpha = views([3.0, 0.0], [0.0, 0.5]), views([0.0, 2.0], [-7.0, 0.0]), 0.8
    found = Slerp(2, SlerpSettings(alpha=alpha)).encode_query(picture, text)
    right_angle = np.pi / 2
    expected = [[np.cos(alpha * right_angle), np.sin(alpha * right_angle)]]
    expected.append([-np.sin(alpha * right_angle), np.cos(alpha * right_angle)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_nearly_equal_and_opposite_features_give_the_weighted_sum() -> None:
    picture, text = views([1.0, 0.0], [1.0, 0.0], [1.0, 0.0]), views([1.0, 0.0], [1.0, 0.01], [-1.0, 0.0])
    settings = {"alpha": 0.25}
    found = Slerp(2, SlerpSettings(**settings)).encode_query(picture, text)
    assert torch.equal(found, WeightedSum(2, WeightedSumSettings(**settings)).encode_query(picture, text))
    assert found[2].tolist() == [1.0, 0.0]


def test_the_weighted_sum_weighs_directions_not_norms() -> None:
    found = WeightedSum(2, WeightedSumSettings(alpha=0.75)).encode_query(views([10.0, 0.0]), views([0.0, 1.0]))
    np.testing.assert_allclose(found.numpy(), [[0.1**0.5, 0.9**0.5]], atol=1e-6)


@pytest.mark.parametrize(("given", "alpha"), [({}, 0.9), ({"method.alpha": 0.3}, 0.3)])
def test_the_share_is_the_published_one_unless_it_is_given(given: dict[str, float], alpha: float, small_cirr: Path) -> None:
    plan = make_plan(make_options(method="slerp", dataset="cirr", data_root=small_cirr, set=given))
    assert plan.method_settings.model_dump()["alpha"] == alpha
    assert plan.last.recipe is not None and "ECCV 2024" in plan.last.recipe.source
