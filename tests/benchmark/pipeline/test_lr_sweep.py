"""The search for a learning rate: the best held-out score stays, and what it cost is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_training import small_stage

from benchmark.errors import UserError
from benchmark.options import make_options
from benchmark.pipeline.lr_sweep import sweep
from benchmark.pipeline.plan import PlannedStage
from benchmark.pipeline.planning import make_plan
from benchmark.settings import TrainingSettings
from benchmark.training.job import Diverged, Trained

PLANNED = PlannedStage(small_stage(), TrainingSettings(learning_rate=0.3, epochs=4), None)


def swept(scores: list[float | None]) -> tuple[Any, list[tuple[float, str]]]:
    """A sweep whose trainings, in order, have these scores; None diverges."""
    asked: list[tuple[float, str]] = []

    def train(planned: PlannedStage, word: str) -> Trained:
        asked.append((planned.settings.learning_rate, word))
        score = scores[len(asked) - 1]
        if score is None:
            raise Diverged("the loss is nan")
        return Trained({}, {}, 2, "made up", score, 10, 160, seconds=1.5)

    return sweep(PLANNED, train), asked


def test_the_best_of_three_rates_stays() -> None:
    found, asked = swept([50.0, 40.0, 60.0])
    assert [rate for rate, _ in asked] == pytest.approx([0.3, 0.1, 0.9])
    assert len({word for _, word in asked}) == 3
    assert found.planned.settings.learning_rate == pytest.approx(0.9)
    assert found.planned.settings.epochs == 4
    assert [trial.score for trial in found.trials] == [50.0, 40.0, 60.0]
    assert [trial.chosen for trial in found.trials] == [False, False, True]
    assert sum(trial.seconds for trial in found.trials) == 4.5
    assert (found.tuning.base, found.tuning.criterion) == (0.3, "made up")


def test_of_equal_scores_the_recipe_s_own_rate_is_taken() -> None:
    assert swept([50.0, 50.0, 50.0])[0].planned.settings.learning_rate == 0.3
    assert swept([40.0, 50.0, 50.0])[0].planned.settings.learning_rate == pytest.approx(0.1)


def test_a_rate_that_diverges_is_told_and_left_out() -> None:
    found, _ = swept([None, -1.0, None])
    assert [trial.score for trial in found.trials] == [None, -1.0, None]
    assert found.trials[1].chosen
    with pytest.raises(Diverged):
        swept([None, None, None])


def test_without_held_out_selection_it_is_refused(small_cirr: Path) -> None:
    with pytest.raises(UserError, match="add --selection heldout"):
        plan(small_cirr, selection="paper")
    assert plan(small_cirr, selection="heldout").sweeps


def test_a_swept_run_has_a_folder_of_its_own_and_nothing_trained_has_no_sweep(small_cirr: Path) -> None:
    swept_plan = plan(small_cirr, selection="heldout")
    assert swept_plan.folder != plan(small_cirr, selection="heldout", lr_sweep=False).folder
    assert not plan(small_cirr, method="sum", selection="heldout").sweeps


def plan(data: Path, method: str = "concat_clip", lr_sweep: bool = True, **options: Any) -> Any:
    return make_plan(
        make_options(method=method, dataset="cirr", data_root=str(data), backbone="tiny", lr_sweep=lr_sweep, **options)
    )
