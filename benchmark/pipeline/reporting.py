"""From what a run measured to its folder: record, per-query results, table, example picture."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmark.backbone import Backbone
from benchmark.comparison.composition import compose_tasks
from benchmark.comparison.composition_layout import composition_section
from benchmark.data.annotated import checked_files
from benchmark.data.one_category import categories_of
from benchmark.data.wrapped import missing_names
from benchmark.dataset import Dataset, TaskKey
from benchmark.distributed.job import Job
from benchmark.distributed.process import Process
from benchmark.encoders.backbone_table import backbone_label
from benchmark.encoders.preprocessing import CLIP_MEAN, CLIP_STD, colours
from benchmark.errors import format_failure
from benchmark.evaluation.evaluator import TaskResult
from benchmark.evaluation.metrics import (
    ASPECT_METRIC,
    interval,
    mean_over_categories,
    metric_values,
    values_by_aspect,
)
from benchmark.evaluation.per_query import PerQuery
from benchmark.evaluation.query_subset import QuerySubset
from benchmark.files import atomic_write_text
from benchmark.method import Method
from benchmark.pipeline.controlled_comparison import FAIR
from benchmark.pipeline.lr_sweep import Sweep
from benchmark.pipeline.plan import Plan, PlannedStage, readable
from benchmark.progress import say
from benchmark.records.aspects import aspect_section
from benchmark.records.environment import code_version, environment, peak_memory_bytes, utc_now
from benchmark.records.example_picture import ExampleRow, draw_examples
from benchmark.records.identity import (
    DataIdentity,
    EncoderIdentity,
    EncoderState,
    Identity,
    ListedQueries,
    NoiseIdentity,
    OneCategory,
    StageIdentity,
    TrainingData,
)
from benchmark.records.layout import WIDTH
from benchmark.records.measurement import AspectScore, Cost, Probe, Selected
from benchmark.records.record import Record, Result, write_record
from benchmark.records.rows import AVERAGE
from benchmark.records.tables import DEMO, format_demo_end, run_table
from benchmark.training.job import Trained
from benchmark.training.selection import margin_of
from benchmark.weights.checkpoints import WeightsHeader

EXAMPLES = "examples.png"
TABLE = "table.md"
_EXAMPLE_ROWS = 6
_SHOWN = 5

WeightsFrom = Literal["selected", "last", "none trained", "imported", "external"]
Tested = Mapping[WeightsFrom, Sequence[TaskResult]]
"""All tasks of a run under each set of its weights."""


@dataclass(frozen=True)
class StageOutcome:
    """What a stage did, for the record."""

    planned: PlannedStage
    updates: int
    triplets_seen: int
    seed: int
    artefact: str | None
    seconds: float | None = None
    selected: Selected | None = None

    @classmethod
    def of(cls, planned: PlannedStage, trained: Trained, seed: int, artefact: str | None = None) -> StageOutcome:
        picked = Selected(stage=planned.stage.name, epoch=trained.selected_epoch, margin=trained.margin)
        selected = None if trained.best is None else picked
        return cls(planned, trained.updates, trained.triplets_seen, seed, artefact, trained.seconds, selected)

    @classmethod
    def of_header(
        cls, planned: PlannedStage, header: WeightsHeader, artefact: str | None, log: Sequence[Mapping[str, Any]] = ()
    ) -> StageOutcome:
        """Of weights that were trained before; ``log``: their training's, epoch by epoch, where it is there."""
        seconds = sum(entry["seconds"] for entry in log) if log else None
        scores = {int(entry["epoch"]): entry["score"] for entry in log if entry["score"] is not None}
        selected = None
        if scores:
            best = max(scores, key=scores.__getitem__)
            selected = Selected(stage=planned.stage.name, epoch=best, margin=margin_of(scores.values()))
        return cls(planned, header.updates, header.triplets_seen, header.seed, artefact, seconds, selected)

    def identity(self) -> StageIdentity:
        recipe = self.planned.recipe
        return StageIdentity(
            name=self.planned.stage.name,
            recipe=recipe.name if recipe else "",
            recipe_source=recipe.source if recipe else "",
            settings=self.planned.settings.model_dump(mode="json"),
            updates=self.updates,
            triplets_seen=self.triplets_seen,
            seed=self.seed,
            artefact=self.artefact,
        )


