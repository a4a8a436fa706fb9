"""Train and evaluate a method on a dataset: features, every missing stage, record, table.

Without --data-root the run uses demo data (synthetic pictures) and says so. Defaults reproduce the method's
paper on that dataset. Several methods, datasets, variants or seeds run one after the other; one
failure does not stop the rest, but for a job of several processes, which ends. What a dataset cannot
have (a method that reads captions which nobody released for its queries, noise where pairs are drawn
anew) is left out of several and told at the end, and is no failure. With --ablations a method and each
of its ablations are run, and the table of them is written beside their folders.

With --fair all methods get the same encoder artefact, frozen (untouched weights; one stage 1 that all
share), the dataset's text rule, the same number of triplets seen, batch, negative group, schedule,
selection heldout and --lr-sweep; `list recipes` shows the numbers under "fair", and --epochs,
--batch-size, --negative-group and --text-mode change them for all. Layers, loss, optimiser and the
learning rate around which --lr-sweep tries stay the method's own. The table at the end is made of
records that are seen to share all this.

Several backbones (--backbone RN50x4 ViT-L-14:openai ViT-H-14:FILE) are runs of their own each; one whose
weights are not on this machine is left out and told. With --fair their rows stand in one table, beside
what each costs.
"""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.arguments import add_all_options, named_ones, run_values
from benchmark.errors import Inapplicable, UserError, format_failure, gathered

if TYPE_CHECKING:
    from benchmark.distributed.job import Job
    from benchmark.leaderboards.ablations import AblationStudy
    from benchmark.options import RunOptions
    from benchmark.records.record import Record
    from benchmark.registry import Registry

_WHOLE = "whole"

SUMMARY = "train and evaluate a method on a dataset"
EVERY_RANK = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_all_options(parser)
    parser.add_argument("--ablations", action="store_true", help="the method and all of its ablations, and their table")
    parser.add_argument("--config", metavar="FILE.toml", help="the same options in a file, or a ready one by name")
    parser.add_argument("--from-record", metavar="FILE", help="repeat a record's run, and hold its numbers against it")
    parser.add_argument("--dry-run", action="store_true", help="check every input, print the plan, do nothing")


def run(options: argparse.Namespace) -> int:
    try:
        return _repeat(options) if options.from_record else _run(options)
    except KeyboardInterrupt:
        going_on = "" if options.dry_run else "; the same command with --resume goes on from the last saved state"
        raise KeyboardInterrupt(f"interrupted{going_on}") from None


def _repeat(options: argparse.Namespace) -> int:
    """A record's run again, and what came of it beside what the record says."""
    from benchmark.cli.repetition import format_repetition, repeated_options
    from benchmark.records.record import read_record

    old = read_record(Path(options.from_record))
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    parser.add_argument("--traceback", action="store_true")  # of the program, not of the command
    made: list[Record] = []
    status = _run(repeated_options(old, options, parser), made)
    if made and os.environ.get("RANK", "0") == "0":
        print(f"\n{format_repetition(old, made[0])}", end="")
    return status


def _run(options: argparse.Namespace, made: list[Record] | None = None) -> int:
    """``made`` gets the records of the runs."""
    from benchmark.distributed.job import join_job
    from benchmark.pipeline.reporting import extra
    from benchmark.progress import say
    from benchmark.registry import discover

    registry = discover()
    runs = _runs(options, registry)
    studies: dict[tuple[str, ...], AblationStudy] = {}
    if options.dry_run and os.environ.get("RANK", "0") != "0":
        return 0
    job = None if options.dry_run else join_job(runs[0].device, runs[0].cache_root)
    failures: list[str] = []
    left_out: list[str] = []
    made = [] if made is None else made
    for number, chosen in enumerate(runs, 1):
        if len(runs) > 1:
            say(f"[{number}/{len(runs)}] {_named(chosen)} on {chosen.dataset}, seed {chosen.seed}")
        study = _study(studies, chosen, registry) if options.ablations else None
        try:
            made += _one(chosen, registry, job, study)
        except Inapplicable as reason:
            if len(runs) == 1:
                raise
            left_out.append(f"{_named(chosen)} on {chosen.dataset}, seed {chosen.seed}: {reason}")
            if study is not None:
                study.left_out[chosen.variant] = str(reason)
        except (Exception, SystemExit) as error:
            if len(runs) == 1 or os.environ.get("WORLD_SIZE", "1") != "1":
                raise
            if options.traceback:
                traceback.print_exc()
            message = format_failure(error)
            failures.append(f"{_named(chosen)} on {chosen.dataset}, seed {chosen.seed}: {message}")
            if study is not None:
                study.left_out[chosen.variant] = f"it failed: {message}"
    if os.environ.get("RANK", "0") == "0":
        for study in studies.values():
            with extra("the table of ablations"):
                file = study.write()
                if file is not None:
                    print(f"\nablations: {file}\n\n{file.read_text(encoding='utf-8')}", end="")
        if any(chosen.fair for chosen in runs) and job is not None:
            with extra("the controlled comparison"):
                _print_controlled_comparisons(made, registry)
    for line in left_out:
        say(f"left out: {line}")
    if len(left_out) == len(runs):
        raise UserError(f"none of the {len(runs)} runs can be made on the data that was asked for")
    if failures:
        raise UserError.collect([f"{len(failures)} of {len(runs)} runs failed", *failures])
    return 0


