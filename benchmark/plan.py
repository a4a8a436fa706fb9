"""The plan of a run: everything resolved and checked before any work starts.

Recipe, settings, backbone, data and protocols come together here; the same plan is printed by
`--dry-run` and carried out by `benchmark.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.annotations import require_counts
from benchmark.backbone_table import BACKBONES
from benchmark.dataset import Dataset, IntArray, Task, Triplets
from benchmark.declarations import MethodInfo, Recipe
from benchmark.errors import UserError, unknown_name
from benchmark.files import digest_of, file_digest
from benchmark.limited import LimitedDataset
from benchmark.method import Specification, Stage
from benchmark.options import RunOptions
from benchmark.progress import say
from benchmark.registry import Registry, discover
from benchmark.selection import heldout_task, split_heldout
from benchmark.settings import BackboneSettings, MethodSettings, Settings, TrainerSettings, TrainingSettings, fill
from benchmark.text_rules import TEXT_RULES, TextRule, text_rule

_REAL_BACKBONE = "RN50x4"
_DEMO_BACKBONE = "tiny"
_NAMESPACES = ("method", "backbone", "trainer")


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its settings as recipe and user fill them; no recipe where nothing is trained."""

    stage: Stage
    settings: TrainingSettings
    recipe: Recipe | None

    def identity(self) -> dict[str, Any]:
        return {"stage": self.stage.name, "settings": self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class Plan:
    """A run that can start."""

    options: RunOptions
    method: MethodInfo
    specification: Specification
    dataset: Dataset
    backbone: str
    weights: str
    weights_digest: str
    method_settings: MethodSettings
    backbone_settings: BackboneSettings
    trainer: TrainerSettings
    stages: tuple[PlannedStage, ...]
    plugins: Mapping[str, str]

    @property
    def start(self) -> Literal["pretrained", "random"]:
        return "random" if self.weights == "random" else "pretrained"

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
    def selection(self) -> Literal["paper", "last", "heldout", "none"]:
        return self.options.selection if self.trained else "none"

    def encoder_identity(self, planned: PlannedStage) -> dict[str, Any]:
        """What makes two encoder artefacts the same."""
        return {
            **planned.identity(),
            "backbone": self.backbone_identity,
            "data": [self.dataset.label, self.dataset.fingerprint],
            "selection": self.options.selection,
            "seed": self.options.seed,
            "skip": self.options.skip_bad_images,
        }

    @property
    def backbone_identity(self) -> dict[str, Any]:
        return {
            "name": self.backbone,
            "weights": self.weights,
            "digest": self.weights_digest,
            "settings": self.backbone_settings.model_dump(mode="json"),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the numbers depend on but the seed; its digest names the run's folder."""
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
        }

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
        split = self.dataset.info.evaluation_split
        names = self.options.protocol or tuple(
            p.name for p in self.dataset.protocols if split in p.splits and self.rule.mode in p.text_modes
        )
        if not names:
            raise UserError(f"no protocol of {self.dataset.label} has the text mode '{self.rule.mode}'")
        known = [p.name for p in self.dataset.protocols]
        for name in names:
            if name not in known:
                raise unknown_name(f"protocol of {self.dataset.label}", name, known)
        return tuple(task for name in names for task in self.dataset.tasks(split, name, self.rule.name))

    @cached_property
    def selection_tasks(self) -> tuple[Task, ...]:
        """The tasks that pick an epoch: the default protocol's, or the held-out triplets."""
        if self.options.selection == "heldout":
            triplets = self.dataset.train_triplets(0, self.options.seed, self.last.settings.drawing)
            _, heldout = split_heldout(triplets, self.dataset.pictures.names)
            if not len(heldout):
                raise UserError("--selection heldout: too few training triplets to hold any out")
            return (heldout_task(self.dataset, triplets.take(heldout), self.rule),)
        default = self.dataset.info.default_protocol
        chosen = [task for task in self.tasks if task.key.protocol == default]
        first = self.tasks[0].key.protocol
        return tuple(chosen or [task for task in self.tasks if task.key.protocol == first])

    def triplets(self, planned: PlannedStage, unreadable: frozenset[int]) -> Callable[[int], Triplets]:
        """The training triplets of each epoch, without held-out ones and unreadable pictures."""

        def of_epoch(epoch: int) -> Triplets:
            seed, drawing = self.options.seed, planned.settings.drawing
            triplets = self.dataset.train_triplets(epoch, seed, drawing)
            if self.options.selection == "heldout":
                triplets = triplets.take(split_heldout(triplets, self.dataset.pictures.names)[0])
            return triplets.take(readable(triplets, unreadable)) if unreadable else triplets

        return of_epoch


def readable(triplets: Triplets, unreadable: frozenset[int]) -> IntArray:
    """Indices of the triplets with neither picture among the unreadable ones."""
    bad = np.asarray(sorted(unreadable), dtype=np.int64)
    return np.flatnonzero(~(np.isin(triplets.reference, bad) | np.isin(triplets.target, bad)))


def make_plan(options: RunOptions, registry: Registry | None = None) -> Plan:
    """Resolve a run's options; raises UserError with every problem found, before any work."""
    registry = registry or discover()
    plugins = {
        Path(name).name: file_digest(registry.add_plugin(Path(name)).path) for name in options.plugins
    }
    methods = registry.methods()
    if options.method not in methods:
        raise unknown_name("method", options.method, methods)
    specification = registry.specification(options.method)
    dataset = open_dataset(registry, options, ("train",))
    settings = _by_namespace(options.set)
    backbone = options.backbone or (_DEMO_BACKBONE if dataset.is_demo else _REAL_BACKBONE)
    weights = options.weights or _default_weights(backbone)
    start: Literal["pretrained", "random"] = "random" if weights == "random" else "pretrained"
    method_settings = fill(specification.settings, [("--set", settings.pop("method", {}))], "method")
    stages = specification.stages(method_settings, start)
    plan = Plan(
        options=options,
        method=methods[options.method],
        specification=specification,
        dataset=dataset,
        backbone=backbone,
        weights=weights,
        weights_digest=file_digest(Path(weights)) if Path(weights).is_file() else "",
        method_settings=method_settings,
        backbone_settings=fill(BackboneSettings, [("--set", settings.pop("backbone", {}))], "backbone"),
        trainer=fill(TrainerSettings, [("--set", settings.pop("trainer", {}))], "trainer"),
        stages=tuple(
            _planned(stage, registry, options, dataset, start, settings.pop(stage.name, {}), stage is stages[-1])
            for stage in stages
        ),
        plugins=plugins,
    )
    if settings:
        known = [*_NAMESPACES, *(stage.name for stage in stages)]
        raise unknown_name("--set group", next(iter(settings)), known)
    return plan


def open_dataset(registry: Registry, options: RunOptions, further_splits: tuple[str, ...]) -> Dataset:
    """The dataset as the options name it: in the data root, or the demo data where none is given.

    ``further_splits`` are read beside the one that is evaluated.
    """
    info = registry.datasets().get(options.dataset)
    if info is None:
        raise unknown_name("dataset", options.dataset, registry.datasets())
    root = options.data_root_of(options.dataset)
    if root is None:
        folder = registry.demo_folder(options.dataset, options.cache_root)
        say(f"No --data-root: drawn demo pictures in {info.title}'s layout. Numbers say nothing about {info.title}.")
    else:
        folder = registry.locate(options.dataset, root)
    dataset = registry.load_dataset(options.dataset, folder, (*further_splits, info.evaluation_split))
    require_counts(dataset)
    if options.limit is None:
        return dataset
    rules = [rule for rule in TEXT_RULES.values() if any(rule.mode in p.text_modes for p in dataset.protocols)]
    evaluated = [
        task
        for protocol in dataset.protocols
        if info.evaluation_split in protocol.splits
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


def _planned(
    stage: Stage,
    registry: Registry,
    options: RunOptions,
    dataset: Dataset,
    start: Literal["pretrained", "random"],
    chosen: Mapping[str, Any],
    is_last: bool,
) -> PlannedStage:
    layers: list[tuple[str, Mapping[str, Any]]] = [("dataset", {"text_rule": dataset.info.text_rule})]
    recipe = None
    if stage.trains:
        name = options.recipe if is_last or options.recipe in ("", "from-scratch") else ""
        recipe = registry.recipe(stage.name, dataset.info.name, name, start)
        layers.append((f"recipe {recipe.name}", recipe.settings))
    layers.append(("options", _shortcuts(options, is_last)))
    layers.append(("--set", chosen))
    settings = fill(stage.settings, layers, stage.name)
    if settings.precision == "fp16" and not options.precision and _computes_on_cpu(options.device):
        # Half precision with loss scaling is the recipe's for GPUs; a CPU gains nothing from it.
        settings = fill(stage.settings, [*layers, ("device", {"precision": "fp32"})], stage.name)
    return PlannedStage(stage, settings, recipe)


def _shortcuts(options: RunOptions, is_last: bool) -> dict[str, Settings | Any]:
    """`--epochs` and its like set the stage that is evaluated; precision and text rule set all."""
    values: dict[str, Any] = {}
    if options.precision:
        values["precision"] = options.precision
    if options.text_mode:
        values["text_rule"] = _rule_of_mode(options.text_mode)
    if is_last:
        for name in ("epochs", "batch_size", "negative_group"):
            if getattr(options, name) is not None:
                values[name] = getattr(options, name)
    return values


def _rule_of_mode(name: str) -> str:
    if name in TEXT_RULES:
        return name
    for rule in TEXT_RULES.values():
        if rule.mode == name:
            return rule.name
    raise unknown_name("text mode", name, {*TEXT_RULES, *(r.mode for r in TEXT_RULES.values())})


def _computes_on_cpu(device: str) -> bool:
    if device:
        return device == "cpu"
    import torch

    return not torch.cuda.is_available()
