"""Tables in the formats that `leaderboard --format` prints: for reading, for a paper, for a program, for a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from benchmark.leaderboards.browser_page import browser_page
from benchmark.leaderboards.entries import entries_of, further_lines
from benchmark.records import tables as markdown
from benchmark.records.escaping import csv_text, latex_escaped, latex_numbers, literal
from benchmark.records.layout import best_measured, places_of, short_name
from benchmark.records.rows import BINOMIAL, PAIRED, Cell, Place, Row, has_enough_seeds
from benchmark.records.tables import Table

_TIES = {PAIRED: r"$^{\approx}$", BINOMIAL: r"$^{\mathrm b}$"}


def format_tables(tables: Sequence[Table], form: str) -> str:
    """``form``: a name of :data:`FORMATS`."""
    return FORMATS[form](tables)


def _markdown(tables: Sequence[Table]) -> str:
    return markdown.format_tables(tables, mark="## ") if tables else ""


def _csv(tables: Sequence[Table]) -> str:
    return csv_text([entry for table in tables for entry in entries_of(table)], "dataset")


def _json(tables: Sequence[Table]) -> str:
    shown = [
        {
            "dataset": table.key.dataset, "split": table.key.split, "protocol": table.key.protocol,
            "text_mode": table.key.text_mode, "remark": literal(table.remark), "caption": table.caption(),
            "notes": [literal(note) for note in table.all_notes()], "numbers": list(entries_of(table)),
        }
        for table in tables
    ]  # fmt: skip
    return json.dumps(shown, indent=1, ensure_ascii=False) + "\n"


def _latex(tables: Sequence[Table]) -> str:
    """A table environment each, for `\\usepackage{booktabs}`, `\\usepackage[normalem]{ulem}` and amssymb."""
    parts = []
    for table in tables:
        parts.append(_latex_table(table, table.caption(), table.all_notes()))
        if composed := table.composed:
            of_composition = replace(table, rows=composed, bold=False)
            parts.append(_latex_table(of_composition, [table.composition_reading], label="composition-"))
    return "\n".join(parts)


def _latex_table(table: Table, told: Sequence[str], notes: Sequence[str] = (), label: str = "") -> str:
    """``told`` stands in its caption and ``notes`` below it, a sentence each; its label begins with ``label``."""
    places = places_of(table.rows)
    best = best_measured(table.rows, places) if table.bold else {}
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(places)}}}", r"\toprule"]
    lines += _latex_heads(places)
    for row in table.rows:
        shown = row.cells
        cells = [_latex_cell(row, shown[place], shown[place].value == best.get(place)) if place in shown else ""
                 for place in places]  # fmt: skip
        name = f"{row.name}, {row.label}" if row.label else row.name
        lines.append(" & ".join([latex_escaped(name), *cells]) + r" \\")
        for mark, texts in further_lines(row):
            below = [rf"{{\scriptsize {latex_numbers(texts[place])}}}" if place in texts else "" for place in places]
            lines.append(" & ".join([rf"\quad{{\scriptsize {latex_escaped(mark)}}}", *below]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_latex_sentences([table.heading, *told])}}}"]
    key = re.sub(r"[^a-z0-9]+", "-", f"{label}{table.key}".lower()).strip("-")
    lines += [rf"\label{{tab:{key}}}"]
    if notes:
        # Not in the caption: LaTeX sets that as one line first, which may be no longer than five metres.
        lines += [rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {_latex_sentences(notes)}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_sentences(told: Sequence[str]) -> str:
    return latex_escaped(" ".join(_unstruck(sentence.rstrip(".") + ".") for sentence in told))


def _latex_heads(places: Sequence[Place]) -> Iterator[str]:
    groups = [(category, len(list(members))) for category, members in groupby(places, key=lambda place: place[0])]
    if any(category for category, _ in groups):
        yield " & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{latex_escaped(c)}}}" for c, n in groups)]) + r" \\"
        first = 2
        rules = []
        for _, count in groups:
            rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
            first += count
        yield " ".join(rules)
    yield " & ".join(["Method", *(latex_escaped(short_name(metric)) for _, metric in places)]) + r" \\"
    yield r"\midrule"


def _latex_cell(row: Row, cell: Cell, is_best: bool) -> str:
    text = latex_numbers(cell.text)
    if cell.wrong:
        return rf"\sout{{{text}}}"
    return (rf"\textbf{{{text}}}" if is_best and has_enough_seeds(row.records) else text) + _TIES.get(cell.tie, "")


def _unstruck(note: str) -> str:
    return note.replace("~~", "")


def _html(tables: Sequence[Table]) -> str:
    return browser_page(tables, "Leaderboard")


FORMATS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}