def _runs(options: argparse.Namespace, registry: Registry) -> list[RunOptions]:
    """The options of every run that is asked for; raises UserError with all that is wrong with them."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    with gathered(problems):
        values = run_values(options)
        for plugin in values.get("plugins", ()):
            registry.add_plugin(Path(plugin))
    if problems and options.config and not (options.method and options.dataset):
        # What the file would have named is not missing.
        raise UserError.collect(line for problem in problems for line in problem.splitlines())
    encoders = [{"fair": ""}]
    with gathered(problems):
        encoders = _encoders(options, values)
    backbones: list[dict[str, str]] = [{}]
    with gathered(problems):
        backbones = _backbones(options, values, registry)
    runs: list[RunOptions] = []
    for encoder in encoders:
        with gathered(problems):
            runs += _product(options, {**values, **encoder}, backbones, registry)
    if problems:
        raise UserError.collect(dict.fromkeys(line for problem in problems for line in problem.splitlines()))
    return runs


def _product(
    options: argparse.Namespace, values: dict[str, Any], backbones: list[dict[str, str]], registry: Registry
) -> Iterator[RunOptions]:
    from benchmark.options import make_options
    from benchmark.pipeline.backbone_choices import backbone_folder
    from benchmark.pipeline.controlled_comparison import refusal

    known = [n for n, info in registry.methods().items() if not (values.get("fair") and refusal(info, registry))]
    chosen: dict[str, list[Any]] = {}
    problems: list[str] = []
    kinds = {"method": known, "dataset": list(registry.datasets())}
    for kind, all_names in (kinds | dict.fromkeys(("seed", "variant", "category", "noise"), [])).items():
        given = getattr(options, kind) or values.pop(kind, None)
        values.pop(kind, None)
        with gathered(problems):
            chosen[kind] = _names(kind, given, list(all_names))
    if options.ablations and chosen.get("variant"):
        problems.append("--ablations runs the method and all of its ablations; leave --variant out")
    for seed, noise in product(chosen.get("seed") or [0], chosen.get("noise") or [0]):
        with gathered(problems):
            # What is wrong with the other options is wrong with them in every run.
            make_options(method="", dataset="", seed=seed, noise=noise, **values)
    if problems:
        raise UserError.collect(problems)
    output = values.pop("output", "")
    runs = [
        (dataset, backbone, method, variant, category, noise, seed)
        for dataset, backbone, method in product(chosen["dataset"], backbones, chosen["method"])
        for variant in _variants(method, chosen["variant"], options.ablations, registry)
        for category, noise, seed in product(chosen["category"] or [""], chosen["noise"] or [0], chosen["seed"] or [0])
    ]
    several, categories, noises = (len({run[i] for run in runs}) > 1 for i in (3, 4, 5))
    for dataset, backbone, method, variant, category, noise, seed in runs:
        # Several runs would overwrite one another in one folder.
        of_backbone = backbone_folder(**backbone) if len(backbones) > 1 else ""
        of_variant, of_noise = variant or _WHOLE if several else "", f"noise-{float(noise):g}" if noises else ""
        kinds_of = (of_backbone, of_variant, category if categories else "", of_noise)
        inner = Path(dataset, method, *kinds_of) / f"seed-{seed}"
        folder = str(Path(output) / inner) if output and len(runs) > 1 else output
        yield make_options(
            method=method, dataset=dataset, variant=variant, category=category, noise=noise, seed=seed, output=folder,
            **{**values, **backbone},
        )  # fmt: skip


def _variants(method: str, given: list[str], ablations: bool, registry: Registry) -> list[str]:
    """Names of the configurations to run, "" for the method as it is."""
    declared = registry.variants(method)
    if ablations:
        names = [variant.name for variant in declared if variant.ablation]
        if not names:
            raise UserError(f"--ablations: {method} declares none; `list variants` shows those that there are")
        return ["", *names]
    return named_ones("variant", given or [""], [variant.name for variant in declared])


def _encoders(options: argparse.Namespace, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The options that tell the parts of a controlled comparison from one another; one empty part without one."""
    from benchmark.pipeline.controlled_comparison import ENCODERS

    given = values.pop("fair", "") if options.fair is None else options.fair or ENCODERS
    encoders = named_ones("fair", [given] if isinstance(given, str) else list(given))
    output = values.get("output", "")
    if len(encoders) == 1 or not output:
        return [{"fair": encoder} for encoder in encoders]
    return [{"fair": encoder, "output": str(Path(output) / f"fair-{encoder}")} for encoder in encoders]


