"""List what there is: methods, their variants, datasets, backbones, recipes. One line each."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.registry import Registry

SUMMARY = "list methods, variants, datasets, backbones and recipes"
_KINDS = ("methods", "variants", "datasets", "backbones", "recipes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=_KINDS, help="one kind; by default all")
    parser.add_argument("--json", action="store_true", help="all fields, as JSON")
    parser.add_argument("--cite", nargs="?", const=True, metavar="RUN",
                        help="BibTeX entries; of a run or record: of all that its numbers rest on")  # fmt: skip
    parser.add_argument("--needs", action="store_true", help="what methods need from outside, and whether it is here")
    parser.add_argument("--assets-root", metavar="PATH", help="with --needs: folder that holds weights files")
    parser.add_argument("--parameters", action="store_true",
                        help="the methods' parameters by part, beside the published numbers")  # fmt: skip
    parser.add_argument("--plugin", action="append", metavar="FILE.py", help="list what a file declares, too")


def run(options: argparse.Namespace) -> int:
    from benchmark.encoders.backbone_table import BACKBONES, all_architectures, listed
    from benchmark.pipeline.controlled_comparison import shared_conditions
    from benchmark.registry import discover

    if options.cite in _KINDS and options.kind is None:
        # `--cite methods`: the kind, which stands where a run may.
        options.kind, options.cite = options.cite, True
    registry = discover()
    for plugin in options.plugin or ():
        registry.add_plugin(Path(plugin))
    if isinstance(options.cite, str):
        return _cite(options, registry)
    if options.needs:
        return _list_files(options, registry)
    if options.parameters:
        from benchmark.evaluation.sizes import size_table

        print(size_table(registry))
        return 0
    # Only a file's own code tells what backbones it brings: it is imported where these are asked for.
    families = registry.backbone_families() if options.kind == "backbones" else ()
    found: dict[str, list[dict[str, Any]]] = {
        "methods": [asdict(info) for info in registry.methods().values()],
        "variants": [asdict(variant) for variant in registry.variants()],
        "datasets": [asdict(info) for info in registry.datasets().values()],
        "backbones": [asdict(info) for info in listed(families)],
        "recipes": [asdict(recipe) for recipe in (*registry.recipes(), *shared_conditions())],
    }
    chosen = {kind: found[kind] for kind in ([options.kind] if options.kind else _KINDS)}
    if options.json:
        print(json.dumps(chosen, indent=1, ensure_ascii=False))
    elif options.cite is not None:
        entries = [e["citation"] for entries in chosen.values() for e in entries if e.get("citation")]
        print("\n\n".join(entries))
    else:
        print("\n\n".join(_block(kind, entries) for kind, entries in chosen.items()))
        if options.kind == "backbones":
            others = [name for name in all_architectures() if name not in BACKBONES]
            print(textwrap.fill(f"and of open_clip's own: {', '.join(others)}", 100, subsequent_indent="  ",
                                break_on_hyphens=False))  # fmt: skip
    return 0


def _cite(options: argparse.Namespace, registry: Registry) -> int:
    from benchmark.interop.citations import citations_of
    from benchmark.records.record import read_record

    if options.kind or options.json or options.needs or options.parameters:
        raise UserError("--cite RUN goes with `list` alone")
    print("\n\n".join(citations_of(read_record(Path(options.cite)), registry)))
    return 0


def _list_files(options: argparse.Namespace, registry: Registry) -> int:
    from benchmark.options import assets_root
    from benchmark.pipeline.required_files import files_of_methods, format_files

    if options.kind not in (None, "methods") or options.cite is not None:
        raise UserError("--needs goes with `list methods` alone")
    files = list(files_of_methods(registry, assets_root(options.assets_root or "")))
    as_json = json.dumps([asdict(file) for file in files], indent=1, ensure_ascii=False)
    print(as_json if options.json else format_files(files))
    return 0


def _block(kind: str, entries: list[dict[str, Any]]) -> str:
    rows = [_row(kind, entry) for entry in entries]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([f"{kind}:", *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _row(kind: str, entry: dict[str, Any]) -> tuple[str, str]:
    if kind == "recipes":
        return f"{entry['stage']} · {entry['dataset']} · {entry['name']}", entry["source"]
    if kind == "variants":
        assignments = " ".join(f"--set {key}={json.dumps(value)}" for key, value in entry["settings"].items())
        title = f"ablation: {entry['title']}" if entry["ablation"] else entry["title"]
        return f"{entry['method']} · {entry['name']}", f"{title}; {assignments or 'the default'}"
    return entry["name"], entry["summary"]
