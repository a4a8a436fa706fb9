"""The tables of a controlled comparison beside "each paper's recipe": what differs between their rows is the method.

One part for untouched weights and one for a shared stage 1, each with recalls and with costs. Seeds are
grouped as in every table.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.data.partial import SUFFIX
from benchmark.facts import DatasetInfo
from benchmark.leaderboards.controlled_comparison import ControlledComparison, comparisons, trains
from benchmark.pipeline.controlled_comparison import refusal
from benchmark.records.layout import listed, paragraph, pipe_table
from benchmark.records.measurement import Trial, format_gigaflops
from benchmark.records.record import Record, Result
from benchmark.records.rows import Row, rows_of
from benchmark.records.tables import DEMO, DEMO_CAPTION, Table, notes_of

if TYPE_CHECKING:
    from benchmark.registry import Registry

_TITLES = {
    "untouched": "Encoder untouched, its weights frozen",
    "finetuned": "Encoder fine-tuned by one stage 1 that all share, then frozen",
}
_READING = """All methods of a table have the same encoder artefact, text rule, triplets seen, batch, negative group,
schedule, held-out selection and search for the learning rate; layers, loss, optimiser and the rate searched around
are each method's own. These conditions are read from the records; a record that differs in one is left out."""
_COUNTING = (
    "parameters: trainable ones; passes: pictures + texts that an encoder reads; passes and FLOPs are of one picture "
    "of the gallery, and of one query whose reference was not seen before, encoders included; a multiply-add counts as "
    "two, what works element by element is not counted; bytes: of a gallery picture's encoding in float32; "
    "FLOPs/pair: of scoring one picture for one query"
)
_TIMING = "train (at the chosen rate) and tune (at all rates) are seconds without validation, means over seeds, on"
_COST_HEADS = ("method", "parameters", "train, s", "tune, s", "passes", "GFLOPs", "bytes", "FLOPs/pair")
_COST_ROOM = 20


def reasons_outside(registry: Registry) -> dict[str, str]:
    """Why a method is in no controlled comparison, by its title."""
    reasons = {info.title: refusal(info, registry) for info in registry.methods().values()}
    return {title: reason for title, reason in reasons.items() if reason}


def controlled_section(info: DatasetInfo, records: Iterable[Record], outside: Mapping[str, str]) -> str:
    """The section of a dataset's page, markdown; "" without a record for it. ``outside``: `reasons_outside`."""
    mine = [r for r in records if r.identity.data is not None and r.identity.data.name == info.name]
    found = comparisons(mine)
    if not found:
        return ""
    data = found[0].records[0].identity.data
    is_demo = data is not None and data.is_demo
    parts = [f"## Controlled comparison (run --fair){f': {DEMO}' if is_demo else ''}\n", paragraph([_READING])]
    for comparison in found:
        parts.append(f"### {_TITLES[comparison.encoder]}\n")
        parts += _tables(info, comparison, f": {DEMO_CAPTION}" if is_demo else "")
    if outside:
        parts.append("### Not in these tables\n")
        parts.append(listed(f"{title}: {reason}" for title, reason in outside.items()))
    return "\n".join(parts)


def _tables(info: DatasetInfo, comparison: ControlledComparison, remark: str) -> Iterator[str]:
    """Recalls by the dataset's own protocol, then costs, then what has to be known of both."""
    rows = rows_of([(r, result) for r in comparison.records for result in r.results if _is_reported(result, info)])
    rows = [replace(row, label=_trained(row)) for row in rows]
    table = Table(replace(rows[0].result.key, category=""), remark, tuple(rows))
    yield f"{table.heading}\n"
    yield paragraph(table.caption())
    yield table.body()
    yield _cost_table(rows)
    yield listed([*notes_of(rows, leave_out=("encoder", "recipe", "text rule")), *_notes(comparison)])


def _is_reported(result: Result, info: DatasetInfo) -> bool:
    protocol = result.protocol.removesuffix(SUFFIX)
    is_default = (result.split, protocol) == (info.evaluation_split, info.default_protocol)
    return is_default and result.weights_from != "last" and bool(result.metrics)


def _trained(row: Row) -> str:
    if not trains(row.first):
        return "nothing trained"
    rates = dict.fromkeys(f"{trial.learning_rate:.3g}" for trial in _chosen(row))
    return f"trained at rate {', '.join(rates)}"


