"""Controlled comparisons: which records make one up, and its tables beside "each paper's recipe".

A record takes part where it was made by `run --fair`; nothing else is believed. The conditions of a comparison
are those that most of its methods share; a record with others is left out, and told with what differs. So what
differs between two rows is the method. One part is for untouched weights and one for a shared stage 1, each with
recalls and with costs; where they are of several backbones, each has its own, behind one table of all
(`benchmark.leaderboards.backbone_comparison`). Seeds are grouped as in every table.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from benchmark.data.partial import SUFFIX
from benchmark.facts import DatasetInfo
from benchmark.leaderboards.backbone_comparison import backbone_table
from benchmark.leaderboards.composition import with_composition
from benchmark.leaderboards.uncertainty import NO_RANKS, KeptRanks, with_uncertainty
from benchmark.pipeline.controlled_comparison import ENCODERS, FAIR, refusal
from benchmark.records.identity import StageIdentity
from benchmark.records.layout import listed, paragraph, pipe_table
from benchmark.records.measurement import Trial, format_gigaflops
from benchmark.records.record import Record, Result
from benchmark.records.rows import Row, plain, rows_of
from benchmark.records.tables import DEMO, DEMO_CAPTION, Table, notes_of

if TYPE_CHECKING:
    from benchmark.registry import Registry

Conditions = Mapping[str, str]

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
_ITS_OWN = "its own triplets"
"""What data that is trained on and evaluated is said to be trained on; told only where another comparison is not."""
_TIMING = "train (at the chosen rate) and tune (at all rates) are seconds without validation, means over seeds, on"
_COST_HEADS = ("method", "parameters", "train, s", "tune, s", "passes", "GFLOPs", "bytes", "FLOPs/pair")
_COST_ROOM = 20


@dataclass(frozen=True)
class ControlledComparison:
    """The records on one encoder. ``artefacts``: digest of the encoder by seed; ``triplets``: seen, by seed.

    ``left_out``: records of other conditions, each with what is different.
    """

    encoder: str
    conditions: Conditions
    artefacts: Mapping[int | None, str]
    triplets: Mapping[int | None, str]
    records: tuple[Record, ...]
    left_out: tuple[tuple[Record, str], ...]


def is_controlled(record: Record) -> bool:
    """Whether a record was made for a controlled comparison, whose table is then its place."""
    return record.identity.recipe == FAIR


def comparisons(records: Iterable[Record]) -> list[ControlledComparison]:
    """One comparison for each data, state of the encoder, and backbone with its weights."""
    by_encoder: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        data, encoder = record.identity.data, record.identity.encoder
        if is_controlled(record) and data is not None and encoder is not None and encoder.state in ENCODERS:
            by_encoder.setdefault((data.label, encoder.state, format_backbone(record)), []).append(record)
    order = sorted(by_encoder, key=lambda key: (key[0], ENCODERS.index(key[1]), key[2]))
    return [_comparison(key[1], by_encoder[key]) for key in order]


def format_backbone(record: Record) -> str:
    """Name and weights of a record's encoder."""
    encoder = record.identity.encoder
    assert encoder is not None
    return f"{encoder.name}, {'random weights' if encoder.start == 'random' else encoder.weights}"


def own_stage(record: Record) -> StageIdentity | None:
    """The stage that the method itself trained, its last one; None where it trained nothing of its own."""
    return record.identity.stages[-1] if trains(record) else None


def trains(record: Record) -> bool:
    return any(result.weights_from != "none trained" for result in record.results)


def _comparison(encoder: str, records: Sequence[Record]) -> ControlledComparison:
    deciding = [record for record in records if record.identity.tuning is not None] or list(records)
    common = _most_common(deciding, _conditions)
    fitting = [record for record in deciding if not _differences(_conditions(record), common)]
    of_seed: dict[int | None, Conditions] = {}
    for seed in {record.identity.seed for record in fitting}:
        members = [record for record in fitting if record.identity.seed == seed]
        of_seed[seed] = _most_common(members, _follows_from_seed)
    kept, left_out = [], []
    for record in records:
        mine = {**_conditions(record), **_follows_from_seed(record)}
        different = _differences(mine, {**common, **of_seed.get(record.identity.seed, {})})
        if different:
            left_out.append((record, ", ".join(different)))
        else:
            kept.append(record)
    seeds = sorted(of_seed, key=lambda seed: -1 if seed is None else seed)
    return ControlledComparison(
        encoder=encoder,
        conditions=common,
        artefacts={seed: of_seed[seed]["encoder artefact"] for seed in seeds},
        triplets={seed: of_seed[seed]["triplets seen"] for seed in seeds if "triplets seen" in of_seed[seed]},
        records=tuple(kept),
        left_out=tuple(left_out),
    )


