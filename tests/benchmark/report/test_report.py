"""The report in a real browser: its numbers are the records', its filters count right, nothing in it is executed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import headless_browser, requested, violations
from command_line import Command

from benchmark.cli import main
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.record import Record, read_per_query, read_record, write_record
from benchmark.report.breakdowns import count_changes, has_negation
from benchmark.report.page import write_report

HOSTILE = "</script><img src=x onerror='window.hacked=1'><script>window.hacked=2</script> not {{ 7*7 }} | *a* $x$"
RUNS = {
    "sum": "--set method.encoder=untouched",
    "image_only": "--set method.encoder=untouched",
    "text_only": "--set method.encoder=untouched",
    "spirit": "--epochs 1 --batch-size 36 --set encoders.epochs=0 --set encoders.batch_size=24",
}
GONE = 3
"""Place in the gallery of the picture that is removed after the runs."""


@pytest.fixture(scope="module")
def hostile_data(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small folder with a caption that would like to be executed."""
    folder = tmp_path_factory.mktemp("data") / "cirr"
    shutil.copytree(small_cirr, folder)
    file = folder / "captions" / "cap.rc2.val.json"
    entries = json.loads(file.read_text())
    entries[0]["caption"] = HOSTILE
    file.write_text(json.dumps(entries))
    manifest = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**manifest, "name": "own-cirr", "drawn": False}))
    return folder


@pytest.fixture(scope="module")
def runs(hostile_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for method, further in RUNS.items():
        data = f"--dataset cirr --data-root {hostile_data} --backbone tiny --weights random"
        line = f"run --method {method} {data} {further} --output {folder / method}"
        assert main(shlex.split(line)) == 0
    raw = json.loads((folder / "sum" / "record.json").read_text())
    raw["title"] = HOSTILE
    (folder / "sum" / "record.json").write_text(json.dumps(raw))
    return folder


@pytest.fixture(scope="module")
def page(runs: Path, hostile_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_report([runs], tmp_path_factory.mktemp("page") / "report.html", {"data_root": {"*": str(hostile_data)}})
    record, found = first(runs / "sum")
    (path,) = hostile_data.rglob(f"{found.gallery[GONE]}.*")
    path.unlink()
    return written


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with headless_browser() as found:
        yield found


def first(folder: Path) -> tuple[Record, PerQuery]:
    record = read_record(folder)
    return record, read_per_query(folder, record)[0]


def text_of(driver: Any, selector: str) -> str:
    found: str = driver.find_element("css selector", selector).text
    return found


def fill(driver: Any, name: str, value: str) -> None:
    driver.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}));", name, value,
    )  # fmt: skip


def opened(driver: Any, page: Path) -> None:
    driver.get(page.as_uri())
    driver.get_log("browser")


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_tables_numbers_are_the_records(driver: Any, page: Path, runs: Path) -> None:
    opened(driver, page)
    rows = driver.find_elements("css selector", "#tables tbody tr")
    shown = {row.find_element("tag name", "th").text.splitlines()[0]: row.text for row in rows}
    for method in ("image_only", "text_only"):
        record, _ = first(runs / method)
        assert f"{record.results[0].metrics['R@10']:.2f}" in shown[record.title]
    composition = text_of(driver, "table.composition")
    at = first(runs / "sum")[0].results[0].composition["R@10"]
    assert f"{at.composed:.2f}" in composition and f"{at.gap:+.2f}" in composition
    assert len(driver.find_elements("css selector", "#results figure svg")) >= 2
    assert len(driver.find_elements("css selector", "#training figure svg")) == 2