def _chosen(row: Row) -> list[Trial]:
    return [trial for record in row.records for trial in record.trials if trial.chosen]


def _cost_table(rows: Sequence[Row]) -> str:
    """Three lines a method: training, one picture of the gallery, one query."""
    lines: list[list[str]] = []
    for row in rows:
        name, *rest = _fitted(row.name)
        cost = row.first.cost
        if cost is None:
            lines += [[text] for text in (name, *rest)]
            continue
        tuned = [sum(trial.seconds for trial in record.trials) for record in row.records if record.trials]
        trained = [trial.seconds for trial in _chosen(row)]
        lines.append([name, f"{cost.trainable_parameters:,}", _mean(trained), _mean(tuned)])
        lines += [[text] for text in rest]
        for what, encoding, more in (
            ("  gallery picture", cost.gallery, [f"{cost.stored_bytes:,}"]),
            ("  query", cost.query, ["", f"{cost.pair_flops:,}"]),
        ):
            passes = f"{encoding.picture_passes} + {encoding.text_passes}"
            lines.append([what, "", "", "", passes, format_gigaflops(encoding.flops), *more])
    return pipe_table([_COST_HEADS], lines, ["left", *["right"] * (len(_COST_HEADS) - 1)])


def _fitted(name: str) -> list[str]:
    """A method's name in lines of the room that is left beside the costs."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _COST_ROOM:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}" if values else ""


def _notes(comparison: ControlledComparison) -> Iterator[str]:
    """Its conditions, searches, times, and who is left out, a sentence each."""
    yield "shared by all rows: " + "; ".join(f"{name} {value}" for name, value in comparison.conditions.items())
    yield f"encoder artefact: {_by_seed(comparison.artefacts)}"
    if comparison.triplets:
        yield f"triplets seen in one training, of which a search has one per rate: {_by_seed(comparison.triplets)}"
    yield from _stage_1_time(comparison)
    for record in comparison.records:
        if record.trials:
            yield f"{record.title}, seed {record.identity.seed}: held-out score {_search(record.trials)}"
    yield _COUNTING
    machines = list(dict.fromkeys(_machine(record) for record in comparison.records if trains(record)))
    if machines:
        warning = "" if len(machines) == 1 else " different machines and are not to be compared:"
        yield f"{_TIMING}{warning} {'; '.join(machines)}"
    left_out: dict[tuple[str, str], list[str]] = {}
    for record, reason in comparison.left_out:
        left_out.setdefault((record.title, reason), []).append(str(record.identity.seed))
    for (title, reason), seeds in left_out.items():
        yield f"left out: {title}, seed {', '.join(dict.fromkeys(seeds))}: {reason}"


def _by_seed(values: Mapping[int | None, str]) -> str:
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{value} (seed {seed})" for seed, value in values.items())


def _stage_1_time(comparison: ControlledComparison) -> Iterator[str]:
    """What the shared encoder took, once per seed."""
    seconds: dict[int | None, str] = {}
    for record in comparison.records:
        for stage in record.identity.stages:
            if stage.artefact and record.cost is not None and stage.name in record.cost.training_seconds:
                seconds.setdefault(record.identity.seed, f"{record.cost.training_seconds[stage.name]:.1f} s")
    if seconds:
        yield f"stage 1, trained once for all methods: {_by_seed(seconds)}"


def _search(trials: tuple[Trial, ...]) -> str:
    """Every rate that was tried; where the best lies at the edge, there may be a better one beyond."""
    told = []
    ordered = sorted(trials, key=lambda trial: trial.learning_rate)
    for trial in ordered:
        score = "none, the loss diverged," if trial.score is None else f"{trial.score:.2f}"
        told.append(f"{score} at rate {trial.learning_rate:.3g}{' (chosen)' if trial.chosen else ''}")
    is_edge = ordered[0].chosen or ordered[-1].chosen
    return ", ".join(told) + ("; the best rate lies at the edge of those tried" if is_edge else "")


def _machine(record: Record) -> str:
    machine = record.environment
    processes = f"{machine.world_size} processes, " if machine.world_size > 1 else ""
    return f"{machine.device} ({processes}{machine.threads} threads, torch {machine.torch}, {machine.platform})"
