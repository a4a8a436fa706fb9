"""Join runs that were each trained on one category of a dataset into one record of all its categories.

`run --category dress shirt toptee` makes them: some releases train a model for each category of FashionIQ.
Configuration, code, data and seed have to be the same; averages over categories are made of the runs' own numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "one record of runs that were each trained on one category"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, one for each category")
    parser.add_argument("--output", metavar="PATH", help="folder for the record; by default under ./runs")
    parser.add_argument("--overwrite", action="store_true", help="replace the whole record that the folder holds")


def run(options: argparse.Namespace) -> int:
    from benchmark.pipeline.joined_categories import join_categories
    from benchmark.pipeline.reporting import format_summary

    output = Path(options.output) if options.output else None
    record, folder = join_categories([Path(name) for name in options.runs], output, options.overwrite)
    print(format_summary(record, folder))
    return 0
