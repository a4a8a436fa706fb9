"""Check a data folder, write the demo data in a dataset's official layout, or write out the queries."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.arguments import add_options, run_values
from benchmark.files import format_json

SUMMARY = "check a data folder, write the demo data, or write out the queries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    verify = actions.add_parser("verify", help="check files, counts and pictures of a dataset's folder")
    verify.add_argument("dataset")
    verify.add_argument("--data-root", required=True, metavar="PATH", help="the folder, or the one above it")
    verify.add_argument("--backbone", metavar="NAME", help="count the texts that are longer than it reads")
    verify.add_argument("--json", action="store_true", help="the findings as JSON")
    demo = actions.add_parser("demo", help="write the demo data in a dataset's official layout")
    demo.add_argument("dataset")
    demo.add_argument("--output", metavar="PATH", help="where to; by default the cache folder")
    demo.add_argument("--cache", metavar="PATH", help="the cache folder")
    _add_export(actions.add_parser("export-queries", help="gallery and queries as JSON lines, to embed elsewhere"))


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("dataset")
    export.add_argument("--output", required=True, dest="file", metavar="FILE", help="the JSON lines")
    export.add_argument("--split", metavar="NAME", help="by default the one that is evaluated")
    export.add_argument("--protocol", nargs=1, metavar="NAME", help="by default the dataset's default one")
    add_options(export, "data_root", "demo", "cache", "plugins", text_mode="how captions become queries")


def run(options: argparse.Namespace) -> int:
    actions = {"verify": _verify, "demo": _demo, "export-queries": _export}
    return actions[options.action](options)


def _export(options: argparse.Namespace) -> int:
    from benchmark.interop.query_export import export_queries

    pictures, queries = export_queries(
        options.dataset, Path(options.file), options.split or "", **run_values(options)
    )
    print(f"{options.file}: {pictures:,} gallery pictures, {queries:,} queries")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from benchmark.data.verification import verify_folder
    from benchmark.registry import discover

    context = None
    if options.backbone:
        from benchmark.backbone import BackboneChoice
        from benchmark.encoders.families import family_of

        context = family_of(options.backbone).outline(BackboneChoice(options.backbone, "random")).text_context
    found = verify_folder(discover(), options.dataset, Path(options.data_root), context)
    print(format_json(found.as_json(), indent=1) if options.json else found.as_table())
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
