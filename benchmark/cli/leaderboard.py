"""Write the leaderboard's pages from records and published numbers; nothing in them is edited by hand.

With --format the tables are printed, and nothing is written; rows are filtered and sorted as told.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.errors import UserError

SUMMARY = "write the leaderboard tables from records and published numbers"
_OF_FORMAT = ("demo", "dataset", "protocol", "text_mode", "encoder", "method", "year", "extra_data", "rows", "sort")
FORMATS = ("markdown", "latex", "csv", "json", "html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results", metavar="PATH", help="the folder of results")
    parser.add_argument("--runs", nargs="*", default=[], metavar="PATH",
                        help="folders with records of demo runs, to be added for the demo tables")  # fmt: skip
    parser.add_argument("--add", metavar="RUN", help="copy a run's record into the results first")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; make every cell again, exit status 1 if one does not follow")  # fmt: skip
    shown = parser.add_argument_group("printing tables")
    shown.add_argument("--format", choices=FORMATS, help="print the tables so; alone or with what follows")
    shown.add_argument("--demo", action="store_true", help="those of the demo runs")
    for name, told in (
        ("dataset", "of these datasets"), ("protocol", "of these protocols"), ("text-mode", "of these text modes"),
        ("encoder", "rows whose encoder's name holds one of these"), ("method", "rows whose name holds one of these"),
    ):  # fmt: skip
        shown.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help=told)
    shown.add_argument("--year", nargs="+", type=int, default=[], metavar="YEAR", help="published in these years")
    shown.add_argument("--extra-data", choices=("said", "unsaid"), help="rows that are (not) known to use other data")
    shown.add_argument("--rows", choices=("measured", "published"), help="rows of this kind alone")
    shown.add_argument("--sort", metavar="METRIC", help="the best row of this metric first, such as R@10")


def run(options: argparse.Namespace) -> int:
    from benchmark.leaderboards import audit, book, leaderboard
    from benchmark.leaderboards.controlled_comparison import reasons_outside
    from benchmark.records.record import record_files
    from benchmark.registry import discover
    from benchmark.throughput.tables import THROUGHPUT_PAGE

    ignored = [name for name in _OF_FORMAT if getattr(options, name)]
    if ignored and not options.format:
        raise UserError(f"--{ignored[0].replace('_', '-')}: tables are printed with --format; add it")
    if (options.check or options.format) and (options.add or options.runs):
        raise UserError("--check and --format write nothing; add records in a command of their own")
    results = Path(options.results)
    registry = discover()
    datasets, further = registry.datasets(), [THROUGHPUT_PAGE]
    added = [Path(options.add)] if options.add else []
    demo_runs = [file.parent for file in record_files([Path(name) for name in options.runs])]
    for run_folder in [*added, *demo_runs]:
        folder, not_derivable = book.add(run_folder, results, further, demo=run_folder in demo_runs)
        print(f"added {folder}")
        for reason in not_derivable:
            print(f"not derivable from ranks: {reason}")
    if options.format:
        from benchmark.leaderboards.formats import format_tables
        from benchmark.leaderboards.selection import Selection, selected

        sources = leaderboard.read_sources(results)
        print(format_tables(selected(sources, datasets, Selection.of(options)), options.format), end="")
        return 0
    declared = {name: [v for v in registry.variants(name) if v.ablation] for name in registry.methods()}
    ablations = {name: (registry.methods()[name], variants) for name, variants in declared.items() if variants}
    pages = leaderboard.pages(results, datasets, reasons_outside(registry), further, ablations)
    if options.check:
        faults = audit.differences(pages)
        for fault in faults:
            print(fault)
        if faults:
            print("write the pages again with `python -m benchmark leaderboard`, or take back what was changed")
        return 1 if faults else 0
    for path in leaderboard.write_stale(pages):
        print(f"wrote {path}")
    return 0
