"""Making a plan: method, settings and data of a run, resolved and checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmark.data.dataset_choice import EVALUATED, open_dataset
from benchmark.data.trained_elsewhere import TrainedElsewhere
from benchmark.dataset import Dataset
from benchmark.errors import UserError, unknown_name
from benchmark.facts import DatasetInfo, Recipe
from benchmark.facts_file import read_own_recipes
from benchmark.files import file_digest
from benchmark.method import TrainingRows
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan, digest_of_pictures
from benchmark.pipeline.run_settings import RunSettings, settle
from benchmark.registry import Registry, discover
from benchmark.weights.assets import RequiredAsset


def make_plan(
    options: RunOptions, registry: Registry | None = None, needed: tuple[str, ...] = ("train", EVALUATED)
) -> Plan:
    """Resolve a run's options; raises UserError with every problem of the settings, before any work.

    ``needed``: the splits whose files must be there; training and evaluation are read where they are.
    """
    registry = registry or discover()
    plugins = {
        Path(name).name: file_digest(registry.add_plugin(Path(name)).path) for name in options.plugins
    }
    methods = registry.methods()
    if options.method not in methods:
        raise unknown_name("method", options.method, methods)
    specification = registry.specification(options.method)
    own_recipes: tuple[Recipe, ...] = ()
    if options.recipe_file is not None:
        own_recipes = read_own_recipes(options.recipe_file)
        plugins[options.recipe_file.name] = file_digest(options.recipe_file)
    info = registry.datasets().get(options.dataset)
    if info is None:
        raise unknown_name("dataset", options.dataset, registry.datasets())
    training = _training_info(options, info, registry)
    settings_for = partial(settle, options, registry, specification, own_recipes, info, training)
    settled = None
    if options.data_root_of(options.dataset) is None:
        settled = settings_for(is_demo=True, dataset=None)  # what is wrong is told before pictures are drawn
    dataset, trained_on = _open(registry, options, needed, info, training, settings_for)
    if settled is None or options.limit is not None:
        settled = settings_for(is_demo=dataset.is_demo, dataset=dataset)
    assets = registry.assets()
    rows: dict[str, TrainingRows] = {}
    files: dict[str, str] = {}
    for stage in (planned.stage for planned in settled.stages if "train" in needed):
        if stage.trains and stage.rows is not None:
            of_stage = stage.rows(settled.method_settings, dataset, options.assets)
            rows[stage.name] = of_stage.first(options.limit or len(of_stage))
            files |= of_stage.files
            if len(of_stage.pictures):
                files[of_stage.label] = digest_of_pictures(rows[stage.name].pictures, options.cache_root)
    plan = Plan(
        options=options,
        method=methods[options.method],
        specification=specification,
        dataset=dataset,
        weights_digest=file_digest(Path(settled.weights)) if Path(settled.weights).is_file() else "",
        backbone_families=registry.backbone_families(),
        plugins=plugins,
        trained_on=trained_on,
        **vars(settled),
        required_files=tuple(
            RequiredAsset(assets[file.asset], file.given)
            for file in specification.required_files(settled.method_settings)
        ),
        training_rows=rows,
        training_files=files,
    )
    if settled.subset is not None:
        settled.subset.require_known(plan.tasks)
    return plan


def _training_info(options: RunOptions, info: DatasetInfo, registry: Registry) -> DatasetInfo:
    """Of the dataset whose triplets are trained on; raises UserError for one that is not known, or has none."""
    name = options.train_dataset or info.train_dataset or info.name
    found = registry.datasets().get(name)
    if found is None:
        raise unknown_name("--train-dataset", name, registry.datasets())
    if found.train_dataset:
        raise UserError(f"--train-dataset {name}: has no training triplets; name one that has, {found.train_dataset}")
    return found


def _open(
    registry: Registry, options: RunOptions, needed: tuple[str, ...], info: DatasetInfo, training: DatasetInfo,
    settings_for: Callable[..., RunSettings],
) -> tuple[Dataset, Mapping[str, str]]:  # fmt: skip
    """The data of a run, and what is known of another dataset that it is trained on."""
    if training.name == info.name:
        return open_dataset(registry, options, needed, ("train", EVALUATED)), {}
    dataset = open_dataset(registry, options, tuple(split for split in needed if split != "train"), (EVALUATED,))
    stages = [planned.stage for planned in settings_for(is_demo=dataset.is_demo, dataset=None).stages]
    # What trains on rows of other files takes pictures and texts of a dataset in the demo alone.
    if not any(
        stage.trains and (stage.rows is None or dataset.is_demo) or stage.fit is not None for stage in stages
    ):
        return dataset, {}
    if "train" not in needed:
        return dataset, {"name": training.name}
    # Protocols are those of the dataset that is evaluated.
    chosen = options.model_copy(update={"dataset": training.name, "protocol": ()})
    other = open_dataset(registry, chosen, ("train", EVALUATED))
    told = {"name": training.name, "label": other.label, "fingerprint": other.fingerprint}
    return TrainedElsewhere(dataset, other), told
