"""Weighted sum and slerp: their formulas, and the published share of the text on each dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark.methods.fixed_compositions import METHODS, Slerp, SlerpSettings, WeightedSum, WeightedSumSettings

import benchmark
from benchmark.errors import UserError
from benchmark.method import Fit
from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.weights.checkpoints import read_weights


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


def fit_of(name: str, settings: WeightedSumSettings | SlerpSettings) -> Fit | None:
    return METHODS[name].stages(settings, "pretrained")[-1].fit


def test_a_sweep_leaves_the_share_that_scored_best_and_of_equal_ones_the_smallest() -> None:
    settings = WeightedSumSettings(sweep=True)
    method, fit = WeightedSum(2, settings), fit_of("weighted_sum", settings)
    assert fit is not None and fit_of("weighted_sum", WeightedSumSettings()) is None
    asked: list[float] = []

    def score() -> float:
        asked.append(round(float(method.alpha), 4))
        return 70.0 if asked[-1] in (0.35, 0.6) else 10.0

    assert fit(method, score) == "share of the text 0.35, the best of 21 on held-out triplets (70.00)"
    assert float(method.alpha) == pytest.approx(0.35) and asked == [round(n / 20, 4) for n in range(21)]


def test_a_share_that_was_chosen_is_told_kept_and_not_called_zero_shot(small_cirr: Path, tmp_path: Path) -> None:
    options = {
        "data_root": small_cirr, "backbone": "tiny", "weights": "random", "selection": "heldout",
        "cache": str(tmp_path / "cache"), "output": str(tmp_path / "run"),
    }  # fmt: skip
    chosen = benchmark.run("slerp", "cirr", **options, set={"method.encoder": "untouched", "method.sweep": True})
    assert chosen.identity.zero_shot is None and chosen.identity.selection == "heldout"
    (note,) = [note for note in chosen.results[0].notes if "held-out triplets" in note]
    share = float(note.split()[4].rstrip(","))
    assert float(read_weights(tmp_path / "run" / "weights" / "untrained.safetensors")["alpha"]) == pytest.approx(share)
    given = {"method.encoder": "untouched", "method.alpha": share}
    plain = benchmark.run("slerp", "cirr", **{**options, "output": str(tmp_path / "plain")}, set=given)
    assert plain.results[0].metrics == chosen.results[0].metrics and plain.identity.zero_shot


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"selection": "paper"}, "slerp chooses on held-out triplets alone; give --selection heldout"),
        ({"selection": "heldout", "set": {"method.alpha": 0.3}}, "method.alpha: has no effect here, only with method.sweep"),
    ],
)
def test_a_sweep_is_refused_on_reported_queries_and_beside_a_given_share(
    given: dict[str, object], told: str, small_cirr: Path, tmp_path: Path
) -> None:
    changed = {"method.sweep": True, **given.pop("set", {})}  # type: ignore[dict-item]
    with pytest.raises(UserError, match=told):
        benchmark.run("slerp", "cirr", data_root=small_cirr, backbone="tiny", weights="random", output=str(tmp_path / "run"),
                      set=changed, **given)  # fmt: skip
