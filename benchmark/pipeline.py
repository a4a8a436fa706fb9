"""One whole run: features, every missing stage, training, evaluation, record, table.

The steps are the modules beside this one; here they are only put in order.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmark.agreement import facts_of
from benchmark.annotations import require_pictures
from benchmark.backbones import ClipBackbone, load_backbone
from benchmark.batches import all_training_strings
from benchmark.checkpoints import EarlierStage, WeightsHeader, read_header, read_weights, save_weights
from benchmark.cost import count_cost
from benchmark.distributed import this_process
from benchmark.environment import check_accelerator
from benchmark.errors import UserError
from benchmark.evaluator import encode_tasks
from benchmark.files import atomic_write_json, digest_of, file_digest, folder_lock, read_json, remove_partial
from benchmark.job import Job, join_job
from benchmark.lr_sweep import Sweep, sweep
from benchmark.membership import join_processes
from benchmark.method import BuildContext, Method, PixelInputs
from benchmark.options import RunOptions, make_options
from benchmark.pixels import bad_pictures
from benchmark.plan import Plan, PlannedStage, make_plan, require_trainable
from benchmark.progress import counting, say
from benchmark.record import Record
from benchmark.record_costs import Cost
from benchmark.registry import Registry, discover
from benchmark.reporting import (
    StageOutcome,
    TestedWeights,
    WeightsFrom,
    build_record,
    describe_task,
    write_by_main,
    write_run,
)
from benchmark.resumable_state import ResumableState
from benchmark.shards import broadcast_state, own_span
from benchmark.stage_sources import StageSources, apart_from
from benchmark.text_rules import text_rule
from benchmark.trainer import train
from benchmark.training_job import Diverged, State, Trained, TrainingJob, clone_of
from benchmark.weights_fit import load_into

_WORK = "training"
_LOG = "training-log.json"
_LAST_WEIGHTS = "last.safetensors"
UNTRAINED = "weights/untrained.safetensors"
"""Of a method with nothing of its own to train: what it is, and which encoder it scores."""


def run(method: str, dataset: str, **options: Any) -> Record:
    """Run one method on one dataset and give its record; options as in `RunOptions`.

    Under a launcher every process calls it, and each gets the record. Raises UserError for
    everything that a user can mend.
    """
    chosen, registry = make_options(method=method, dataset=dataset, **options), discover()
    job = join_job(chosen.device, chosen.cache_root)
    draw_demo_data(chosen, registry, job)
    return execute(make_plan(chosen, registry), job)


def draw_demo_data(options: RunOptions, registry: Registry, job: Job) -> None:
    """Where several processes will read the demo data, the first rank of every cache folder draws it."""
    asked = options.demo and options.dataset in registry.datasets()
    if asked and job.process.world_size > 1:
        if job.cache.is_first:
            registry.demo_folder(options.dataset, options.cache_root)
        job.rendezvous.meet("drawing demo pictures")


def execute(plan: Plan, job: Job | None = None) -> Record:
    """Carry out a plan in its folder, which is held for this run alone, and written to by rank 0 alone.

    ``job``: the processes of the run, where the caller has joined them already.
    """
    job = job or join_job(plan.options.device, plan.options.cache_root)
    check_accelerator(plan.options.device)
    require_trainable(plan)
    if membership := join_processes():
        job.rendezvous.meet("reading the data")
        membership.agree("the start of the run", facts_of(plan, job.process.device.type))
    with ExitStack() as resources:

        def hold_folder() -> None:
            resources.enter_context(folder_lock(plan.folder, f"{plan.method.name} on {plan.dataset.label}"))
            remove_partial(plan.folder)
            _refuse_unfinished(plan)

        job.rendezvous.from_main("taking the run's folder", hold_folder)
        return _Run(plan, job, resources).run()


def _refuse_unfinished(plan: Plan) -> None:
    """A folder with a state that could be continued is not overwritten by accident."""
    unfinished = any(plan.folder.glob(f"{_WORK}*/resume.json"))
    if unfinished and not plan.options.resume:
        raise UserError(
            f"{plan.folder}: holds an unfinished run with the same settings; add --resume to continue "
            "it, or delete the folder to start again"
        )
    for planned in plan.trained:
        if planned.stage.product == "method":
            # Before the stages in front of it are trained: an encoder's own folder knows its settings.
            folder = plan.folder / (_WORK if planned is plan.last else f"{_WORK}-{planned.stage.name}")
            ResumableState(folder, plan.training_identity(planned)).require_same_settings()


def backbone_of(plan: Plan) -> ClipBackbone | None:
    """The plan's backbone as it starts, on this process's device; None for methods without one."""
    if not plan.backbone:
        return None
    backbone = load_backbone(
        plan.backbone,
        plan.weights,
        preprocessing=plan.backbone_settings.preprocessing,
        rgb_first=plan.backbone_settings.rgb_first,
        seed=plan.options.seed,
        assets_root=plan.options.assets,
    )
    return backbone.to(this_process(plan.options.device).device)


class _Run:
    def __init__(self, plan: Plan, job: Job, resources: ExitStack) -> None:
        self._plan, self._job, self._resources = plan, job, resources
        self._process = job.process
        self._timings: dict[str, float] = {}
        self._stages: list[StageOutcome] = []
        self._earlier: dict[str, Method] = {}
        self._earlier_trained: Trained | None = None
        self._encoder_file: Path | None = None
        self._encoder_digest = ""
        self._sweep: Sweep | None = None

    def run(self) -> Record:
        for remark in self._plan.remarks:
            say(f"{self._plan.method.title}: {remark}")
        with self._timed("data"):
            self._unreadable = self._check_pictures()
        with self._timed("backbone"):
            backbone = backbone_of(self._plan)
            self._start = asdict(backbone.description) if backbone else {}
            self._sources = self._open_sources(backbone)
        for planned in self._plan.stages[:-1]:
            if planned.stage.product == "encoder":
                self._encoder_stage(planned)
            else:
                self._earlier_stage(planned)
        method, states = self._last_stage()
        return self._report(method, states)

    def _check_pictures(self) -> frozenset[int]:
        """Raise for missing pictures; give unreadable training ones with `--skip-bad-images`.

        Evaluation never skips a picture.
        """
        dataset = self._plan.dataset
        require_pictures(dataset, dataset.split_pictures(dataset.info.evaluation_split))
        if not self._plan.trained:
            return frozenset()
        training = dataset.split_pictures("train")
        if not self._plan.options.skip_bad_images:
            require_pictures(dataset, training)
            return frozenset()
        phase = "checking training pictures"
        start, stop = own_span(len(training), self._job)
        with counting(phase, stop - start) as progress:
            bad = bad_pictures(dataset.pictures, training[start:stop], self._job.cores, progress)
        return frozenset(index for found in self._job.rendezvous.share(phase, sorted(bad)) for index in found)

    def _open_sources(self, backbone: ClipBackbone | None) -> StageSources:
        sources = StageSources(self._plan, self._job, backbone, self._unreadable)
        return self._resources.enter_context(sources)

    def _context(self, planned: PlannedStage) -> BuildContext:
        return BuildContext(
            backbone=self._sources.backbone,
            method_settings=self._plan.method_settings,
            training_settings=planned.settings,
            assets_root=self._plan.options.assets_root or None,
            earlier=self._earlier,
        )

    def _build(self, planned: PlannedStage) -> Method:
        """A stage's method on its device, its random start a function of the run's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._plan.options.seed)
            method = planned.stage.build(self._context(planned))
            if planned.stage.takes != "nothing" and self._earlier:
                _take_weights(method, list(self._earlier.values())[-1], f"stage {list(self._earlier)[-1]}")
            elif planned.stage.trains:
                rule = text_rule(planned.settings.text_rule)
                method.prepare(all_training_strings(self._plan.dataset.training_texts(), rule))
        if planned.stage.product != "encoder":
            stored = apart_from(method, self._sources.backbone)
            if stored is not self._sources.backbone:
                self._sources = self._open_sources(stored)
        return method.to(self._process.device).eval()

    def _encoder_stage(self, planned: PlannedStage) -> Method:
        """Train the encoder artefact, or take the one that a run with the same settings left."""
        plan = self._plan
        identity = digest_of(plan.encoder_identity(planned))
        folder = plan.options.cache_root / "encoders" / f"{plan.dataset.label}-{identity[:16]}"
        file = folder / "weights.safetensors"
        if self._sources.backbone is None:
            raise ValueError(f"stage {planned.stage.name}: only the engine's backbone can be an encoder")
        encoder = copy.deepcopy(self._sources.backbone)
        self._sources = self._open_sources(encoder)
        method = self._build(planned)
        with _one_at_a_time(folder, planned.stage.name, self._job):
            if self._on_main("looking for an encoder trained before", file.is_file):
                say(f"{planned.stage.name}: taking the encoder trained before ({folder.name})")
                self._take_encoder(method, file)
            else:
                trained = self._train(planned, method, folder / _WORK)
                load_into(method, trained.selected, str(file))
                header = self._header(planned, trained, method)
                self._on_main("writing the encoder", lambda: _write_encoder(folder, file, trained, header))
            self._on_main("clearing the encoder's folder", lambda: _remove_work(folder / _WORK))
            told = self._on_main(
                "reading the encoder",
                lambda: [asdict(read_header(file)), file_digest(file), _seconds_of(folder / _LOG)],
            )
        header, self._encoder_digest = WeightsHeader.of_json(told[0]), told[1]
        self._encoder_file = file
        self._stages.append(StageOutcome.of_header(planned, header, self._encoder_digest, told[2]))
        encoder.relabel(f"{plan.weights}+{planned.stage.name}")
        self._sources = self._open_sources(encoder)
        return method

    def _take_encoder(self, method: Method, file: Path) -> None:
        """Rank 0 reads the file, which other nodes may not have, and the others get its weights."""
        self._on_main("reading the encoder", lambda: load_into(method, read_weights(file), str(file)))
        broadcast_state(method.state_dict(), self._job)

    def _on_main(self, what: str, work: Callable[[], Any]) -> Any:
        """Rank 0 writes or reads, the others wait; gives the JSON-like result to all."""
        return self._job.rendezvous.from_main(what, work)

    def _earlier_stage(self, planned: PlannedStage) -> None:
        """A stage whose product is a method that a later stage starts from."""
        method = self._build(planned)
        trained = self._train(planned, method, self._plan.folder / f"{_WORK}-{planned.stage.name}")
        load_into(method, trained.selected, f"stage {planned.stage.name}")
        self._earlier[planned.stage.name], self._earlier_trained = method, trained
        self._stages.append(StageOutcome.of(planned, trained, self._plan.options.seed))

    def _last_stage(self) -> tuple[Method, dict[WeightsFrom, State]]:
        """The evaluated method, and the weights to evaluate it with, by name."""
        planned = self._plan.last
        if planned.stage.product == "encoder":
            method = self._encoder_stage(planned)
            self._cost = self._counted(planned, method)
            return method, self._weights_of_encoder(method)
        method = self._build(planned)
        self._cost = self._counted(planned, method)
        if not planned.stage.trains:
            told = self._header(planned, None, method)
            self._on_main(
                "writing what is evaluated",
                lambda: save_weights(self._plan.folder / UNTRAINED, method.state_dict(), told),
            )
            return method, {}
        if self._plan.sweeps:
            self._sweep = sweep(planned, self._train_at)
            planned, trained = self._sweep.planned, self._sweep.trained
        else:
            trained = self._train(planned, method, self._plan.folder / _WORK)
        self._stages.append(StageOutcome.of(planned, trained, self._plan.options.seed))
        header = self._header(planned, trained, method)
        weights: dict[WeightsFrom, State] = {"selected": trained.selected, "last": trained.last}

        def write() -> None:
            for name, state in weights.items():
                save_weights(self._plan.folder / "weights" / f"{name}.safetensors", state, header)
            atomic_write_json(self._plan.folder / _LOG, [vars(entry) for entry in trained.log])

        self._on_main("writing the weights", write)
        return method, weights

    def _counted(self, planned: PlannedStage, method: Method) -> Cost:
        inputs = planned.stage.inputs(self._context(planned))
        return count_cost(method, inputs, self._sources.backbone, self._plan.tasks[0].queries.texts)

    def _train_at(self, planned: PlannedStage, word: str) -> Trained:
        """One training of a search for the learning rate, from the stage's start."""
        try:
            return self._train(planned, self._build(planned), self._plan.folder / f"{_WORK}-{word}")
        except Diverged as error:
            if self._process.world_size > 1:
                # The ranks see it at different updates, so that they could not go on together.
                raise UserError(str(error)) from None
            raise

    def _weights_of_encoder(self, method: Method) -> dict[WeightsFrom, State]:
        """The artefact's weights, copied into the run's folder, for a method that is its encoder alone."""
        plan, artefact = self._plan, self._encoder_file
        assert artefact is not None
        files: dict[WeightsFrom, Path] = {"selected": artefact, "last": artefact.with_name(_LAST_WEIGHTS)}
        weights = {name: clone_of(method) for name in files}

        def copy_files() -> None:
            weights.update({name: read_weights(file) for name, file in files.items()})
            variant = plan.variant.name if plan.variant else ""
            # The artefact may have been trained on behalf of another method.
            settings = plan.method_settings.model_dump(mode="json")
            header = replace(read_header(artefact), method=plan.method.name, variant=variant, method_settings=settings)
            for name, state in weights.items():
                save_weights(plan.folder / "weights" / f"{name}.safetensors", state, header)
            atomic_write_json(plan.folder / _LOG, read_json(artefact.with_name(_LOG)))

        self._on_main("copying the encoder's weights", copy_files)
        for state in weights.values():
            broadcast_state(state, self._job)
        return weights

    def _train(self, planned: PlannedStage, method: Method, folder: Path) -> Trained:
        plan = self._plan
        inputs = planned.stage.inputs(self._context(planned))
        with self._timed("features"):
            source = self._sources.training(planned, method, inputs)
        job = TrainingJob(
            method=method,
            stage=planned.stage,
            settings=planned.settings,
            source=source,
            process=self._process,
            seed=plan.options.seed,
            folder=folder,
            identity=plan.training_identity(planned),
            validate=self._sources.validation(planned, method, inputs),
            trainer=plan.trainer,
            earlier=self._earlier_trained,
            # Pieces are for pictures: heads on stored features are small.
            execution=plan.execution if isinstance(inputs, PixelInputs) else replace(plan.execution, piece=0),
            monitors=plan.monitors,
            monitor_folder=plan.folder / "monitor",
        )
        recipe = planned.recipe.name if planned.recipe else ""
        say(f"{planned.stage.name}: training, recipe {recipe}, {planned.settings.epochs} epochs")
        with self._timed(f"{planned.stage.name}: training"):
            # What an encoder's folder holds was made with the same settings: it can only be continued.
            return train(job, resume=plan.options.resume or planned.stage.product == "encoder")

    def _header(self, planned: PlannedStage, trained: Trained | None, method: Method) -> WeightsHeader:
        plan = self._plan
        return WeightsHeader(
            method=plan.method.name if planned.stage.product == "method" else planned.stage.name,
            stage=planned.stage.name,
            dataset=plan.dataset.info.name,
            method_settings=plan.method_settings.model_dump(mode="json"),
            training_settings=planned.settings.model_dump(mode="json"),
            backbone={**plan.backbone_identity, "seed": plan.options.seed},
            width=self._sources.backbone.width if self._sources.backbone else 0,
            seed=plan.options.seed,
            encoder=self._encoder_digest,
            encoder_file=str(self._encoder_file or ""),
            recipe=planned.recipe.name if planned.recipe else "",
            variant=plan.variant.name if plan.variant and planned.stage.product == "method" else "",
            selection=plan.options.selection,
            updates=trained.updates if trained else 0,
            triplets_seen=trained.triplets_seen if trained else 0,
            prepared=dict(method.prepared()),
            earlier=[self._told(outcome) for outcome in self._stages if outcome.planned is not planned],
            start=self._start,
        )

    def _told(self, outcome: StageOutcome) -> EarlierStage:
        """An earlier stage as the header of a later one's weights tells it."""
        name = outcome.planned.stage.name
        return EarlierStage(
            name=name,
            settings=outcome.planned.settings.model_dump(mode="json"),
            updates=outcome.updates,
            triplets_seen=outcome.triplets_seen,
            prepared=dict(self._earlier[name].prepared()) if name in self._earlier else {},
        )

    def _report(self, method: Method, states: dict[WeightsFrom, State]) -> Record:
        plan = self._plan
        source = self._sources.evaluation(method, plan.last.stage.inputs(self._context(plan.last)))
        names = plan.dataset.pictures.names
        tested = []
        untrained: dict[WeightsFrom, State] = {"none trained": {}}
        for name, state in (states or untrained).items():
            if state:
                load_into(method, state, f"weights '{name}'")
            with self._timed("evaluation"):
                encoded = encode_tasks(method.eval(), plan.tasks, source, self._job)
                described = [describe_task(method, task, names, self._job) for task in encoded]
                tested.append(TestedWeights(name, described))
        record = build_record(
            plan, tested, self._stages, self._start.get("digest", ""), self._timings, self._process, self._unreadable,
            self._cost, self._sweep,
        )  # fmt: skip
        return write_by_main(self._job, lambda: self._finish(record, tested))

    def _finish(self, record: Record, tested: list[TestedWeights]) -> Record:
        """Write the run's folder; what only a resumed run needs is removed once the record stands."""
        plan = self._plan
        written = write_run(plan.folder, record, tested, plan.dataset, plan.title)
        for folder in plan.folder.glob(f"{_WORK}*"):
            if folder.is_dir():
                _remove_work(folder)
        return written

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Count a phase's seconds; what the store took inside it counts as "features"."""
        started = time.monotonic()
        sources = getattr(self, "_sources", None)
        before = sources.seconds_on_features if sources else 0.0
        yield
        on_features = sources.seconds_on_features - before if sources else 0.0
        for name, seconds in ((phase, time.monotonic() - started - on_features), ("features", on_features)):
            self._timings[name] = self._timings.get(name, 0.0) + seconds


