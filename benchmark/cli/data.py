"""Check a data folder, or write the demo data in a dataset's official layout."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SUMMARY = "check a data folder, or write the demo data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    verify = actions.add_parser("verify", help="check files, counts and pictures of a dataset's folder")
    verify.add_argument("dataset")
    verify.add_argument("--data-root", required=True, metavar="PATH", help="the folder, or the one above it")
    verify.add_argument("--json", action="store_true", help="the findings as JSON")
    demo = actions.add_parser("demo", help="write the demo data in a dataset's official layout")
    demo.add_argument("dataset")
    demo.add_argument("--output", metavar="PATH", help="where to; by default the cache folder")
    demo.add_argument("--cache", metavar="PATH", help="the cache folder")


def run(options: argparse.Namespace) -> int:
    return _verify(options) if options.action == "verify" else _demo(options)


def _verify(options: argparse.Namespace) -> int:
    from benchmark.registry import discover
    from benchmark.verification import verify_folder

    found = verify_folder(discover(), options.dataset, Path(options.data_root))
    print(json.dumps(found.as_json(), indent=1, ensure_ascii=False) if options.json else found.as_table())
    return 0 if found.ok else 1


def _demo(options: argparse.Namespace) -> int:
    from benchmark.options import cache_root
    from benchmark.registry import discover

    registry = discover()
    if options.output:
        registry.write_demo(options.dataset, Path(options.output))
        print(options.output)
    else:
        print(registry.demo_folder(options.dataset, cache_root(options.cache or "")))
    return 0
