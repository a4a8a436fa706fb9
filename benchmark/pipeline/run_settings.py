"""A run's settings: of recipe, variant, options and `--set`, with all that is wrong with them told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmark.backbone import BackboneChoice, BackboneFamily
from benchmark.dataset import Dataset, DatasetInfo, read_splits
from benchmark.errors import UserError, gathered, unknown_name
from benchmark.evaluation.query_subset import QuerySubset, read_query_subset
from benchmark.facts import Initialisation, Recipe, Variant, own_recipe_of
from benchmark.method import Specification, Stage
from benchmark.options import RunOptions
from benchmark.pipeline.controlled_comparison import (
    FAIR,
    fair_recipe,
    problems_of,
    stages_on_any_encoder,
    untrained_settings,
)
from benchmark.pipeline.plan import PlannedStage
from benchmark.pipeline.variants import chosen_variant, contradictions
from benchmark.registry import Registry
from benchmark.settings import (
    BackboneSettings,
    MethodSettings,
    Settings,
    TrainerSettings,
    TrainingSettings,
    fill,
    with_present_names,
)
from benchmark.text_rules import rule_of
from benchmark.training.deepspeed_file import DeepspeedFile, read_deepspeed_file
from benchmark.training.execution import Execution
from benchmark.training.monitoring import Sections, monitor_sections

_NAMESPACES = ("method", "backbone", "trainer")
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class RunSettings:
    """What options and recipes make of a method's run on a dataset; ``backbone`` is "" where it brings its networks."""

    backbone: str
    weights: str
    initialisation: Initialisation
    method_settings: MethodSettings
    backbone_settings: BackboneSettings
    trainer: TrainerSettings
    stages: tuple[PlannedStage, ...]
    variant: Variant | None
    deepspeed: DeepspeedFile | None
    execution: Execution
    monitors: Sections
    subset: QuerySubset | None


