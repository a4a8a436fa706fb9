"""Leaderboards: pages of tables made from records, the same from the same records, always.

Measured pages (`results/leaderboard`) come from the committed records in `results/records`, with
the published numbers of `results/published.csv` beside them; demo pages (`results/demo`) from run
folders that are named, with nothing beside them. A page has one table per split, protocol and text
mode: numbers of two tables are not to be compared. Records of other kinds (speeds) have a `FurtherPage`,
which the caller names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmark.dataset import DatasetInfo, TaskKey
from benchmark.errors import UserError, gathered
from benchmark.evaluation.metrics import components
from benchmark.files import atomic_write_text
from benchmark.leaderboards.blocks import page_blocks
from benchmark.leaderboards.controlled_comparison import controlled_section, is_controlled
from benchmark.leaderboards.published import FILE_NAME, PublishedNumber, read_published
from benchmark.leaderboards.published_rows import published_rows, references
from benchmark.records.layout import paragraph
from benchmark.records.record import (
    RECORD_NAME,
    Record,
    read_record,
    repeatable_command,
    run_key,
    write_record,
)
from benchmark.records.tables import DEMO, SYNTHETIC, Printed, format_tables, tables

Reasons = Mapping[str, str]
_NO_REASONS: Reasons = MappingProxyType({})

MEASURED_FOLDER, DEMO_FOLDER, RECORDS_FOLDER = "leaderboard", "demo", "records"

_EMPTY = """There are no measured rows yet: nobody has added a run on the official data.

"""

_READING = """Numbers are comparable within one table only. Measured rows say so (bold: the best of them);
published ones name their encoder, year, and the kind and number of their sources. Sources and papers
stand at the foot of the page.

"""

_HOW_TO_ADD = """## How to add a row

Run a method on the official data, add its record, and write the pages anew:

    python -m benchmark run --method METHOD --dataset {dataset} --data-root DATA
    python -m benchmark leaderboard --add RUN

