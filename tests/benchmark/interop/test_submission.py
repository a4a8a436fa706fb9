"""CIRR's server files: right ones are written, wrong ones never; the server's numbers join the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from outside_data import arrays, load, order, write_cirr

import benchmark
from benchmark.cli import main
from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError
from benchmark.evaluation.evaluator import EncodedTask
from benchmark.interop import server_files
from benchmark.interop.embeddings import evaluate_embeddings
from benchmark.interop.rankings import evaluate_rankings
from benchmark.interop.server_files import (
    CIRR,
    MANIFEST,
    RECALL_FILE,
    SUBSET_FILE,
    ServerLists,
    add_server_numbers,
    check_lists,
    read_server_numbers,
    write_submission,
)
from benchmark.interop.submission import lists_of, submit_embeddings, submit_rankings, submit_run, top_of_subsets
from benchmark.records.record import read_per_query, read_record

Values = dict[str, Any]
NUMBERS = {"R@1": 20.5, "R@2": 31.75, "R@5": 50, "R@10": 61.25, "R@50": 90.0}
SUBSET_NUMBERS = {"R_subset@1": 60.5, "R_subset@2": 80.0, "R_subset@3": 90.25}


@pytest.fixture(scope="module")
def cirr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cirr(tmp_path_factory.mktemp("cirr"))


def hidden_task(root: Path) -> tuple[Task, Dataset]:
    dataset = load("cirr", root, ("val", "test1"))
    (task,) = dataset.tasks("test1", "official", "as-is")
    return task, dataset


def right_lists(root: Path) -> ServerLists:
    """By a plain sort of all scores, the best 50 and the best 3 members."""
    task, dataset = hidden_task(root)
    names = dataset.pictures.names
    assert task.queries.subset is not None
    whole = dict(zip(task.queries.ids, order(task, dataset), strict=True))
    members = [{names[task.gallery[m]] for m in row} for row in task.queries.subset]
    small = {q: [n for n in whole[q] if n in own] for q, own in zip(whole, members, strict=True)}
    return ServerLists({q: r[:50] for q, r in whole.items()}, {q: r[:3] for q, r in small.items()})


def embeddings(root: Path, folder: Path) -> Path:
    task, dataset = hidden_task(root)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "mine.npz", **arrays([task], dataset))
    return folder / "mine.npz"


def read(folder: Path) -> ServerLists:
    """The two files as any JSON reader sees them, without the two keys at their head."""
    found = []
    for name, metric in ((RECALL_FILE, "recall"), (SUBSET_FILE, "recall_subset")):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        assert list(content)[:2] == ["version", "metric"]
        assert (content.pop("version"), content.pop("metric")) == ("rc2", metric)
        found.append(content)
    return ServerLists(*found)


def test_files_from_embeddings_are_a_plain_sort_s_in_the_annotation_s_order(
    cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = submit_embeddings(embeddings(cirr, tmp_path), "Mine", "", {"data_root": {"*": str(cirr)}})
    assert done.folder == done.run / "submission"
    assert read(done.folder) == right_lists(cirr)
    pairs = [str(e["pairid"]) for e in json.loads((cirr / "captions/cap.rc2.test1.json").read_text(encoding="utf-8"))]
    for lists in (read(done.folder).recall, read(done.folder).recall_subset):
        assert list(lists) == pairs != sorted(pairs)
    assert {len(ranking) for ranking in read(done.folder).recall.values()} == {50}
    record = read_record(done.run)
    assert (record.kind, record.title, record.results[0].metrics) == ("embeddings", "Mine", {})
    assert "not on CIRR's test1" in done.lines()[-1], "own data is never sent to the server"


def test_ranked_lists_of_any_format_are_checked_and_cut(
    cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task, dataset = hidden_task(cirr)
    whole = dict(zip(task.queries.ids, order(task, dataset), strict=True))
    main_file, subset_file = tmp_path / "mine.jsonl", tmp_path / "subset.jsonl"
    values: Values = {"data_root": {"*": str(cirr)}}
    right = right_lists(cirr)
    for file, lists in ((main_file, whole), (subset_file, right.recall_subset)):
        lines = (json.dumps({"query": q, "ranking": r}) for q, r in reversed(list(lists.items())))
        file.write_text("\n".join(lines), encoding="utf-8")
    done = submit_rankings(main_file, subset_file, "", "", values)
    assert read(done.folder) == right
    assert list(read(done.folder).recall) == list(task.queries.ids)
    again = submit_rankings(done.folder / RECALL_FILE, done.folder / SUBSET_FILE, "", str(tmp_path / "b"), values)
    assert read(again.folder) == right, "a server file made elsewhere is checked by submitting it"
    assert (tmp_path / "b" / RECALL_FILE).read_bytes() == (done.folder / RECALL_FILE).read_bytes()


def spoilt(lists: ServerLists, where: str, change: Callable[[list[str]], list[str]]) -> ServerLists:
    content = dict(getattr(lists, where))
    content["1000"] = change(list(content["1000"]))
    return replace(lists, **{where: content})


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        ("recall", lambda r: [*r[:49], r[0]], "a name stands twice: 1 queries, 1000"),
        ("recall", lambda r: ["test1-0-0-img0", *r[1:]], "the reference is ranked"),
        ("recall", lambda r: ["dev-0-0-img0", *r[1:]], "names that are not in the gallery"),
        ("recall", lambda r: [f"{r[0]}.png", *r[1:]], "names that are not in the gallery"),
        ("recall", lambda r: r[:49], "lists shorter than 50 names"),
        ("recall", lambda r: [*r, "test1-0-0-img1"], "lists longer than 50 names"),
        ("recall_subset", lambda r: ["test1-7-0-img1", *r[1:]], "names that are not in the subset"),
        ("recall_subset", lambda r: ["test1-0-0-img0", *r[1:]], "the reference is ranked"),
        ("recall_subset", lambda r: [r[0], r[0], r[1]], "a name stands twice"),
        ("recall_subset", lambda r: r[:2], "lists shorter than 3 names"),
    ],
)
def test_a_wrong_submission_is_never_written(
    cirr: Path, tmp_path: Path, where: str, change: Callable[[list[str]], list[str]], words: str
) -> None:
    task, dataset = hidden_task(cirr)
    with pytest.raises(UserError) as caught:
        write_submission(tmp_path / "out", spoilt(right_lists(cirr), where, change), task, dataset, "external")
    assert words in str(caught.value) and "1000" in str(caught.value)
    assert (RECALL_FILE if where == "recall" else SUBSET_FILE) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_and_unknown_pairs_of_both_files_are_told(cirr: Path) -> None:
    task, dataset = hidden_task(cirr)
    lists = right_lists(cirr)
    recall, subset = dict(lists.recall), dict(lists.recall_subset)
    del recall["1007"]
    subset["5"] = subset["1000"]
    with pytest.raises(UserError) as caught:
        check_lists(ServerLists(recall, subset), task, dataset)
    assert f"{RECALL_FILE}: no list for queries: 1 queries, 1007" in str(caught.value)
    assert f"{SUBSET_FILE}: unknown queries: 1 queries, 5" in str(caught.value)


def test_a_file_that_is_too_large_is_refused_before_anything_is_written(
    cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, dataset = hidden_task(cirr)
    monkeypatch.setattr(server_files, "LARGEST_FILE", 3000)
    with pytest.raises(UserError, match=r"would have [\d,]+ bytes, and the server takes less than 5 MB"):
        write_submission(tmp_path / "out", right_lists(cirr), task, dataset, "external")
    assert not (tmp_path / "out").exists()


def test_an_earlier_submission_survives_a_refused_one(cirr: Path, tmp_path: Path) -> None:
    task, dataset = hidden_task(cirr)
    write_submission(tmp_path, right_lists(cirr), task, dataset, "external")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {RECALL_FILE, SUBSET_FILE, MANIFEST}
    with pytest.raises(UserError):
        write_submission(tmp_path, spoilt(right_lists(cirr), "recall", lambda r: r[1:]), task, dataset, "external")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("seed", range(3))
def test_tied_members_stand_in_the_gallery_s_order_and_the_reference_never(cirr: Path, seed: int) -> None:
    """Scores are small whole numbers: sets are full of ties."""
    task, dataset = hidden_task(cirr)
    rng = np.random.default_rng(seed)
    queries, gallery = (rng.integers(0, 2, (n, 3)).astype(np.float32) for n in (36, 72))
    encoded = EncodedTask(task, torch.from_numpy(queries), torch.from_numpy(gallery))
    found = top_of_subsets(None, encoded, 3)
    assert task.queries.subset is not None
    for i in range(36):
        candidates = sorted(set(task.queries.subset[i].tolist()) - {int(task.queries.reference_in_gallery[i])})
        best = sorted(candidates, key=lambda m, row=queries[i]: (-float(gallery[m] @ row), m))  # type: ignore[misc]
        assert found[i].tolist() == best[:3]
    check_lists(lists_of(None, encoded, dataset.pictures.names), task, dataset)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Values]:
    """Drawn data, a run on it, and how to reach them."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo("cirr", folder / "data", Sizes(3, 3, 3, 2, 9, 2), workers=1)
    values: Values = {"data_root": {"*": str(folder / "data")}, "cache": str(folder / "cache"), "device": "cpu"}
    small = {"encoders.epochs": 1, "encoders.batch_size": 4}
    benchmark.run("spirit", "cirr", output=str(folder / "run"), epochs=1, batch_size=4, set=small, **values)
    return folder / "data", folder / "run", values


