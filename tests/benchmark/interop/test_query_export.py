"""Exported queries, and a script that knows nothing of this project and works from them alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside_data import load, write_cirr, write_fashioniq

from benchmark.cli import main
from benchmark.dataset import Pictures, Queries, Ragged, Task, TaskKey
from benchmark.errors import UserError
from benchmark.interop.embeddings import evaluate_embeddings
from benchmark.interop.query_export import export_queries, query_lines
from benchmark.interop.rankings import evaluate_rankings

SCRIPT = Path(__file__).with_name("embed_elsewhere.py")


def exported(root: Path, file: Path, dataset: str = "cirr", split: str = "", **values: Any) -> list[dict[str, Any]]:
    export_queries(dataset, file, split, data_root={"*": str(root)}, **values)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_script_of_somebody_else_gets_the_same_numbers(tmp_path: Path) -> None:
    assert "benchmark" not in SCRIPT.read_text(encoding="utf-8")
    root = write_cirr(tmp_path / "data")
    queries, annotations = tmp_path / "queries.jsonl", root / "captions/cap.rc2.val.json"
    export_queries("cirr", queries, data_root={"*": str(root)})
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(queries), str(annotations), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = json.loads(done.stdout)
    assert 0 < theirs["R@10"] < 100 and 0 < theirs["R_subset@1"] < 100
    options: dict[str, Any] = {"data_root": {"*": str(root)}}
    embedded, _ = evaluate_embeddings(tmp_path / "mine.npz", "cirr", output=str(tmp_path / "a"), **options)
    ranked, _ = evaluate_rankings(tmp_path / "mine.jsonl", "cirr", output=str(tmp_path / "b"), **options)
    assert embedded.results[0].metrics == pytest.approx(theirs)
    assert ranked.results[0].metrics == pytest.approx(theirs)
    assert ranked.results[0].intervals == embedded.results[0].intervals


def test_cirr_s_lines_hold_everything_but_the_answer(tmp_path: Path) -> None:
    root = write_cirr(tmp_path / "data")
    lines = exported(root, tmp_path / "out.jsonl")
    names = list(json.loads((root / "image_splits/split.rc2.val.json").read_text(encoding="utf-8")))
    assert [line.get("gallery") for line in lines[:72]] == names
    assert lines[0] == {"gallery": "dev-0-0-img0", "path": str(root / "dev/dev-0-0-img0.png")}
    entries = json.loads((root / "captions/cap.rc2.val.json").read_text(encoding="utf-8"))
    assert [line["query"] for line in lines[72:]] == [str(entry["pairid"]) for entry in entries]
    assert lines[73] == {
        "query": "1007",
        "reference": "dev-0-0-img1",
        "path": str(root / "dev/dev-0-0-img1.png"),
        "text": "change 1 of 0",
        "split": "val",
        "protocol": "official",
        "text_mode": "single",
        "category": "",
        "reference_ranked": False,
        "subset": ["dev-0-2-img1", "dev-0-2-img0", "dev-0-1-img1", "dev-0-1-img0", "dev-0-0-img0"],
        "queries_digest": lines[72]["queries_digest"],
    }
    assert len(lines[72]["queries_digest"]) == 16
    assert len({line["queries_digest"] for line in lines[72:]}) == 1


def test_the_same_folder_gives_the_same_bytes_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cirr(tmp_path / "data")
    exported(root, tmp_path / "a.jsonl")
    assert "72 of 72 pictures are not here" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    exported(Path("data"), tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_the_hidden_split_can_be_exported(tmp_path: Path) -> None:
    lines = exported(write_cirr(tmp_path / "data"), tmp_path / "out.jsonl", split="test1")
    assert lines[0]["gallery"] == "test1-0-0-img0"
    assert {line["split"] for line in lines if "query" in line} == {"test1"}


def test_categories_share_a_picture_s_line(tmp_path: Path) -> None:
    root = write_fashioniq(tmp_path / "data")
    lines = exported(root, tmp_path / "out.jsonl", "fashioniq")
    gallery, queries = lines[:179], lines[179:]
    assert len({line["gallery"] for line in gallery}) == 179 == 3 * 60 - 1
    assert next(line for line in gallery if line["gallery"] == "B10003")["categories"] == ["shirt", "toptee"]
    assert queries[0]["query"] == "dress/0" and queries[0]["text"] == "Is dress 0 and has 0 buttons"
    assert queries[0]["reference_ranked"] is True and "subset" not in queries[0]
    assert [line["category"] for line in queries[::12]] == ["dress", "shirt", "toptee"]
    smaller = exported(root, tmp_path / "b.jsonl", "fashioniq", protocol=("val-noref",), text_mode="per-caption")
    assert sum("gallery" in line for line in smaller) < 179
    assert smaller[-1]["query"] == "toptee/11/1" and smaller[-1]["text"] == "has 11 buttonsdotmark"
    assert smaller[-1]["reference_ranked"] is False


def test_a_stand_in_is_told() -> None:
    queries = Queries(
        ids=("0",), reference_picture=np.array([1]), reference_in_gallery=np.array([-1]), texts=("replace a with b",),
        positives=Ragged.of([[0]]), group=np.array([0]), feature_picture=np.array([2]),
    )  # fmt: skip
    task = Task(TaskKey("x", "test", "spirit", "template"), queries, np.array([0, 2]), False, (10,))
    (line,) = query_lines([task], Pictures(("a", "b", "c"), (Path("/p/a"), Path("/p/b"), Path("/p/c"))))
    assert (line["reference"], line["stand_in"], line["stand_in_path"]) == ("b", "c", os.path.abspath("/p/c"))
    assert line["reference_ranked"] is False, "a gallery that lacks the reference cannot rank it"


def test_the_command_and_its_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cirr(tmp_path / "data")
    command = ["data", "export-queries", "cirr", "--data-root", str(root), "--output", str(tmp_path / "out.jsonl")]
    assert main(command) == 0
    assert "72 gallery pictures, 36 queries" in capsys.readouterr().out
    for extra, words in (
        (["--split", "tset1"], "tset1"),
        (["--protocol", "offical"], "did you mean official"),
        (["--text-mode", "joined"], "joined"),
        (["--text-mode", "jioned"], "did you mean joined"),
    ):
        assert main([*command, *extra]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(UserError, match="one at a time"):
        exported(write_fashioniq(tmp_path / "f"), tmp_path / "x", "fashioniq", protocol=("original", "val"))
    assert load("cirr", root).label == "small-cirr"
