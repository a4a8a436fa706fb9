"""Ranked lists from outside: the same numbers in every format, and refused where they are not whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_lists import Lists, as_lines, refusal, score
from outside_data import arrays, load, order, plain_metrics, write_cirr

from benchmark.cli import main
from benchmark.dataset import IntArray, Queries, Ragged, Task, TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import task_metrics
from benchmark.evaluation.ranking import rank_queries
from benchmark.evaluation.top_lists import top_pictures
from benchmark.interop.embeddings import evaluate_embeddings
from benchmark.interop.ranked_lists import read_ranked_lists
from benchmark.interop.rankings import list_ranks
from benchmark.records.record import read_per_query


@pytest.fixture(scope="module")
def cirr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cirr(tmp_path_factory.mktemp("cirr"))


def cirr_lists(root: Path) -> Lists:
    """Whole rankings: 71 names a query."""
    dataset = load("cirr", root)
    (task,) = dataset.tasks("val", "official", "as-is")
    return dict(zip(task.queries.ids, order(task, dataset), strict=True))


def subset_lists(root: Path, lists: Lists) -> Lists:
    """The best three members of each query's set, in the order of its list."""
    dataset = load("cirr", root)
    (task,) = dataset.tasks("val", "official", "as-is")
    names = dataset.pictures.names
    assert task.queries.subset is not None
    members = [{names[task.gallery[m]] for m in row} for row in task.queries.subset]
    pairs = zip(task.queries.ids, members, strict=True)
    return {query: [name for name in lists[query] if name in own][:3] for query, own in pairs}


def as_server(lists: Lists, metric: str = "recall") -> str:
    return json.dumps({"version": "rc2", "metric": metric} | lists, indent=1)


def as_trec(lists: Lists) -> str:
    """Lines in no order, tied scores from rank 10 on: only the rank column tells their order."""
    lines = [
        f"{query}\tQ0 {name} {rank} {1 - min(rank, 10) / 16} mine\r\n"
        for query, ranking in lists.items()
        for rank, name in enumerate(ranking)
    ]
    return "".join(np.random.default_rng(0).permutation(lines).tolist())


FORMATS = {"server": as_server, "lines": as_lines, "trec": as_trec}


@pytest.mark.parametrize("form", FORMATS)
def test_whole_lists_give_the_numbers_of_the_embeddings_they_come_from(cirr: Path, tmp_path: Path, form: str) -> None:
    dataset = load("cirr", cirr)
    tasks = dataset.tasks("val", "official", "as-is")
    np.savez(tmp_path / "mine.npz", **arrays(tasks, dataset))
    options: dict[str, Any] = {"data_root": {"*": str(cirr)}, "output": str(tmp_path / "a")}
    embedded, _ = evaluate_embeddings(tmp_path / "mine.npz", "cirr", **options)
    record = score(cirr, tmp_path / "b", FORMATS[form](cirr_lists(cirr)))
    (ours,), (theirs,) = record.results, embedded.results
    assert ours.metrics == pytest.approx(plain_metrics(tasks[0], dataset))
    assert ours == theirs
    assert (record.kind, record.title, list(record.identity.inputs)) == ("rankings", "mine", ["mine.txt"])
    one, other = read_per_query(tmp_path / "b/run", record)[0], read_per_query(tmp_path / "a", embedded)[0]
    np.testing.assert_array_equal(one.rank, other.rank)
    np.testing.assert_array_equal(one.top, other.top)
    np.testing.assert_array_equal(one.subset_rank, other.subset_rank)


def test_lists_that_end_at_the_largest_cutoff_give_the_same_metrics(cirr: Path, tmp_path: Path) -> None:
    whole = cirr_lists(cirr)
    cut = {query: ranking[:50] for query, ranking in whole.items()}
    full = score(cirr, tmp_path / "a", as_lines(whole)).results[0]
    record = score(cirr, tmp_path / "b", as_lines(cut))
    (short,) = record.results
    of_gallery = {name for name in full.metrics if name.startswith("R@")}
    assert short.metrics == {name: full.metrics[name] for name in of_gallery}
    assert short.intervals == {name: full.intervals[name] for name in of_gallery}
    assert "no subset recall" in short.notes[0] and "--subset-rankings" in short.notes[0]
    ranks = read_per_query(tmp_path / "b/run", record)[0].rank
    assert set(ranks[ranks > 50]) == {72}