RUN is the folder that the first command names at its end. Runs on demo data, on data that is not
the official one, and runs shortened by `--limit` are refused.
"""


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
    return sorted(records, key=_record_order)


def render(
    info: DatasetInfo,
    records: Iterable[Record],
    published: Sequence[PublishedNumber] = (),
    controlled: str = "",
) -> str:
    """The page of measured and published results of one dataset, markdown.

    Of ``records`` and ``published``, those of other datasets are left out, and records that `add`
    would refuse. Records of a controlled comparison stand in their own section alone, ``controlled``.
    """
    mine = sorted((r for r in records if _dataset(r) == info.name and not refusals(r)), key=_record_order)
    numbers = [n for n in published if n.key.dataset == info.name]
    printed = published_rows(numbers)
    heading = f"# {info.title}: measured and published results" if numbers else f"# {info.title}: measured results"
    papers = [_with_averages(r, printed) for r in mine if not is_controlled(r)]
    found = tables(papers, bold=True, published=printed)
    parts = [
        f"{heading}\n\nMade by `python -m benchmark leaderboard` from the records in `results/records`"
        f"{' and from `results/published.csv`' if numbers else ''}; not edited by hand.\n",
        "" if mine else _EMPTY,
        _READING if numbers else "",
        page_blocks(info, found, printed) if found else "",
        controlled,
        _how_to_repeat(mine) if mine else "",
        _HOW_TO_ADD.format(dataset=info.name),
        references(numbers),
    ]
    return _joined(parts)


def render_demo(name: str, title: str, records: Iterable[Record], controlled: str = "") -> str:
    """The page of one dataset's runs on demo data, markdown; other records are left out.

    ``controlled``: the section of the records of a controlled comparison.
    """
    mine = sorted((r for r in records if _dataset(r) == name and _is_demo(r)), key=_record_order)
    papers = [record for record in mine if not is_controlled(record)]
    parts = [
        f"# {title}: {DEMO}\n\nMade by `python -m benchmark leaderboard` from demo runs; not edited by hand.\n",
        paragraph([
            "This program made the pictures. The tables show that everything works from end to end; they say "
            "nothing about how good a method is on photographs",
        ]),
        format_tables(tables(papers), mark="## ") if papers else "" if mine else _EMPTY,
        controlled,
        _how_to_repeat(mine) if mine else "",
        f"Demo, {SYNTHETIC}: no number on this page is one of {title}.\n",
    ]
    return _joined(parts)


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _with_averages(record: Record, published: Mapping[TaskKey, Printed]) -> Record:
    """The record with the averages that papers print for the same category, where it lacks them."""
    printed = dict.fromkeys(place for rows, _ in published.values() for row in rows for place in row.cells)
    results = []
    for result in record.results:
        metrics = dict(result.metrics)
        for category, name in printed:
            parts = components(name)
            if category == result.category and parts and name not in metrics and metrics.keys() >= set(parts):
                metrics[name] = sum(metrics[part] for part in parts) / len(parts)
        results.append(result.model_copy(update={"metrics": metrics}))
    return record.model_copy(update={"results": tuple(results)})


def pages(
    results: Path,
    datasets: Mapping[str, DatasetInfo],
    runs: Sequence[Path] = (),
    outside: Reasons = _NO_REASONS,
    further: Sequence[FurtherPage] = (),
) -> dict[Path, str]:
    """Every page's path and text.

    ``results`` is the book of results; each of ``datasets`` (by name) gets a measured page, and each of
    ``further`` that has records, or stands there already. ``runs``: folders of demo runs; datasets that have some
    get a demo page. ``outside``: why methods are in no controlled comparison
    (`controlled_comparison.reasons_outside`). Raises UserError where
    a record or the published numbers cannot be read, all problems at once.
    """
    kept = results / RECORDS_FOLDER
    problems: list[str] = []
    measured: list[Record] = []
    demo: list[Record] = []
    published: tuple[PublishedNumber, ...] = ()
    with gathered(problems):
        measured = collect([kept] if kept.exists() else [])
    with gathered(problems):
        demo = [record for record in collect(runs) if _is_demo(record)]
    with gathered(problems):
        published = read_published(results / FILE_NAME)
    if problems:
        raise UserError.collect(problems)
    accepted = [record for record in measured if not refusals(record)]
    found = {
        results / MEASURED_FOLDER / f"{name}.md": render(
            info, measured, published, controlled_section(info, accepted, outside)
        )
        for name, info in datasets.items()
    }
    for page in further:
        path = results / MEASURED_FOLDER / page.name
        if path.is_file() or any(record.kind == page.kind for record in measured):
            found[path] = page.render(measured)
    for name in sorted({_dataset(record) for record in demo}):
        title = datasets[name].title if name in datasets else name
        controlled = controlled_section(datasets[name], demo, outside) if name in datasets else ""
        found[results / DEMO_FOLDER / f"{name}.md"] = render_demo(name, title, demo, controlled)
    return found


def stale(wanted: Mapping[Path, str]) -> list[Path]:
    """Those of the `pages` that are missing or hold another text."""
    return [p for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]


def write_stale(wanted: Mapping[Path, str]) -> list[Path]:
    """Write those of the `pages` that are stale; gives them."""
    written = stale(wanted)
    for path in written:
        atomic_write_text(path, wanted[path])
    return written


def add(run_folder: Path, results: Path, further: Sequence[FurtherPage] = ()) -> Path:
    """Copy a record, without pictures and per-query files, into the book of results.

    Raises UserError where the run is none for a leaderboard, or where another record of the same
    identity and seed is there already.
    """
    record = read_record(run_folder)
    page = next((page for page in further if page.kind == record.kind), None)
    problems = page.refusals(record) if page else refusals(record)
    if problems:
        raise UserError(f"{run_folder}: not for the leaderboard: {'; '.join(problems)}")
    seed = "none" if record.identity.seed is None else record.identity.seed
    run = Path(_dataset(record)) / record.method / run_key(record)[:12] / f"seed-{seed}"
    folder = results / RECORDS_FOLDER / (page.folder(record) if page else run)
    kept = record.model_copy(update={"files": {}})
    if (folder / RECORD_NAME).exists():
        if read_record(folder) == kept:
            return folder
        raise UserError(
            f"{folder}: holds another record of the same run and seed; remove it first to replace it"
        )
    write_record(folder, kept)
    return folder


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
    if identity.limit:
        problems.append(f"it was shortened by --limit {identity.limit}; run it without")
    if not any(result.metrics for result in record.results):
        problems.append("it has no scores, since the labels are hidden; add the server's numbers first")
    return problems


def _dataset(record: Record) -> str:
    return record.identity.data.name if record.identity.data is not None else ""


def _is_demo(record: Record) -> bool:
    return record.kind != "throughput" and record.identity.data is not None and record.identity.data.is_demo


def _record_order(record: Record) -> tuple[str, str, str, int, str]:
    seed = -1 if record.identity.seed is None else record.identity.seed
    return _dataset(record), record.method, run_key(record), seed, record.created


def _how_to_repeat(records: Sequence[Record]) -> str:
    """The stored command lines, each once, with the version of the code that ran them and what they gave."""
    named: dict[str, dict[str, None]] = {}
    for record in records:
        code = record.code
        commit = f", commit {code.commit[:12]}" if code.commit else ""
        changes = ", with uncommitted changes" if code.dirty else ""
        line = f"- `{repeatable_command(record)}` (version {code.version}{commit}{changes})"
        named.setdefault(line, {})[record.title] = None
    return "## How to repeat\n\n" + "".join(f"{line}: {', '.join(titles)}\n" for line, titles in named.items())
