"""Making a plan: method, settings and data of a run, resolved and checked before any work."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmark.data.dataset_choice import EVALUATED, open_dataset
from benchmark.errors import unknown_name
from benchmark.facts import Recipe
from benchmark.facts_file import read_own_recipes
from benchmark.files import file_digest
from benchmark.method import TrainingRows
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan, digest_of_pictures
from benchmark.pipeline.run_settings import settle
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
    settings_for = partial(settle, options, registry, specification, own_recipes, info)
    if options.data_root_of(options.dataset) is None:
        settings_for(is_demo=True, dataset=None)  # what is wrong is told before pictures are drawn
    dataset = open_dataset(registry, options, needed, ("train", EVALUATED))
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
