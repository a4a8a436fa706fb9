"""Training one stage: the only training loop of the project.

It owns the order of batches, validation and selection, checkpoints and resume. What is trained and
how is the stage's declaration; the step itself is the engine's.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from benchmark.batches import GroupLayout, Share, TrainingSource, rank_shares, step_seed, update_plan
from benchmark.checkpoints import ResumableState
from benchmark.dataset import IntArray
from benchmark.distributed import Process
from benchmark.engine import StageEngine
from benchmark.errors import UserError
from benchmark.method import Method, Stage
from benchmark.optimisation import MovingAverage, standard_optimiser, standard_schedule
from benchmark.progress import Progress
from benchmark.selection import Score
from benchmark.settings import TrainerSettings, TrainingSettings

_LOSS_CHECK_INTERVAL = 50

State = dict[str, Tensor]
Moments = dict[str, dict[str, Any]]
"""What an optimiser keeps of a parameter, by the parameter's name."""


class Interrupted(Exception):
    """Training was asked to stop and has saved a resumable state."""


@dataclass
class EpochLog:
    """One line of a stage's training log; ``score`` is None where the epoch was not validated."""

    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    score: float | None = None


@dataclass
class Trained:
    """What a stage leaves: the selected and the last weights, and how it went."""

    selected: State
    last: State
    selected_epoch: int
    criterion: str
    best: float | None
    updates: int
    triplets_seen: int
    log: list[EpochLog] = field(default_factory=list)
    seconds: float = 0.0
    moments: Moments = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingJob:
    """Everything that one stage's training needs, already built.

    ``validate`` gives the criterion's value of the method as it stands; None validates nothing and
    selects the last weights. ``earlier`` is the stage before, whose selected weights the method holds
    already, where this one takes its optimiser's moments and best score.
    """

    method: Method
    stage: Stage
    settings: TrainingSettings
    source: TrainingSource
    process: Process
    seed: int
    folder: Path
    identity: str
    validate: Callable[[Method], Score] | None
    trainer: TrainerSettings = TrainerSettings()
    earlier: Trained | None = None


def train(job: TrainingJob, resume: bool) -> Trained:
    """Train a stage to its end, from its resumable state where there is one and ``resume`` is True.

    Raises Interrupted after saving when SIGINT or SIGTERM arrives, UserError on a loss that is not
    finite.
    """
    training = _Training(job)
    try:
        return training.run(resume)
    finally:
        training.engine.close()


