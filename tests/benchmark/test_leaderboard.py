"""Leaderboards: the same pages from the same records, and nothing but official runs on them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.leaderboard import add, collect, pages, render, stale, write_all
from benchmark.record import Record, read_record, write_record

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "record_version_1.json").read_text(encoding="utf-8")
)
DATASETS = {"cirr": "CIRR"}


def demo(seed: int = 0, method: str = "spirit") -> Record:
    raw = copy.deepcopy(GOLDEN)
    raw["identity"]["seed"] = seed
    raw.update(method=method, title=method.upper(), command=f"python -m benchmark run --method {method}")
    return Record.model_validate(raw)


def real(seed: int = 0, method: str = "spirit", **identity: Any) -> Record:
    raw = demo(seed, method).model_dump(mode="json")
    raw["identity"]["data"].update(label="cirr", is_demo=False, is_official=True)
    raw["identity"].update(identity)
    for result in raw["results"]:
        result["dataset"] = "cirr"
    return Record.model_validate(raw)


def test_without_records_the_page_says_so_and_how_to_add_one(tmp_path: Path) -> None:
    assert write_all(tmp_path, DATASETS) == [tmp_path / "leaderboard" / "cirr.md"]
    page = (tmp_path / "leaderboard" / "cirr.md").read_text(encoding="utf-8")
    assert "no measured rows yet" in page and "leaderboard --add RUN" in page
    assert "--dataset cirr --data-root" in page
    assert not (tmp_path / "demo").exists()


def test_the_committed_page_is_the_generated_one() -> None:
    results = Path(__file__).parents[2] / "results"
    assert stale(results, DATASETS) == []


def test_an_added_run_appears_and_the_pages_are_stale_until_written(tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    write_record(run, real())
    (run / "examples.png").write_bytes(b"picture")
    write_all(results, DATASETS)
    folder = add(run, results)
    assert [p.name for p in folder.iterdir()] == ["record.json"]
    assert read_record(folder).files == {}
    page = results / "leaderboard" / "cirr.md"
    assert stale(results, DATASETS) == [page]
    assert write_all(results, DATASETS) == [page]
    assert stale(results, DATASETS) == [] and write_all(results, DATASETS) == []
    text = page.read_text(encoding="utf-8")
    assert "| SPIRIT" in text and "`python -m benchmark run --method spirit`" in text
    assert "drawn" not in text
    page.write_text(text + "x", encoding="utf-8")
    assert stale(results, DATASETS) == [page]


def test_adding_twice_is_the_same_and_another_record_never_replaces_one(tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    write_record(run, real())
    assert add(run, results) == add(run, results)
    write_record(run, real().model_copy(update={"created": "2031-01-01T00:00:00Z"}))
    with pytest.raises(UserError, match="another record of the same run and seed"):
        add(run, results)
    write_record(run, real(seed=1))
    assert add(run, results).name == "seed-1"
    write_record(run, real(batch_size=64))
    add(run, results)
    assert len(collect([results / "records"])) == 3


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (demo(), "demo data"),
        (real(limit=64), "--limit 64"),
        (real(data={**GOLDEN["identity"]["data"], "is_demo": False, "label": "cirr"}), "not the official"),
    ],
)
def test_runs_that_are_no_result_are_refused_and_nothing_is_written(
    tmp_path: Path, record: Record, words: str
) -> None:
    write_record(tmp_path / "run", record)
    with pytest.raises(UserError, match=words) as error:
        add(tmp_path / "run", tmp_path / "results")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


def test_throughput_and_unscored_runs_are_refused(tmp_path: Path) -> None:
    raw = real().model_dump(mode="json")
    raw["results"] = [{**raw["results"][0], "metrics": {}, "intervals": {}}]
    write_record(tmp_path / "hidden", Record.model_validate(raw))
    with pytest.raises(UserError, match="labels are hidden"):
        add(tmp_path / "hidden", tmp_path)
    raw = {**GOLDEN, "kind": "throughput", "results": []}
    write_record(tmp_path / "speed", Record.model_validate(raw))
    with pytest.raises(UserError, match="no retrieval results"):
        add(tmp_path / "speed", tmp_path)


def test_a_record_put_there_by_hand_is_still_kept_off_the_measured_page() -> None:
    page = render("cirr", [demo(), real(limit=9)], demo=False)
    assert "no measured rows yet" in page


def test_the_demo_page_takes_demo_runs_only_and_names_them(tmp_path: Path) -> None:
    for n, record in enumerate([demo(0), demo(1), demo(0, "sum"), real(0, "clip4cir")]):
        write_record(tmp_path / "runs" / str(n), record)
    found = pages(tmp_path / "results", DATASETS, [tmp_path / "runs"])
    page = found[tmp_path / "results" / "demo" / "cirr.md"]
    assert "SPIRIT (demo, drawn pictures)" in page and "SUM (demo, drawn pictures)" in page
    assert "CLIP4CIR" not in page and "**" not in page
    assert "seeds" in page and "0, 1" in page
    assert "no measured rows yet" in found[tmp_path / "results" / "leaderboard" / "cirr.md"]


def test_pages_do_not_depend_on_the_order_of_records() -> None:
    records = [real(s, m) for m in ("spirit", "sum") for s in (0, 1, 2)]
    assert render("cirr", records, demo=False) == render("cirr", records[::-1], demo=False)


def test_records_are_read_once_and_problems_come_in_one_go(tmp_path: Path) -> None:
    write_record(tmp_path / "a" / "b", demo())
    assert len(collect([tmp_path, tmp_path / "a", tmp_path / "a" / "b" / "record.json"])) == 1
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError) as error:
        collect([tmp_path, tmp_path / "nowhere"])
    first, second = str(error.value).splitlines()
    assert "nowhere" in first and str(tmp_path / "c" / "record.json") in second


def test_categories_stand_under_one_block() -> None:
    raw = real().model_dump(mode="json")
    result = raw["results"][0]
    raw["results"] = [{**result, "category": c} for c in ("dress", "average")]
    page = render("cirr", [Record.model_validate(raw)], demo=False)
    assert page.count("## cirr · val · official · single") == 1
    assert page.index("### average") < page.index("### dress")
