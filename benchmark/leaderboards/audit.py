"""Where a page is not what the records and published numbers give: line by line, and in a table cell by cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

from benchmark.errors import UserError

_SHOWN = 20
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_TAG = re.compile(r"<[^>]*>")


def differences(wanted: Mapping[Path, str]) -> list[str]:
    """What does not follow, a sentence each: a page that is missing, a cell, another line. Empty where all does."""
    found = []
    for path, text in wanted.items():
        if not path.is_file():
            found.append(f"{path}: missing")
            continue
        try:
            there = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8 text; write it again with `python -m benchmark leaderboard`") from None
        if there != text:
            told = [f"{path}, {fault}" for fault in _page_differences(text.splitlines(), there.splitlines())]
            more = [f"{path}: {len(told) - _SHOWN:,} more differences"] if len(told) > _SHOWN else []
            found += [*told[:_SHOWN], *more] or [f"{path}: another end of its lines"]
    return found


def _page_differences(wanted: list[str], there: list[str]) -> Iterator[str]:
    for kind, a, b, c, d in SequenceMatcher(None, wanted, there, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if b - a == d - c:
            for i, j in zip(range(a, b), range(c, d), strict=True):
                yield from (f"line {j + 1}: {fault}" for fault in _line_differences(wanted, i, there[j]))
        elif d > c:
            yield f"lines {c + 1} to {d}: not what the records and published numbers give"
        else:
            yield f"line {c + 1}: lacks '{_short(wanted[a])}'"


def _line_differences(wanted: list[str], number: int, there: str) -> Iterator[str]:
    line = wanted[number]
    if not line.startswith("|") or not there.startswith("|"):
        yield f"'{_short(there)}' does not follow; it should be '{_short(line)}'"
        return
    heads, mine, theirs = _heads(wanted, number), _cells(line), _cells(there)
    for place, (own, other) in enumerate(zip_longest(mine, theirs, fillvalue="")):
        if own != other:
            head = heads[place] if place < len(heads) else "a column too many"
            yield f"{_row_name(wanted, number)}, {head}: '{other}' does not follow; it should be '{own}'"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BETWEEN_CELLS.split(line)[1:-1]]


def _heads(page: list[str], number: int) -> list[str]:
    """What stands over the columns of a table's line: a category and a metric where it has two lines of heads."""
    first = number
    while first and page[first - 1].startswith("|"):
        first -= 1
    heads = _cells(page[first])
    if len(page) > first + 2 and not _cells(page[first + 2])[0] and number > first + 2:
        category = ""
        second = _cells(page[first + 2])
        for place, head in enumerate(heads):
            category = head or category
            heads[place] = f"{category} {second[place]}".strip() if place else head
    return heads


def _row_name(page: list[str], number: int) -> str:
    """The name of a row, put together from its lines: of the method, and of its own line where that has another."""
    first = number
    while _label(page[first]).startswith(" ") and page[first - 1].startswith("|"):
        first -= 1
    last = first
    while last < number and not any(_cells(page[last])[1:]):
        last += 1
    end = number + 1
    while end < len(page) and page[end].startswith("|  ") and not any(_cells(page[end])[1:]):
        end += 1
    name = " ".join(_label(line).strip() for line in page[first : max(last, first + 1)])
    own = [_label(line).strip() for line in page[number:end]] if number > first else []
    return ", ".join(filter(None, (name, " ".join(own))))


def _label(line: str) -> str:
    return _BETWEEN_CELLS.split(line)[1][1:].rstrip()


def _short(line: str) -> str:
    text = " ".join(_TAG.sub(" ", line).split())
    return text if len(text) <= 80 else f"{text[:77]}…"
