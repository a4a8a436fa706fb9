"""The book of results: the records in it, each with the ranks that prove its numbers, and how one is added.

Records of official data lie in `records`, those of demo runs in `demo/records`. Beside each stand the digests of its
files as they were added. A record that `excluded.toml` names, with a reason, enters no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError, first_of, gathered
from benchmark.evaluation.per_query import PerQuery
from benchmark.files import atomic_write_json, file_digest
from benchmark.leaderboards.composition import composition_faults
from benchmark.records.identity import EACH
from benchmark.records.measurement import DOUBTFUL
from benchmark.records.proof import Proof, prove
from benchmark.records.record import RECORD_NAME, Record, read_record, run_key, write_record
from benchmark.records.shared import shareable, shareable_json
from benchmark.structured_files import read_json, read_toml, typed

RECORDS_FOLDER, DEMO_FOLDER = "records", "demo"
EXCLUDED, DIGESTS = "excluded.toml", "digests.json"
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


@dataclass(frozen=True)
class Exclusion:
    """``record``: its folder below the records, such as "cirr/spirit/0123456789ab/seed-0"."""

    record: str
    reason: str


@dataclass(frozen=True)
class Book:
    """``ranks``: by the digest of their file, then by the index of the record's result. ``excluded``: records that
    enter no table, each with the reason."""

    records: tuple[Record, ...]
    ranks: Mapping[str, Mapping[int, PerQuery]]
    excluded: tuple[tuple[Record, str], ...] = ()


NO_BOOK = Book((), {})


def proved(kept: Path) -> Book:
    """The records below a folder; what no ranks of theirs prove is told in their notes.

    Raises UserError where numbers are not those of the ranks beside them, all problems at once.
    """
    records, ranks, excluded, problems = [], {}, [], list[str]()
    reasons: dict[str, str] = {}
    with gathered(problems):
        reasons = _reasons(kept)
    for file in sorted(kept.rglob(RECORD_NAME)):
        with gathered(problems):
            problems += _digest_faults(file.parent)
            record = read_record(file)
            # Intervals were held against the ranks when the record was added.
            proof = prove(file.parent, record, with_intervals=False)
            problems += (f"{file}: {fault}" for fault in (*proof.faults, *composition_faults(record, proof.ranks)))
            if shareable(record) != record:
                problems.append(f"{file}: holds an absolute path; add the run with `leaderboard --add`")
            reason = reasons.get(file.parent.relative_to(kept).as_posix())
            if reason is not None:
                excluded.append((record, reason))
                continue
            records.append(_with_reservations(record, proof))
            if "per_query" in record.files:
                ranks[record.files["per_query"].sha256] = proof.ranks
    if problems:
        raise UserError.collect(problems)
    return Book(tuple(sorted(records, key=record_order)), ranks, tuple(excluded))


def _reasons(kept: Path) -> dict[str, str]:
    """Why records enter no table, by their folder; raises UserError for one that is not there, or without a reason."""
    file = kept.parent / EXCLUDED
    if not file.is_file():
        return {}
    remedy = "write [[excluded]] with record and reason"
    tables = read_toml(file, remedy=remedy)
    if tables.keys() - {"excluded"}:
        raise UserError(f"{file}: entry '{min(tables.keys() - {'excluded'})}' is not known here; {remedy}")
    found = typed(list[Exclusion], tables.get("excluded", []), str(file), remedy)
    for entry in found:
        if not entry.reason.strip():
            raise UserError(f"{file}: '{entry.record}' has no reason; say why it enters no table")
        if not (kept / entry.record / RECORD_NAME).is_file():
            raise UserError(f"{file}: '{entry.record}' names no record in {kept}; correct it, or take it out")
    return {entry.record: entry.reason for entry in found}


def _digest_faults(folder: Path) -> list[str]:
    """Files of a record's folder that are not as they were added; none where the digests were not kept."""
    if not (folder / DIGESTS).is_file():
        return []
    wanted = typed(dict[str, str], read_json(folder / DIGESTS), str(folder / DIGESTS), "add the run again")
    return [
        f"{folder / name}: not as it was added; take back the change, or add the run again"
        for name in sorted(wanted)
        if not (folder / name).is_file() or file_digest(folder / name) != wanted[name]
    ]


