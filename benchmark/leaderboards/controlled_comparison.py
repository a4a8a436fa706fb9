"""Which records make up a controlled comparison: those that truly share its conditions. Nothing is believed.

A record takes part where it was made by `run --fair`. The conditions of a comparison are those that
most of its methods share; a record with others is left out, and told with what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.pipeline.controlled_comparison import ENCODERS, FAIR
from benchmark.records.record import Record, StageIdentity

Conditions = Mapping[str, str]


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
    """One comparison for each data and state of the encoder."""
    by_encoder: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        data, encoder = record.identity.data, record.identity.encoder
        if is_controlled(record) and data is not None and encoder is not None:
            by_encoder.setdefault((data.label, encoder.state), []).append(record)
    order = sorted(by_encoder, key=lambda key: (key[0], ENCODERS.index(key[1])))
    return [_comparison(key[1], by_encoder[key]) for key in order]


def own_stage(record: Record) -> StageIdentity | None:
    """The stage that the method itself trained, its last one; None where it trained nothing of its own."""
    return record.identity.stages[-1] if trains(record) else None


def trains(record: Record) -> bool:
    return any(result.weights_from != "none trained" for result in record.results)


def _comparison(encoder: str, records: Sequence[Record]) -> ControlledComparison:
    deciding = [record for record in records if record.identity.tuning is not None] or list(records)
    common = _most_common(deciding, {id(record): _conditions(record) for record in deciding})
    fitting = [record for record in deciding if not _differences(_conditions(record), common)]
    of_seed: dict[int | None, Conditions] = {}
    for seed in {record.identity.seed for record in fitting}:
        members = [record for record in fitting if record.identity.seed == seed]
        of_seed[seed] = _most_common(members, {id(record): _follows_from_seed(record) for record in members})
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
    encoder = identity.encoder
    found = {
        "data": identity.data.fingerprint[:12],
        "encoder": f"CLIP {encoder.name}, {'random weights' if encoder.start == 'random' else encoder.weights}",
        "precision of features": encoder.precision,
        "text rule": identity.text_rule,
        "shortened to": str(identity.limit or "nothing"),
        "pictures missing or skipped": str(len(identity.missing_pictures) + len(identity.skipped_pictures)),
    }
    if identity.stages:
        found["selection"] = identity.selection
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
    stage = own_stage(record)
    seen = {"triplets seen": f"{stage.triplets_seen:,}"} if stage else {}
    return {"encoder artefact": _artefact(record)[:12], **seen}


def _artefact(record: Record) -> str:
    """Digest of the encoder that gave the features: of stage 1's output, or of the untouched weights."""
    made = [stage.artefact for stage in record.identity.stages if stage.artefact]
    assert record.identity.encoder is not None
    return made[-1] if made else record.identity.encoder.digest


def _most_common(records: Sequence[Record], found: Mapping[int, Conditions]) -> Conditions:
    """What most methods have; of two the one with the latest record."""
    groups: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(found[id(record)].items()), []).append(record)
    best = max(groups, key=lambda key: (len({r.method for r in groups[key]}), max(r.created for r in groups[key])))
    return dict(best)


def _differences(mine: Conditions, wanted: Conditions) -> list[str]:
    return [f"{name} {mine[name]}, not {wanted[name]}" for name in mine if mine[name] != wanted.get(name, mine[name])]