def results_of(tested: Tested) -> list[Result]:
    """The record's entries in order, each protocol's mean over categories behind them."""
    results: list[Result] = []
    for weights, tasks in tested.items():
        found, ranked = [_result(task, weights) for task in tasks], [task.ranked() for task in tasks]
        results += [_with_composition(result, [queries]) for result, queries in zip(found, ranked, strict=True)]
        results += averages_of(found, ranked)
    return results


def averages_of(results: Sequence[Result], ranked: Sequence[PerQuery]) -> Iterator[Result]:
    """The mean over categories of each column; ``ranked``: the results' queries. One category alone has none."""
    by_column: dict[TaskKey, list[tuple[Result, PerQuery]]] = {}
    for result, queries in zip(results, ranked, strict=True):
        if result.category:
            by_column.setdefault(replace(result.key, category=AVERAGE), []).append((result, queries))
    for group in by_column.values():
        if len(group) > 1:
            parts, queries_of_parts = zip(*group, strict=True)
            yield _with_composition(_average(parts), queries_of_parts)


def _result(tested: TaskResult, weights_from: WeightsFrom) -> Result:
    task, key = tested.task, tested.task.key
    return Result(
        dataset=key.dataset,
        split=key.split,
        protocol=key.protocol,
        text_mode=key.text_mode,
        category=key.category,
        weights_from=weights_from,
        metrics=tested.metrics,
        intervals=tested.intervals,
        queries=len(task.queries),
        gallery=len(task.gallery),
        ties=tested.ties,
        texts_cut=task.texts_cut,
        notes=task.notes,
        aspects=_aspect_scores(tested),
    )


def _aspect_scores(tested: TaskResult) -> dict[str, AspectScore]:
    queries, rank = tested.task.queries, tested.ranks.rank
    values = metric_values(ASPECT_METRIC, rank, None, tested.ranks.positive_ranks)
    if queries.aspects is None or values is None:
        return {}
    found = values_by_aspect(values, rank, queries.aspects)
    ends = {name: interval(own, queries.group[places]) for name, (own, places) in found.items()}
    return {
        name: AspectScore(queries=len(own), value=100 * float(own.mean()), interval=ends[name])
        for name, (own, _) in found.items()
    }


def _with_composition(result: Result, tasks: Sequence[PerQuery]) -> Result:
    """``tasks``: what the result is of, the task itself or the categories of an average."""
    composition = compose_tasks(result.key, tasks, list(result.metrics))
    # A copy would not be held against its metrics.
    return Result.model_validate({**dict(result), "composition": composition})


def _average(parts: Sequence[Result]) -> Result:
    update: dict[str, Any] = {
        "category": AVERAGE,
        "metrics": mean_over_categories({part.category: part.metrics for part in parts}),
        "intervals": {},
        "aspects": {},
    }
    update |= {name: sum(getattr(part, name) for part in parts) for name in ("queries", "gallery", "ties", "texts_cut")}
    return parts[0].model_copy(update=update)


def _encoder_state(plan: Plan, method: Method) -> EncoderState:
    if plan.has_encoder_stage:
        return "finetuned"
    held = (module for module in method.modules() if isinstance(module, Backbone))
    trains = plan.last.stage.trains and any(p.requires_grad for backbone in held for p in backbone.parameters())
    return "trained" if trains else "untouched"


