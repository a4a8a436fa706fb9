"""Compare finished runs on the same queries: paired differences with intervals, a test, and what decides.

Name run folders, records, or folders that hold runs. Seeds of one configuration are one side.
"""

from __future__ import annotations

import argparse

SUMMARY = "paired differences between runs, with intervals and a test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder or record, or a folder of runs")
    parser.add_argument("--metric", nargs="+", default=[], metavar="NAME", help="these metrics alone, R@10 say")
    parser.add_argument("--format", default="markdown", choices=("markdown", "latex", "csv", "json"))
    parser.add_argument("--seed", type=int, default=0, help="of the random draws")


def run(options: argparse.Namespace) -> int:
    from benchmark.comparison.comparison import compare
    from benchmark.comparison.layout import format_comparison

    found = compare(*options.runs, metrics=options.metric, seed=options.seed)
    print(format_comparison(found, options.format), end="")
    return 0