def settle(
    options: RunOptions,
    registry: Registry,
    specification: Specification,
    own_recipes: Sequence[Recipe],
    info: DatasetInfo,
    training: DatasetInfo,
    is_demo: bool,
    dataset: Dataset | None,
) -> RunSettings:
    """All settings of a run; raises UserError with every problem of them.

    ``training``: of the dataset whose triplets are trained on, whose recipes and text rule the stages that train have.
    ``dataset``: None where its data is still to be made; only batches that `--limit` cuts depend on it.
    """
    families = registry.backbone_families()
    problems: list[str] = []
    chosen = by_namespace(options.set)
    # A variant is recognised by its settings, however old the names are that they were given by.
    of_method = with_present_names(specification.settings, chosen.get("method", {}))
    present = {key: value for key, value in options.set.items() if not key.startswith("method.")}
    present |= {f"method.{key}": value for key, value in of_method.items()}
    variant = chosen_variant(registry.variants(options.method), options.model_copy(update={"set": present}))
    if options.fair and variant is not None and not variant.settings:
        # A published version is one on its own encoder.
        variant = None
    filler = _Filler(registry, options, info, training, dataset, chosen, problems, variant, own_recipes)
    problems += problems_of(options, registry.methods()[options.method], registry)
    defaults = [("demo data", specification.demo_settings if is_demo else {})]
    above = [filler.named("method"), ("--fair", {"encoder": options.fair} if options.fair and not problems else {})]
    method_settings = filler.fill(specification.settings, [*defaults, *above], "method")
    if specification.own_networks is None:
        backbone = options.backbone or (specification.demo_backbone if is_demo else specification.default_backbone)
        weights = _weights(options.weights, backbone, families, problems)
        initialisation: Initialisation = "random" if weights == "random" else "pretrained"
    else:
        problems += [
            f"--{name} {value}: {options.method} brings its own networks; leave it out"
            for name, value in (("backbone", options.backbone), ("weights", options.weights))
            if value
        ]
        backbone, weights, initialisation = "", "", specification.own_networks(method_settings)
    planned = filler.stages(specification.stages(method_settings, initialisation), initialisation)
    own = next((stage.recipe for stage in reversed(planned) if stage.recipe is not None), None)
    if own is not None and own.method:
        layers = [*defaults, (f"recipe {own.name}", own.method), *above]
        method_settings = filler.fill(specification.settings, layers, "method")
        planned = filler.stages(specification.stages(method_settings, initialisation), initialisation)
    if own_recipes and not any(stage.recipe in own_recipes for stage in planned):
        wanted = ", ".join(stage.stage.name for stage in planned if stage.stage.trains) or "none"
        held = ", ".join(sorted({f"{r.stage} on {r.dataset} ({r.initialisation})" for r in own_recipes}))
        problems.append(
            f"--recipe {options.recipe}: has recipes for {held}; this run on {options.dataset} trains the stages "
            f"{wanted} from {initialisation} weights"
        )
    # An encoder that several methods take reads pictures alike for all of them.
    is_shared = bool(options.fair) or any(part.stage.output == "encoder" for part in planned[:-1])
    own_defaults = (f"method {options.method}", {} if is_shared else specification.backbone_defaults)
    backbone_settings = filler.fill(BackboneSettings, [own_defaults, filler.named("backbone")], "backbone")
    if backbone:
        from benchmark.encoders.families import family_of

        with suppress(UserError):  # of weights that are not there; they are told with all files that are not
            choice = BackboneChoice(backbone, weights, backbone_settings, options.assets)
            backbone_settings = family_of(backbone, families).settled(choice)
    trainer = filler.fill(TrainerSettings, [], "trainer")
    deepspeed, execution, monitors = _execution(options, trainer, problems)
    subset: QuerySubset | None = None
    with gathered(problems):
        subset = read_query_subset(options.subset) if options.subset else None
    known = [*_NAMESPACES, *(stage.stage.name for stage in planned)]
    if options.lr_sweep and planned[-1].stage.output == "encoder":
        problems.append(f"--lr-sweep: {options.method} trains an encoder, which other runs take as it is; leave it out")
    if options.fair:
        known += stages_on_any_encoder(specification, method_settings, initialisation)
    problems += [str(unknown_name("--set group", group, known)) for group in chosen if group not in known]
    groups: dict[str, Settings] = {part.stage.name: part.settings for part in planned}
    groups |= {"method": method_settings, "backbone": backbone_settings}
    problems += contradictions(variant, groups, options.limit is not None)
    if problems:
        raise UserError.collect(dict.fromkeys(problems))
    return RunSettings(
        backbone=backbone,
        weights=weights,
        initialisation=initialisation,
        method_settings=method_settings,
        backbone_settings=backbone_settings,
        trainer=trainer,
        stages=planned,
        variant=variant,
        deepspeed=deepspeed,
        execution=execution,
        monitors=monitors,
        subset=subset,
    )


def _weights(asked: str, backbone: str, families: Sequence[BackboneFamily], problems: list[str]) -> str:
    """Those that are asked for, or the backbone's default; what is wrong with its name is told, too."""
    from benchmark.encoders.families import family_of

    with gathered(problems):
        family = family_of(backbone, families)
        family.require_known(backbone)
        return asked or family.default_weights(backbone)
    return asked


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


