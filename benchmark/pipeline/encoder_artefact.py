"""The artefact of a stage that trains the encoder: one folder of the cache, trained once and taken by all runs.

Rank 0 alone reads and writes it; other ranks, whose nodes may not see the folder, get what it says. Beside
the files stand their digests, written last: a file that was cut or replaced since is never taken, and the
encoder is trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmark.data.trained_elsewhere import training_of
from benchmark.distributed.job import Job
from benchmark.distributed.shards import broadcast_state
from benchmark.errors import UserError
from benchmark.files import atomic_write_json, digest_of, file_digest, remove_partial
from benchmark.method import Method
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.reporting import WeightsFrom
from benchmark.progress import say
from benchmark.structured_files import read_json
from benchmark.training.job import State, Trained, clone_of
from benchmark.weights.checkpoints import WeightsHeader, read_header, read_weights, save_weights
from benchmark.weights.fit import load_into

LOG = "training-log.json"
WORK = "training"
_LAST_WEIGHTS = "last.safetensors"
_DIGESTS = "digests.json"


class EncoderArtefact:
    """The artefact that a planned stage makes; ``work`` is the folder of its unfinished training."""

    def __init__(self, plan: Plan, planned: PlannedStage, job: Job) -> None:
        self._plan, self._job, self._stage = plan, job, planned.stage.name
        name = f"{training_of(plan.dataset).label}-{digest_of(plan.encoder_identity(planned))[:16]}"
        self._folder = plan.options.cache_root / "encoders" / name
        self.file = self._folder / "weights.safetensors"
        self.work = self._folder / WORK
        self._files = (LOG, _LAST_WEIGHTS, self.file.name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait while another run trains the same artefact, and say so; rank 0 holds the folder for its job."""
        with ExitStack() as stack:
            self._on_main("waiting until no other run trains the same encoder", lambda: self._hold(stack))
            yield

    def _hold(self, stack: ExitStack) -> None:
        from filelock import FileLock, Timeout

        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{self._stage}: another run is training the same encoder; waiting for it")
            lock.acquire()
        stack.callback(lock.release)
        remove_partial(self._folder)

    def take_into(self, method: Method) -> bool:
        """Load the weights that a run left, on all ranks; False where there are none yet."""
        if not self._on_main("looking for an encoder trained before", self._is_whole):
            return False
        say(f"{self._stage}: taking the encoder trained before ({self._folder.name})")
        self._on_main("reading the encoder", lambda: load_into(method, read_weights(self.file), str(self.file)))
        broadcast_state(method.state_dict(), self._job)
        return True

    def _is_whole(self) -> bool:
        """Whether every file is there as it was written; one line says what is not."""
        if not self.file.is_file():
            return False
        try:
            stated = read_json(self._folder / _DIGESTS)
            changed = [name for name in self._files if stated[name] != file_digest(self._folder / name)]
        except (UserError, OSError, KeyError, TypeError):
            changed = [_DIGESTS]
        if changed:
            say(f"{self._stage}: {self._folder / changed[0]} is not as it was written; training the encoder anew")
        return not changed

    def write(self, trained: Trained, header: WeightsHeader) -> None:
        """Keep what was trained, its digests last: they make it a whole artefact."""

        def write() -> None:
            (self._folder / _DIGESTS).unlink(missing_ok=True)
            atomic_write_json(self._folder / LOG, [vars(entry) for entry in trained.log])
            save_weights(self._folder / _LAST_WEIGHTS, trained.last, header)
            save_weights(self.file, trained.selected, header)
            digests = {name: file_digest(self._folder / name) for name in self._files}
            atomic_write_json(self._folder / _DIGESTS, digests)

        self._on_main("writing the encoder", write)

    def finish(self) -> tuple[WeightsHeader, str, list[dict[str, Any]]]:
        """Remove what only a resumed training needs; gives header, digest and the log of training."""

        def told() -> list[Any]:
            remove_work(self.work)
            log = self._folder / LOG
            return [asdict(read_header(self.file)), file_digest(self.file), read_json(log) if log.is_file() else []]

        header, digest, log = self._on_main("reading the encoder", told)
        return WeightsHeader.of_json(header, f"{self.file}, its header"), digest, log

    def copy_to_run(self, method: Method) -> tuple[dict[WeightsFrom, State], dict[str, str]]:
        """The weights, copied into the run's folder, for a method that is its encoder alone; and their digests."""
        plan = self._plan
        files: dict[WeightsFrom, Path] = {"selected": self.file, "last": self._folder / _LAST_WEIGHTS}
        weights = {name: clone_of(method) for name in files}

        def copy_files() -> dict[str, str]:
            weights.update({name: read_weights(file) for name, file in files.items()})
            variant = plan.variant.name if plan.variant else ""
            # The artefact may have been trained on behalf of another method.
            settings = plan.method_settings.model_dump(mode="json")
            own = replace(
                read_header(self.file), method=plan.method.name, variant=variant, method_settings=settings,
                dataset=plan.dataset.info.name, trained_on=dict(plan.trained_on),
                asked_by=plan.rule.name if plan.trained_on else "",
            )  # fmt: skip
            atomic_write_json(plan.folder / LOG, read_json(self._folder / LOG))
            return save_run_weights(plan.folder, weights, own)

        digests = self._on_main("copying the encoder's weights", copy_files)
        for state in weights.values():
            broadcast_state(state, self._job)
        return weights, digests

    def _on_main(self, what: str, work: Callable[[], Any]) -> Any:
        return self._job.barrier.from_main(f"{self._stage}: {what}", work)


def save_run_weights(
    folder: Path, weights: Mapping[WeightsFrom, State], header: WeightsHeader
) -> dict[str, str]:
    """Write a run's weights into its folder; gives the digests by the files' names in there."""
    files = {f"weights/{name}.safetensors": state for name, state in weights.items()}
    return {name: save_weights(folder / name, state, header) for name, state in files.items()}


def remove_work(folder: Path) -> None:
    """Remove a stage's resumable state once its product stands."""
    for path in folder.glob("resume*"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