def _take_weights(method: Method, earlier: Method, source: str) -> None:
    """What both have under one name; the later stage goes on with what the earlier one prepared."""
    method.restore(earlier.prepared())
    own = method.state_dict()
    shared = {name: tensor for name, tensor in earlier.state_dict().items() if name in own}
    if not shared:
        raise ValueError(f"{source}: has no tensor of the same name as the stage that takes its weights")
    load_into(method, {**own, **shared}, source)


def _seconds_of(log: Path) -> float | None:
    """Seconds of training that a log tells; None where there is no log."""
    return sum(entry["seconds"] for entry in read_json(log)) if log.is_file() else None


def _remove_work(folder: Path) -> None:
    """Remove a stage's resumable state once its product stands."""
    for path in folder.glob("resume*"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _one_at_a_time(folder: Path, stage: str, job: Job) -> Iterator[None]:
    """Wait while another run trains the same artefact, and say so; rank 0 holds the folder for its job."""
    from filelock import FileLock, Timeout

    with ExitStack() as stack:

        def hold() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say(f"{stage}: another run is training the same encoder; waiting for it")
                lock.acquire()
            stack.callback(lock.release)
            remove_partial(folder)

        job.rendezvous.from_main(f"{stage}: waiting until no other run trains the same encoder", hold)
        yield


def _write_encoder(folder: Path, file: Path, trained: Trained, header: WeightsHeader) -> None:
    atomic_write_json(folder / _LOG, [vars(entry) for entry in trained.log])
    save_weights(folder / _LAST_WEIGHTS, trained.last, header)
    save_weights(file, trained.selected, header)
