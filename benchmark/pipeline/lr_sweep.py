"""`--lr-sweep`: a stage is trained at three learning rates, and the best by the held-out criterion stays.

The rates are the recipe's × 1, ⅓ and 3: the same search, at the same cost, for every method. It never
looks at a reported query, which is why it is refused without `--selection heldout`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmark.pipeline.plan import RATE_FACTORS, PlannedStage
from benchmark.progress import say
from benchmark.records.measurement import Trial, Tuning
from benchmark.training.job import Diverged, Trained


@dataclass(frozen=True)
class Sweep:
    """The stage at the chosen rate, its training, and every trial, the chosen one marked."""

    planned: PlannedStage
    trained: Trained
    tuning: Tuning
    trials: tuple[Trial, ...]


def sweep(planned: PlannedStage, train: Callable[[PlannedStage, str], Trained]) -> Sweep:
    """Train a stage from its start at every rate.

    ``train`` gets the stage with a rate, and a word that tells this training from the others. A rate at
    which the loss diverges has no score; raises Diverged where that happens at all of them.
    """
    found: list[tuple[PlannedStage, Trained | None]] = []
    for number, factor in enumerate(RATE_FACTORS, 1):
        own = planned.settings
        rates = {name: factor * rate for name, rate in own.rates.items()}
        settings = own.model_copy(update={"learning_rate": factor * own.learning_rate, "rates": rates})
        candidate = replace(planned, settings=settings)
        rate = f"{candidate.settings.learning_rate:.3g}"
        say(f"{planned.stage.name}: learning rate {rate}, {number} of {len(RATE_FACTORS)}")
        try:
            found.append((candidate, train(candidate, f"rate-{number}")))
        except Diverged as error:
            say(f"{planned.stage.name}: learning rate {rate} is left out: {error}")
            failure = error
            found.append((candidate, None))
    if all(trained is None for _, trained in found):
        raise failure
    best = max(range(len(found)), key=lambda number: _score(found[number][1]))
    chosen, trained = found[best]
    assert trained is not None
    trials = tuple(_trial(*pair, chosen=number == best) for number, pair in enumerate(found))
    tuning = Tuning(
        stage=planned.stage.name,
        base=planned.settings.learning_rate,
        factors=RATE_FACTORS,
        criterion=trained.criterion,
    )
    return Sweep(chosen, trained, tuning, trials)


def _score(trained: Trained | None) -> float:
    return float("-inf") if trained is None or trained.best is None else trained.best


def _trial(planned: PlannedStage, trained: Trained | None, chosen: bool) -> Trial:
    rate = planned.settings.learning_rate
    if trained is None:
        return Trial(learning_rate=rate, score=None)
    return Trial(
        learning_rate=rate,
        score=trained.best,
        epoch=trained.selected_epoch,
        triplets_seen=trained.triplets_seen,
        seconds=round(trained.seconds, 2),
        chosen=chosen,
    )