def build_record(
    plan: Plan,
    method: Method,
    tested: Tested,
    stages: Sequence[StageOutcome],
    start_digest: str,
    timings: Mapping[str, float],
    process: Process,
    unreadable: frozenset[int],
    cost: Cost,
    weights: Mapping[str, str],
    sweep: Sweep | None = None,
    imported: Mapping[str, str] | None = None,
    probed: Probe | None = None,
    fitted: Sequence[str] = (),
) -> Record:
    """The record of a finished run.

    ``method``: as it was evaluated. ``weights``: digests of the weights' files by name; ``sweep`` where its learning
    rate was searched for; ``imported``: the files of weights from elsewhere, name to digest; ``probed``: what a few
    rows said of the method's contract; ``fitted``: what was chosen of a
    method that trains nothing.
    """
    trained = plan.last.stage.trains
    recipe = plan.last.recipe if trained else None
    skipped = 0
    if unreadable:
        triplets = plan.dataset.train_triplets(0, plan.seed_of(plan.last), plan.last.settings.pair_sampling)
        skipped = len(triplets) - len(readable(triplets, unreadable))
    identity = Identity(
        data=data_identity(plan.dataset),
        encoder=EncoderIdentity(
            name=backbone_label(plan.backbone),
            weights=plan.weights,
            digest=start_digest,
            start=plan.initialisation,
            state=_encoder_state(plan, method),
            precision=plan.backbone_settings.precision,
            mean=colours(plan.backbone_settings.mean or CLIP_MEAN),
            std=colours(plan.backbone_settings.std or CLIP_STD),
        )
        if plan.backbone
        else None,
        recipe=FAIR if plan.options.fair else recipe.name if recipe else "",
        recipe_source=recipe.source if recipe else "",
        variant=plan.variant.name if plan.variant else "",
        method_settings=plan.method_settings.model_dump(mode="json"),
        stages=tuple(outcome.identity() for outcome in stages),
        tuning=sweep.tuning if sweep else None,
        batch_size=plan.last.settings.batch_size if trained else None,
        negative_group=plan.last.settings.group if trained else None,
        selection=plan.selection,
        selection_note=plan.selection_note,
        precision=plan.last.settings.precision,
        text_rule=plan.rule.name,
        seed=plan.options.seed,
        limit=plan.options.limit,
        dictionaries=plan.dictionaries or None,
        side_texts=plan.side_texts or None,
        zero_shot=True if plan.is_zero_shot else None,
        training_files=dict(plan.training_files) or None,
        noise=None if plan.noise is None else NoiseIdentity(**vars(plan.noise)),
        category=OneCategory(name=plan.options.category, among=categories_of(plan.dataset))
        if plan.options.category
        else None,
        training_data=TrainingData(**plan.trained_on) if plan.trained_on and not plan.is_zero_shot else None,
        subset=listed_queries(plan.subset),
        plugins=dict(plan.plugins),
        inputs=dict(imported or {}),
        missing_pictures=missing_names(plan.dataset),
        skipped_pictures=tuple(plan.dataset.pictures.names[i] for i in sorted(unreadable)),
        skipped_triplets=skipped,
    )
    remarks = [*plan.remarks, *fitted]
    if probed is not None and probed.rows_depend_on_batch:
        remarks.append("a row's encoding depends on the rows that are encoded with it")
    if imported:
        files = ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in imported.items())
        remarks.append(f"weights imported from {files}, trained elsewhere with a recipe and seed that are not known")
        # The plan's recipe is what this program would train with: of these weights it says nothing.
        training = {"recipe": "", "recipe_source": "", "stages": (), "batch_size": None, "negative_group": None}
        chosen = {"selection": "none", "selection_note": "", "seed": None}
        identity = identity.model_copy(update=training | chosen)
    trained_for = {s.planned.stage.name: round(s.seconds, 2) for s in stages if s.seconds is not None}
    results = [r.model_copy(update={"notes": (*r.notes, *remarks)}) for r in results_of(tested)]
    return Record(
        kind="run",
        method=plan.method.name,
        title=plan.title,
        command=command_line(),
        created=utc_now(),
        results=tuple(results),
        identity=identity,
        code=code_version(),
        environment=environment(str(process.device), process.world_size),
        timings={name: round(seconds, 2) for name, seconds in timings.items()},
        peak_memory_bytes=peak_memory_bytes(),
        cost=cost.model_copy(update={"training_seconds": trained_for}),
        probe=probed,
        selected=tuple(s.selected for s in stages if s.selected is not None),
        trials=sweep.trials if sweep else (),
        not_fixed=() if process.device.type == "cpu" else ("order of sums on the device",),
        weights=dict(weights),
    )


def listed_queries(subset: QuerySubset | None) -> ListedQueries | None:
    return ListedQueries(name=subset.name, sha256=subset.digest, queries=len(subset.ids)) if subset else None


def data_identity(dataset: Dataset) -> DataIdentity:
    return DataIdentity(
        name=dataset.info.name,
        label=dataset.label,
        fingerprint=dataset.fingerprint,
        is_demo=dataset.is_demo,
        is_official=dataset.is_official,
        checked=checked_files(dataset),
    )