class _Training:
    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.settings = job.settings
        self.layout = GroupLayout.of(job.settings, job.process.world_size)
        job.method.to(job.process.device)
        entries = job.source.start_epoch(0)
        per_epoch = len(update_plan(entries, self.settings, job.seed, 0))
        groups = job.stage.parameter_groups(job.method, self.settings)
        optimiser = (job.stage.optimiser or standard_optimiser)(groups, self.settings)
        schedule = (job.stage.schedule or standard_schedule)(self.settings, per_epoch)
        self.result = Trained({}, {}, -1, "", None, 0, 0)
        if job.earlier is not None and job.stage.takes == "weights and optimiser":
            _give_moments(optimiser, job.method, job.earlier.moments)
            if job.earlier.best is not None:
                self.result.best, self.result.criterion = job.earlier.best, job.earlier.criterion
                self.result.selected, self.result.selected_epoch = _clone(job.method), 0
        self.engine = StageEngine(job.method, optimiser, schedule, self.settings, self.layout, job.process)
        decay = self.settings.average_decay
        self.average = MovingAverage(job.method, decay) if decay else None
        self.states = ResumableState(job.folder, job.identity)
        self.epoch = 0
        self.position = 0
        self.update = 0
        self.losses: list[float] = []
        self.unread: list[Tensor] = []
        self.total_updates = per_epoch * self.settings.epochs

    def run(self, resume: bool) -> Trained:
        if resume and self.states.exists():
            self._restore(self.states.load())
        last_saved = time.monotonic()
        with _stop_requests() as stop, Progress(self._label(), self.total_updates, self.update) as progress:
            while self.epoch < self.settings.epochs:
                started = time.monotonic()
                for _ in self._updates_of_epoch():
                    progress.advance(loss=self.losses[-1] if self.losses else math.nan)
                    self._stop_if(stop.requested)
                    if time.monotonic() - last_saved > self.job.trainer.checkpoint_seconds:
                        self._save()
                        last_saved = time.monotonic()
                self._end_epoch(time.monotonic() - started, progress)
                self._stop_if(stop.requested)
            # What follows may be stopped as well: the stage is not trained again then.
            self._save()
        return self._finish()

    def _stop_if(self, requested: bool) -> None:
        if requested:
            self._save()
            raise Interrupted(f"stopped in stage {self.job.stage.name}, epoch {self.epoch + 1}")

    def _label(self) -> str:
        return f"{self.job.stage.name}: training"

    def _updates_of_epoch(self) -> Iterator[None]:
        job = self.job
        entries = job.source.start_epoch(self.epoch)
        plan = update_plan(entries, self.settings, job.seed, self.epoch)[self.position :]
        batches = job.source.batches([share for rows in plan for share in self._shares(rows)])
        self.engine.training_mode()
        for _ in plan:
            losses = []
            for part in range(self.layout.groups_per_rank):
                torch.manual_seed(step_seed(job.seed, self.update, self.layout.group_of(job.process.rank, part)))
                losses.append(self.engine.accumulate(next(batches), part))
            if self.average is not None:
                self.average.update(job.method)
            self.engine.update()
            self.update += 1
            self.position += 1
            self.unread.append(torch.stack(losses).mean())
            if len(self.unread) >= _LOSS_CHECK_INTERVAL or job.process.device.type == "cpu":
                self._read_losses()
            yield

    def _shares(self, rows: IntArray) -> list[Share]:
        return rank_shares(rows, self.settings, self.layout, self.job.process.rank)

    def _read_losses(self) -> None:
        """Bring losses to the host, seldom, since the device waits for it; stop on the first bad one."""
        if not self.unread:
            return
        values = torch.stack(self.unread).tolist()
        first = self.update - len(values)
        self.unread.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise UserError(
                    f"stage {self.job.stage.name}: the loss is {value} at update {first + i + 1} of "
                    f"{self.total_updates} (epoch {self.epoch + 1}); lower the learning rate with "
                    f"--set {self.job.stage.name}.learning_rate=…, or use --precision fp32"
                )
        self.losses.extend(values)

    def _end_epoch(self, seconds: float, progress: Progress) -> None:
        self._read_losses()
        mean = sum(self.losses) / max(len(self.losses), 1)
        log = EpochLog(
            self.epoch + 1, mean, self.engine.learning_rate(), self.engine.gradient_norm(), seconds
        )
        self.result.triplets_seen += self.position * self.settings.batch_size
        self.losses, self.position = [], 0
        self.epoch += 1
        is_last = self.epoch == self.settings.epochs
        if self.job.validate is not None and (self.epoch % self.settings.validate_every == 0 or is_last):
            log.score = self._validate(self.job.validate)
        self.result.log.append(log)
        progress.note(_log_line(log, self.settings.epochs, self.result.criterion))

    def _validate(self, validate: Callable[[Method], Score]) -> float:
        with self._evaluated_weights():
            self.job.method.eval()
            score = validate(self.job.method)
            if self.result.best is None or score.value > self.result.best:
                self.result.best = score.value
                self.result.selected = _clone(self.job.method)
                self.result.selected_epoch = self.epoch
        self.result.criterion = score.criterion
        return score.value

    def _evaluated_weights(self) -> Any:
        return self.average.in_place_of_weights(self.job.method) if self.average else nullcontext()

    def _finish(self) -> Trained:
        with self._evaluated_weights():
            self.result.last = _clone(self.job.method)
        if not self.result.selected:
            self.result.selected, self.result.selected_epoch = self.result.last, self.epoch
        self.result.updates = self.update
        self.result.seconds += sum(entry.seconds for entry in self.result.log)
        self.result.moments = _moments_of(self.engine.optimiser, self.job.method)
        self.job.method.eval()
        return self.result

    def _save(self) -> None:
        self._read_losses()
        if not self.job.process.is_main:
            return
        state = {
            "engine": self.engine.state(),
            "average": self.average.shadow if self.average else {},
            "epoch": self.epoch,
            "position": self.position,
            "update": self.update,
            "losses": self.losses,
            "selected": self.result.selected,
            "selected_epoch": self.result.selected_epoch,
            "criterion": self.result.criterion,
            "best": self.result.best,
            "triplets_seen": self.result.triplets_seen,
            "log": [vars(entry) for entry in self.result.log],
        }
        self.states.save(state, self.update)

    def _restore(self, state: dict[str, Any]) -> None:
        self.engine.load_state(state["engine"])
        if self.average is not None:
            self.average.shadow = {n: t.to(self.job.process.device) for n, t in state["average"].items()}
        self.epoch, self.position, self.update = state["epoch"], state["position"], state["update"]
        self.losses = list(state["losses"])
        self.result.selected, self.result.selected_epoch = state["selected"], state["selected_epoch"]
        self.result.criterion, self.result.best = state["criterion"], state["best"]
        self.result.triplets_seen = state["triplets_seen"]
        self.result.log = [EpochLog(**entry) for entry in state["log"]]


def _clone(method: Method) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in method.state_dict().items()}


def _moments_of(optimiser: torch.optim.Optimizer, method: Method) -> Moments:
    names: dict[Tensor, str] = {parameter: name for name, parameter in method.named_parameters()}
    return {names[p]: {k: _copied(v) for k, v in kept.items()} for p, kept in optimiser.state.items()}


def _give_moments(optimiser: torch.optim.Optimizer, method: Method, moments: Moments) -> None:
    """Parameters that the earlier stage did not train start afresh."""
    parameters = dict(method.named_parameters())
    trained = {p for group in optimiser.param_groups for p in group["params"]}
    for name, kept in moments.items():
        if name in parameters and parameters[name] in trained:
            optimiser.state[parameters[name]] = {k: _copied(v) for k, v in kept.items()}


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _log_line(log: EpochLog, epochs: int, criterion: str) -> str:
    score = "" if log.score is None else f", {criterion} {log.score:.2f}"
    return f"epoch {log.epoch}/{epochs}: loss {log.loss:.4f}, lr {log.learning_rate:.3g}{score} ({log.seconds:.1f} s)"


class _StopRequest:
    requested = False


@contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; the second one acts as usual."""
    request = _StopRequest()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        request.requested = True
        signal.signal(number, previous[number])

    try:
        for wanted in (signal.SIGINT, signal.SIGTERM):
            previous[wanted] = signal.signal(wanted, handle)
    except ValueError:
        # Signals can only be handled in the main thread; elsewhere the caller's handling stands.
        pass
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
