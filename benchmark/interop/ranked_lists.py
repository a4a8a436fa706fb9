"""Ranked lists from outside: files in four formats that are told apart by their content.

- CIRR server JSON: ``{"version": "rc2", "metric": "recall", "12063": ["name", …], …}``, names best
  first; metric ``recall_subset`` for rankings of the subsets;
- CIRCO server JSON: ``{"0": [4711, …], …}``, the pictures' ids as numbers or as strings of digits;
- TREC run: lines ``query Q0 name rank score tag``, separated by blanks. The rank column orders a
  list, so that it also settles tied scores; scores may not rise where the rank falls, since other
  programs order by them;
- JSON lines: ``{"query": "12063", "ranking": ["name", …]}``, names best first. ``protocol`` and
  ``queries_digest``, as the exported queries have them, are held against what is asked for; further keys
  are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

from benchmark.array_files import require_memory
from benchmark.errors import UserError, first_of
from benchmark.files import file_digest
from benchmark.structured_files import DoubledKey, NotWellFormed, parse_json, read_text

Metric = Literal["recall", "recall_subset", ""]

VERSION = "rc2"
METRICS: tuple[Metric, ...] = ("recall", "recall_subset")
_COLUMNS = 6
_LINE = frozenset({"query", "ranking"})
_SHOWN_LETTERS = 60


@dataclass(frozen=True)
class RankedLists:
    """Names by query, best first. ``metric``: what a server file says it is for, "" elsewhere.

    ``protocol`` and ``queries_digest``: what the file says of the queries it was made for, "" where it does not.
    """

    path: Path
    lists: Mapping[str, tuple[str, ...]]
    metric: Metric = ""
    digest: str = ""
    protocol: str = ""
    queries_digest: str = ""


@dataclass
class FormFaults:
    """What is wrong with the form of a file: a line for each kind, with the first place and how many there are."""

    path: Path
    _found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, text: str) -> None:
        """``text`` says where, and what."""
        self._found.setdefault(kind, []).append(text)

    def raise_all(self) -> None:
        """Raise UserError, if there are any."""
        lines = [
            f"{self.path}: {texts[0]}" + (f" (the first of {len(texts):,} such faults)" if len(texts) > 1 else "")
            for texts in self._found.values()
        ]
        if lines:
            lines[-1] += "; the README shows the formats of ranked lists"
            raise UserError.collect(lines)


def read_ranked_lists(path: Path) -> RankedLists:
    """Read a file in whichever of the formats it is; raises UserError with all its problems."""
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file of ranked lists")
    require_memory(path, path.stat().st_size)
    text, faults = read_text(path), FormFaults(path)
    if not text.lstrip().startswith(("{", "[")):
        found = RankedLists(path, _trec_lists(text, faults))
    elif _is_json_lines(text):
        found = _json_lines(path, text, faults)
    else:
        found = _server_lists(path, text, faults)
    faults.raise_all()
    if not found.lists:
        raise UserError(f"{path}: holds no ranked lists")
    return replace(found, digest=file_digest(path))


def _is_json_lines(text: str) -> bool:
    """Whether the first line is a whole JSON object that is no server file, which is one object of many lists."""
    first, _, others = text.lstrip().partition("\n")
    try:
        entry = parse_json(first)
    except NotWellFormed:
        return False
    if not isinstance(entry, dict):
        return False
    return not _LINE.isdisjoint(entry) or (bool(others.strip()) and not {"version", "metric"} <= entry.keys())


def _json_lines(path: Path, text: str, faults: FormFaults) -> RankedLists:
    lists: dict[str, tuple[str, ...]] = {}
    claims = {"protocol": "", "queries_digest": ""}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except NotWellFormed as error:
            faults.add("json", f"line {number}: {str(error).replace('at line 1, ', 'at ')}")
            continue
        query, ranking = (entry.get(key) if isinstance(entry, dict) else None for key in ("query", "ranking"))
        if type(query) not in (str, int) or not _are_names(ranking):
            what = ""
            if isinstance(entry, dict) and not _LINE <= entry.keys():
                what = f"; its keys are {first_of([repr(shortened(key)) for key in entry])}"
            faults.add("form", f'line {number}: not of the form {{"query": "id", "ranking": ["name", …]}}{what}')
        elif str(query) in lists:
            faults.add("twice", f"line {number}: a second list for query {shortened(str(query))}")
        else:
            lists[str(query)] = tuple(map(str, ranking))
            for key, before in claims.items():
                claims[key] = str(entry.get(key, before))
                if before not in ("", claims[key]):
                    faults.add(key, f"line {number}: another {key} than the lines before; a file holds one protocol's")
    return RankedLists(path, lists, protocol=claims["protocol"], queries_digest=claims["queries_digest"])


def _are_names(value: Any) -> TypeGuard[list[str | int]]:
    """Names, or ids that are numbers."""
    return isinstance(value, list) and all(type(name) in (str, int) for name in value)


def _server_lists(path: Path, text: str, faults: FormFaults) -> RankedLists:
    try:
        content = parse_json(text)
    except DoubledKey as error:
        raise UserError(f"{path}: pair {shortened(error.key)}: a second list; keep one of them") from None
    except NotWellFormed as error:
        raise UserError(f"{path}: {error}; the file may be truncated, write it again") from None
    of_cirr = isinstance(content, dict) and content.get("metric") in METRICS and content.get("version") == VERSION
    if not of_cirr and not _is_of_circo(content):
        raise UserError(
            f'{path}: neither JSON lines nor CIRR server JSON, which begins {{"version": "{VERSION}", '
            f'"metric": "recall"}} or "recall_subset", nor CIRCO server JSON, {{"0": [id, …], …}}'
        )
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        if of_cirr and key in ("version", "metric"):
            continue
        if not _are_names(value):
            faults.add("form", f"pair {shortened(key)}: not a list of names")
        else:
            lists[key] = tuple(map(str, value))
    return RankedLists(path, lists, content["metric"] if of_cirr else "")


def _is_of_circo(content: Any) -> bool:
    """Whether queries and pictures are called by numbers, as far as they are called by strings at all."""
    if not isinstance(content, dict) or not content or not all(isinstance(ids, list) for ids in content.values()):
        return False
    called = (name for query, ids in content.items() for name in (query, *ids) if isinstance(name, str))
    return all(name.isdecimal() for name in called)


def _trec_lists(text: str, faults: FormFaults) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[tuple[int, str, float]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != _COLUMNS:
            faults.add("columns", f"line {number}: {len(columns):,} columns, not 'query Q0 name rank score tag'")
            continue
        query, _, name, rank, score, _ = columns
        try:
            entry = (int(rank), name, float(score))
            if not math.isfinite(entry[2]):
                raise ValueError(score)
            found.setdefault(query, []).append(entry)
        except ValueError:
            both = f"rank '{shortened(rank)}' and score '{shortened(score)}'"
            faults.add("numbers", f"line {number}: {both} must be a whole and a finite number")
    return {query: _ordered(query, entries, faults) for query, entries in found.items()}


def _ordered(query: str, entries: Iterable[tuple[int, str, float]], faults: FormFaults) -> tuple[str, ...]:
    """Names by rank; ranks must differ, and no score may be higher than that of a better rank."""
    by_rank = sorted(entries, key=lambda entry: entry[0])
    for (rank, _, score), (next_rank, name, next_score) in zip(by_rank, by_rank[1:], strict=False):
        place = f"query {shortened(query)}"
        if rank == next_rank:
            faults.add("rank", f"{place}: rank {rank} stands twice")
            break
        if next_score > score:
            faults.add("score", f"{place}: {shortened(name)} at rank {next_rank} scores higher than the name before it")
            break
    return tuple(name for _, name, _ in by_rank)


def shortened(name: str) -> str:
    """A name from somebody's file as messages show it."""
    return name if len(name) <= _SHOWN_LETTERS else f"{name[:_SHOWN_LETTERS]}…"