@pytest.mark.parametrize("form", ["server", "lines"])
def test_a_file_of_subsets_completes_the_metrics(cirr: Path, tmp_path: Path, form: str) -> None:
    whole = cirr_lists(cirr)
    cut, small = {query: ranking[:50] for query, ranking in whole.items()}, subset_lists(cirr, whole)
    subset = as_server(small, "recall_subset") if form == "server" else as_lines(small)
    full = score(cirr, tmp_path / "a", as_lines(whole)).results[0]
    record = score(cirr, tmp_path / "b", FORMATS[form](cut), subset)
    (result,) = record.results
    assert (result.metrics, result.intervals, result.notes) == (full.metrics, full.intervals, ())
    assert result.metrics["R_subset@1"] not in (0, 100)
    assert set(record.identity.inputs) == {"mine.txt", "subset.txt"}


def test_a_server_file_is_taken_for_what_it_says_it_is(cirr: Path, tmp_path: Path) -> None:
    lists = cirr_lists(cirr)
    subset = as_server(subset_lists(cirr, lists), "recall_subset")
    told = refusal(cirr, tmp_path, subset)
    assert "metric 'recall_subset'; --rankings takes one of 'recall'" in told
    told = refusal(cirr, tmp_path, as_server(lists), as_server(lists))
    assert "metric 'recall'; --subset-rankings takes one of 'recall_subset'" in told


def first(lists: Lists) -> list[str]:
    return next(iter(lists.values()))


def twice(lists: Lists) -> None:
    first(lists)[5] = first(lists)[4]


def unknown_name(lists: Lists) -> None:
    first(lists)[3] = "dev-99-0-img0"


def too_short(lists: Lists) -> None:
    for ranking in lists.values():
        del ranking[49:]


def reference(lists: Lists) -> None:
    first(lists)[0] = "dev-0-0-img0"


def no_list(lists: Lists) -> None:
    for query in list(lists)[:13]:
        del lists[query]


def unknown_query(lists: Lists) -> None:
    lists["77"] = first(lists)


