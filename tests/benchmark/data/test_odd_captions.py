"""Captions of any characters, half a surrogate pair included, pass through a run and are written as they came."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from command_line import Command

from benchmark.records.record import read_record
from benchmark.registry import discover

ODD = (
    "\ud83d", "red \udc00 dress", "\udcff", "a\u0000b", "\ufeffwith a mark", "two\nlines", "tab\there", "👗 longer",
    "\u202eright to left", "x" * 10_000, "é" * 300, "<b>&amp;</b> | `code`", "  ", "\\ud83d",
)  # fmt: skip


def test_a_run_and_an_export_keep_every_caption(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(small_cirr, folder)
    for split in ("train", "val"):
        path = folder / "captions" / f"cap.rc2.{split}.json"
        entries = json.loads(path.read_text())
        for number, entry in enumerate(entries):
            entry["caption"] = ODD[number % len(ODD)]
        path.write_text(json.dumps(entries))  # as escapes, which is how such files hold them
    captions = [entry["caption"] for entry in entries]
    (task,) = discover().load_dataset("cirr", folder, ("val",)).tasks("val", "official", "as-is")
    assert list(task.queries.texts) == captions
    head = ("--data-root", folder, "--cache", tmp_path / "cache")
    run = command("run", "--method", "sum", "--dataset", "cirr", *head, "--backbone", "tiny", "--weights", "random",
                  "--set", "method.encoder=untouched", "--output", tmp_path / "run")  # fmt: skip
    assert run.status == 0, run.err
    assert len(read_record(tmp_path / "run").results) >= 1
    exported = command("data", "export-queries", "cirr", *head, "--output", tmp_path / "queries.jsonl")
    assert exported.status == 0, exported.err
    lines = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text(encoding="utf-8").split("\n") if line]
    texts = {line["query"]: line["text"] for line in lines if "query" in line}
    assert [texts[query] for query in task.queries.ids] == captions
