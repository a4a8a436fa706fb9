"""Leaderboards: pages of tables made from records, the same from the same records, always.

Measured pages (`results/leaderboard`) come from the committed records in `results/records`, with
the published numbers of `results/published.csv` beside them; demo pages (`results/demo`) from run
folders that are named, with nothing beside them. A page has one table per split, protocol and text
mode: numbers of two tables are not to be compared. Records of other kinds (speeds) have a `FurtherPage`,
which the caller names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmark.dataset import DatasetInfo, TaskKey
from benchmark.errors import UserError, gathered
from benchmark.evaluation.metrics import components
from benchmark.files import atomic_write_text
from benchmark.leaderboards.blocks import page_blocks
from benchmark.leaderboards.book import RECORDS_FOLDER, FurtherPage, collect, dataset_of, proved, record_order, refusals
from benchmark.leaderboards.controlled_comparison import controlled_section, is_controlled
from benchmark.leaderboards.published import FILE_NAME, PublishedNumber, read_published
from benchmark.leaderboards.published_rows import published_rows, references
from benchmark.records.layout import paragraph
from benchmark.records.record import Record, repeatable_command
from benchmark.records.rows import plain
from benchmark.records.tables import DEMO, SYNTHETIC, Printed, format_tables, tables

Reasons = Mapping[str, str]
_NO_REASONS: Reasons = MappingProxyType({})

MEASURED_FOLDER, DEMO_FOLDER = "leaderboard", "demo"

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
    mine = sorted((r for r in records if dataset_of(r) == info.name and not refusals(r)), key=record_order)
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
    mine = sorted((r for r in records if dataset_of(r) == name and _is_demo(r)), key=record_order)
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
        measured = proved(kept) if kept.exists() else []
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
    for name in sorted({dataset_of(record) for record in demo}):
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


def _is_demo(record: Record) -> bool:
    return record.kind != "throughput" and record.identity.data is not None and record.identity.data.is_demo


def _how_to_repeat(records: Sequence[Record]) -> str:
    """The stored command lines, each once, with the version of the code that ran them and what they gave."""
    named: dict[str, dict[str, None]] = {}
    for record in records:
        code = record.code
        commit = f", commit {code.commit[:12]}" if code.commit else ""
        changes = ", with uncommitted changes" if code.dirty else ""
        # Two backticks, so that one inside a command ends nothing.
        command = " ".join(repeatable_command(record).split())
        span = f"`` {command} ``" if "`" in command else f"`{command}`"
        line = f"- {span} (version {code.version}{commit}{changes})"
        named.setdefault(line, {})[plain(record.title)] = None
    return "## How to repeat\n\n" + "".join(f"{line}: {', '.join(titles)}\n" for line, titles in named.items())
