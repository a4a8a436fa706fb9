"""Training one stage: the only training loop of the project.

It owns the order of batches, validation and selection, checkpoints and resume. What is trained and
how is the stage's declaration; the step itself is the engine's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.dataset import IntArray
from benchmark.errors import UserError
from benchmark.method import ComingEpoch, Method, RowValues, Views
from benchmark.prefetching import handed_over
from benchmark.progress import Progress
from benchmark.training.adaptation import adapt, merge, with_rates
from benchmark.training.batches import GroupLayout, rank_shares, step_seed, update_plan, with_row_values
from benchmark.training.engine import StageEngine
from benchmark.training.job import Diverged, EpochLog, Interrupted, Trained, TrainingJob, clone_of
from benchmark.training.monitoring import Measurements, Monitors
from benchmark.training.optimisation import (
    MovingAverage,
    give_moments,
    groups_by_count,
    moments_of,
    standard_momentum,
    standard_optimiser,
    standard_schedule,
)
from benchmark.training.pauses import Pause, Pauses, stop_requests
from benchmark.training.resumable_state import ResumableState
from benchmark.training.selection import Score, margin_of
from benchmark.training.stage_state import StageState

_LOSS_CHECK_INTERVAL = 50


def train(job: TrainingJob, resume: bool) -> Trained:
    """Train a stage to its end, from its resumable state where there is one and ``resume`` is True.

    Raises Interrupted after saving when SIGINT or SIGTERM arrives, Diverged on a loss that is not
    finite.
    """
    stage, name, epochs = _StageTraining(job), job.stage.name, job.settings.epochs
    with closing(stage.engine), closing(Monitors(job.monitors, job.monitor_folder, name)) as monitors:
        stage.begin(monitors, resume)
        with stop_requests() as stop, Progress(f"{name}: training", stage.total_updates, stage.update) as progress:
            pauses = Pauses(job.process, job.trainer.checkpoint_seconds, stop)
            while stage.epoch < epochs and not stage.has_run_out_of_patience:
                started = time.monotonic()
                for _ in stage.updates_of_epoch():
                    progress.advance(loss=stage.losses[-1] if stage.losses else math.nan)
                    stage.pause(pauses.after_update())
                log = stage.end_epoch(time.monotonic() - started)
                progress.note(log.format(epochs, stage.result.criterion))
                stage.pause(pauses.agree())
            # What follows may be stopped as well: the stage is not trained again then.
            stage.save()
        return stage.finish()


def endless_updates(job: TrainingJob) -> Generator[None]:
    """A stage's updates one by one, as `train` makes them; nothing is validated, selected or saved.

    It is there to be measured. Closing the generator closes the engine.
    """
    stage = _StageTraining(job)
    with closing(stage.engine):
        stage.begin(Monitors({}, job.monitor_folder, job.stage.name), resume=False)
        while True:
            yield from stage.updates_of_epoch()
            stage.read_losses()
            stage.losses, stage.position = [], 0
            stage.epoch += 1


def _require_no_batch_norm(job: TrainingJob) -> None:
    if any(isinstance(module, _BatchNorm) for module in job.method.modules()):
        raise UserError(
            f"stage {job.stage.name}: keep_last leaves a last batch of one entry, which batch norms that train cannot "
            f"normalise; change --batch-size, or --set {job.stage.name}.keep_last=false"
        )


class _StageTraining:
    """One stage in training: what moves, and the steps that move it."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.settings = job.settings
        self.layout = GroupLayout.of(job.settings, job.process.world_size)
        # Before the optimiser is made, which keeps the parameters that it is given.
        job.method.to(job.process.device)
        adapt(job.method, self.settings, job.stage.name, job.seed)
        first_epoch = update_plan(job.source.start_epoch(0), self.settings, job.seed, 0)
        per_epoch = len(first_epoch)
        if self.settings.keep_last and len(first_epoch[-1]) == 1 and self.settings.batch_norm == "train":
            _require_no_batch_norm(job)
        moments = job.earlier.moments if job.earlier and job.stage.initialise_from == "weights and optimiser" else {}
        groups = with_rates(job.stage.parameter_groups(job.method, self.settings), job.method, self.settings.rates)
        if moments and job.execution.zero:
            # ZeRO keeps one count of updates for a whole group of parameters.
            groups = groups_by_count(groups, job.method, moments)
        optimiser = (job.stage.optimiser or standard_optimiser)(groups, self.settings)
        schedule = (job.stage.schedule or standard_schedule)(self.settings, per_epoch)
        self.engine = StageEngine(
            job.method, optimiser, schedule, self.settings, self.layout, job.process, job.execution,
            momentum=None if job.stage.schedule else standard_momentum(self.settings, per_epoch),
        )  # fmt: skip
        give_moments(self.engine.optimiser, job.method, moments)
        self.result = Trained({}, {}, -1, "", None, 0, 0)
        self.standing: list[float] = []
        if moments and job.earlier is not None and job.earlier.best is not None:
            self.result.best, self.result.criterion = job.earlier.best, job.earlier.criterion
            self.standing = [job.earlier.best]
            # The earlier stage's best weights stand until this stage does better.
            self.result.selected, self.result.selected_epoch = clone_of(job.method), 0
        decay = self.settings.average_decay
        self.average = MovingAverage(job.method, decay) if decay else None
        self.states = ResumableState(job.folder, job.identity)
        self.epoch = self.position = self.update = 0
        self.losses: list[float] = []
        self.unread: list[Tensor] = []
        self.rows: RowValues = {}
        self.updates_per_epoch, self.entries_per_epoch = per_epoch, 0
        self.total_updates = per_epoch * self.settings.epochs

    @property
    def has_run_out_of_patience(self) -> bool:
        """Told by the log alone, which a resumable state has: what is gone on with ends where it would have."""
        since = [e for e in self.result.log if e.score is not None and e.epoch > self.result.selected_epoch]
        return 0 < self.settings.patience <= len(since)

    def begin(self, monitors: Monitors, resume: bool) -> None:
        state = StageState.read(self.states, self.job.process, self.job.method) if resume else None
        if state is not None:
            self._restore(state)
        monitors.rewind(self.update)
        self.measurements = Measurements(monitors, self.job.process, self.settings.batch_size, self.update)

    def pause(self, pause: Pause) -> None:
        if pause.save or pause.stop:
            self.save()
        if pause.stop:
            raise Interrupted(f"stopped in stage {self.job.stage.name}, epoch {self.epoch + 1}")

    def updates_of_epoch(self) -> Iterator[None]:
        job, rank = self.job, self.job.process.rank
        entries = job.source.start_epoch(self.epoch)
        whole = update_plan(entries, self.settings, job.seed, self.epoch)
        plan, self.updates_per_epoch = whole[self.position :], len(whole)
        self.entries_per_epoch = sum(map(len, whole))
        shares = [share for rows in plan for share in rank_shares(rows, self.settings, self.layout, rank)]
        self._before_epoch(entries, whole)
        batches = with_row_values(job.source.batches(shares), shares, self.rows)
        self.engine.training_mode()
        for _ in plan:
            losses = []
            for part in range(self.layout.groups_per_rank):
                # Of the group, not of the rank: whoever computes it draws the same dropout.
                torch.manual_seed(step_seed(job.seed, self.update, self.layout.group_of(rank, part)))
                losses.append(self.engine.accumulate(next(batches), part))
            if self.average is not None:
                # Before the update, as VAL's released code does: the average is one update behind.
                self.average.update(job.method)
            measured = self.measurements.due(self.update + 1) or self.position + 1 == self.updates_per_epoch
            if measured:
                self.engine.measure_gradient()
            self.engine.update()
            self.update += 1
            self.position += 1
            self.unread.append(torch.stack(losses).mean())
            # Reading a loss waits for the device; a CPU has nothing to run ahead of.
            if measured or len(self.unread) >= _LOSS_CHECK_INTERVAL or job.process.device.type == "cpu":
                self.read_losses()
            if measured:
                self.measurements.write(self.update, self.losses, self.engine)
            yield

    def _before_epoch(self, entries: int, plan: list[IntArray]) -> None:
        job, settings, prepare = self.job, self.settings, self.job.stage.before_epoch
        if prepare is None:
            return
        alone = GroupLayout.of(settings, 1)
        shares = [share for rows in plan for share in rank_shares(rows, settings, alone, 0)]

        def there(views: Views) -> Views:
            # With micro-batches a batch waits on the host.
            return {name: handed_over(tensor, job.process.device) for name, tensor in views.items()}

        def groups() -> Iterator[tuple[IntArray, Views, Views, Views]]:
            for share, batch in zip(shares, job.source.batches(shares), strict=True):
                yield share.rows, there(batch.reference), there(batch.text), there(batch.target)

        kept = self.rows if self.position else {}
        seed = step_seed(job.seed, self.update - self.position, 0)
        self.rows = prepare(job.method, settings, ComingEpoch(self.epoch, entries, seed, kept, groups))

    def read_losses(self) -> None:
        """Bring losses to the host, seldom, since the device waits for it; stop on the first bad one.

        A loss is the mean over all groups of its update, on whichever ranks; all ranks must call it.
        """
        if not self.unread:
            return
        values = self.engine.mean_over_ranks(torch.stack(self.unread)).tolist()
        first = self.update - len(values)
        self.unread.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                remedy = "" if self.job.settings.precision == "fp32" else ", or use --precision fp32"
                raise Diverged(
                    f"stage {self.job.stage.name}: the loss is {value} at update {first + i + 1} of "
                    f"{self.total_updates} (epoch {self.epoch + 1}); lower the learning rate with "
                    f"--set {self.job.stage.name}.learning_rate=…{remedy}"
                )
        self.losses.extend(values)

    def end_epoch(self, seconds: float) -> EpochLog:
        """Count the epoch and, where it is due, validate it."""
        self.read_losses()
        mean = sum(self.losses) / max(len(self.losses), 1)
        rate, norm = self.engine.learning_rate(), self.engine.gradient_norm()
        log = EpochLog(self.epoch + 1, mean, rate, norm if math.isfinite(norm) else None, seconds)
        if self.job.stage.rows is None:
            self.result.triplets_seen += self.entries_per_epoch
        self.losses, self.position = [], 0
        self.epoch += 1
        is_last = self.epoch == self.settings.epochs
        if self.job.validate is not None and (self.epoch % self.settings.validate_every == 0 or is_last):
            log.score = self._validate(self.job.validate)
            self.measurements.write_score(self.update, self.result.criterion, log.score)
        self.result.log.append(log)
        return log

    def _validate(self, validate: Callable[[Method], Score]) -> float:
        # Only the ranks of an update's first group have moved the running statistics.
        self.engine.share_buffers()
        with self._evaluated_weights():
            self.job.method.eval()
            score = validate(self.job.method)
            if self.result.best is None or score.value > self.result.best:
                self.result.best = score.value
                self.result.selected = clone_of(self.job.method)
                self.result.selected_epoch = self.epoch
        self.result.criterion = score.criterion
        return score.value

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        return self.average.in_place_of_weights(self.job.method) if self.average else nullcontext()

    def finish(self) -> Trained:
        self.engine.share_buffers()
        with self._evaluated_weights():
            self.result.last = clone_of(self.job.method)
        if not self.result.selected:
            self.result.selected, self.result.selected_epoch = self.result.last, self.epoch
        self.result.updates = self.update
        self.result.seconds += sum(entry.seconds for entry in self.result.log)
        scored = [entry.score for entry in self.result.log if entry.score is not None]
        self.result.margin = margin_of([*self.standing, *scored])
        self.result.moments = moments_of(self.engine.optimiser, self.job.method)
        self.job.method.eval()
        self.result.selected, self.result.last = merge(self.job.method, [self.result.selected, self.result.last])
        return self.result

    def save(self) -> None:
        """Every process takes part, since each may keep a part of the optimiser's moments; rank 0 writes."""
        self.read_losses()
        method, result, is_main = self.job.method, self.result, self.job.process.is_main
        moments = moments_of(self.engine.optimiser, method, keep=is_main)
        if not is_main:
            return
        scale = self.engine.loss_scale
        state = StageState(
            module={name: tensor.detach().cpu() for name, tensor in method.state_dict().items()},
            moments=moments,
            average=self.average.shadow if self.average else {},
            selected=result.selected,
            scale=scale.state() if scale is not None else {},
            epoch=self.epoch,
            position=self.position,
            update=self.update,
            losses=self.losses,
            selected_epoch=result.selected_epoch,
            criterion=result.criterion,
            best=result.best,
            triplets_seen=result.triplets_seen,
            log=result.log,
            rows=self.rows,
        )
        self.states.save(state.as_plain(), self.update)

    def _restore(self, state: StageState) -> None:
        self.engine.load_state(state.module, state.moments, state.update, state.scale)
        if self.average is not None:
            self.average.shadow = {n: t.to(self.job.process.device) for n, t in state.average.items()}
        self.epoch, self.position, self.update = state.epoch, state.position, state.update
        self.losses, self.rows = list(state.losses), dict(state.rows)
        self.result.selected, self.result.selected_epoch = state.selected, state.selected_epoch
        self.result.criterion, self.result.best = state.criterion, state.best
        self.result.triplets_seen, self.result.log = state.triplets_seen, list(state.log)