FAULTS: dict[Callable[[Lists], None], str] = {
    twice: "a name stands twice: 1 queries, 1000 (",
    unknown_name: "names that are not in the gallery: 1 queries, 1000 (dev-99-0-img0)",
    too_short: "lists shorter than 50 names: 36 queries, 1000 (49 names), ",
    reference: "the reference is ranked, which this protocol removes: 1 queries, 1000 (dev-0-0-img0)",
    no_list: "no list for queries: 13 queries, 1000, ",
    unknown_query: "unknown queries: 1 queries, 77",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_lists_are_refused(cirr: Path, tmp_path: Path, fault: Callable[[Lists], None]) -> None:
    lists = cirr_lists(cirr)
    fault(lists)
    told = refusal(cirr, tmp_path, as_lines(lists))
    assert f"mine.txt: {FAULTS[fault]}" in told
    assert "\n" not in told
    assert told.count(",") < 25, "the first ten are told"


def test_all_kinds_of_faults_are_told_at_once(cirr: Path, tmp_path: Path) -> None:
    lists = cirr_lists(cirr)
    for fault in (twice, unknown_name, reference, no_list, unknown_query, too_short):
        fault(lists)
        if fault is reference:
            lists = dict(reversed(lists.items()))
    assert len(refusal(cirr, tmp_path, as_lines(lists)).splitlines()) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ranking: ranking[:2], "lists shorter than 3 names"),
        (lambda ranking: [*ranking[:2], "dev-11-0-img0"], "names that are not in the subset"),
        (lambda ranking: [*ranking[:2], "dev-0-0-img0"], "the reference is ranked"),
        (lambda ranking: [ranking[0], *ranking[:2]], "a name stands twice"),
    ],
)
def test_wrong_lists_of_subsets_are_refused(
    cirr: Path, tmp_path: Path, change: Callable[[list[str]], list[str]], words: str
) -> None:
    lists = cirr_lists(cirr)
    small = subset_lists(cirr, lists)
    small["1000"] = change(small["1000"])
    told = refusal(cirr, tmp_path, as_lines(lists), as_lines(small))
    assert f"subset.txt: {words}" in told and "1000" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no ranked lists"),
        ("\n\n", "holds no ranked lists"),
        ('{"version": "rc2", "metric": "recall"}', "holds no ranked lists"),
        ('{"version": "rc2", "metric": "recall", "1": ["a", "b"', "not valid JSON at line 1"),
        ('{"version": "rc1", "metric": "recall", "1": ["a"]}', "neither JSON lines nor CIRR server JSON"),
        ('{"1": ["a"]}', "neither JSON lines nor CIRR server JSON"),
        ('["a"]', "neither JSON lines nor CIRR server JSON"),
        ('{"version": "rc2", "metric": "recall", "1": ["a"], "1": ["b"]}', "pair 1: a second list"),
        ('{"version": "rc2", "metric": "recall", "1": {"a": 1}}', "pair 1: not a list of names"),
        ('{"query": "1", "ranking": ["a"]}\n{"query": 1, "ranking": ["b"]}', "line 2: a second list for query 1"),
        ('{"query": "1", "ranking": ["a"]}\n\n{"query": "2", "rank', "line 3: not valid JSON"),
        ('{"query": "1", "ranking": [3.5]}', "line 1: not of the form"),
        ('{"query": "1", "rankings": ["a"]}', "line 1: not of the form"),
        ('{"query": true, "ranking": ["a"]}', "line 1: not of the form"),
        ("1 Q0 a 1 0.5", "line 1: 5 columns"),
        ("1 Q0 a 1 0.5 me\n1 Q0 b 1 0.4 me", "query 1: rank 1 stands twice"),
        ("1 Q0 a 1 0.5 me\n1 Q0 b 2 0.6 me", "query 1: b at rank 2 scores higher"),
        ("1 Q0 a one 0.5 me", "line 1: rank 'one'"),
        ("1 Q0 a 1 nan me", "line 1: rank '1' and score 'nan'"),
        ("1 Q0 a 1.5 2 me", "line 1: rank '1.5'"),
    ],
)
def test_files_of_a_wrong_form_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "lists").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_ranked_lists(tmp_path / "lists")
    assert words in str(caught.value) and str(tmp_path / "lists") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lists").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_ranked_lists(tmp_path / "lists")
    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no such file of ranked lists"):
            read_ranked_lists(nothing)


def test_formats_are_told_apart_by_their_content(tmp_path: Path) -> None:
    for number, text in enumerate(
        (
            "\ufeff" + as_server({"5": ["a", "b"]}),
            '\n {"ranking": ["a", "b"], "query": 5}',
            "5 Q0 b 2 0.5 x\n\n5 0 a 1 0.5 x\n",
        )
    ):
        (tmp_path / str(number)).write_text(text, encoding="utf-8")
        assert read_ranked_lists(tmp_path / str(number)).lists == {"5": ("a", "b")}


def random_task(seed: int, exclude: bool) -> tuple[Task, torch.Tensor, torch.Tensor]:
    """Several positives a query, some of which are the reference; some queries without any."""
    rng = np.random.default_rng(seed)
    queries, size = 30, 64
    positives = [rng.choice(size, rng.integers(0, 5), replace=False).tolist() for _ in range(queries)]
    reference = rng.integers(-1, size, queries)
    if exclude:
        positives[0], reference[0] = [3], 3
    task = Task(
        key=TaskKey("x", "val", "p", "single"),
        queries=Queries(
            ids=tuple(map(str, range(queries))),
            reference_picture=np.maximum(reference, 0),
            reference_in_gallery=reference,
            texts=("",) * queries,
            positives=Ragged.of(positives),
            group=np.arange(queries),
        ),
        gallery=np.arange(size),
        exclude_reference=exclude,
        cutoffs=(1, 10, 50),
    )
    draws = torch.from_numpy(rng.standard_normal((queries + size, 6)).astype(np.float32))
    return task, draws[:queries], draws[queries:]