def test_a_run_s_weights_rank_test1(demo: tuple[Path, Path, Values], tmp_path: Path) -> None:
    root, run, values = demo
    done = submit_run(run, "", "", values)
    assert done.folder == run / "submission" and done.submission.weights_from == "selected"
    task, dataset = hidden_task(root)
    lists = read(done.folder)
    check_lists(lists, task, dataset)
    for query, small in lists.recall_subset.items():
        listed = [name for name in lists.recall[query] if name in small]
        assert listed == [name for name in small if name in listed], "both files rank by the same scores"
    last = submit_run(run / "weights" / "last.safetensors", str(tmp_path / "last"), "", values)
    assert last.run == run and last.submission.weights_from == "last"
    assert "made on 'demo-cirr'" in last.lines()[-1]


def test_a_run_is_not_submitted_on_other_data(demo: tuple[Path, Path, Values], cirr: Path, tmp_path: Path) -> None:
    _, run, values = demo
    with pytest.raises(UserError, match="a run on 'demo-cirr', but the data here is 'small-cirr'"):
        submit_run(run, str(tmp_path), "", values | {"data_root": {"*": str(cirr)}})
    with pytest.raises(UserError, match="holds no weights"):
        submit_run(tmp_path, "", "", values)


def test_missing_pictures_and_a_missing_split_are_told(demo: tuple[Path, Path, Values], tmp_path: Path) -> None:
    root, run, values = demo
    copy = shutil.copytree(root, tmp_path / "data")
    next((copy / "test1").iterdir()).unlink()
    with pytest.raises(UserError, match="1 of 54 pictures needed are missing or empty"):
        submit_run(run, "", "", values | {"data_root": {"*": str(copy)}})
    (copy / "captions/cap.rc2.test1.json").unlink()
    with pytest.raises(UserError, match="no such file; split test1 is read from it"):
        submit_run(run, "", "", values | {"data_root": {"*": str(copy)}})


