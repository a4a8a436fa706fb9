"""Measure the speed of every part on this machine, each beside its limit in the same process.

Pictures decoded and encoded, texts, training updates of every stage, queries ranked, one query at
batch one, memory. A part and its limit (a bare loop, forward pass or matrix product that does the
same work) take turns, so that the ratio holds on a busy machine. Without --data-root the pictures
are synthetic ones. With --growth: time and memory of the store, a training epoch, the evaluator and the
leaderboard at 1, 2, 4 and 8 times the size, with a picture.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.arguments import DATA, add_options, named_ones, run_values
from benchmark.errors import UserError, format_failure, unknown_name

if TYPE_CHECKING:
    from benchmark.options import RunOptions
    from benchmark.records.record import Record
    from benchmark.registry import Registry
    from benchmark.throughput.measure import HowToMeasure

SUMMARY = "measure the speed of every part beside its limit"

_METHOD, _DATASET = "spirit", "cirr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", nargs="+", metavar="NAME", help="one or more methods, or all; spirit by default")
    parser.add_argument("--dataset", nargs="+", metavar="NAME", help="one or more datasets, or all; cirr by default")
    add_options(
        parser, *DATA, "recipe", "negative_group", "set",
        weights="the backbones' weights; for speed random ones do",
        batch_size="triplets per update of the method's own stage",
        output="folder for the records; by default runs/throughput",
    )  # fmt: skip
    parser.add_argument("--backbone", nargs="+", metavar="NAME", help="by default RN50x4, on demo data tiny")
    parser.add_argument("--picture-size", metavar="WxH", help="measure JPEG files of this size, made of the pictures")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], help="by default the recipe's")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="per measurement; 2 by default")
    parser.add_argument("--json", action="store_true", help="the records as JSON instead of tables")
    parser.add_argument("--growth", nargs="*", metavar="PART",
                        help="measure growth instead, of all parts or of these: store, training, evaluator, "
                        "leaderboard")  # fmt: skip
    parser.add_argument("--size", type=int, metavar="N", help="with --growth: the smallest size; 8 N is the largest")


def run(options: argparse.Namespace) -> int:
    if options.seconds < 0:
        raise UserError(f"--seconds {options.seconds:g}: give 0 or more")
    if options.size is not None and options.growth is None:
        raise UserError("--size goes with --growth; leave it out, or use --limit")
    if options.size is not None and options.size < 1:
        raise UserError(f"--size {options.size}: give 1 or more")
    from benchmark.registry import discover
    from benchmark.throughput.measure import FOLDER, HowToMeasure, measure, write_throughput
    from benchmark.throughput.tables import throughput_table

    values, registry = run_values(options), discover()
    for plugin in values.get("plugins", ()):
        registry.add_plugin(Path(plugin))
    how = HowToMeasure(options.seconds, options.precision, _size(options.picture_size))
    output = Path(values.pop("output", "") or FOLDER)
    chosen = _chosen(options, values, how, registry)
    if options.growth is not None:
        # Growth is of one method, backbone and dataset: the first of each that is named.
        return _growth(options, next(chosen), registry, output)
    every = list(chosen)
    known: set[str] = set()
    records: list[Record] = []
    failures = []
    for one in every:
        try:
            for record in measure(one, how, registry, known):
                records.append(record)
                folder = write_throughput(record, output)
                if not options.json:
                    print(f"{throughput_table(record)}\n- record: {folder / 'record.json'}\n", flush=True)
        except Exception as error:
            if len(every) == 1:
                raise
            if options.traceback:
                traceback.print_exc()
            failures.append(f"{one.method} on {one.dataset}: {format_failure(error)}")
    if options.json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1, ensure_ascii=False))
    if failures:
        raise UserError.collect([f"{len(failures)} measurements failed", *failures])
    return 0


def _chosen(
    options: argparse.Namespace, values: dict[str, Any], how: HowToMeasure, registry: Registry
) -> Iterator[RunOptions]:
    """Every method with every backbone on every dataset; methods with networks of their own once."""
    from benchmark.options import make_options

    methods = _names("method", options.method or [_METHOD], list(registry.methods()))
    datasets = _names("dataset", options.dataset or [_DATASET], list(registry.datasets()))
    given = {name: value for name, value in values.items() if name not in ("backbone", "weights")}
    # TF32 is a kind of fp32 in a run's options.
    given["precision"] = "fp32" if how.precision == "tf32" else how.precision or ""
    weights = {"weights": values["weights"]} if "weights" in values else {}
    for dataset, method in product(datasets, methods):
        of_one = {**given, "method": method, "dataset": dataset}
        if registry.specification(method).own_networks is not None:
            yield make_options(**of_one)
            continue
        for backbone in named_ones("backbone", options.backbone or [None]):
            named = {"backbone": backbone} if backbone else {}
            yield make_options(**of_one, **weights, **named)


def _names(kind: str, given: list[str], known: list[str]) -> list[str]:
    names = named_ones(kind, given, known)
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    return names


def _size(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    width, _, height = given.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"--picture-size {given}: write width and height in pixels, such as 640x480")
    return int(width), int(height)


def _growth(options: argparse.Namespace, chosen: RunOptions, registry: Registry, output: Path) -> int:
    from benchmark.pipeline.planning import make_plan
    from benchmark.throughput.growth import growth_record
    from benchmark.throughput.growth_curves import PARTS, draw_growth
    from benchmark.throughput.measure import write_throughput
    from benchmark.throughput.tables import growth_table, heading, machine, notes

    record = growth_record(options.growth or list(PARTS), options.size, make_plan(chosen, registry))
    folder = write_throughput(record, output)
    draw_growth(folder / "growth.png", record, f"{heading(record)} · {machine(record).split(' · Linux')[0]}")
    if options.json:
        print(json.dumps([record.model_dump(mode="json")], indent=1, ensure_ascii=False))
        return 0
    lines = [heading(record), "", growth_table(record), "", *(f"- {note}" for note in notes(record))]
    print("\n".join([*lines, f"- record: {folder / 'record.json'}", f"- picture: {folder / 'growth.png'}"]))
    return 0