def _backbones(options: argparse.Namespace, values: dict[str, Any], registry: Registry) -> list[dict[str, str]]:
    """The options that tell the runs with several backbones from one another; one empty part without any."""
    from benchmark.pipeline.backbone_choices import backbone_choices

    configured = values.pop("backbone", None)
    given = options.backbone or configured or []
    return backbone_choices(named_ones("backbone", [given] if isinstance(given, str) else given), values, registry)


def _print_controlled_comparisons(made: list[Record], registry: Registry) -> None:
    from benchmark.leaderboards.controlled_comparison import controlled_section, reasons_outside
    from benchmark.records.tables import format_demo_end

    infos, outside = registry.datasets(), reasons_outside(registry)
    is_demo = {data.name: data.is_demo for record in made if (data := record.identity.data) is not None}
    for name in is_demo:
        print(f"\n{controlled_section(infos[name], made, outside)}")
        if is_demo[name]:
            print(format_demo_end(name))


def _names(kind: str, given: Any, known: list[str]) -> list[Any]:
    """What a run is made for each of; a config file may hold one value, or a list."""
    if not given and known:
        raise UserError(f"--{kind} is missing; known: {', '.join(sorted(known))}, or all")
    names = [] if given is None else given if isinstance(given, list) else [given]
    return named_ones(kind, names, known or names)


def _named(chosen: RunOptions) -> str:
    name = f"{chosen.method} ({chosen.variant})" if chosen.variant else chosen.method
    name = f"{name} with {chosen.backbone}" if chosen.backbone else name
    return f"{name}, {chosen.category} alone," if chosen.category else name


def _study(
    studies: dict[tuple[str, ...], AblationStudy], chosen: RunOptions, registry: Registry
) -> AblationStudy:
    """The study that a run belongs to."""
    from benchmark.leaderboards.ablations import AblationStudy

    key = (chosen.dataset, chosen.method, chosen.backbone, chosen.weights)
    if key not in studies:
        ablations = [variant for variant in registry.variants(chosen.method) if variant.ablation]
        protocol = registry.datasets()[chosen.dataset].default_protocol
        studies[key] = AblationStudy(registry.methods()[chosen.method], ablations, protocol)
    return studies[key]


def _one(
    chosen: RunOptions, registry: Registry, job: Job | None, study: AblationStudy | None
) -> list[Record]:
    """Carry out one run and give its record; without a job print its plan."""
    from benchmark.pipeline.planning import make_plan
    from benchmark.progress import say

    if job is not None:
        from benchmark.pipeline.preparation import draw_demo_data

        draw_demo_data(chosen, registry, job)
    plan = make_plan(chosen, registry)
    if study is not None and not study.changes_something(plan):
        say(f"{plan.title}: the same as the method itself with this recipe")
        return []
    if job is None:
        from benchmark.pipeline.dry_run import describe

        print(describe(plan))
        return []
    from benchmark.pipeline.reporting import extra, format_summary, format_timings
    from benchmark.pipeline.run import execute
    from benchmark.records.record import RECORD_NAME
    from benchmark.training.job import Interrupted

    try:
        record = execute(plan, job)
    except Interrupted as stop:
        say(f"{stop}; its state is saved: the same command with --resume goes on from there")
        raise KeyboardInterrupt from None
    if job.process.is_main and not (plan.folder / RECORD_NAME).is_file():
        raise UserError(f"{plan.folder}: the run came to its end, and its record is not there; run it again")
    if study is not None:
        study.add(record, plan.folder)
    say(f"time: {format_timings(record.timings)}")
    with extra("the table"):
        print(format_summary(record, plan.folder))
    with extra("what the paper prints"):
        from benchmark.leaderboards.expected import band_lines, results_of_checkout

        results = results_of_checkout()
        for line in band_lines(record, results) if results is not None else ():
            print(line)
    return [record]
