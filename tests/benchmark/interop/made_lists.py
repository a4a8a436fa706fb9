"""Files of ranked lists for tests, and how they are scored or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.interop.rankings import evaluate_rankings
from benchmark.records.record import Record

Lists = dict[str, list[str]]


def as_lines(lists: Lists) -> str:
    return "".join(json.dumps({"query": q, "ranking": r, "score": 1}) + "\n" for q, r in lists.items())


def score(root: Path, folder: Path, text: str, subset: str = "", dataset: str = "cirr", **values: Any) -> Record:
    folder.mkdir(exist_ok=True)
    (folder / "mine.txt").write_bytes(text.encode())
    (folder / "subset.txt").write_text(subset, encoding="utf-8")
    options = {"data_root": {"*": str(root)}, "output": str(folder / "run"), **values}
    record, _ = evaluate_rankings(folder / "mine.txt", dataset, folder / "subset.txt" if subset else None, **options)
    return record


def refusal(root: Path, folder: Path, text: str, subset: str = "", **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        score(root, folder, text, subset, **values)
    assert not (folder / "run").exists()
    return str(caught.value)
