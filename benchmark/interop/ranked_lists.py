"""Files of ranked lists from outside, in three formats that are told apart by their content.

- CIRR server JSON: ``{"version": "rc2", "metric": "recall", "12063": ["name", …], …}``, names best
  first; metric ``recall_subset`` for rankings of the subsets;
- TREC run: lines ``query Q0 name rank score tag``, separated by blanks. The rank column orders a
  list, so that it also settles tied scores; scores may not rise where the rank falls, since other
  programs order by them;
- JSON lines: ``{"query": "12063", "ranking": ["name", …]}``, names best first; further keys are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from benchmark.data.annotations import Problems
from benchmark.errors import UserError
from benchmark.files import file_digest

Metric = Literal["recall", "recall_subset", ""]

VERSION = "rc2"
METRICS: tuple[Metric, ...] = ("recall", "recall_subset")
_COLUMNS = 6


@dataclass(frozen=True)
class RankedLists:
    """Names by query, best first. ``metric``: what a server file says it is for, "" elsewhere."""

    path: Path
    lists: Mapping[str, tuple[str, ...]]
    metric: Metric = ""
    digest: str = ""


def read_ranked_lists(path: Path) -> RankedLists:
    """Read a file in whichever of the formats it is; raises UserError with all its problems."""
    text = _text(path)
    problems = Problems("the README shows the formats of ranked lists")
    metric: Metric = ""
    if not text.lstrip().startswith(("{", "[")):
        lists = _trec_lists(path, text, problems)
    elif _begins_with_a_line_of_json(text):
        lists = _json_lines(path, text, problems)
    else:
        metric, lists = _server_lists(path, text, problems)
    problems.raise_all()
    if not lists:
        raise UserError(f"{path}: holds no ranked lists")
    return RankedLists(path, lists, metric, file_digest(path))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file of ranked lists") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); write the lists as text") from None


def _begins_with_a_line_of_json(text: str) -> bool:
    """Whether the first line is a whole JSON object of a query; a server file is one object of many."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except json.JSONDecodeError:
        return False
    return isinstance(first, dict) and not {"query", "ranking"}.isdisjoint(first)


def _json_lines(path: Path, text: str, problems: Problems) -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(path, f"line {number}: not valid JSON ({error.msg})")
            continue
        query, ranking = (entry.get(key) if isinstance(entry, dict) else None for key in ("query", "ranking"))
        if type(query) not in (str, int) or not _are_names(ranking):
            problems.add(path, f'line {number}: not of the form {{"query": "id", "ranking": ["name", …]}}')
        elif str(query) in lists:
            problems.add(path, f"line {number}: a second list for query {query}")
        else:
            lists[str(query)] = tuple(ranking)
    return lists


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _server_lists(path: Path, text: str, problems: Problems) -> tuple[Metric, dict[str, tuple[str, ...]]]:
    pairs: list[tuple[str, Any]] = []

    def keep_pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = found
        return dict(found)

    try:
        content = json.loads(text, object_pairs_hook=keep_pairs)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "the file may be truncated, write it again"
        ) from None
    if not isinstance(content, dict) or content.get("metric") not in METRICS or content.get("version") != VERSION:
        raise UserError(
            f'{path}: neither JSON lines nor CIRR server JSON, which begins {{"version": "{VERSION}", '
            f'"metric": "recall"}} or "recall_subset"'
        )
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in pairs:
        if key in ("version", "metric"):
            continue
        if not _are_names(value):
            problems.add(path, f"pair {key}: not a list of names")
        elif key in lists:
            problems.add(path, f"pair {key}: a second list")
        else:
            lists[key] = tuple(value)
    return content["metric"], lists


def _trec_lists(path: Path, text: str, problems: Problems) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[tuple[int, str, float]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != _COLUMNS:
            problems.add(path, f"line {number}: {len(columns)} columns, not 'query Q0 name rank score tag'")
            continue
        query, _, name, rank, score, _ = columns
        try:
            found.setdefault(query, []).append((int(rank), name, _finite(score)))
        except ValueError:
            problems.add(path, f"line {number}: rank '{rank}' and score '{score}' must be a whole and a finite number")
    return {query: _ordered(path, query, entries, problems) for query, entries in found.items()}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _ordered(
    path: Path, query: str, entries: Iterable[tuple[int, str, float]], problems: Problems
) -> tuple[str, ...]:
    """Names by rank; ranks must differ, and no score may be higher than that of a better rank."""
    by_rank = sorted(entries, key=lambda entry: entry[0])
    for (rank, _, score), (next_rank, name, next_score) in zip(by_rank, by_rank[1:], strict=False):
        if rank == next_rank:
            problems.add(path, f"query {query}: rank {rank} stands twice")
            break
        if next_score > score:
            problems.add(path, f"query {query}: {name} at rank {next_rank} scores higher than the name before it")
            break
    return tuple(name for _, name, _ in by_rank)
