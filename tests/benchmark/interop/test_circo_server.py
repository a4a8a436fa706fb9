"""CIRCO's server file: 50 numbers for every query of test, as numbers, or nothing; its numbers join the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.datasets.demo.circo import CircoSizes
from benchmark.datasets.demo.demo_data import write_demo
from command_line import Command

from benchmark.interop.ranked_lists import read_ranked_lists
from benchmark.records.record import read_record

FILE = "circo-test.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo data that says to be somebody's own: 60 pictures and more, 4 queries of test."""
    folder = tmp_path_factory.mktemp("circo") / "CIRCO"
    write_demo("circo", folder, CircoSizes(3, 4, 2, 1, 45), workers=1)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def entries(root: Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(root / "annotations" / f"{split}.json")
    return found


def gallery(root: Path) -> list[int]:
    images = read(root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json")["images"]
    return [image["id"] for image in images]


def embeddings(root: Path, path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    queries, pictures = rng.standard_normal((4, 8)).astype(np.float32), rng.standard_normal((len(gallery(root)), 8)).astype(np.float32)
    np.savez(path, queries=queries, query_ids=list("0123"), gallery=pictures, gallery_ids=list(map(str, gallery(root))))
    return queries, pictures


def test_the_file_holds_the_best_fifty_as_numbers_and_the_reference_where_it_is_ranked(
    root: Path, command: Command, tmp_path: Path
) -> None:
    queries, pictures = embeddings(root, tmp_path / "mine.npz")
    order = np.argsort(-(queries.astype(np.float64) @ pictures.astype(np.float64).T), axis=1)
    ids = np.asarray(gallery(root))
    for protocol, options in (("official", []), ("official-noref", ["--protocol", "official-noref"])):
        done = command("submit", "--embeddings", tmp_path / "mine.npz", "--dataset", "circo", "--data-root", root,
                       "--output", tmp_path / protocol, *options)  # fmt: skip
        assert done.status == 0, done.err
        lists = read(tmp_path / protocol / FILE)
        assert list(lists) == ["0", "1", "2", "3"]
        for query, entry in enumerate(entries(root, "test")):
            kept = [i for i in ids[order[query]].tolist() if protocol == "official" or i != entry["reference_img_id"]]
            assert lists[str(query)] == kept[:50] and all(type(i) is int for i in lists[str(query)])
        told = read(tmp_path / protocol / "submission.json")
        assert (told["protocol"], told["split"], told["server"]) == (protocol, "test", "circo")
        # What was written reads as ranked lists, too.
        assert read_ranked_lists(tmp_path / protocol / FILE).lists["3"][0] == str(lists["3"][0])
    assert "not on CIRCO's test" in done.out


def right_lists(root: Path) -> dict[str, list[Any]]:
    return {str(number): gallery(root)[:50] for number in range(4)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lists: lists.pop("2"), "no list for queries: 1 queries, 2"),
        (lambda lists: lists.update({"4": lists["0"]}), "unknown queries: 1 queries, 4"),
        (lambda lists: lists["1"].pop(), "lists shorter than 50 names: 1 queries, 1 (49 names)"),
        (lambda lists: lists["1"].__setitem__(3, lists["1"][2]), "a name stands twice: 1 queries, 1"),
        (lambda lists: lists["0"].__setitem__(0, 599_999), "names that are not in the gallery: 1 queries, 0 (599999)"),
    ],
)  # fmt: skip
def test_wrong_lists_are_never_written(
    change: Callable[[dict[str, list[Any]]], Any], told: str, root: Path, command: Command, tmp_path: Path
) -> None:
    lists = right_lists(root)
    change(lists)
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    done = command("submit", "--rankings", tmp_path / "lists.json", "--dataset", "circo", "--data-root", root,
                   "--output", tmp_path / "out")  # fmt: skip
    assert done.status == 2 and told in done.err and not (tmp_path / "out").exists(), done.err


def test_the_server_s_numbers_join_the_record(root: Path, command: Command, tmp_path: Path) -> None:
    # Longer lists, and ids as strings of digits, are what others write: cut and turned into numbers.
    lists = {query: list(map(str, gallery(root)[:55])) for query in right_lists(root)}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    head = ("--dataset", "circo", "--data-root", root)
    done = command("submit", "--rankings", tmp_path / "lists.json", *head)
    assert done.status == 0, done.err
    (run,) = (tmp_path / "runs").rglob("record.json")
    assert read(run.parent / "submission" / FILE) == right_lists(root)
    # Somebody's own data in the official data's place, as far as the submission says.
    submission = run.parent / "submission" / "submission.json"
    submission.write_text(json.dumps(read(submission) | {"is_official": True}))
    numbers = tmp_path / "numbers.json"
    for content, told in (
        ({"mAP@5": 0.2, "mAP@10": 0.3}, "these look like shares"),
        ({"R@5": 20.0}, "unknown metric 'R@5'"),
        ({"R_target@5": 30.0, "R_target@10": 20.0}, "R_target@5 is 30.0, more than R_target@10"),
    ):
        numbers.write_text(json.dumps(content))
        wrong = command("submit", run.parent, "--server-numbers", numbers)
        assert wrong.status == 2 and told in wrong.err, wrong.err
    # A precision may fall with k, a recall may not.
    numbers.write_text(json.dumps({"mAP@10": 11.5, "mAP@5": 12.0, "R_target@5": 30.0}))
    assert command("submit", run.parent, "--server-numbers", numbers).status == 0
    result = read_record(run.parent).results[-1]
    assert str(result.key) == "demo-circo · test · official · single" and result.measured_by == "server"
    assert list(result.metrics) == ["mAP@5", "mAP@10", "R_target@5"]
    table = (run.parent / "table.md").read_text()
    assert "mAP@5" in table and "12.00" in table and "official test server" in table


def test_other_servers_and_protocols_are_refused(root: Path, command: Command, tmp_path: Path) -> None:
    embeddings(root, tmp_path / "mine.npz")
    for options, told in (
        (("--dataset", "shoes"), "only cirr and circo have a test server"),
        (("--dataset", "circo", "--protocol", "original"), "the server takes one of official, official-noref"),
    ):
        done = command("submit", "--embeddings", tmp_path / "mine.npz", "--data-root", root, *options)
        assert done.status == 2 and told in done.err, done.err


def test_embeddings_from_outside_are_scored_by_all_positives(root: Path, command: Command, tmp_path: Path) -> None:
    rng, asked = np.random.default_rng(1), entries(root, "val")
    queries, pictures = (rng.standard_normal((n, 6)).astype(np.float32) for n in (len(asked), len(gallery(root))))
    np.savez(tmp_path / "mine.npz", queries=queries, query_ids=[str(entry["id"]) for entry in asked], gallery=pictures,
             gallery_ids=list(map(str, gallery(root))))  # fmt: skip
    done = command("evaluate", "--embeddings", tmp_path / "mine.npz", "--dataset", "circo", "--data-root", root,
                   "--output", tmp_path / "run")  # fmt: skip
    assert done.status == 0, done.err
    results = read_record(tmp_path / "run").results
    assert [result.protocol for result in results] == ["official", "official-noref"]
    order, ids = np.argsort(-(queries.astype(np.float64) @ pictures.astype(np.float64).T), axis=1), np.asarray(gallery(root))
    for result in results:
        precisions, recalls = [], []
        for query, entry in enumerate(asked):
            ranked = [i for i in ids[order[query]].tolist() if result.protocol == "official" or i != entry["reference_img_id"]]
            hits = [i in entry["gt_img_ids"] for i in ranked[:10]]
            found = sum(sum(hits[: place + 1]) / (place + 1) for place in range(10) if hits[place])
            precisions.append(found / min(10, len(entry["gt_img_ids"])))
            recalls.append(entry["target_img_id"] in ranked[:10])
        assert result.metrics["mAP@10"] == pytest.approx(100 * float(np.mean(precisions)))
        assert result.metrics["R_target@10"] == pytest.approx(100 * float(np.mean(recalls)))