def test_filters_count_what_the_ranks_say(driver: Any, page: Path, runs: Path) -> None:
    opened(driver, page)
    sides = [side["label"] for side in data_of(page)["blocks"][0]["sides"]]
    order = {method: sides.index(read_record(runs / method).title) for method in ("image_only", "text_only")}
    _, picture = first(runs / "image_only")
    _, text = first(runs / "text_only")
    assert text_of(driver, "#count") == "24 of 24 queries"
    fill(driver, "rank-side", str(order["image_only"]))
    fill(driver, "rank-low", "3")
    fill(driver, "rank-high", "9")
    assert text_of(driver, "#count") == f"{((picture.rank >= 3) & (picture.rank <= 9)).sum()} of 24 queries"
    driver.find_element("css selector", "#filters button[type=reset]").click()
    time.sleep(0.1)
    for name, value in (("side-a", order["image_only"]), ("side-b", order["text_only"]), ("cutoff", 5)):
        fill(driver, name, str(value))
    fill(driver, "relation", "right-wrong")
    wanted = (picture.rank <= 5) & (text.rank > 5)
    assert 0 < wanted.sum() < 24 and text_of(driver, "#count") == f"{wanted.sum()} of 24 queries"
    ids = [row.text.splitlines()[1].split()[0] for row in driver.find_elements("css selector", ".row")]
    assert ids == [picture.ids[i] for i in np.flatnonzero(wanted)]
    driver.find_element("css selector", "#filters button[type=reset]").click()
    time.sleep(0.1)
    fill(driver, "words", "ONERROR")
    assert text_of(driver, "#count") == "1 of 24 queries"


def test_a_click_and_keys_show_a_query_with_its_right_answer_marked(driver: Any, page: Path, runs: Path) -> None:
    opened(driver, page)
    _, found = first(runs / "image_only")
    driver.find_elements("css selector", ".row")[2].click()
    assert f"query {found.ids[2]}" in text_of(driver, "#query")
    listed = driver.find_element("id", "list")
    listed.send_keys("j")
    listed.send_keys("\ue015")  # arrow down
    listed.send_keys("k")
    assert f"query {found.ids[3]}" in text_of(driver, "#query")
    listed.send_keys("\ue010")  # End
    assert f"query {found.ids[-1]}" in text_of(driver, "#query")
    place = int(np.flatnonzero(found.rank <= 10)[0])
    listed.send_keys("\ue011")  # Home
    for _ in range(place):
        listed.send_keys("j")
    number = [side["label"] for side in data_of(page)["blocks"][0]["sides"]].index(read_record(runs / "image_only").title)
    strip = driver.find_elements("css selector", "#query .strip")[number]
    marked = strip.find_elements("css selector", ".picture.right figcaption")
    assert [each.text for each in marked] == [f"{found.rank[place]}, right ✓"]
    driver.find_element("tag name", "body").send_keys("/")
    assert driver.switch_to.active_element.get_attribute("id") == "words"


def test_nothing_is_executed_and_nothing_asked_for_outside(driver: Any, page: Path) -> None:
    opened(driver, page)
    assert driver.execute_script("return window.hacked") is None
    assert HOSTILE in text_of(driver, "#query") and HOSTILE in text_of(driver, "#tables")
    assert "49" not in text_of(driver, "#query .text")
    assert violations(driver) == []
    assert all(address.startswith(("file:", "data:")) for address in requested(driver))
    blocked = driver.execute_async_script(
        "const done = arguments[0]; document.addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective));"
        "const image = new Image(); image.src = 'https://example.org/a.png'; document.body.append(image);"
    )
    assert blocked == "img-src"


def test_a_picture_that_is_gone_is_shown_as_missing(driver: Any, page: Path, runs: Path) -> None:
    opened(driver, page)
    _, found = first(runs / "image_only")
    assert found.top is not None
    driver.find_elements("css selector", ".row")[int(np.flatnonzero((found.top[:8, :10] == GONE).any(axis=1))[0])].click()
    time.sleep(0.3)
    assert f"missing: {found.gallery[GONE]}" in text_of(driver, "#query")
    loaded = driver.execute_script("return [...document.querySelectorAll('#query img')].filter((i) => i.naturalWidth).length")
    assert loaded > 10


def test_a_patch_tells_what_it_attends_to(driver: Any, page: Path) -> None:
    opened(driver, page)
    (spirit,) = data_of(page)["attention"]
    values = spirit["examples"][0]["maps"][0]["values"]
    assert np.shape(values) == (13, 13) and np.allclose(np.sum(values, axis=1), 1, atol=1e-2)
    cells = driver.find_elements("css selector", ".map")[0].find_elements("css selector", "button.cell")
    driver.execute_script("arguments[0].click()", cells[5])
    assert cells[5].get_attribute("aria-pressed") == "true"
    assert [cell.get_attribute("title") for cell in cells] == [f"{100 * share:.1f} %" for share in values[5]]


