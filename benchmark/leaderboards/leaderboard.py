"""Leaderboards: pages of tables made from records, the same from the same records, always.

Measured pages (`results/leaderboard`) come from the committed records in `results/records`, with
the published numbers of `results/published.csv` beside them; demo pages (`results/demo`) from
`results/demo/records`, with nothing beside them. A page has one table per split, protocol and text
mode: numbers of two tables are not to be compared. Records of other kinds (speeds) have a `FurtherPage`,
which the caller names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmark.dataset import DatasetInfo, TaskKey
from benchmark.errors import UserError, gathered
from benchmark.evaluation.metrics import components
from benchmark.facts import MethodInfo, Variant
from benchmark.files import atomic_write_text
from benchmark.leaderboards.ablations import ablation_page
from benchmark.leaderboards.blocks import page_blocks
from benchmark.leaderboards.book import (
    DEMO_FOLDER,
    NO_BOOK,
    RECORDS_FOLDER,
    Book,
    FurtherPage,
    dataset_of,
    demo_refusals,
    proved,
    record_order,
    refusals,
)
from benchmark.leaderboards.browser_page import FILE_NAME as BROWSER_PAGE
from benchmark.leaderboards.browser_page import browser_page
from benchmark.leaderboards.composition import with_composition
from benchmark.leaderboards.controlled_comparison import controlled_section, is_controlled
from benchmark.leaderboards.expected import FILE_NAME as EXPECTED
from benchmark.leaderboards.expected import Expected, read_expected, with_bands
from benchmark.leaderboards.noise import noise_page
from benchmark.leaderboards.other_protocols import FILE_NAME as OTHER_PROTOCOLS
from benchmark.leaderboards.other_protocols import render_other_protocols
from benchmark.leaderboards.provenance import MADE_FROM_DEMO_RECORDS, excluded_section, how_to_repeat
from benchmark.leaderboards.published import FILE_NAME, PublishedNumber, read_published
from benchmark.leaderboards.published_rows import published_rows, references, reproduction_section
from benchmark.leaderboards.reproductions import FILE_NAME as REPRODUCTIONS
from benchmark.leaderboards.reproductions import Reproduction, read_reproductions
from benchmark.leaderboards.uncertainty import with_uncertainty
from benchmark.records.layout import paragraph
from benchmark.records.record import Record
from benchmark.records.tables import DEMO, SYNTHETIC, Printed, Table, format_tables, tables

Reasons = Mapping[str, str]
_NO_REASONS: Reasons = MappingProxyType({})

Ablations = Mapping[str, tuple[MethodInfo, Sequence[Variant]]]
_NO_ABLATIONS: Ablations = MappingProxyType({})

MEASURED_FOLDER = "leaderboard"

_EMPTY = """There are no measured rows yet: nobody has added a run on the official data.

"""

_READING = """Numbers are comparable within one table only. Measured rows say so (bold: the best, from three seeds on);
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
class Sources:
    """All that pages are made of, read and checked: records of official data and of demo runs, published numbers."""

    measured: Book = NO_BOOK
    demo: Book = NO_BOOK
    published: tuple[PublishedNumber, ...] = ()
    found_again: tuple[Reproduction, ...] = ()
    expected: Expected | None = None


def read_sources(results: Path) -> Sources:
    """Read a book of results; raises UserError with all problems at once."""
    problems: list[str] = []
    measured = demo = NO_BOOK
    published: tuple[PublishedNumber, ...] = ()
    found_again: tuple[Reproduction, ...] = ()
    expected: Expected | None = None
    with gathered(problems):
        measured = proved(results / RECORDS_FOLDER)
    with gathered(problems):
        demo = proved(results / DEMO_FOLDER / RECORDS_FOLDER)
    with gathered(problems):
        published = read_published(results / FILE_NAME)
        found_again = read_reproductions(results / REPRODUCTIONS, published)
        expected = read_expected(results / EXPECTED, published)
    if problems:
        raise UserError.collect(problems)
    return Sources(measured, demo, published, found_again, expected)


def measured_tables(info: DatasetInfo, sources: Sources) -> list[Table]:
    """The tables of a dataset's measured and published results.

    Left out are records that `add` would refuse, and those of a controlled comparison, which have their own section.
    """
    printed = printed_rows(info, sources)
    papers = [_with_averages(r, printed) for r in _accepted(info, sources.measured) if not is_controlled(r)]
    found = [_with_ranks(t, sources.measured) for t in tables(papers, bold=True, published=printed)]
    return [with_bands(t, sources.published, sources.expected) for t in found] if sources.expected else found


def demo_tables(records: Iterable[Record], book: Book) -> list[Table]:
    """The tables of demo runs, but for those of a controlled comparison."""
    return [_with_ranks(table, book) for table in tables(r for r in records if not is_controlled(r))]


def _with_ranks(table: Table, book: Book) -> Table:
    """The table with all that the ranks beside its records add."""
    return with_composition(with_uncertainty(table, book.ranks), book.ranks)


def printed_rows(info: DatasetInfo, sources: Sources) -> dict[TaskKey, Printed]:
    numbers = [n for n in sources.published if n.key.dataset == info.name]
    return published_rows(numbers, [r for r in sources.found_again if r.key.dataset == info.name])