def official_run(cirr: Path, folder: Path) -> Path:
    """A run's folder that says of itself that it was made on the official data, and its submission."""
    file = embeddings(cirr, folder)
    done = submit_embeddings(file, "", "", {"data_root": {"*": str(cirr)}, "output": str(folder / "run")})
    for path in (done.run / "record.json", done.folder / MANIFEST):
        text = path.read_text(encoding="utf-8").replace('"is_official": false', '"is_official": true')
        path.write_text(text.replace("small-cirr", "cirr"), encoding="utf-8")
    return done.run


def numbers(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "numbers.json").write_text(json.dumps(values), encoding="utf-8")
    return folder / "numbers.json"


def test_the_server_s_numbers_become_a_result_of_their_own(cirr: Path, tmp_path: Path) -> None:
    run = official_run(cirr, tmp_path)
    before = read_record(run)
    record = add_server_numbers(run, numbers(tmp_path, NUMBERS))
    assert record.results[:-1] == before.results
    added = record.results[-1]
    assert (added.measured_by, added.split, added.protocol, added.weights_from) == (
        "server", "test1", "official", "external",
    )  # fmt: skip
    assert (added.metrics, added.intervals, added.queries, added.gallery) == (NUMBERS, {}, 36, 72)
    assert read_record(run) == record
    assert set(read_per_query(run, record)) == {0}, "per-query results stay beside the record"
    table = (run / "table.md").read_text(encoding="utf-8")
    assert "61.25" in table and "numbers returned by the official test server" in table
    both = add_server_numbers(run, numbers(tmp_path, SUBSET_NUMBERS))
    assert len(both.results) == len(record.results)
    assert both.results[-1].metrics == NUMBERS | SUBSET_NUMBERS | {"(R@5+R_subset@1)/2": 55.25}
    assert add_server_numbers(run, numbers(tmp_path, NUMBERS)) == both
    with pytest.raises(UserError, match=r"has R@1 20.5 from the server already, not 21"):
        add_server_numbers(run, numbers(tmp_path, {"R@1": 21}))
    assert read_record(run) == both


