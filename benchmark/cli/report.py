"""Write one HTML page about finished runs, which opens offline: tables, curves, composition, queries, provenance.

Name run folders, records, or folders that hold runs; by default all under ./runs. Seeds of one configuration are one
side. Pictures of real data are linked where they lie, since the datasets' terms forbid passing them on; demo pictures
are in the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.arguments import add_options, run_values

SUMMARY = "one page about runs: tables, curves, queries, what attends to what"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder or record, or a folder of runs")
    parser.add_argument("--embed-pictures", action="store_true",
                        help="put real pictures into the page, too, and say so on it")  # fmt: skip
    add_options(parser, "data_root", "cache", "assets_root", "plugins", output="the page; report.html by default")


def run(options: argparse.Namespace) -> int:
    from benchmark.report.page import write_report

    values = run_values(options)
    page = Path(values.pop("output", "") or "report.html")
    written = write_report(
        [Path(run) for run in options.runs] or [Path("runs")], page, values, embed=options.embed_pictures
    )
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return 0