def _conditions(record: Record) -> Conditions:
    """What must be the same for every seed. A method that trains nothing has only a part of it."""
    identity = record.identity
    assert identity.data is not None and identity.encoder is not None
    found = {
        "data": identity.data.fingerprint[:12],
        "encoder": format_backbone(record),
        "precision of features": identity.encoder.precision,
        "text rule": identity.text_rule,
        "shortened to": str(identity.limit or "nothing"),
        "noise": identity.noise.words if identity.noise else "none",
        "pictures missing or skipped": str(len(identity.missing_pictures) + len(identity.skipped_pictures)),
    }
    if identity.stages:
        found["selection"] = identity.selection
        elsewhere = identity.training_data
        found["trained on"] = f"{elsewhere.label} {elsewhere.fingerprint[:12]}" if elsewhere else _ITS_OWN
    if trains(record):
        found |= _effort(record)
    return found


def _effort(record: Record) -> Conditions:
    stage, identity, tuning = own_stage(record), record.identity, record.identity.tuning
    settings = stage.settings if stage else {}
    factors = ", ".join(f"{factor:.3g}" for factor in tuning.factors) if tuning else ""
    return {
        "epochs": str(settings.get("epochs")),
        "sampling of pairs": str(settings.get("pair_sampling") or "the dataset's"),
        "batch": str(identity.batch_size),
        "negative group": str(identity.negative_group),
        "schedule": str(settings.get("schedule")),
        "epochs between validations": str(settings.get("validate_every")),
        "precision": identity.precision,
        "tuning": f"learning rate × {factors}, by {tuning.criterion}" if tuning else "none",
    }


def _follows_from_seed(record: Record) -> Conditions:
    """The encoder that gave the features (stage 1's output, or the untouched weights), and what training saw."""
    assert record.identity.encoder is not None
    made = [stage.artefact for stage in record.identity.stages if stage.artefact]
    artefact = made[-1] if made else record.identity.encoder.digest
    stage = own_stage(record)
    return {"encoder artefact": artefact[:12], **({"triplets seen": f"{stage.triplets_seen:,}"} if stage else {})}


def _most_common(records: Sequence[Record], of: Callable[[Record], Conditions]) -> Conditions:
    """What most methods have; of two the one with the latest record."""
    groups: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(of(record).items()), []).append(record)
    best = max(groups, key=lambda key: (len({r.method for r in groups[key]}), max(r.created for r in groups[key])))
    return dict(best)


def _differences(mine: Conditions, wanted: Conditions) -> list[str]:
    return [f"{name} {mine[name]}, not {wanted[name]}" for name in mine if mine[name] != wanted.get(name, mine[name])]


def reasons_outside(registry: Registry) -> dict[str, str]:
    """Why a method is in no controlled comparison, by its title."""
    reasons = {info.title: refusal(info, registry) for info in registry.methods().values()}
    return {title: reason for title, reason in reasons.items() if reason}


def controlled_section(
    info: DatasetInfo, records: Iterable[Record], outside: Mapping[str, str], kept: KeptRanks = NO_RANKS
) -> str:
    """The section of a dataset's page, markdown; "" without a record for it.

    ``outside``: `reasons_outside`; ``kept``: ranks, where there are some.
    """
    mine = [r for r in records if r.identity.data is not None and r.identity.data.name == info.name]
    found = comparisons(mine)
    if not found:
        return ""
    data = found[0].records[0].identity.data
    is_demo = data is not None and data.is_demo
    parts = [f"## Controlled comparison (run --fair){f': {DEMO}' if is_demo else ''}\n", paragraph([_READING])]
    remark = f": {DEMO_CAPTION}" if is_demo else ""
    for encoder, group in groupby(found, key=lambda comparison: comparison.encoder):
        members = list(group)
        parts.append(f"### {_TITLES[encoder]}\n")
        rows = [reported_rows(info, comparison) for comparison in members]
        if len(members) > 1:
            parts += backbone_table([c.conditions for c in members], rows, remark, kept)
        for comparison, of_one in zip(members, rows, strict=True):
            parts += [f"#### {plain(comparison.conditions['encoder'])}\n"] if len(members) > 1 else []
            parts += _tables(of_one, comparison, remark, kept)
    if outside:
        parts.append("### Not in these tables\n")
        parts.append(listed(f"{title}: {reason}" for title, reason in outside.items()))
    return "\n".join(parts)


