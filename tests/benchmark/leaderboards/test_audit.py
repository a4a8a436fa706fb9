"""`leaderboard --check` passes, and names what does not follow after one digit of a page, a record or its ranks."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from proved_records import write_proved

from benchmark.cli import main
from benchmark.leaderboards.audit import differences
from benchmark.leaderboards.book import add, proved
from benchmark.leaderboards.leaderboard import pages, write_stale
from benchmark.records.record import Record, read_record
from benchmark.registry import discover

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")
DATASETS = {"cirr": discover().datasets()["cirr"]}


def official(seed: int = 0) -> Record:
    raw = copy.deepcopy(GOLDEN)
    raw["identity"]["data"].update(label="cirr", is_demo=False, is_official=True, checked={"cap.rc2.val.json": "digest"})
    raw["identity"]["seed"] = seed
    for result in raw["results"]:
        result["dataset"] = "cirr"
    return Record.model_validate(raw)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of a measured run and a demo run, with its pages."""
    folder = tmp_path_factory.mktemp("book")
    write_proved(folder / "run", official())
    write_proved(folder / "demo", Record.model_validate(GOLDEN))
    add(folder / "run", folder / "results")
    add(folder / "demo", folder / "results", demo=True)
    write_stale(pages(folder / "results", DATASETS))
    return folder / "results"


def check(book: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["leaderboard", "--check", "--results", str(book)])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_a_whole_book_passes_and_each_changed_digit_of_a_page_is_named(book: Path) -> None:
    assert differences(pages(book, DATASETS)) == []
    generator = np.random.default_rng(0)
    for page in (book / "leaderboard" / "cirr.md", book / "demo" / "cirr.md"):
        text = page.read_text(encoding="utf-8")
        digits = [match.start() for match in re.finditer(r"\d", text)]
        for place in generator.choice(digits, 12, replace=False).tolist():
            changed = str((int(text[place]) + 1) % 10)
            page.write_text(text[:place] + changed + text[place + 1 :], encoding="utf-8")
            (fault,) = differences(pages(book, DATASETS))
            assert f"{page}, line {text.count(chr(10), 0, place) + 1}" in fault
        page.write_text(text, encoding="utf-8")


def test_a_changed_cell_is_told_by_its_row_and_column(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["leaderboard", "--results", str(book)])
    capsys.readouterr()
    assert check(book, capsys) == (0, "")
    page = book / "demo" / "cirr.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("83.25", "83.35", 1), encoding="utf-8")
    status, told = check(book, capsys)
    assert status == 1 and "SPIRIT, held-out epoch, R@10: '83.35≈' does not follow; it should be '83.25≈'" in told
    page.write_text(text, encoding="utf-8")
    browser = book / "leaderboard" / "leaderboard.html"
    before = browser.read_text(encoding="utf-8")
    browser.write_text(before.replace("83.25<", "83.35<"), encoding="utf-8")
    status, told = check(book, capsys)
    assert status == 1 and "leaderboard.html, line" in told
    browser.write_text(before, encoding="utf-8")


def test_one_digit_of_a_record_or_of_its_ranks_is_found(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = (book / "records").rglob("record.json")
    text = file.read_text(encoding="utf-8")
    digits = [match.start() for match in re.finditer(r"\d", text)]
    for place in np.random.default_rng(1).choice(digits, 15, replace=False).tolist():
        file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :], encoding="utf-8")
        status, told = check(book, capsys)
        assert status == 2 and str(file) in told and "Traceback" not in told
    raw = json.loads(text)
    raw["results"][0]["metrics"]["R@10"] = 83.35
    file.write_text(json.dumps(raw), encoding="utf-8")
    status, told = check(book, capsys)
    assert status == 2 and "R@10 is 83.35, its ranks give 83.25" in told and "not as it was added" in told
    file.write_text(text, encoding="utf-8")
    ranks = file.with_name("per_query.npz")
    content = bytearray(ranks.read_bytes())
    content[len(content) // 2] ^= 1
    ranks.write_bytes(content)
    status, told = check(book, capsys)
    assert status == 2 and "per_query.npz: not as it was added" in told and told.count("\n") <= 3
    content[len(content) // 2] ^= 1
    ranks.write_bytes(content)
    assert len(proved(book / "records").records) == 1


def test_a_missing_page_a_line_too_many_and_a_lacking_one_are_told(book: Path) -> None:
    wanted = pages(book, DATASETS)
    page = book / "leaderboard" / "cirr.md"
    text = page.read_text(encoding="utf-8")
    for content, told in ((text + "x\n", "not what the records"), (text[:-20], "line"), (text.rstrip("\n"), "end of its lines")):
        page.write_text(content, encoding="utf-8")
        assert any(told in fault for fault in differences(wanted)), told
    page.unlink()
    assert f"{page}: missing" in differences(wanted)
    page.write_text(text, encoding="utf-8")


def test_an_exclusion_needs_a_record_and_a_reason_and_is_told_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    folders = []
    for seed in (0, 1):
        write_proved(tmp_path / str(seed), official(seed))
        folders.append(add(tmp_path / str(seed), results)[0])
    name = folders[0].relative_to(results / "records").as_posix()
    listing = results / "excluded.toml"
    for text, told in (
        (f'[[excluded]]\nrecord = "{name}"\nreason = " "\n', "has no reason"),
        ('[[excluded]]\nrecord = "cirr/none"\nreason = "x"\n', "names no record"),
        (f'[[excluded]]\nrecord = "{name}"\n', "excluded.toml"),
        ("[[exclude]]\n", "'exclude' is not known"),
        ("[[", "excluded.toml"),
    ):
        listing.write_text(text, encoding="utf-8")
        status, said = check(results, capsys)
        assert status == 2 and told in said and said.count("\n") == 1
    before = pages_without(results, listing)
    listing.write_text(f'[[excluded]]\nrecord = "{name}"\nreason = "its disk <b>failed</b>"\n', encoding="utf-8")
    page = pages(results, DATASETS)[results / "leaderboard" / "cirr.md"]
    assert "seeds: 0, 1" in before and "seeds: 1" in page
    assert "SPIRIT, seed 0: its disk \\<b>failed\\</b>" in page


def pages_without(results: Path, listing: Path) -> str:
    listing.unlink()
    return pages(results, DATASETS)[results / "leaderboard" / "cirr.md"]
