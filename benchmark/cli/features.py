"""Fill the feature store ahead of time with a backbone's features of a dataset."""

from __future__ import annotations

import argparse

from benchmark.cli.arguments import DATA, ENCODER, add_options, run_values

EVERY_RANK = True
SUMMARY = "compute and store a backbone's features of a dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--views", nargs="+", choices=["global", "patches"], default=["global", "patches"])
    add_options(parser, *DATA, *ENCODER)
    parser.add_argument("--dry-run", action="store_true", help="print what would be stored, and its size")


def run(options: argparse.Namespace) -> int:
    from benchmark.distributed.job import join_job
    from benchmark.options import make_options
    from benchmark.pipeline.feature_filling import fill_store
    from benchmark.pipeline.preparation import draw_demo_data
    from benchmark.registry import discover

    values = run_values(options)
    chosen = make_options(method="sum", dataset=options.dataset, seed=options.seed, **values)
    registry = discover()
    job = join_job(chosen.device, chosen.cache_root)
    draw_demo_data(chosen, registry, job)
    print(fill_store(chosen, tuple(options.views), options.dry_run, job))
    return 0
