"""Fill the feature store ahead of time: a backbone's features of a dataset, before any run asks for them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from benchmark.cli.arguments import DATA, add_options, run_values
from benchmark.errors import UserError
from benchmark.progress import say

if TYPE_CHECKING:
    from benchmark.distributed.job import Job
    from benchmark.options import RunOptions

EVERY_RANK = True
SUMMARY = "compute and store a backbone's features of a dataset"
_VIEWS = ("global", "patches")
_FORMER_VIEWS = {"whole": "global"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="what the cache holds, and what it takes on the disk")
    parser.add_argument("--remove", nargs="+", metavar="NAME", help="free what --list names, or all of an encoder")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--views", nargs="+", type=_present_view, choices=_VIEWS, default=_VIEWS)
    add_options(parser, *DATA, "weights", backbone="RN50x4 by default, tiny on the demo data")
    parser.add_argument("--dry-run", action="store_true", help="print what would be stored, and its size")


def _present_view(view: str) -> str:
    if view in _FORMER_VIEWS:
        say(f"--views {view}: the view is called {_FORMER_VIEWS[view]} now")
    return _FORMER_VIEWS.get(view, view)


def run(options: argparse.Namespace) -> int:
    from benchmark.distributed.job import join_job
    from benchmark.options import make_options
    from benchmark.pipeline.preparation import draw_demo_data
    from benchmark.registry import discover

    if options.list or options.remove:
        return _tend_cache(options)
    if not options.dataset:
        raise UserError("features: name a dataset with --dataset, or give --list or --remove")
    values = run_values(options)
    named = {"dataset": options.dataset, "seed": options.seed, "backbone": options.backbone or ""}
    chosen = make_options(method="sum", **named, **values)
    registry = discover()
    job = join_job(chosen.device, chosen.cache_root)
    draw_demo_data(chosen, registry, job)
    print(_fill_store(chosen, tuple(dict.fromkeys(options.views)), options.dry_run, job))
    return 0


def _tend_cache(options: argparse.Namespace) -> int:
    from benchmark.features.kept import format_kept, kept_features, remove
    from benchmark.options import cache_root

    folder = cache_root(options.cache or "") / "features"
    if options.remove:
        print(f"{remove(options.remove, folder) / 2**20:,.1f} MiB freed in {folder}")
    if options.list:
        print(format_kept(list(kept_features(folder)), folder))
    return 0


def _fill_store(options: RunOptions, views: tuple[str, ...], dry_run: bool, job: Job) -> str:
    """Compute what is missing, by all ranks of the job, and tell what the store then holds.

    Raises UserError as a run does.
    """
    from benchmark.dataset import read_splits
    from benchmark.features.room import bytes_needed
    from benchmark.method import FeatureInputs
    from benchmark.pipeline.planning import make_plan
    from benchmark.pipeline.preparation import backbone_of
    from benchmark.pipeline.stage_sources import StageSources

    plan = make_plan(options.model_copy(update={"set": {**options.set, "method.encoder": "untouched"}}))
    dataset, backbone = plan.dataset, backbone_of(plan)
    splits = [split for split in ("train", dataset.info.evaluation_split) if split in read_splits(dataset)]
    pictures = sum(len(dataset.split_pictures(split)) for split in splits)
    if backbone is None:
        raise UserError(f"method {options.method} brings its own networks; there are no features of a backbone")
    size = bytes_needed(backbone.picture_outputs, pictures=pictures, views=views) / 2**20
    width = backbone.description.width
    told = f"{pictures:,} pictures of {dataset.label}, {' and '.join(views)}, width {width}: {size:,.1f} MiB"
    place = options.cache_root / "features"
    if dry_run:
        return f"{told} would be stored under {place}"
    with StageSources(plan, job, backbone) as sources:
        for split in splits:
            sources.features(split, FeatureInputs(reference=views, target=views))
        asked = [text for task in plan.tasks for text in task.queries.texts]
        sources.fill_texts(asked + [t for c in dataset.training_texts() for t in plan.rule.queries(c)])
    return f"{told} stored under {place}"