def test_the_page_names_no_folder_and_embeds_only_when_asked(
    page: Path, runs: Path, hostile_data: Path, tmp_path: Path, command: Command
) -> None:
    text = page.read_text()
    assert str(hostile_data.parent) not in text and str(runs) not in text and "data:image" not in text
    outcome = command("report", runs / "sum", "--data-root", hostile_data, "--embed-pictures", "--output", "kept.html")
    assert outcome.status == 0
    kept = (tmp_path / "kept.html").read_text()
    assert 'id="stamp"' in kept and 'id="stamp"' not in text
    sources = data_of(tmp_path / "kept.html")["sources"]
    assert sum(source.startswith("data:image/jpeg") for source in sources) == len([s for s in sources if s]) >= 20


def test_a_report_without_the_data_says_so_and_keeps_its_numbers(runs: Path, tmp_path: Path, command: Command) -> None:
    outcome = command("report", runs / "image_only")
    assert outcome.status == 0 and "no --data-root was given for cirr" in outcome.err
    text = (tmp_path / "report.html").read_text()
    assert "no --data-root was given for cirr" in text and data_of(tmp_path / "report.html")["sources"] != []
    record, found = first(runs / "image_only")
    block = data_of(tmp_path / "report.html")["blocks"][0]
    assert block["sides"][0]["ranks"] == found.rank.tolist()
    # Without annotations the right answer is known by its rank.
    assert [mark > 0 for mark in block["sides"][0]["marks"]] == (found.rank <= 10).tolist()


def test_a_folder_without_runs_is_one_line(tmp_path: Path, command: Command) -> None:
    (tmp_path / "runs").mkdir()
    outcome = command("report")
    assert outcome.status == 2 and len(outcome.err.splitlines()) == 1 and not Path("report.html").exists()


def test_many_queries_stay_fluid(driver: Any, runs: Path, tmp_path: Path) -> None:
    """4,181 queries of two sides: a small page, few rows in the document, filters and keys within a blink."""
    count, rng = 4181, np.random.default_rng(0)
    for method in ("image_only", "text_only"):
        record = read_record(runs / method)
        gallery = tuple(f"picture-{i}" for i in range(2297))
        found = PerQuery(
            ids=tuple(str(n) for n in range(count)), group=np.arange(count), rank=rng.integers(1, 500, count),
            top=np.argsort(rng.random((count, 60)), axis=1)[:, :50], gallery=gallery,
        )  # fmt: skip
        result = record.results[0].model_copy(
            update={"queries": count, "gallery": 2297, "metrics": {"R@10": 2.0}, "intervals": {}, "composition": {}}
        )
        (tmp_path / method).mkdir()
        write_record(tmp_path / method, record.model_copy(update={"results": (result,)}), {0: found})
    page = write_report([tmp_path / "image_only", tmp_path / "text_only"], tmp_path / "report.html", {})
    assert page.stat().st_size < 2_000_000
    started = time.monotonic()
    opened(driver, page)
    assert text_of(driver, "#count") == "4,181 of 4,181 queries"
    print(f"{page.stat().st_size / 1e6:.2f} MB, loaded in {time.monotonic() - started:.2f} s")
    assert time.monotonic() - started < 10
    assert 0 < len(driver.find_elements("css selector", ".row")) < 60
    driver.find_element("id", "list").send_keys("\ue010")
    assert "query 4180" in text_of(driver, "#query")
    milliseconds = driver.execute_script(
        "const before = performance.now(); document.getElementById('words').value = '7';"
        "document.getElementById('filters').dispatchEvent(new Event('input')); return performance.now() - before"
    )
    assert milliseconds < 500


CATEGORIES = {"dress": 30, "shirt": 40, "toptee": 50}


