"""What training a stage needs, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.method import Method, Stage
from benchmark.settings import TrainerSettings, TrainingSettings
from benchmark.training.batches import TrainingSource
from benchmark.training.execution import Execution
from benchmark.training.monitoring import Sections
from benchmark.training.optimisation import Moments
from benchmark.training.selection import Score

State = dict[str, Tensor]


class Diverged(UserError):
    """The loss of a stage is not finite."""


class Interrupted(Exception):
    """Training was asked to stop and has saved a resumable state."""


@dataclass
class EpochLog:
    """One line of a stage's training log.

    ``score`` is None where the epoch was not validated, ``gradient_norm`` where none is known: the epoch ended
    with an update that was skipped, or was resumed behind its last one.
    """

    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    seconds: float
    score: float | None = None

    def format(self, epochs: int, criterion: str) -> str:
        """How the epoch went, in one line."""
        score = "" if self.score is None else f", {criterion} {self.score:.2f}"
        rate = f"lr {self.learning_rate:.3g}"
        return f"epoch {self.epoch}/{epochs}: loss {self.loss:.4f}, {rate}{score} ({self.seconds:.1f} s)"


@dataclass
class Trained:
    """What a stage leaves: the selected and the last weights, and how it went.

    ``selected_epoch``: 0 where the earlier stage's best weights stand; ``margin``: of its score over the next best.
    """

    selected: State
    last: State
    selected_epoch: int
    criterion: str
    best: float | None
    updates: int
    triplets_seen: int
    log: list[EpochLog] = field(default_factory=list)
    seconds: float = 0.0
    margin: float | None = None
    moments: Moments = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingJob:
    """Everything that one stage's training needs, already built.

    ``validate`` gives the criterion's value of the method as it stands; None validates nothing and
    selects the last weights. ``earlier`` is the stage before, whose selected weights the method holds
    already, where this one takes its optimiser's moments and best score. ``identity``: all that a
    resumable state depends on. ``monitors`` write under ``monitor_folder``.
    """

    method: Method
    stage: Stage
    settings: TrainingSettings
    source: TrainingSource
    process: Process
    seed: int
    folder: Path
    identity: Mapping[str, Any]
    validate: Callable[[Method], Score] | None
    trainer: TrainerSettings = TrainerSettings()
    earlier: Trained | None = None
    execution: Execution = Execution()
    monitors: Sections = field(default_factory=dict)
    monitor_folder: Path = Path("monitor")


def clone_of(method: Method) -> State:
    """A copy of a method's weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in method.state_dict().items()}
