"""What has to be known to read the table of a fair comparison: its conditions, searches, times, and who is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmark.leaderboards.fair_conditions import Comparison, trains
from benchmark.records.costs import Trial
from benchmark.records.record import Record

_COUNTING = (
    "Passes and FLOPs are of one picture of the gallery, and of one query whose reference was not seen before, "
    "encoders included; a multiply-add counts as two, what works element by element is not counted. "
    "Bytes are those of a gallery picture's encoding in float32"
)
_TIMING = "training (at the chosen rate) and tuning (at all rates) are seconds without validation, means over seeds, on"


def notes_of_comparison(comparison: Comparison) -> Iterator[str]:
    """One sentence each, without a full stop."""
    yield "shared by all rows: " + "; ".join(f"{name} {value}" for name, value in comparison.conditions.items())
    yield f"encoder artefact: {_by_seed(comparison.artefacts)}"
    if comparison.triplets:
        yield f"triplets seen in one training, of which a search has one per rate: {_by_seed(comparison.triplets)}"
    yield from _stage_1_time(comparison)
    for record in comparison.records:
        if record.trials:
            yield f"{record.title}, seed {record.identity.seed}: held-out score {_search(record.trials)}"
    yield _COUNTING
    yield from _machines(comparison)
    yield from _left_out(comparison)


def _by_seed(values: Mapping[int | None, str]) -> str:
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{value} (seed {seed})" for seed, value in values.items())


def _stage_1_time(comparison: Comparison) -> Iterator[str]:
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
    ordered = sorted(trials, key=lambda trial: trial.learning_rate)
    told = ", ".join(_trial(trial) for trial in ordered)
    is_edge = ordered[0].chosen or ordered[-1].chosen
    return told + ("; the best rate lies at the edge of those tried" if is_edge else "")


def _trial(trial: Trial) -> str:
    score = "none, the loss diverged," if trial.score is None else f"{trial.score:.2f}"
    return f"{score} at rate {trial.learning_rate:.3g}{' (chosen)' if trial.chosen else ''}"


def _machines(comparison: Comparison) -> Iterator[str]:
    machines = list(dict.fromkeys(_machine(record) for record in comparison.records if trains(record)))
    if machines:
        warning = "" if len(machines) == 1 else " different machines and are not to be compared:"
        yield f"{_TIMING}{warning} {'; '.join(machines)}"


def _machine(record: Record) -> str:
    machine = record.environment
    processes = f"{machine.world_size} processes, " if machine.world_size > 1 else ""
    return f"{machine.device} ({processes}{machine.threads} threads, torch {machine.torch}, {machine.platform})"


def _left_out(comparison: Comparison) -> Iterator[str]:
    seeds: dict[tuple[str, str], list[str]] = {}
    for record, reason in comparison.left_out:
        seeds.setdefault((record.title, reason), []).append(str(record.identity.seed))
    for (title, reason), of in seeds.items():
        yield f"left out: {title}, seed {', '.join(dict.fromkeys(of))}: {reason}"