def _with_reservations(record: Record, proof: Proof) -> Record:
    """The record with a note on what of it was not checked."""
    data = record.identity.data
    notes = ["an older record: not every number of it can be derived from ranks"] if proof.without_ranks else []
    if data is not None and data.is_official and not data.checked:
        notes.append("an older record: nobody held its annotations against the official files")
    results = tuple(r.model_copy(update={"notes": (*r.notes, *notes)}) for r in record.results)
    return record.model_copy(update={"results": results})


def add(
    run_folder: Path, results: Path, further: Sequence[FurtherPage] = (), demo: bool = False
) -> tuple[Path, tuple[str, ...]]:
    """Copy a record, with the ranks that prove its numbers, into the book of results.

    Gives its folder there, and which numbers no ranks can prove. ``demo``: a run on demo data goes to the demo's
    records, and replaces an earlier one. Raises UserError where the run is none for a leaderboard, where its numbers
    are not those of its ranks, or where another record of the same identity and seed is there already.
    """
    file = run_folder / RECORD_NAME if run_folder.is_dir() else run_folder
    record = read_record(file)
    page = next((page for page in further if page.kind == record.kind), None)
    problems = demo_refusals(record) if demo else page.refusals(record) if page else refusals(record)
    if record.kind == "rankings":
        problems += _other_protocols(record, results / RECORDS_FOLDER)
    if problems:
        raise UserError(f"{run_folder}: not for the leaderboard: {'; '.join(problems)}")
    proof = prove(file.parent, record)
    faults = [*proof.faults, *composition_faults(record, proof.ranks)]
    if faults:
        raise UserError.collect(
            [f"{run_folder}: {fault}" for fault in faults[:_SHOWN]]
            + [f"{run_folder}: {len(faults):,} numbers do not fit its ranks; add a record as `run` wrote it"]
        )
    unproved = (*proof.measured_elsewhere, *proof.without_ranks)
    record = shareable(record)
    seed = "none" if record.identity.seed is None else record.identity.seed
    run = Path(dataset_of(record)) / record.method / run_key(record)[:12] / f"seed-{seed}"
    book = results / DEMO_FOLDER if demo else results
    folder = book / RECORDS_FOLDER / (page.folder(record) if page else run)
    kept = record.model_copy(update={"files": {}})
    if (folder / RECORD_NAME).exists() and not demo:
        if read_record(folder).model_copy(update={"files": {}}) == kept:
            return folder, unproved
        raise UserError(
            f"{folder}: holds another record of the same run and seed; remove it first to replace it"
        )
    if proof.without_ranks and not proof.ranks:
        # In the version that it was written in, which says why it has none.
        atomic_write_json(folder / RECORD_NAME, shareable_json(read_json(file)))
    else:
        write_record(folder, kept, {index: ranks.without_lists() for index, ranks in proof.ranks.items()})
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != DIGESTS]
    atomic_write_json(folder / DIGESTS, {path.name: file_digest(path) for path in files})
    return folder, unproved


def demo_refusals(record: Record) -> list[str]:
    """Why a record is none for the demo's pages, in words."""
    if record.kind == "throughput" or record.identity.data is None or not record.identity.data.is_demo:
        return ["it was not made on demo data; add it with --add"]
    limit = record.identity.limit
    return [f"it was shortened by --limit {limit}; run it without"] if limit else _of_one_category(record)


def _of_one_category(record: Record) -> list[str]:
    category = record.identity.category
    if category is None or category.name == EACH:
        return []
    return [f"it is of {category.name} alone; `join` it with runs on the other categories, and add what that makes"]


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
    problems += _of_one_category(record)
    if identity.subset is not None:
        problems.append(f"it was restricted by --subset to {identity.subset.queries:,} queries; run it on all")
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
