"""The plan of a run: everything resolved and checked before any work starts.

Recipe, settings, backbone, data and protocols come together here; the same plan is printed by
`--dry-run` and carried out by `benchmark.pipeline`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from benchmark.annotations import require_counts
from benchmark.assets import Needed
from benchmark.backbone_table import BACKBONES
from benchmark.batches import GroupLayout, require_one_batch
from benchmark.dataset import Dataset, IntArray, Task, Triplets
from benchmark.declarations import MethodInfo, Recipe, Start, Variant
from benchmark.deepspeed_file import DeepspeedFile, read_deepspeed_file
from benchmark.errors import UserError, gathered, unknown_name
from benchmark.execution import Execution
from benchmark.fair import FAIR, fair_recipe, problems_of, stages_on_any_encoder, untrained_settings
from benchmark.files import digest_of, file_digest
from benchmark.limited import LimitedDataset
from benchmark.lr_sweep import FACTORS
from benchmark.method import Specification, Stage
from benchmark.monitoring import Sections, monitor_sections
from benchmark.options import RunOptions
from benchmark.partial import SUFFIX, without_missing
from benchmark.progress import say
from benchmark.registry import Registry, discover
from benchmark.selection import Heldout, heldout_task
from benchmark.settings import BackboneSettings, MethodSettings, Settings, TrainerSettings, TrainingSettings, fill
from benchmark.task_choice import tasks_of_rule
from benchmark.text_rules import TEXT_RULES, TextRule, rule_of, text_rule
from benchmark.variants import chosen_variant, contradictions

_REAL_BACKBONE = "RN50x4"
_DEMO_BACKBONE = "tiny"
_NAMESPACES = ("method", "backbone", "trainer")

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its settings as recipe and user fill them; no recipe where nothing is trained."""

    stage: Stage
    settings: TrainingSettings
    recipe: Recipe | None

    @property
    def file_name(self) -> str:
        """Name of the file that declares the stage."""
        return Path(getattr(sys.modules.get(self.stage.build.__module__), "__file__", None) or "").name

    def identity(self) -> dict[str, Any]:
        return {"stage": self.stage.name, "settings": self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class Plan:
    """A run that can start. ``backbone`` is "" for a method that brings its own networks."""

    options: RunOptions
    method: MethodInfo
    specification: Specification
    dataset: Dataset
    backbone: str
    weights: str
    weights_digest: str
    start: Start
    method_settings: MethodSettings
    backbone_settings: BackboneSettings
    trainer: TrainerSettings
    stages: tuple[PlannedStage, ...]
    plugins: Mapping[str, str]
    variant: Variant | None = None
    deepspeed: DeepspeedFile | None = None
    execution: Execution = Execution()
    monitors: Sections = field(default_factory=dict)
    needs: tuple[Needed, ...] = ()

    @property
    def title(self) -> str:
        """What tables call the run's row: the method, and the configuration where it has a name."""
        return f"{self.method.title} ({self.variant.label})" if self.variant else self.method.title

    @property
    def last(self) -> PlannedStage:
        return self.stages[-1]

    @property
    def rule(self) -> TextRule:
        return text_rule(self.last.settings.text_rule)

    @property
    def trained(self) -> tuple[PlannedStage, ...]:
        return tuple(planned for planned in self.stages if planned.stage.trains)

    @property
    def has_encoder_stage(self) -> bool:
        """Whether a stage fine-tunes the encoder that the last one's features come from."""
        return any(planned.stage.product == "encoder" for planned in self.stages)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What every output says of the method's settings."""
        return self.specification.remarks(self.method_settings)

    @property
    def selection(self) -> Literal["paper", "last", "heldout", "none"]:
        return self.options.selection if self.trained else "none"

    def encoder_identity(self, planned: PlannedStage) -> dict[str, Any]:
        """What makes two encoder artefacts the same; a stage of a plug-in changes with its file."""
        selects = self.options.selection != "last"
        return {
            "after": [stage.identity() for stage in self._before(planned) if stage.stage.product == "encoder"],
            **planned.identity(),
            "backbone": self.backbone_identity,
            "data": {
                "name": self.dataset.label,
                "fingerprint": self.dataset.fingerprint,
                "training pictures": self._training_pictures,
            },
            "selection": self.options.selection,
            "selected on": [str(task.key) for task in self.selection_tasks] if selects else [],
            "plugin": self.plugins.get(planned.file_name, ""),
            "seed": self.options.seed,
            "skip": self.options.skip_bad_images,
        }

    @cached_property
    def _training_pictures(self) -> str:
        """Digest of names and sizes of the training pictures: replaced ones make another encoder."""
        pictures = self.dataset.pictures
        paths = ((pictures.names[i], pictures.paths[i]) for i in self.dataset.split_pictures("train").tolist())
        return digest_of([[name, path.stat().st_size if path.is_file() else -1] for name, path in paths])

    def training_identity(self, planned: PlannedStage) -> dict[str, Any]:
        """What makes a resumable state of a stage one of this run: all stages up to it.

        An encoder's can be continued by any method that asks for the same encoder.
        """
        if planned.stage.product == "encoder":
            return self.encoder_identity(planned)
        upto = (*self._before(planned), planned)
        return {
            "stages": [self.encoder_identity(stage) for stage in upto],
            "method": {"name": self.method.name, "settings": self.method_settings.model_dump(mode="json")},
            "plugins": dict(self.plugins),
        }

    def _before(self, planned: PlannedStage) -> tuple[PlannedStage, ...]:
        """The stages before one; it may have another learning rate than the plan's own."""
        names = [stage.stage.name for stage in self.stages]
        return self.stages[: names.index(planned.stage.name)]

    @property
    def backbone_identity(self) -> dict[str, Any]:
        if not self.backbone:
            return {}
        return {
            "name": self.backbone,
            "weights": self.weights,
            "digest": self.weights_digest,
            "settings": self.backbone_settings.model_dump(mode="json"),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the numbers depend on but the seed; its digest names the run's folder."""
        return {**self.configuration, "variant": self.variant.name if self.variant else ""}

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The identity without the configuration's name: runs equal in it are the same experiment."""
        return {
            "method": self.method.name,
            "method_settings": self.method_settings.model_dump(mode="json"),
            "backbone": self.backbone_identity,
            "stages": [planned.identity() for planned in self.stages],
            "data": [self.dataset.label, self.dataset.fingerprint],
            "protocols": [str(task.key) for task in self.tasks],
            "selection": self.selection,
            "limit": self.options.limit,
            "skip": self.options.skip_bad_images,
            "plugins": dict(self.plugins),
            **({"recipe": FAIR} if self.options.fair else {}),
            **({"learning rates": FACTORS} if self.sweeps else {}),
        }

    @property
    def sweeps(self) -> bool:
        """Whether the last stage's learning rate is searched for."""
        return self.options.lr_sweep and self.last.stage.trains and self.last.stage.product == "method"

    @property
    def folder(self) -> Path:
        """`--output`, or ./runs/<dataset>/<method>/<digest>/seed-<n>."""
        if self.options.output:
            return Path(self.options.output)
        digest = digest_of(self.identity)[:12]
        return Path("runs") / self.dataset.label / self.method.name / digest / f"seed-{self.options.seed}"

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every task that is reported: the protocols asked for, or all that the text rule fits."""
        return tasks_of_rule(self.dataset, self.dataset.info.evaluation_split, self.options.protocol, self.rule)

    @cached_property
    def selection_tasks(self) -> tuple[Task, ...]:
        """The tasks that pick an epoch: the default protocol's, or the held-out triplets."""
        if self.options.selection == "heldout":
            return (heldout_task(self.dataset, self._heldout(self.last).triplets, self.rule),)
        default = self.dataset.info.default_protocol
        own = [task for task in self.tasks if task.key.text_mode == self.rule.mode]
        chosen = [task for task in own if task.key.protocol.removesuffix(SUFFIX) == default]
        return tuple(chosen or [task for task in own if task.key.protocol == own[0].key.protocol])

    def _heldout(self, planned: PlannedStage) -> Heldout:
        first = self.dataset.train_triplets(0, self.options.seed, planned.settings.drawing)
        return Heldout.of(first, self.dataset.pictures.names)

    def triplets(self, planned: PlannedStage, unreadable: frozenset[int]) -> Callable[[int], Triplets]:
        """The training triplets of each epoch, without held-out ones and unreadable pictures."""
        heldout = self._heldout(planned) if self.options.selection == "heldout" else None

        def of_epoch(epoch: int) -> Triplets:
            seed, drawing = self.options.seed, planned.settings.drawing
            triplets = self.dataset.train_triplets(epoch, seed, drawing)
            if heldout is not None:
                triplets = triplets.take(heldout.trained(triplets))
            return triplets.take(readable(triplets, unreadable)) if unreadable else triplets

        return of_epoch


def readable(triplets: Triplets, unreadable: frozenset[int]) -> IntArray:
    """Indices of the triplets with neither picture among the unreadable ones."""
    bad = np.asarray(sorted(unreadable), dtype=np.int64)
    return np.flatnonzero(~(np.isin(triplets.reference, bad) | np.isin(triplets.target, bad)))


def make_plan(options: RunOptions, registry: Registry | None = None) -> Plan:
    """Resolve a run's options; raises UserError with every problem of the settings, before any work."""
    registry = registry or discover()
    plugins = {
        Path(name).name: file_digest(registry.add_plugin(Path(name)).path) for name in options.plugins
    }
    methods = registry.methods()
    if options.method not in methods:
        raise unknown_name("method", options.method, methods)
    specification = registry.specification(options.method)
    dataset = open_dataset(registry, options, ("train",))
    problems: list[str] = []
    variant = chosen_variant(registry.variants(options.method), options)
    if options.fair and variant is not None and not variant.settings:
        # A published version is one on its own encoder.
        variant = None
    chosen = _by_namespace(options.set)
    filler = _Filler(registry, options, dataset, chosen, problems, variant)
    problems += problems_of(options, methods[options.method], registry)
    defaults = [("demo data", specification.demo_settings if dataset.is_demo else {})]
    above = [filler.named("method"), ("--fair", {"encoder": options.fair} if options.fair and not problems else {})]
    method_settings = filler.fill(specification.settings, [*defaults, *above], "method")
    if specification.own_networks is None:
        backbone = options.backbone or (_DEMO_BACKBONE if dataset.is_demo else _REAL_BACKBONE)
        weights = options.weights or _default_weights(backbone)
        start: Start = "random" if weights == "random" else "pretrained"
    else:
        problems += _refused_backbone(options)
        backbone, weights, start = "", "", specification.own_networks(method_settings)
    planned = filler.stages(specification.stages(method_settings, start), start)
    own = next((stage.recipe for stage in reversed(planned) if stage.recipe is not None), None)
    if own is not None and own.method:
        layers = [*defaults, (f"recipe {own.name}", own.method), *above]
        method_settings = filler.fill(specification.settings, layers, "method")
        planned = filler.stages(specification.stages(method_settings, start), start)
    backbone_settings = filler.fill(BackboneSettings, [filler.named("backbone")], "backbone")
    trainer = filler.fill(TrainerSettings, [], "trainer")
    deepspeed, execution, monitors = _execution(options, trainer, problems)
    known = [*_NAMESPACES, *(stage.stage.name for stage in planned)]
    if options.lr_sweep and planned[-1].stage.product == "encoder":
        problems.append(f"--lr-sweep: {options.method} trains an encoder, which other runs take as it is; leave it out")
    if options.fair:
        known += stages_on_any_encoder(specification, method_settings, start)
    problems += [str(unknown_name("--set group", group, known)) for group in chosen if group not in known]
    groups: dict[str, Settings] = {part.stage.name: part.settings for part in planned}
    groups |= {"method": method_settings, "backbone": backbone_settings}
    problems += contradictions(variant, groups, options.limit is not None)
    if problems:
        raise UserError.collect(dict.fromkeys(problems))
    return Plan(
        options=options,
        method=methods[options.method],
        specification=specification,
        dataset=dataset,
        backbone=backbone,
        weights=weights,
        weights_digest=file_digest(Path(weights)) if Path(weights).is_file() else "",
        start=start,
        method_settings=method_settings,
        backbone_settings=backbone_settings,
        trainer=trainer,
        stages=planned,
        plugins=plugins,
        variant=variant,
        deepspeed=deepspeed,
        execution=execution,
        monitors=monitors,
        needs=_needs(registry, specification, method_settings),
    )


def _needs(registry: Registry, specification: Specification, settings: MethodSettings) -> tuple[Needed, ...]:
    assets = registry.assets()
    return tuple(Needed(assets[need.asset], need.given) for need in specification.needs(settings))


def _execution(
    options: RunOptions, trainer: TrainerSettings, problems: list[str]
) -> tuple[DeepspeedFile | None, Execution, Sections]:
    """How stages are computed and watched; what is wrong with it is added to ``problems``."""
    file: DeepspeedFile | None = None
    execution, monitors = Execution(), {}
    with gathered(problems):
        file = read_deepspeed_file(options.deepspeed_config) if options.deepspeed_config else None
        with gathered(problems):
            execution = Execution.of(trainer, file, options.verbose)
        monitors = monitor_sections(options.monitors, file)
    return file, execution, monitors


def require_trainable(plan: Plan) -> None:
    """Raise UserError with all that would stop the run's training or evaluation later on, missing files too."""
    problems: list[str] = []
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    with gathered(problems):
        _ = plan.tasks, plan.selection_tasks if plan.selection == "heldout" else ()
    for planned in plan.trained:
        with gathered(problems):
            layout = GroupLayout.of(planned.settings, world_size)
            if plan.deepspeed is not None:
                brings = planned.stage.optimiser is not None
                problems += plan.deepspeed.contradictions(planned.stage.name, planned.settings, layout, brings)
        with gathered(problems):
            rule = text_rule(planned.settings.text_rule)
            captions = plan.triplets(planned, frozenset())(0).captions
            require_one_batch(sum(len(rule.entries(c)) for c in captions), planned.settings)
    problems += filter(None, (need.problem(plan.options.assets) for need in plan.needs))
    with gathered(problems):
        _require_weights(plan)
    if problems:
        raise UserError.collect(dict.fromkeys(problems))


def _require_weights(plan: Plan) -> None:
    """Raise UserError for a backbone that is not known, and for weights that are not on this machine."""
    if not plan.backbone:
        return
    from benchmark.backbones import backbone_configuration
    from benchmark.pretrained import weights_path

    backbone_configuration(plan.backbone)
    if plan.weights != "random":
        weights_path(plan.backbone, plan.weights, plan.options.assets)


def _refused_backbone(options: RunOptions) -> list[str]:
    return [
        f"--{name} {value}: {options.method} brings its own networks; leave it out"
        for name, value in (("backbone", options.backbone), ("weights", options.weights))
        if value
    ]


def open_dataset(registry: Registry, options: RunOptions, further_splits: tuple[str, ...]) -> Dataset:
    """The dataset as the options name it: in the data root, or the demo data where none is given.

    ``further_splits`` are read beside the one that is evaluated.
    """
    info = registry.datasets().get(options.dataset)
    if info is None:
        raise unknown_name("dataset", options.dataset, registry.datasets())
    root = options.data_root_of(options.dataset)
    if root is not None and options.demo:
        raise UserError(f"--demo asks for the demo data and --data-root for {root}; leave one of them out")
    if root is None and not options.demo and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("no --data-root; in a job of several processes the demo data must be asked for with --demo")
    if root is None:
        folder = registry.demo_folder(options.dataset, options.cache_root)
        say(f"No --data-root: drawn demo pictures in {info.title}'s layout. Numbers say nothing about {info.title}.")
    else:
        folder = registry.locate(options.dataset, root)
    splits = (*further_splits, info.evaluation_split)
    dataset = registry.load_dataset(options.dataset, folder, splits)
    if options.allow_missing:
        dataset = without_missing(dataset, splits)
    else:
        require_counts(dataset)
    if options.limit is None:
        return dataset
    rules = [rule for rule in TEXT_RULES.values() if any(rule.mode in p.text_modes for p in dataset.protocols)]
    evaluated = [
        task
        for protocol in dataset.protocols
        if info.evaluation_split in protocol.splits and protocol.name in (options.protocol or (protocol.name,))
        for task in dataset.tasks(
            info.evaluation_split,
            protocol.name,
            next(rule.name for rule in rules if rule.mode in protocol.text_modes),
        )
    ]
    return LimitedDataset(dataset, options.limit, tuple(evaluated))


def _default_weights(backbone: str) -> str:
    info = BACKBONES.get(backbone)
    return info.default_weights if info is not None else "openai"


def _by_namespace(assignments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for key, value in assignments.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


@dataclass(frozen=True)
class _Filler:
    """Fills settings from recipe, options and `--set`, and gathers what is wrong with them."""

    registry: Registry
    options: RunOptions
    dataset: Dataset
    chosen: Mapping[str, Mapping[str, Any]]
    problems: list[str]
    variant: Variant | None = None

    def named(self, namespace: str) -> tuple[str, dict[str, Any]]:
        """The variant's layer of a namespace."""
        settings = self.variant.settings if self.variant else {}
        return f"variant {self.variant.name if self.variant else ''}", _by_namespace(settings).get(namespace, {})

    def fill(self, model: type[S], layers: Sequence[tuple[str, Mapping[str, Any]]], namespace: str) -> S:
        """Settings from layers and `--set`; where these are wrong, from the layers alone."""
        with gathered(self.problems):
            return fill(model, [*layers, ("--set", self.chosen.get(namespace, {}))], namespace)
        return fill(model, layers, namespace)

    def stages(self, stages: Sequence[Stage], start: Start) -> tuple[PlannedStage, ...]:
        """`--recipe` names the one of the last stage that trains; `--epochs` and its like set the last stage."""
        trained = [stage for stage in stages if stage.trains]
        return tuple(
            self._stage(stage, start, is_last=stage is stages[-1], has_named=stage in trained[-1:])
            for stage in stages
        )

    def _stage(self, stage: Stage, start: Start, is_last: bool, has_named: bool) -> PlannedStage:
        options = self.options
        layers: list[tuple[str, Mapping[str, Any]]] = [("dataset", {"text_rule": self.dataset.info.text_rule})]
        recipe = None
        if stage.trains:
            name = options.recipe if has_named or options.recipe == "from-scratch" else ""
            is_fair = is_last and bool(options.fair or name == FAIR)
            with gathered(self.problems):
                own = "" if is_fair else name
                recipe = self.registry.recipe(stage.name, self.dataset.info.name, own, start)
                if is_fair:
                    recipe = fair_recipe(self.registry, self.dataset.info, start, recipe)
                layers.append((f"recipe {recipe.name}", recipe.settings))
        elif options.fair and is_last:
            layers.append(("--fair", untrained_settings(self.registry, self.dataset.info, start)))
        layers.append(self.named(stage.name))
        with gathered(self.problems):
            layers.append(("--limit", self._limited(fill(stage.settings, layers, stage.name))))
            layers.append(("options", _shortcuts(options, is_last)))
        settings = self.fill(stage.settings, layers, stage.name)
        if settings.precision == "fp16" and not options.precision and _computes_on_cpu(options.device):
            # Half precision with loss scaling is the recipe's for GPUs; a CPU gains nothing from it.
            settings = settings.model_copy(update={"precision": "fp32"})
        return PlannedStage(stage, settings, recipe)

    def _limited(self, settings: TrainingSettings) -> dict[str, int]:
        """`--limit` leaves fewer triplets than a recipe's batch has: half of them become the batch."""
        if self.options.limit is None:
            return {}
        triplets = len(self.dataset.train_triplets(0, self.options.seed, settings.drawing))
        batch = min(settings.batch_size, max(triplets // 2, 2))
        return {"batch_size": batch, "negative_group": 0 if batch < settings.batch_size else settings.negative_group}


def _shortcuts(options: RunOptions, is_last: bool) -> dict[str, Any]:
    """`--epochs` and its like set the stage that is evaluated; precision and text rule set all."""
    values: dict[str, Any] = {}
    if options.precision:
        values["precision"] = options.precision
    if options.text_mode:
        values["text_rule"] = rule_of(options.text_mode).name
    if is_last:
        for name in ("epochs", "batch_size", "negative_group"):
            if getattr(options, name) is not None:
                values[name] = getattr(options, name)
    return values


def _computes_on_cpu(device: str) -> bool:
    if device:
        return device == "cpu"
    import torch

    return not torch.cuda.is_available()