def render(
    info: DatasetInfo, sources: Sources, controlled: str = "", found: Sequence[Table] | None = None
) -> str:
    """The page of measured and published results of one dataset, markdown.

    ``controlled``: the section of the records of a controlled comparison. ``found``: its `measured_tables`, where
    they are made already.
    """
    mine = _accepted(info, sources.measured)
    numbers = [n for n in sources.published if n.key.dataset == info.name]
    reproductions = [r for r in sources.found_again if r.key.dataset == info.name]
    heading = f"# {info.title}: measured and published results" if numbers else f"# {info.title}: measured results"
    found = measured_tables(info, sources) if found is None else found
    parts = [
        f"{heading}\n\nMade by `python -m benchmark leaderboard` from the records in `results/records`"
        f"{' and from `results/published.csv`' if numbers else ''}; not edited by hand.\n",
        "" if mine else _EMPTY,
        _READING if numbers else "",
        page_blocks(info, found, printed_rows(info, sources)) if found else "",
        controlled,
        excluded_section([pair for pair in sources.measured.excluded if dataset_of(pair[0]) == info.name]),
        how_to_repeat(mine) if mine else "",
        _HOW_TO_ADD.format(dataset=info.name),
        reproduction_section(reproductions),
        references(numbers),
    ]
    return _joined(parts)


def render_demo(name: str, title: str, sources: Sources, controlled: str = "", ablations: Collection[str] = ()) -> str:
    """The page of one dataset's runs on demo data, markdown.

    ``ablations``: variants that have a page of their own, as noisy triplets have.
    """
    known = demo_records(name, sources.demo)
    mine = [r for r in known if r.identity.variant not in ablations and r.identity.noise is None]
    found = demo_tables(mine, sources.demo)
    parts = [
        f"# {title}: {DEMO}\n",
        paragraph([MADE_FROM_DEMO_RECORDS]),
        paragraph([
            "This program made the pictures. The tables show that everything works from end to end; they say "
            "nothing about how good a method is on photographs",
        ]),
        format_tables(found, mark="## ") if found else "" if mine else _EMPTY,
        controlled,
        excluded_section([pair for pair in sources.demo.excluded if dataset_of(pair[0]) == name]),
        how_to_repeat(mine) if mine else "",
        f"Demo, {SYNTHETIC}: no number on this page is one of {title}.\n",
    ]
    return _joined(parts)


def _accepted(info: DatasetInfo, book: Book) -> list[Record]:
    mine = (record for record in book.records if dataset_of(record) == info.name and not refusals(record))
    return sorted(mine, key=record_order)


def demo_records(name: str, book: Book) -> list[Record]:
    mine = (record for record in book.records if dataset_of(record) == name and not demo_refusals(record))
    return sorted(mine, key=record_order)


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
    outside: Reasons = _NO_REASONS,
    further: Sequence[FurtherPage] = (),
    ablations: Ablations = _NO_ABLATIONS,
) -> dict[Path, str]:
    """Every page's path and text.

    ``results`` is the book of results; each of ``datasets`` (by name) gets a measured page, and each of
    ``further`` that has records, or stands there already; datasets that have demo records get a demo page.
    ``outside``: why methods are in no controlled comparison (`controlled_comparison.reasons_outside`).
    ``ablations``: by method, which have a demo page of their own. Raises UserError where
    a record or the published numbers cannot be read, all problems at once.
    """
    sources = read_sources(results)
    accepted = [record for record in sources.measured.records if not refusals(record)]
    found: dict[Path, str] = {}
    by_dataset = {name: (info, measured_tables(info, sources)) for name, info in datasets.items()}
    for name, (info, tables_of_one) in by_dataset.items():
        controlled = controlled_section(info, accepted, outside, sources.measured.ranks)
        page = render(info, sources, controlled, tables_of_one)
        found[results / MEASURED_FOLDER / f"{name}.md"] = page
    for extra in further:
        path = results / MEASURED_FOLDER / extra.name
        if path.is_file() or any(record.kind == extra.kind for record in sources.measured.records):
            found[path] = extra.render(sources.measured.records)
    found[results / MEASURED_FOLDER / OTHER_PROTOCOLS] = render_other_protocols(by_dataset)
    every = [table for _, tables_of_one in by_dataset.values() for table in tables_of_one]
    found[results / MEASURED_FOLDER / BROWSER_PAGE] = browser_page(every, "Measured and published results")
    variants = {variant.name for _, declared in ablations.values() for variant in declared}
    for name in sorted({dataset_of(record) for record in sources.demo.records}):
        known = datasets.get(name)
        controlled = controlled_section(known, sources.demo.records, outside, sources.demo.ranks) if known else ""
        page = render_demo(name, known.title if known else name, sources, controlled, variants)
        found[results / DEMO_FOLDER / f"{name}.md"] = page
        if known:
            for file, text in _demo_studies(known, sources.demo, ablations):
                found[results / DEMO_FOLDER / file] = text
    return found


def _demo_studies(known: DatasetInfo, book: Book, ablations: Ablations) -> Iterator[tuple[str, str]]:
    """Pages of noisy triplets and of ablations, each with its file's name, where there are records of them."""
    mine = [record for record in demo_records(known.name, book) if not is_controlled(record)]
    if noise := noise_page(known, mine, book.ranks):
        commands = how_to_repeat(record for record in mine if record.identity.noise is not None)
        end = f"Demo, {SYNTHETIC}: no number on this page is one of {known.title}.\n"
        yield f"{known.name}-noise.md", _joined([noise, commands, end])
    clean = [record for record in mine if record.identity.noise is None]
    for method, (info, declared) in ablations.items():
        if text := ablation_page(info, declared, known, clean, book.ranks):
            yield f"{known.name}-{method}-ablations.md", text


def stale(wanted: Mapping[Path, str]) -> list[Path]:
    """Those of the `pages` that are missing or hold another text."""
    return [p for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]


def write_stale(wanted: Mapping[Path, str]) -> list[Path]:
    """Write those of the `pages` that are stale; gives them."""
    written = stale(wanted)
    for path in written:
        atomic_write_text(path, wanted[path])
    return written
