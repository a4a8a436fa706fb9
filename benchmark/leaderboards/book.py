"""The book of results: the records in it, each with the ranks that prove its numbers, and how one is added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError, first_of, gathered
from benchmark.files import atomic_write_bytes
from benchmark.records.measurement import DOUBTFUL
from benchmark.records.proof import Proof, prove
from benchmark.records.record import RECORD_NAME, Record, read_record, run_key, write_record

RECORDS_FOLDER = "records"
_SHOWN = 10


@dataclass(frozen=True)
class FurtherPage:
    """A measured page of records that hold no retrieval results, of one ``kind``.

    ``name``: its file's; ``render``: the page from all records; ``refusals``: why a record is none for it, in
    words; ``folder``: where a record of this kind is kept below the records.
    """

    kind: str
    name: str
    render: Callable[[Iterable[Record]], str]
    refusals: Callable[[Record], list[str]]
    folder: Callable[[Record], Path]


def collect(paths: Iterable[Path]) -> list[Record]:
    """All records at or below the paths, each file once, sorted by what they are.

    Raises UserError where a path does not exist or a record cannot be read, all problems at once.
    """
    files: set[Path] = set()
    problems: list[str] = []
    for path in paths:
        if not path.exists():
            problems.append(f"{path}: no such file or folder; give a run's folder or one that holds runs")
        files.update(f.resolve() for f in ([path] if path.is_file() else path.rglob(RECORD_NAME)))
    records: list[Record] = []
    for file in sorted(files):
        with gathered(problems):
            records.append(read_record(file))
    if problems:
        raise UserError.collect(problems)
    return sorted(records, key=record_order)


def proved(kept: Path) -> list[Record]:
    """The records of the book; what no ranks of theirs prove is told in their notes.

    Raises UserError where numbers are not those of the ranks beside them, all problems at once.
    """
    records, problems = [], list[str]()
    for file in sorted(kept.rglob(RECORD_NAME)):
        with gathered(problems):
            record = read_record(file)
            # Intervals were held against the ranks when the record was added.
            proof = prove(file.parent, record, with_intervals=False)
            problems += (f"{file}: {fault}" for fault in proof.faults)
            records.append(_with_reservations(record, proof))
    if problems:
        raise UserError.collect(problems)
    return sorted(records, key=record_order)


def _with_reservations(record: Record, proof: Proof) -> Record:
    """The record with a note on what of it was not checked."""
    data = record.identity.data
    notes = ["an older record: not every number of it can be derived from ranks"] if proof.without_ranks else []
    if data is not None and data.is_official and not data.checked:
        notes.append("an older record: nobody held its annotations against the official files")
    results = tuple(r.model_copy(update={"notes": (*r.notes, *notes)}) for r in record.results)
    return record.model_copy(update={"results": results})


def add(run_folder: Path, results: Path, further: Sequence[FurtherPage] = ()) -> tuple[Path, tuple[str, ...]]:
    """Copy a record, with the ranks that prove its numbers, into the book of results.

    Gives its folder there, and which numbers no ranks can prove. Raises UserError where the run is none for a
    leaderboard, where its numbers are not those of its ranks, or where another record of the same identity and seed
    is there already.
    """
    file = run_folder / RECORD_NAME if run_folder.is_dir() else run_folder
    record = read_record(file)
    page = next((page for page in further if page.kind == record.kind), None)
    problems = page.refusals(record) if page else refusals(record)
    if record.kind == "rankings":
        problems += _other_protocols(record, results / RECORDS_FOLDER)
    if problems:
        raise UserError(f"{run_folder}: not for the leaderboard: {'; '.join(problems)}")
    proof = prove(file.parent, record)
    if proof.faults:
        raise UserError.collect(
            [f"{run_folder}: {fault}" for fault in proof.faults[:_SHOWN]]
            + [f"{run_folder}: {len(proof.faults):,} numbers do not fit its ranks; add a record as `run` wrote it"]
        )
    unproved = (*proof.measured_elsewhere, *proof.without_ranks)
    seed = "none" if record.identity.seed is None else record.identity.seed
    run = Path(dataset_of(record)) / record.method / run_key(record)[:12] / f"seed-{seed}"
    folder = results / RECORDS_FOLDER / (page.folder(record) if page else run)
    kept = record.model_copy(update={"files": {}})
    if (folder / RECORD_NAME).exists():
        if read_record(folder).model_copy(update={"files": {}}) == kept:
            return folder, unproved
        raise UserError(
            f"{folder}: holds another record of the same run and seed; remove it first to replace it"
        )
    if proof.without_ranks and not proof.ranks:
        # As it was written: its version says why it has none.
        atomic_write_bytes(folder / RECORD_NAME, file.read_bytes())
    else:
        write_record(folder, kept, {index: ranks.without_lists() for index, ranks in proof.ranks.items()})
    return folder, unproved


def refusals(record: Record) -> list[str]:
    """Why a record is none for a leaderboard of measured results, in words; empty where it is one."""
    identity = record.identity
    if identity.data is None or record.kind == "throughput":
        return ["it holds no retrieval results; give a run's folder"]
    problems = []
    if identity.data.is_demo:
        problems.append(
            f"it was made on demo data ({identity.data.label}); run it with --data-root on the official data"
        )
    elif not identity.data.is_official:
        problems.append(f"'{identity.data.label}' is not the official {identity.data.name} data")
    if different := identity.data.different:
        problems.append(f"{first_of(different)}: not the official {identity.data.name} files; get them again")
    if identity.limit:
        problems.append(f"it was shortened by --limit {identity.limit}; run it without")
    if record.outside is not None:
        problems += [text for text in record.outside.evidence if text.startswith(DOUBTFUL)]
    if not any(result.metrics for result in record.results):
        problems.append("it has no scores, since the labels are hidden; add the server's numbers first")
    return problems


def _other_protocols(record: Record, kept: Path) -> list[str]:
    """The same ranked lists in the book under another protocol, in words: lists are made for one."""
    digests, protocols = set(record.identity.inputs.values()), {result.protocol for result in record.results}
    for file in sorted(kept.rglob(RECORD_NAME)):
        other = read_record(file)
        theirs = {result.protocol for result in other.results}
        if other.kind == "rankings" and digests & set(other.identity.inputs.values()) and theirs != protocols:
            return [f"the same lists stand in {file} as {', '.join(theirs)}, and lists are made for one protocol"]
    return []


def dataset_of(record: Record) -> str:
    return record.identity.data.name if record.identity.data is not None else ""


def record_order(record: Record) -> tuple[str, str, str, int, str]:
    seed = -1 if record.identity.seed is None else record.identity.seed
    return dataset_of(record), record.method, run_key(record), seed, record.created
