"""Check an implementation against golden numbers; exit status 1 where a deviation is too large."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "check an implementation against golden numbers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="+", metavar="FILE.json", help="golden numbers")
    parser.add_argument("--plugin", action="append", metavar="FILE.py")


def run(options: argparse.Namespace) -> int:
    from benchmark.parity.report import check, report
    from benchmark.registry import discover

    registry = discover()
    for plugin in options.plugin or ():
        registry.add_plugin(Path(plugin))
    ok = True
    for name in options.file:
        deviations = check(Path(name), registry)
        print(report(Path(name), deviations))
        ok &= all(deviation.ok for deviation in deviations)
    return 0 if ok else 1
