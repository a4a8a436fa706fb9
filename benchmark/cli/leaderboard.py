"""Write the leaderboard tables from records and published numbers; nothing in them is edited by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write the leaderboard tables from records and published numbers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results", metavar="PATH", help="the folder of results")
    parser.add_argument("--runs", nargs="*", default=[], metavar="PATH",
                        help="folders with records of demo runs, for the demo tables")  # fmt: skip
    parser.add_argument("--add", metavar="RUN", help="copy a run's record into the results first")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if tables are stale")


def run(options: argparse.Namespace) -> int:
    from benchmark.leaderboards import book, leaderboard
    from benchmark.leaderboards.controlled_comparison import reasons_outside
    from benchmark.registry import discover
    from benchmark.throughput.tables import THROUGHPUT_PAGE

    results = Path(options.results)
    registry = discover()
    datasets, outside = registry.datasets(), reasons_outside(registry)
    runs, further = [Path(name) for name in options.runs], [THROUGHPUT_PAGE]
    if options.add:
        folder, not_derivable = book.add(Path(options.add), results, further)
        print(f"added {folder}")
        for reason in not_derivable:
            print(f"not derivable from ranks: {reason}")
    pages = leaderboard.pages(results, datasets, runs, outside, further)
    if options.check:
        stale = leaderboard.stale(pages)
        for path in stale:
            print(f"stale: {path}; write it again with `python -m benchmark leaderboard`")
        return 1 if stale else 0
    for path in leaderboard.write_stale(pages):
        print(f"wrote {path}")
    return 0