def with_categories(run: Path, folder: Path) -> dict[str, PerQuery]:
    """A run's record with FashionIQ's three tasks and their average in place of its own, and ranks that give them."""
    record, rng = read_record(run), np.random.default_rng(1)
    found, results = {}, []
    for category, count in CATEGORIES.items():
        ranked = PerQuery(
            ids=tuple(f"{category}/{n}" for n in range(count)), group=np.arange(count) // 2,
            rank=rng.integers(1, 30, count), top=np.argsort(rng.random((count, 60)), axis=1)[:, :50],
            gallery=tuple(f"{category}-{i}" for i in range(60)),
        )  # fmt: skip
        metrics = {"R@10": 100 * float((ranked.rank <= 10).mean())}
        changed = {"category": category, "queries": count, "gallery": 60, "metrics": metrics, "composition": {}}
        notes = {"notes": ("a note of shirts alone",)} if category == "shirt" else {}
        results.append(record.results[0].model_copy(update={**changed, "intervals": {}, "ties": 0, **notes}))
        found[category] = ranked
    sums = {"queries": sum(CATEGORIES.values()), "gallery": 180, "category": "average", "notes": ()}
    mean = {"R@10": float(np.mean([r.metrics["R@10"] for r in results]))}
    results.append(results[0].model_copy(update={**sums, "metrics": mean}))
    folder.mkdir()
    write_record(folder, record.model_copy(update={"results": tuple(results)}), dict(enumerate(found.values())))
    return found


def test_categories_stand_side_by_side_are_filtered_and_broken_down(driver: Any, runs: Path, tmp_path: Path) -> None:
    found = with_categories(runs / "image_only", tmp_path / "image_only")
    page = write_report([tmp_path / "image_only"], tmp_path / "report.html", {})
    opened(driver, page)
    assert [e.text for e in driver.find_elements("css selector", "#tables th.over")] == [*CATEGORIES, "average"]
    average = driver.find_elements("css selector", "#tables tbody tr td")[-1].text
    values = {c: 100 * float((r.rank <= 10).mean()) for c, r in found.items()}
    # Each category weighs alike, and the interval is made from ranks: no record holds one.
    assert re.fullmatch(rf"{np.mean(list(values.values())):.2f}\n± \d+\.\d", average)
    assert "shirt: a note of shirts alone." in text_of(driver, "#tables .notes")
    rows = driver.find_elements("css selector", ".breakdown tbody tr")
    assert [row.text.split()[:3] for row in rows] == [[c, str(n), f"{values[c]:.1f}"] for c, n in CATEGORIES.items()]
    ranks = np.concatenate([r.rank for r in found.values()])
    shares = [100 * np.mean((ranks >= low) & (ranks <= high)) for low, high in ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50))]
    bars = driver.find_elements("css selector", "#results svg rect.bar")
    heights = np.array([float(bar.get_attribute("height")) for bar in bars if bar.get_attribute("height") != "0"])
    assert np.allclose(heights / heights.sum(), np.array(shares) / 100, atol=0.01)
    fill(driver, "category", "1")
    assert text_of(driver, "#count") == "40 of 120 queries"
    fill(driver, "rank-low", "5")
    assert text_of(driver, "#count") == f"{(found['shirt'].rank >= 5).sum()} of 120 queries"
    assert violations(driver) == []


def test_very_many_queries_are_thinned_out_and_the_page_says_so(
    driver: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = with_categories(runs / "image_only", tmp_path / "image_only")
    monkeypatch.setattr("benchmark.report.browser.BUDGET", 10_000)  # bytes: 120 queries of 195
    page = write_report([tmp_path / "image_only"], tmp_path / "report.html", {})
    opened(driver, page)
    assert text_of(driver, "#count") == "40 of 40 queries" and "one in 3 is here" in text_of(driver, "#queries .note")
    block = data_of(page)["blocks"][0]
    every = [(query, int(rank)) for r in found.values() for query, rank in zip(r.ids, r.rank, strict=True)]
    assert list(zip(block["ids"], block["sides"][0]["ranks"], strict=True)) == every[::3]
    assert len(block["sides"][0]["top"]) == 40 * 10
    assert "120 queries" in text_of(driver, "#results h3")


def test_a_page_that_stays_too_large_is_refused_in_one_line(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr("benchmark.report.page._LARGEST", 20_000)
    outcome = command("report", runs / "image_only")
    assert outcome.status == 2 and "name fewer runs" in outcome.err.splitlines()[-1]
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("text", "changes", "negation"),
    [
        ("red", 1, False),
        ("is red, and has no belt", 2, True),
        ("longer; blue but without sleeves, then a bow", 4, True),
        ("", 1, False),
        ("a knot and notes", 2, False),
        ("isn't shiny", 1, True),
    ],
)
def test_changes_and_negation_are_read_off_a_text(text: str, changes: int, negation: bool) -> None:
    assert (count_changes(text), has_negation(text)) == (changes, negation)