def reported_rows(info: DatasetInfo, comparison: ControlledComparison) -> list[Row]:
    """A row for each method, by the dataset's own protocol."""
    rows = rows_of([(r, result) for r in comparison.records for result in r.results if _is_reported(result, info)])
    return [replace(row, label=_training(row)) for row in rows]


def _tables(rows: list[Row], comparison: ControlledComparison, remark: str, kept: KeptRanks) -> Iterator[str]:
    """Recalls, then costs, then what has to be known of both."""
    table = with_uncertainty(Table(replace(rows[0].result.key, category=""), remark, tuple(rows)), kept)
    table = with_composition(table, kept)
    yield f"{table.heading}\n"
    yield paragraph(table.caption())
    yield table.body()
    if composition := table.composition():
        yield composition
    yield _cost_table(rows)
    yield listed([*notes_of(rows, leave_out=("encoder", "recipe", "text rule")), *_notes(comparison)])


def _is_reported(result: Result, info: DatasetInfo) -> bool:
    protocol = result.protocol.removesuffix(SUFFIX)
    is_default = (result.split, protocol) == (info.evaluation_split, info.default_protocol)
    return is_default and result.weights_from != "last" and bool(result.metrics)


def _training(row: Row) -> str:
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
        name, *rest = textwrap.wrap(row.name, _COST_ROOM, break_long_words=False, break_on_hyphens=False)
        further = [[f"  {text}"] for text in rest]
        cost = row.first.cost
        if cost is None:
            lines += [[name], *further]
            continue
        tuned = [sum(trial.seconds for trial in record.trials) for record in row.records if record.trials]
        trained = [trial.seconds for trial in _chosen(row)]
        lines.append([name, f"{cost.trainable_parameters:,}", _mean(trained), _mean(tuned)])
        lines += further
        for what, encoding, more in (
            ("  gallery picture", cost.gallery, [f"{cost.stored_bytes:,}"]),
            ("  query", cost.query, ["", f"{cost.pair_flops:,}"]),
        ):
            passes = f"{encoding.picture_passes} + {encoding.text_passes}"
            lines.append([what, "", "", "", passes, format_gigaflops(encoding.flops), *more])
    return pipe_table([_COST_HEADS], lines, ["left", *["right"] * (len(_COST_HEADS) - 1)])


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}" if values else ""


def _notes(comparison: ControlledComparison) -> Iterator[str]:
    """Its conditions, searches, times, and who is left out, a sentence each."""
    told = {name: plain(value) for name, value in comparison.conditions.items() if value != _ITS_OWN}
    yield "shared by all rows: " + "; ".join(f"{name} {value}" for name, value in told.items())
    yield f"encoder artefact: {_by_seed(comparison.artefacts)}"
    if comparison.triplets:
        yield f"triplets seen in one training, of which a search has one per rate: {_by_seed(comparison.triplets)}"
    yield from _stage_1_time(comparison)
    for record in comparison.records:
        if record.trials:
            yield f"{plain(record.title)}, seed {record.identity.seed}: held-out score {_search(record.trials)}"
    yield _COUNTING
    machines = list(dict.fromkeys(_machine(record) for record in comparison.records if trains(record)))
    if machines:
        warning = "" if len(machines) == 1 else " different machines and are not to be compared:"
        yield f"{_TIMING}{warning} {'; '.join(machines)}"
    left_out: dict[tuple[str, str], list[str]] = {}
    for record, reason in comparison.left_out:
        left_out.setdefault((plain(record.title), plain(reason)), []).append(str(record.identity.seed))
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