def command_line() -> str:
    """How this program was started, as a person would type it."""
    arguments = sys.argv[1:]
    if Path(sys.argv[0]).name in ("__main__.py", "cir-benchmark") or "benchmark" in sys.argv[0]:
        return shlex.join(["python", "-m", "benchmark", *arguments])
    return "benchmark.run(…) from Python"


def write_run(folder: Path, record: Record, tested: Tested, dataset: Dataset, title: str) -> Record:
    """Write the run's folder: the record, whose presence means a whole run, and what may fail after it."""
    scored = {(weights, task.task.key): task for weights, tasks in tested.items() for task in tasks}
    columns = enumerate((result.weights_from, result.key) for result in record.results)
    # A mean over categories has no queries of its own.
    per_query = {i: scored[column].per_query(dataset.pictures.names) for i, column in columns if column in scored}
    written = write_record(folder, record, per_query)
    write_table(folder, written)
    with extra(EXAMPLES):
        _draw_first_task(folder / EXAMPLES, next(iter(tested.values()))[0], dataset, title)
    return written


def write_table(folder: Path, record: Record) -> None:
    """The table of a record that stands."""
    with extra(TABLE):
        sections = (aspect_section(record), composition_section(record))
        parts = filter(None, [run_table(record), *(section.rstrip("\n") for section in sections)])
        atomic_write_text(folder / TABLE, "\n\n".join(parts) + "\n")


@contextmanager
def extra(what: str) -> Iterator[None]:
    """Around what is made of a record that stands: a failure is told in one line and costs no more than itself."""
    try:
        yield
    except Exception as error:
        say(f"{what} is left out, the record stands: {format_failure(error)}")


def write_by_main(job: Job, write: Callable[[], Record]) -> Record:
    """Rank 0 writes a record and what belongs to it; all ranks get the record that was written."""
    values = job.barrier.from_main("writing the results", lambda: write().as_json())
    return Record.model_validate_json(json.dumps(values))


def _draw_first_task(path: Path, first: TaskResult, dataset: Dataset, title: str) -> None:
    """The example picture; none where labels are hidden, or where files from outside are scored
    beside annotations alone."""
    rows = _example_rows(first, dataset) if first.task.labelled else []
    shown = [picture for row in rows for picture in (row.reference, row.target, *(p for p, _ in row.ranked))]
    if not rows or not all(picture.is_file() for picture in shown):
        path.unlink(missing_ok=True)
        return
    demo = f" - {DEMO}" if dataset.is_demo else ""
    draw_examples(path, rows, f"{title} on {dataset.label}, {first.task.key.split}{demo}")


def _example_rows(tested: TaskResult, dataset: Dataset) -> list[ExampleRow]:
    """Some queries spread evenly over the task, as they come: good answers and bad ones."""
    queries, paths = tested.task.queries, dataset.pictures.paths
    gallery, top_pictures = tested.task.gallery, tested.top
    assert top_pictures is not None
    step = max(len(queries) // _EXAMPLE_ROWS, 1)
    rows = []
    for i in range(0, len(queries), step)[:_EXAMPLE_ROWS]:
        positives = set(queries.positives[i].tolist())
        top = [int(g) for g in top_pictures[i, :_SHOWN] if g >= 0]
        rows.append(
            ExampleRow(
                reference=paths[queries.reference_picture[i]],
                text=queries.texts[i],
                ranked=tuple((paths[gallery[g]], g in positives) for g in top),
                target=paths[gallery[min(positives)]],
                target_rank=int(tested.ranks.rank[i]),
            )
        )
    return rows


def format_summary(record: Record, folder: Path) -> str:
    """What ends a run: its tables, as wide as the terminal, where everything lies, and what the numbers are not."""
    width = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
    sections = filter(None, [aspect_section(record, width), composition_section(record, width)])
    lines = ["", run_table(record, width), "", *sections]
    lines += [f"record:   {folder / 'record.json'}"]
    lines += [f"examples: {folder / EXAMPLES}"] if (folder / EXAMPLES).is_file() else []
    data = record.identity.data
    if data is not None and data.is_demo:
        lines.append(format_demo_end(data.name))
    return "\n".join(lines)


def format_timings(timings: Mapping[str, Any]) -> str:
    long = [f"{name} {seconds:.0f} s" for name, seconds in timings.items() if seconds >= 0.5]
    return ", ".join(long) or "less than a second each step"
