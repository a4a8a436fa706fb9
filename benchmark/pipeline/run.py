"""One whole run: features, every missing stage, training, evaluation, record, table.

The steps are the modules beside this one; here they are only put in order.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmark.arithmetic import float32_convolutions
from benchmark.backbone import Backbone
from benchmark.data.long_texts import format_long_texts, training_strings, with_cut_texts
from benchmark.data.trained_elsewhere import training_of
from benchmark.distributed.job import Job, join_job
from benchmark.errors import UserError
from benchmark.evaluation.evaluator import TaskResult, encode_tasks, score_in_full
from benchmark.evaluation.single_modality import score_beside_modalities
from benchmark.files import atomic_write_json
from benchmark.method import FeatureInputs, Inputs, Method
from benchmark.options import make_options
from benchmark.pipeline.contract_probe import probe
from benchmark.pipeline.cost import count_cost
from benchmark.pipeline.encoder_artefact import LOG, WORK, EncoderArtefact, remove_work, save_run_weights
from benchmark.pipeline.lr_sweep import Sweep, sweep
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.planned_features import planned_features, shortage
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import (
    advice_on_pictures,
    backbone_of,
    build_planned,
    check_pictures,
    draw_demo_data,
    facts_of,
)
from benchmark.pipeline.probed_rows import ProbedRows, drawn_sample, sample_of
from benchmark.pipeline.readiness import owner_of, require_own_states, require_trainable
from benchmark.pipeline.reporting import (
    StageOutcome,
    WeightsFrom,
    build_record,
    write_by_main,
    write_run,
)
from benchmark.pipeline.run_folder import UNTRAINED, held_folder
from benchmark.pipeline.stage_sources import StageSources, apart_from
from benchmark.progress import say
from benchmark.records.environment import check_accelerator
from benchmark.records.measurement import Cost, Probe
from benchmark.records.record import Record, read_record
from benchmark.registry import discover
from benchmark.stage_building import BuiltStage
from benchmark.training.job import Diverged, State, Trained, TrainingJob
from benchmark.training.trainer import train
from benchmark.weights.checkpoints import ChosenBackbone, EarlierStage, WeightsHeader, save_weights
from benchmark.weights.fit import load_into


def run(method: str, dataset: str, **options: Any) -> Record:
    """Run one method on one dataset and give its record; options as in `RunOptions`.

    Under a launcher every process calls it, and each gets the record. Raises UserError for
    everything that a user can mend.
    """
    chosen, registry = make_options(method=method, dataset=dataset, **options), discover()
    job = join_job(chosen.device, chosen.cache_root)
    draw_demo_data(chosen, registry, job)
    return execute(make_plan(chosen, registry), job)


def execute(plan: Plan, job: Job | None = None) -> Record:
    """Carry out a plan in its folder, which is held for this run alone, and written to by rank 0 alone.

    ``job``: the processes of the run, where the caller has joined them already.
    """
    job = job or join_job(plan.options.device, plan.options.cache_root)
    check_accelerator(plan.options.device)
    require_trainable(plan)
    if job.process.world_size > 1:
        job.barrier.wait("reading the data")
        job.barrier.agree("the start of the run", facts_of(plan, job.process.device.type))
    with ExitStack() as resources:

        def hold_folder() -> bool:
            hold = held_folder(plan.folder, owner_of(plan), plan.options.resume, plan.options.overwrite)
            finished = resources.enter_context(hold)
            if not finished:
                require_own_states(plan)
            return finished

        if job.barrier.from_main("taking the run's folder", hold_folder):
            say(f"{plan.folder}: this run is finished; to make it again leave --resume out")
            return write_by_main(job, lambda: _tidied(plan))
        with advice_on_pictures(plan), float32_convolutions():
            return _Run(plan, job, resources).carry_out()


def _tidied(plan: Plan) -> Record:
    """The record of a finished run; what only a resumed one needs goes, now that it stands."""
    for folder in filter(Path.is_dir, plan.folder.glob(f"{WORK}*")):
        remove_work(folder)
    return read_record(plan.folder)


class _Run:
    def __init__(self, plan: Plan, job: Job, resources: ExitStack) -> None:
        self._plan, self._job, self._resources = plan, job, resources
        self._process = job.process
        self._timings: dict[str, float] = {}
        self._stages: list[StageOutcome] = []
        self._earlier: dict[str, Method] = {}
        self._earlier_trained: Trained | None = None
        self._artefact: EncoderArtefact | None = None
        self._encoder_file: Path | None = None
        self._encoder_digest = ""
        self._weights: dict[str, str] = {}
        self._sweep: Sweep | None = None
        self._probed: Probe | None = None
        self._fitted: tuple[str, ...] = ()

    def carry_out(self) -> Record:
        for remark in self._plan.remarks:
            say(f"{self._plan.method.title}: {remark}")
        with self._timed("data"):
            self._unreadable = check_pictures(self._plan, self._job)
        with self._timed("backbone"):
            backbone = backbone_of(self._plan)
            self._start = asdict(backbone.description) if backbone else {}
            self._sources = self._open_sources(backbone)
        if backbone is not None:
            for line in shortage(self._plan, planned_features(self._plan, backbone)):
                say(line)
        self._tasks = with_cut_texts(self._plan.tasks, backbone)
        plan = self._plan
        rule, pair_sampling = plan.training_rule, plan.last.settings.pair_sampling
        trained = () if plan.is_zero_shot else training_strings(plan.dataset, rule, pair_sampling)
        for line in format_long_texts(self._tasks, trained, backbone):
            say(line)
        self._probe_ahead()
        for planned in self._plan.stages[:-1]:
            if planned.stage.output == "encoder":
                self._encoder_stage(planned)
            else:
                self._earlier_stage(planned)
        return self._report(*self._last_stage())

    def _open_sources(self, backbone: Backbone | None) -> StageSources:
        return self._resources.enter_context(StageSources(self._plan, self._job, backbone, self._unreadable))

    def _build(self, planned: PlannedStage) -> BuiltStage:
        """A stage with its method on this process's device, in evaluation mode."""
        built = build_planned(self._plan, planned, self._sources.backbone, self._earlier)
        if planned.stage.output != "encoder":
            stored = apart_from(built.method, self._sources.backbone)
            if stored is not self._sources.backbone:
                self._sources = self._open_sources(stored)
        built.method.to(self._process.device).eval()
        return built

    def _probe_ahead(self) -> None:
        """Hold the last method against its contract before an encoder is trained for it."""
        plan, backbone = self._plan, self._sources.backbone
        earlier = {planned.stage.output for planned in plan.stages[:-1]}
        if backbone is None or earlier != {"encoder"}:
            return
        built = build_planned(plan, plan.last, backbone)
        if isinstance(built.inputs, FeatureInputs):
            built.method.to(self._process.device).eval()
            sample = drawn_sample(built, backbone, plan.tasks[0].queries.texts, self._process.device)
            self._probe(plan.last, built, sample)

    def _probe(self, planned: PlannedStage, built: BuiltStage, sample: ProbedRows | None = None) -> None:
        """Hold a stage's method against its contract before work is spent on it; by default on rows of the data."""
        plan = self._plan
        with self._timed("probe"):
            sample = sample or sample_of(plan.tasks[0], self._sources.evaluation(built.method, built.inputs))
            # The loss of a stage on rows of its own reads what these rows of the data do not have.
            has_loss = planned.stage.trains and planned.stage.rows is None
            norms = planned.settings.batch_norm if has_loss else None
            self._probed = probe(plan.method.name, built.method, sample, norms)

    def _encoder_stage(self, planned: PlannedStage) -> BuiltStage:
        """Train the encoder artefact, or take the one that a run with the same settings left."""
        if self._sources.backbone is None:
            raise ValueError(f"stage {planned.stage.name}: only the engine's backbone can be an encoder")
        self._artefact = EncoderArtefact(self._plan, planned, self._job)
        encoder = copy.deepcopy(self._sources.backbone)
        self._sources = self._open_sources(encoder)
        built = self._build(planned)
        with self._artefact.held():
            if not self._artefact.take_into(built.method):
                self._probe(planned, built)
                trained = self._train(planned, built, self._artefact.work)
                load_into(built.method, trained.selected, str(self._artefact.file))
                self._artefact.write(trained, self._header(planned, trained, built.method))
            header, self._encoder_digest, log = self._artefact.finish()
        self._encoder_file = self._artefact.file
        self._stages.append(StageOutcome.of_header(planned, header, self._encoder_digest, log))
        encoder.relabel(f"{self._plan.weights}+{planned.stage.name}")
        self._sources = self._open_sources(encoder)
        return built

    def _earlier_stage(self, planned: PlannedStage) -> None:
        """A stage whose product is a method that a later stage starts from."""
        built = self._build(planned)
        self._probe(planned, built)
        trained = self._train(planned, built, self._plan.folder / f"{WORK}-{planned.stage.name}")
        load_into(built.method, trained.selected, f"stage {planned.stage.name}")
        self._earlier[planned.stage.name], self._earlier_trained = built.method, trained
        self._stages.append(StageOutcome.of(planned, trained, self._plan.options.seed))

    def _last_stage(self) -> tuple[BuiltStage, dict[WeightsFrom, State]]:
        """The stage whose method is evaluated, and the weights to evaluate it with, by name."""
        planned = self._plan.last
        if planned.stage.output == "encoder":
            built = self._encoder_stage(planned)
            if self._probed is None:
                self._probe(planned, built)
            self._cost = self._counted(built)
            assert self._artefact is not None
            copied, self._weights = self._artefact.copy_to_run(built.method)
            return built, copied
        built = self._build(planned)
        method = built.method
        self._probe(planned, built)
        self._cost = self._counted(built)
        if not planned.stage.trains:
            self._fit(planned, built)
            header = self._header(planned, None, method)

            def write_untrained() -> dict[str, str]:
                return {UNTRAINED: save_weights(self._plan.folder / UNTRAINED, method.state_dict(), header)}

            self._weights = self._job.barrier.from_main("writing what is evaluated", write_untrained)
            return built, {}
        if self._plan.sweeps:
            self._sweep = sweep(planned, self._train_at)
            planned, trained = self._sweep.planned, self._sweep.trained
        else:
            trained = self._train(planned, built, self._plan.folder / WORK)
        self._stages.append(StageOutcome.of(planned, trained, self._plan.options.seed))
        header = self._header(planned, trained, method)
        weights: dict[WeightsFrom, State] = {"selected": trained.selected, "last": trained.last}

        def write() -> dict[str, str]:
            atomic_write_json(self._plan.folder / LOG, [vars(entry) for entry in trained.log])
            return save_run_weights(self._plan.folder, weights, header)

        self._weights = self._job.barrier.from_main("writing the weights", write)
        return built, weights

    def _fit(self, planned: PlannedStage, built: BuiltStage) -> None:
        """What a method that trains nothing chooses on held-out triplets, where it was asked to."""
        # Where nothing is chosen no triplet is asked for: the data may have none.
        if planned.stage.fit is None:
            return
        validate = self._sources.validation(planned, built.method, built.inputs)
        if validate is None:
            return
        with self._timed(f"{planned.stage.name}: choosing"):
            told = planned.stage.fit(built.method, lambda: validate(built.method).value)
        say(f"{planned.stage.name}: {told}")
        self._fitted = (told,)

    def _counted(self, built: BuiltStage) -> Cost:
        texts = self._plan.tasks[0].queries.texts
        return count_cost(built.method, built.inputs, self._sources.backbone, texts)

    def _train_at(self, planned: PlannedStage, word: str) -> Trained:
        """One training of a search for the learning rate, from the stage's start."""
        try:
            return self._train(planned, self._build(planned), self._plan.folder / f"{WORK}-{word}")
        except Diverged as error:
            if self._process.world_size > 1:
                # The ranks see it at different updates, so that they could not go on together.
                raise UserError(str(error)) from None
            raise

    def _train(self, planned: PlannedStage, built: BuiltStage, folder: Path) -> Trained:
        plan, method, inputs = self._plan, built.method, built.inputs
        with self._timed("features"):
            source = self._sources.training(planned, method, inputs)
        job = TrainingJob(
            method=method,
            stage=planned.stage,
            settings=planned.settings,
            source=source,
            process=self._process,
            seed=plan.seed_of(planned),
            folder=folder,
            identity=plan.training_identity(planned),
            validate=self._sources.validation(planned, method, inputs),
            trainer=plan.trainer,
            earlier=self._earlier_trained,
            # Micro-batches are for networks that read pictures or words: heads on stored features are small.
            execution=replace(plan.execution, micro_batch=0) if _is_head(inputs) else plan.execution,
            monitors=plan.monitors,
            monitor_folder=plan.folder / "monitor",
        )
        recipe = planned.recipe.name if planned.recipe else ""
        say(f"{planned.stage.name}: training, recipe {recipe}, {planned.settings.epochs} epochs")
        with self._timed(f"{planned.stage.name}: training"):
            # What an encoder's folder holds was made with the same settings: it can only be continued.
            return train(job, resume=plan.options.resume or planned.stage.output == "encoder")

    def _header(self, planned: PlannedStage, trained: Trained | None, method: Method) -> WeightsHeader:
        """What a stage's weights file says of it, and of those before; ``trained`` None where it trains nothing."""
        plan, backbone = self._plan, self._sources.backbone
        is_method = planned.stage.output == "method"
        return WeightsHeader(
            method=plan.method.name if is_method else planned.stage.name,
            stage=planned.stage.name,
            # An encoder is that of the dataset that it was trained on, whatever is evaluated.
            dataset=(plan.dataset if is_method else training_of(plan.dataset)).info.name,
            method_settings=plan.method_settings.model_dump(mode="json"),
            training_settings=planned.settings.model_dump(mode="json"),
            backbone=cast(ChosenBackbone, {**plan.backbone_identity, "seed": plan.options.seed}),
            width=backbone.vector_width if backbone else 0,
            seed=plan.options.seed,
            encoder=self._encoder_digest,
            encoder_file=str(self._encoder_file or ""),
            recipe=planned.recipe.name if planned.recipe and planned.stage.trains else "",
            variant=plan.variant.name if plan.variant and is_method else "",
            selection=plan.options.selection,
            updates=trained.updates if trained else 0,
            triplets_seen=trained.triplets_seen if trained else 0,
            prepared=dict(method.extra_state()),
            earlier=[self._earlier_header(outcome) for outcome in self._stages if outcome.planned is not planned],
            start=self._start,
            noise=asdict(plan.noise) if plan.noise else {},
            training_files=dict(plan.training_files),
            trained_on=dict(plan.trained_on) if is_method else {},
            asked_by=plan.rule.name if is_method and plan.trained_on else "",
            category=plan.options.category,
        )

    def _earlier_header(self, outcome: StageOutcome) -> EarlierStage:
        name, settings = outcome.planned.stage.name, outcome.planned.settings.model_dump(mode="json")
        prepared = dict(self._earlier[name].extra_state()) if name in self._earlier else {}
        return EarlierStage(name, settings, outcome.updates, outcome.triplets_seen, prepared)

    def _report(self, built: BuiltStage, states: dict[WeightsFrom, State]) -> Record:
        plan, method = self._plan, built.method
        source = self._sources.evaluation(method, built.inputs)
        tested: dict[WeightsFrom, list[TaskResult]] = {}
        untrained: dict[WeightsFrom, State] = {"none trained": {}}
        for name, state in (states or untrained).items():
            same = next((other for other in tested if _are_equal(states[other], state)), None)
            if same is not None:
                # The selected epoch was the last one.
                tested[name] = tested[same]
                continue
            if state:
                load_into(method, state, f"weights '{name}'")
            with self._timed("evaluation"):
                encoded = encode_tasks(method.eval(), self._tasks, source, self._job)
                if tested:
                    tested[name] = [score_in_full(method, task, self._job) for task in encoded]
                else:
                    # What one modality alone finds is asked once, beside the weights that are reported first.
                    alone = self._sources.single_modalities(plan.last.stage, method, built.inputs, self._tasks)
                    tested[name] = [score_beside_modalities(method, task, alone, self._job) for task in encoded]
        if plan.subset is not None:
            tested = {name: plan.subset.restrict(results) for name, results in tested.items()}
        record = build_record(
            plan, method, tested, self._stages, self._start.get("digest", ""), self._timings, self._process,
            self._unreadable, self._cost, self._weights, self._sweep, probed=self._probed,
            fitted=self._fitted,
        )  # fmt: skip

        def write() -> Record:
            write_run(plan.folder, record, tested, plan.dataset, plan.title)
            return _tidied(plan)

        return write_by_main(self._job, write)

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


def _is_head(inputs: Inputs) -> bool:
    """Whether all that a stage reads is stored."""
    return isinstance(inputs, FeatureInputs) and inputs.text == "features"


def _are_equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
