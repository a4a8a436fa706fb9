"""Leaderboards: the same pages from the same records, and nothing but official runs on them."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
from proved_records import write_proved

from benchmark.cli import main
from benchmark.dataset import DatasetInfo
from benchmark.errors import UserError
from benchmark.leaderboards.book import Book, add, proved, refusals
from benchmark.leaderboards.leaderboard import Sources, pages, render, render_demo, stale, write_stale
from benchmark.leaderboards.published import COLUMNS, REMARKS, PublishedNumber, read_published
from benchmark.records.record import Record, read_per_query, read_record, record_files, write_record
from benchmark.registry import discover

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_1.json").model_dump(mode="json")
RESULTS = Path(__file__).parents[3] / "results"
ALL = discover().datasets()
DATASETS = {"cirr": ALL["cirr"]}
CIRR = ALL["cirr"]


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


def names_of(paths: list[Path]) -> list[str]:
    return sorted(path.name for path in paths)


def page_of(info: DatasetInfo, records: list[Record], numbers: tuple[PublishedNumber, ...] = ()) -> str:
    return render(info, Sources(measured=Book(tuple(records), {}), published=numbers))


def test_without_records_the_page_says_so_and_how_to_add_one(tmp_path: Path) -> None:
    written = write_stale(pages(tmp_path, DATASETS))
    assert names_of(written) == ["cirr.md", "leaderboard.html", "same-model-other-protocol.md"]
    page = (tmp_path / "leaderboard" / "cirr.md").read_text(encoding="utf-8")
    assert "no measured rows yet" in page and "leaderboard --add RUN" in page
    assert "--dataset cirr --data-root" in page
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_committed_pages_are_the_generated_ones() -> None:
    assert main(["leaderboard", "--check", "--results", str(RESULTS)]) == 0


def test_an_added_run_appears_and_the_pages_are_stale_until_written(tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    write_proved(run, real())
    (run / "examples.png").write_bytes(b"picture")
    write_stale(pages(results, DATASETS))
    folder, not_derivable = add(run, results)
    assert sorted(p.name for p in folder.iterdir()) == ["digests.json", "per_query.npz", "record.json"] and not_derivable == ()
    (kept,) = {ranks.top is None and ranks.gallery == () for ranks in read_per_query(folder, read_record(folder)).values()}
    assert kept, "the lists of best pictures stay with the run"
    page = results / "leaderboard" / "cirr.md"
    assert names_of(stale(pages(results, DATASETS))) == ["cirr.md", "leaderboard.html"]
    assert names_of(write_stale(pages(results, DATASETS))) == ["cirr.md", "leaderboard.html"]
    assert stale(pages(results, DATASETS)) == [] and write_stale(pages(results, DATASETS)) == []
    text = page.read_text(encoding="utf-8")
    assert "| SPIRIT" in text and "`python -m benchmark run --method spirit`" in text
    assert "synthetic" not in text
    page.write_text(text + "x", encoding="utf-8")
    assert stale(pages(results, DATASETS)) == [page]


def test_adding_twice_is_the_same_and_another_record_never_replaces_one(tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    write_proved(run, real())
    assert add(run, results) == add(run, results)
    write_proved(run, real().model_copy(update={"created": "2031-01-01T00:00:00Z"}))
    with pytest.raises(UserError, match="another record of the same run and seed"):
        add(run, results)
    write_proved(run, real(seed=1))
    assert add(run, results)[0].name == "seed-1"
    write_proved(run, real(batch_size=64))
    add(run, results)
    assert len(record_files([results / "records"])) == 3


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


def test_unscored_runs_are_refused_and_speeds_stand_on_no_dataset_s_page(tmp_path: Path) -> None:
    raw = real().model_dump(mode="json")
    raw["results"] = [{**raw["results"][0], "metrics": {}, "intervals": {}}]
    write_record(tmp_path / "hidden", Record.model_validate(raw))
    with pytest.raises(UserError, match="labels are hidden"):
        add(tmp_path / "hidden", tmp_path)
    speed = Record.model_validate({**GOLDEN, "kind": "throughput", "results": []})
    assert "no measured rows yet" in page_of(CIRR, [speed])
    assert "holds no retrieval results" in refusals(speed)[0]


def test_a_record_put_there_by_hand_is_still_kept_off_the_measured_page() -> None:
    page = page_of(CIRR, [demo(), real(limit=9)])
    assert "no measured rows yet" in page


def test_the_demo_page_takes_demo_runs_only_and_names_them(tmp_path: Path) -> None:
    for n, record in enumerate([demo(0), demo(1), demo(0, "sum"), real(0, "clip4cir")]):
        write_proved(tmp_path / "results" / "demo" / "records" / str(n), record)
    found = pages(tmp_path / "results", DATASETS)
    page = found[tmp_path / "results" / "demo" / "cirr.md"]
    assert "| SPIRIT" in page and "| SUM" in page
    lines = page.splitlines()
    assert lines[0] == "# CIRR: demo, synthetic pictures" and lines[-1].startswith("Demo, synthetic pictures: ")
    headings = [line for line in lines if line.startswith("## demo-cirr")]
    assert headings and all(line.endswith(": demo, synthetic pictures, ranks no methods") for line in headings)
    assert "CLIP4CIR" not in page and "**" not in page
    assert "seeds" in page and "0, 1" in page
    assert "no measured rows yet" in found[tmp_path / "results" / "leaderboard" / "cirr.md"]


def test_pages_do_not_depend_on_the_order_of_records() -> None:
    records = [real(s, m) for m in ("spirit", "sum") for s in (0, 1, 2)]
    assert page_of(CIRR, records) == page_of(CIRR, records[::-1])


def test_records_are_found_once_and_all_problems_of_a_book_come_in_one_go(tmp_path: Path) -> None:
    write_record(tmp_path / "a" / "b", demo())
    assert len(record_files([tmp_path, tmp_path / "a", tmp_path / "a" / "b" / "record.json"])) == 1
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        record_files([tmp_path, tmp_path / "nowhere"])
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError) as error:
        proved(tmp_path)
    told = str(error.value)
    assert all(str(tmp_path / name / "record.json") in told for name in ("c", "d"))


def test_categories_stand_in_one_table() -> None:
    raw = real().model_dump(mode="json")
    result = raw["results"][0]
    raw["results"] = [{**result, "category": c} for c in ("dress", "average")]
    page = page_of(CIRR, [Record.model_validate(raw)])
    assert page.count("## cirr · val · official · single") == 1
    head = next(line for line in page.splitlines() if line.startswith("| method"))
    assert head.index("dress") < head.index("average")


def published(folder: Path, *lines: dict[str, str]) -> tuple[PublishedNumber, ...]:
    """Numbers of lines that differ from one of CIRR's test1 as told, written to ``folder`` and read."""
    usual = dict.fromkeys(COLUMNS, "X") | dict.fromkeys(REMARKS, "") | {
        **{"method": "OLD", "venue": "CVPR", "year": "2020", "dataset": "CIRR", "split": "test1"},
        **{"protocol": "official", "text_mode": "single", "metric": "R@5", "category": "all", "value": "40.10"},
        **{"source": "A table", "confidence": "read", "source_kind": "quoted", "backbone": "CNN"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "published.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(usual | line for line in lines)
    return read_published(folder / "published.csv")


def on_test1(**changes: Any) -> Record:
    """A run whose numbers on test1 came from the server."""
    raw = real().model_dump(mode="json")
    raw["results"][0].update(split="test1", measured_by="server", **changes)
    return Record.model_validate(raw)


def section(page: str, heading: str) -> str:
    """From a heading of that beginning to the next of its level."""
    level = heading.split(" ")[0]
    return page[page.index(f"\n{heading}") + 1 :].split(f"\n{level} ")[0]


def lines_of(text: str, method: str) -> list[list[str]]:
    """A table's rows of that method: name and label, put together from their lines, then the numbers."""
    found: list[list[str]] = []
    name = ""
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith("| method "):
            continue
        label, *numbers = (cell[1:].rstrip() for cell in line.strip("|").split("|"))
        depth = len(label) - len(label.lstrip())
        if label.strip() in ("±", "sd", ""):
            continue
        if depth == 0 or any(numbers):
            name = label if depth == 0 else name
            if any(numbers):
                found.append([name if depth == 0 else f"{name}, {label.strip()}", *map(str.strip, numbers)])
        elif depth == 2 and not (found and found[-1][0].startswith(name)):
            name += label[1:]
        else:
            found[-1][0] += f" {label.strip()}"
    return [row for row in found if row[0] == method or row[0].startswith(f"{method}, ")]


def test_published_rows_stand_beside_measured_ones_of_the_same_column_only(tmp_path: Path) -> None:
    numbers = published(tmp_path, {}, {"split": "val", "method": "VALIDATED"})
    page = page_of(CIRR, [on_test1()], numbers)
    test1, val = section(page, "## cirr · test1"), section(page, "## cirr · val")
    assert page.index("## cirr · test1") < page.index("## cirr · val")
    assert lines_of(test1, "OLD") and lines_of(test1, "SPIRIT") and not lines_of(test1, "VALIDATED")
    assert lines_of(val, "VALIDATED") and lines_of(val, "SPIRIT") and not lines_of(val, "OLD")
    assert lines_of(test1, "SPIRIT")[0][0] == "SPIRIT, measured by the server"
    assert lines_of(test1, "OLD")[0][0] == "OLD, CNN, 2020, quoted [1]" and "40.10" in lines_of(test1, "OLD")[0]
    assert all(row[0].endswith("epoch, measured here") for row in lines_of(val, "SPIRIT"))
    assert "(another split: not comparable with test1 · official · single)" in val.splitlines()[0]
    assert "- [1] A table" in page and "- quoted: " in page


def test_a_published_number_is_never_bold_nor_makes_another_so(tmp_path: Path) -> None:
    better, worse = (published(tmp_path, {"value": value, "split": "val"}) for value in ("99.00", "1.00"))
    records = [real(seed, method) for method in ("spirit", "sum") for seed in (0, 1, 2)]
    for numbers in (better, worse):
        rows = section(page_of(CIRR, records, numbers), "## cirr · val")
        assert "**" in rows and not any("**" in cell for cell in lines_of(rows, "OLD")[0])
    first, second = (lines_of(page_of(CIRR, records, numbers), "SUM")[0] for numbers in (better, worse))
    # Which rows are not told from the best, a published best may change.
    assert [cell.rstrip("ᵇ") for cell in first] == [cell.rstrip("ᵇ") for cell in second]


def test_a_column_without_published_rows_says_so_and_names_the_nearest(tmp_path: Path) -> None:
    page = page_of(CIRR, [real()], published(tmp_path, {}))
    val = section(page, "## cirr · val")
    assert "No published row for this column. The nearest that has some is test1 · official · single" in val
    assert "another split, not comparable" in val
    assert "No published row" not in section(page, "## cirr · test1")
    alone = page_of(CIRR, [real()])
    assert "nor for any other of this dataset" in alone and "Sources" not in alone


@pytest.mark.parametrize(
    ("measured", "nearest"),
    [
        (("val-noref", "both-orders"), "val-noref · joined"),
        (("original", "per-caption"), "val-noref · per-caption"),
        (("original-partial", "joined"), "original · joined"),
    ],
)
def test_the_nearest_shares_the_text_before_the_gallery_and_is_never_unclear(
    tmp_path: Path, measured: tuple[str, str], nearest: str
) -> None:
    columns = ["original joined", "val-noref joined", "unclear joined", "val-noref per-caption", "unclear unclear"]
    usual = {"dataset": "FashionIQ", "split": "val", "category": "average", "metric": "R@10"}
    lines = [{**usual, "protocol": p, "text_mode": t} for p, t in map(str.split, columns)]
    numbers = published(tmp_path, *lines)
    page = page_of(ALL["fashioniq"], [fashioniq(*measured)], numbers)
    block = section(page, f"## fashioniq · val · {measured[0]} · {measured[1]}")
    assert f"The nearest that has some is val · {nearest}:" in block
    headings = [line for line in page.splitlines() if line.startswith("## fashioniq")]
    assert headings[0] == "## fashioniq · val · original · joined"
    assert all("not comparable" in heading for heading in headings[1:])
    assert [h.split(" (")[0] for h in headings[-2:]] == [
        "## fashioniq · val · unclear · joined",
        "## fashioniq · val · unclear · unclear",
    ]


def fashioniq(protocol: str, text_mode: str) -> Record:
    raw = real().model_dump(mode="json")
    raw["identity"]["data"].update(name="fashioniq", label="fashioniq")
    usual = {"dataset": "fashioniq", "protocol": protocol, "text_mode": text_mode, "intervals": {}}
    raw["results"] = [
        {**raw["results"][0], **usual, "category": category, "metrics": {"R@10": 40.0, "R@50": 61.0}}
        for category in ("average", "dress")
    ]
    return Record.model_validate(raw)


def test_a_measured_row_gets_the_average_that_papers_print_and_only_there(tmp_path: Path) -> None:
    usual = {"dataset": "FashionIQ", "split": "val", "protocol": "original", "text_mode": "joined"}
    numbers = published(
        tmp_path,
        {**usual, "category": "average", "metric": "mean(R@10,R@50)"},
        {**usual, "category": "dress", "metric": "R@10"},
    )
    page = page_of(ALL["fashioniq"], [fashioniq("original", "joined")], numbers)
    block = section(page, "## fashioniq · val · original · joined")
    assert lines_of(block, "SPIRIT")[0][-1] == "50.50"
    assert sum("mean " in line for line in block.splitlines() if line.startswith("|")) == 1 and "mean: (R@10+R@50)/2" in block


def test_a_server_row_lacks_an_average_whose_parts_it_lacks(tmp_path: Path) -> None:
    average = "(R@5+R_subset@1)/2"
    numbers = published(tmp_path, {"metric": average})
    parts = page_of(CIRR, [on_test1(metrics={"R@5": 70.0}, intervals={})], numbers)
    whole = page_of(CIRR, [on_test1(metrics={"R@5": 70.0, "R_subset@1": 80.0}, intervals={})], numbers)
    assert lines_of(section(parts, "## cirr · test1"), "SPIRIT")[0][-1] == ""
    assert lines_of(section(whole, "## cirr · test1"), "SPIRIT")[0][-1] == "75.00"


def test_demo_pages_have_no_published_rows(tmp_path: Path) -> None:
    written = write_proved(tmp_path / "results" / "demo" / "records" / "0", demo())
    published(tmp_path / "results", {}, {"split": "val"})
    found = pages(tmp_path / "results", DATASETS)
    page = found[tmp_path / "results" / "demo" / "cirr.md"]
    noted = written.results[0].model_copy(update={"notes": ("an older record: not every number of it can be derived",)})
    assert page.count("demo-cirr ·") == 1 and noted.metrics
    assert "OLD" not in render_demo("cirr", "CIRR", Sources(demo=Book((demo(), real()), {})))
    assert "OLD" not in page and "ublished" not in page and "SPIRIT" in page
    assert "OLD" in found[tmp_path / "results" / "leaderboard" / "cirr.md"]


def test_a_changed_published_number_makes_its_page_stale(tmp_path: Path) -> None:
    published(tmp_path, {})
    write_stale(pages(tmp_path, ALL))
    published(tmp_path, {"value": "40.20"})
    assert names_of(stale(pages(tmp_path, ALL))) == ["cirr.md", "leaderboard.html"]


def test_bad_records_and_bad_published_numbers_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "records" / "a").mkdir(parents=True)
    (tmp_path / "records" / "a" / "record.json").write_text("{", encoding="utf-8")
    (tmp_path / "published.csv").write_text("method\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        pages(tmp_path, DATASETS)
    assert "record.json" in str(error.value) and "published.csv, line 1" in str(error.value)


def test_a_dataset_from_outside_has_a_page_without_published_rows() -> None:
    info = DatasetInfo("own", "Own", "", "", "", "", evaluation_split="eval")
    raw = real().model_dump(mode="json")
    raw["identity"]["data"].update(name="own", label="own")
    raw["results"] = [{**raw["results"][0], "dataset": "own", "split": "eval"}]
    page = page_of(info, [Record.model_validate(raw)])
    assert "## own · eval · official · single\n" in page and "No published row" in page


def test_the_committed_pages_keep_the_promises_of_the_protocols() -> None:
    def page(name: str) -> str:
        return (RESULTS / "leaderboard" / f"{name}.md").read_text(encoding="utf-8")

    block = section(page("fashioniq"), "## fashioniq · val · original · joined")
    row = lines_of(block, "CLIP4Cir (CVPRW22, text encoder tuned)")[0]
    assert row[0].endswith("CLIP RN50x4, 2022, survey [2, 4, 5]")
    assert row[-3:] == ["38.32†", "61.74", "50.03†"]
    told = " ".join(block.split())
    assert "CLIP4Cir (CVPRW22, text encoder tuned) [CLIP RN50x4] R@10 38.40" in told
    assert "CLIP4Cir (CVPRW22, text encoder tuned) [CLIP RN50x4] R@10, R@50: [4]; mean: [5]" in told
    assert lines_of(block, "SPIRIT")[0][-3:] == ["43.88", "67.20", "55.54"]
    cirr = section(page("cirr"), "## cirr · test1 · official · single")
    assert lines_of(cirr, "CLIP4Cir (TOMM23, both encoders tuned)")[0][-1] == "75.10"
    assert "## cirr · val" not in page("cirr")
    official = section(page("shoes"), "## shoes · test · official · single")
    assert "The nearest that has some is test · official-noref · single" in official
    assert page("fashion200k").index("## fashion200k · test · tirg · template") > 0