def by_namespace(assignments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by their group: what stands before the first point of their names."""
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
    evaluated: DatasetInfo
    training: DatasetInfo
    dataset: Dataset | None
    chosen: Mapping[str, Mapping[str, Any]]
    problems: list[str]
    variant: Variant | None
    own_recipes: Sequence[Recipe]

    def named(self, namespace: str) -> tuple[str, dict[str, Any]]:
        """The variant's layer of a namespace."""
        settings = self.variant.settings if self.variant else {}
        return f"variant {self.variant.name if self.variant else ''}", by_namespace(settings).get(namespace, {})

    def fill(self, model: type[S], layers: Sequence[tuple[str, Mapping[str, Any]]], namespace: str) -> S:
        """Settings from layers and `--set`; where these are wrong, from the layers alone."""
        with gathered(self.problems):
            return fill(model, [*layers, ("--set", self.chosen.get(namespace, {}))], namespace)
        return fill(model, layers, namespace)

    def stages(self, stages: Sequence[Stage], initialisation: Initialisation) -> tuple[PlannedStage, ...]:
        """`--recipe NAME` is the last stage's that trains; `--epochs` and its like set the last stage."""
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            # Settings, recipes and seeds go by a stage's name.
            told = f"has several stages of one name ({', '.join(names)})"
            raise UserError(f"method {self.options.method}: {told}; expected: each has a name of its own")
        trained = [stage for stage in stages if stage.trains]
        return tuple(
            self._stage(stage, initialisation, is_last=stage is stages[-1], has_named=stage in trained[-1:])
            for stage in stages
        )

    def _stage(self, stage: Stage, initialisation: Initialisation, is_last: bool, has_named: bool) -> PlannedStage:
        options = self.options
        info = self.training if stage.trains and stage.rows is None else self.evaluated
        layers: list[tuple[str, Mapping[str, Any]]] = [("dataset", {"text_rule": info.text_rule})]
        recipe = None
        if stage.trains:
            name = options.recipe if has_named or options.recipe == "from-scratch" else ""
            name = "" if options.recipe_file else name
            is_fair = is_last and bool(options.fair or name == FAIR)
            with gathered(self.problems):
                own = "" if is_fair else name
                key = (stage.name, info.name)
                recipe = own_recipe_of(self.own_recipes, *key, initialisation) or self.registry.recipe(
                    *key, own, initialisation
                )
                recipe = recipe.as_trained(options.category)
                if is_fair:
                    recipe = fair_recipe(info, initialisation, recipe)
                layers.append((f"recipe {recipe.name}", recipe.settings))
        elif options.fair and is_last:
            layers.append(("--fair", untrained_settings(info, initialisation)))
        else:
            # A formula's published constants, the same on whatever the features start from.
            recipe = own_recipe_of(self.registry.recipes(), stage.name, info.name, "pretrained")
            layers.append(("recipe", recipe.settings if recipe is not None else {}))
        layers.append(self.named(stage.name))
        with gathered(self.problems):
            layers.append(("--limit", self._limited(stage, fill(stage.settings, layers, stage.name))))
            layers.append(("options", _shortcuts(options, is_last, info.name == self.evaluated.name)))
        settings = self.fill(stage.settings, layers, stage.name)
        if settings.precision == "fp16" and not options.precision and _computes_on_cpu(options.device):
            # Half precision with loss scaling is the recipe's for GPUs; a CPU gains nothing from it.
            settings = settings.model_copy(update={"precision": "fp32"})
        return PlannedStage(stage, settings, recipe)

    def _limited(self, stage: Stage, settings: TrainingSettings) -> dict[str, int]:
        """`--limit` leaves fewer triplets than a recipe's batch has: half of them become the batch."""
        has_rows = stage.rows is not None or (self.dataset is not None and "train" in read_splits(self.dataset))
        if self.options.limit is None or self.dataset is None or not has_rows:
            return {}
        if stage.rows is not None:
            triplets = self.options.limit
        else:
            triplets = len(self.dataset.train_triplets(0, self.options.seed, settings.pair_sampling))
        batch = min(settings.batch_size, max(triplets // 2, 2))
        return {"batch_size": batch, "negative_group": 0 if batch < settings.batch_size else settings.negative_group}


def _shortcuts(options: RunOptions, is_last: bool, trains_here: bool) -> dict[str, Any]:
    """`--epochs` and its like set the stage that is evaluated; precision and text rule set all, the latter where the
    texts that are trained on are the evaluated dataset's."""
    values: dict[str, Any] = {}
    if options.precision:
        values["precision"] = options.precision
    if options.text_mode and trains_here:
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