def test_numbers_need_a_submission_to_the_server(cirr: Path, tmp_path: Path) -> None:
    task, dataset = hidden_task(cirr)
    done = submit_embeddings(
        embeddings(cirr, tmp_path), "", str(tmp_path / "sent"),
        {"data_root": {"*": str(cirr)}, "output": str(tmp_path / "run")},
    )  # fmt: skip
    assert (done.folder, done.run) == (tmp_path / "sent", tmp_path / "run")
    file = numbers(tmp_path, NUMBERS)
    with pytest.raises(UserError, match="no submission was written here"):
        add_server_numbers(done.run, file)
    with pytest.raises(UserError, match="the server scores CIRR's own test1 only"):
        add_server_numbers(done.run, file, str(done.folder))
    write_submission(tmp_path / "other", right_lists(cirr), task, dataset, "external")
    manifest = tmp_path / "other" / MANIFEST
    content = json.loads(manifest.read_text(encoding="utf-8")) | {"is_official": True, "dataset": "cirr"}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="its submission was made on 'cirr', the run was not"):
        add_server_numbers(done.run, file, str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "must be a JSON object"),
        ({}, "must be a JSON object"),
        ({"R@3": 4}, "unknown metric 'R@3': did you mean"),
        ({"R@1": "40"}, "R@1 is '40', not a number"),
        ({"R@1": True}, "R@1 is True, not a number"),
        ({"R@2": 60, "R@5": 50}, "R@2 is 60, more than R@5, 50"),
        ({"R@1": 140}, "R@1 is 140, not between 0 and 100"),
        ({"R@1": 50, "R@10": 40}, "R@1 is 50, more than R@10, 40"),
        ({"R@1": 0.4, "R@5": 0.7}, "these look like shares"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_server_numbers(numbers(tmp_path, content), CIRR)
    assert words in str(caught.value) and "numbers.json" in str(caught.value)


def test_the_command(
    cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = ["--data-root", str(cirr)]
    assert main(["submit", "--embeddings", str(embeddings(cirr, tmp_path)), *root]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()[:2]]
    assert [path.name for path in written] == [RECALL_FILE, SUBSET_FILE] and all(path.is_file() for path in written)
    for arguments, words in (
        ([], "name one source"),
        (["x", "--embeddings", "y"], "name one source"),
        (["--rankings", "x"], "--subset-rankings is missing"),
        (["--embeddings", "x", "--server-numbers", "y"], "name its folder, RUN"),
        (["x", "--limit", "3"], "would leave pairs out"),
        (["x"], "no such checkpoint file"),
    ):
        assert main(["submit", *arguments, *root]) == 2
        assert words in capsys.readouterr().err
    run = official_run(cirr, tmp_path / "official")
    assert main(["submit", str(run), "--server-numbers", str(numbers(tmp_path, NUMBERS))]) == 0
    assert "measured by the server" in (printed := capsys.readouterr().out)
    assert "31.75" in printed and "95 %" not in printed.partition("measured by the server")[2]
    assert main(["submit", str(run), "--server-numbers", str(numbers(tmp_path, SUBSET_NUMBERS))]) == 0
    assert "55.25" in (printed := capsys.readouterr().out) and "mean: (R@5+Rs@1)/2" in printed


def test_what_is_evaluated_is_not_what_is_submitted(cirr: Path, tmp_path: Path) -> None:
    """Embeddings and lists of test1 are no answer to `evaluate`, which asks for val."""
    options: Values = {"data_root": {"*": str(cirr)}, "output": str(tmp_path / "run")}
    with pytest.raises(UserError, match="72 unknown ids: test1-0-0-img0"):
        evaluate_embeddings(embeddings(cirr, tmp_path), "cirr", **options)
    lines = (json.dumps({"query": q, "ranking": r}) for q, r in right_lists(cirr).recall.items())
    (tmp_path / "lists").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="names that are not in the gallery: 36 queries"):
        evaluate_rankings(tmp_path / "lists", "cirr", **options)