@pytest.mark.parametrize("seed", range(6))
def test_ranks_of_lists_are_the_evaluator_s_with_any_number_of_positives(seed: int) -> None:
    task, queries, gallery = random_task(seed, exclude=seed % 2 == 1)
    wanted = rank_queries(queries, gallery, task)
    top = top_pictures(queries, gallery, task, 64)
    whole: list[IntArray] = [row[row >= 0] for row in top]
    found = list_ranks(task, whole, None)
    np.testing.assert_array_equal(found.rank, wanted.rank)
    np.testing.assert_array_equal(found.positive_ranks.values, wanted.positive_ranks.values)
    cut = list_ranks(task, [row[:50] for row in whole], None)
    assert task_metrics(cut, task) == task_metrics(wanted, task)
    assert "mAP@10" in task_metrics(cut, task)


def test_a_gallery_smaller_than_the_cutoff_is_listed_whole(tmp_path: Path) -> None:
    """CIRR's R@50 among 18 pictures: 17 names are all there is."""
    root = write_cirr(tmp_path / "data")
    for name in ("captions/cap.rc2.val.json", "image_splits/split.rc2.val.json", "dataset.json"):
        content = json.loads((root / name).read_text(encoding="utf-8"))
        if name.startswith("captions"):
            content = content[:9]
        elif name.startswith("image"):
            content = dict(list(content.items())[:18])
        else:
            content = {"name": "tiny-cirr"}
        (root / name).write_text(json.dumps(content), encoding="utf-8")
    lists = cirr_lists(root)
    assert {len(ranking) for ranking in lists.values()} == {17}
    assert score(root, tmp_path / "a", as_trec(lists)).results[0].metrics["R@50"] == 100
    first(lists).pop()
    assert "lists shorter than 17 names: 1 queries" in refusal(root, tmp_path / "b", as_trec(lists))


def test_the_command(cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = cirr_lists(cirr)
    (tmp_path / "lists.run").write_text(as_trec(lists), encoding="utf-8")
    (tmp_path / "subset.json").write_text(as_server(subset_lists(cirr, lists), "recall_subset"), encoding="utf-8")
    command = ["evaluate", "--rankings", str(tmp_path / "lists.run"), "--dataset", "cirr", "--data-root", str(cirr)]
    command += ["--output", str(tmp_path / "run")]
    assert main([*command, "--name", "A | B", "--subset-rankings", str(tmp_path / "subset.json")]) == 0
    printed = capsys.readouterr().out
    assert "A \\| B" in printed and "Rs@1" in printed
    assert main([*command, "--subset-rankings", str(tmp_path / "none.json")]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_task_without_subsets_takes_no_lists_of_them(cirr: Path, tmp_path: Path) -> None:
    from benchmark.interop.rankings import score_lists

    dataset = load("cirr", cirr)
    (task,) = dataset.tasks("val", "official", "as-is")
    plain = replace(task, queries=replace(task.queries, subset=None), subset_cutoffs=())
    (tmp_path / "lists").write_text(as_lines(cirr_lists(cirr)), encoding="utf-8")
    lists = read_ranked_lists(tmp_path / "lists")
    (tested,) = score_lists([plain], dataset.pictures.names, lists, None)
    assert set(tested.metrics) == {"R@1", "R@5", "R@10", "R@50"} and tested.task.notes == ()
    with pytest.raises(UserError, match="ranks no subsets; leave --subset-rankings out"):
        score_lists([plain], dataset.pictures.names, lists, lists)


def test_a_file_with_other_keys_is_told_in_one_line(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"qid": str(number), "candidates": ["a"]}) for number in range(4000))
    (tmp_path / "lists").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_ranked_lists(tmp_path / "lists")
    told = str(caught.value)
    assert 'line 1: not of the form {"query": "id", "ranking": ["name", …]}; its keys are \'qid\', \'candidates\'' in told
    assert "the first of 4,000 such faults" in told and "truncated" not in told and "\n" not in told


def test_names_without_end_and_pipes_are_told_briefly(tmp_path: Path) -> None:
    (tmp_path / "lists").write_text(f"1 Q0 a {'9' * 10**6} x me", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_ranked_lists(tmp_path / "lists")
    assert len(str(caught.value)) < 400
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe, not a file"):
        read_ranked_lists(tmp_path / "pipe")
