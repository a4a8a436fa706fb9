"""Published numbers: nothing enters that is unknown, unread or twice, and averages are made again."""

from __future__ import annotations

import csv
import re
from decimal import Decimal
from pathlib import Path

import pytest

from benchmark.dataset import ProtocolInfo, TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import components
from benchmark.leaderboards.leaderboard import pages
from benchmark.leaderboards.published import (
    COLUMNS,
    CORRECTED,
    PUBLISHED,
    UNCLEAR,
    PublishedNumber,
    metric_name,
    read_published,
)
from benchmark.leaderboards.published_averages import recomputed
from benchmark.leaderboards.published_rows import binomial_error, published_rows, reproduction_section
from benchmark.leaderboards.reproductions import COLUMNS as REPRODUCTION_COLUMNS
from benchmark.leaderboards.reproductions import read_reproductions
from benchmark.registry import discover

COMMITTED = Path(__file__).parents[3] / "results" / "published.csv"
LINE = {
    **{"method": "M", "paper": "P", "venue": "CVPR", "year": "2020", "dataset": "FashionIQ", "split": "val"},
    **{"protocol": "original", "backbone": "CNN", "text_mode": "joined", "metric": "R@10", "category": "dress"},
    **{"value": "40.00", "source": "S", "confidence": "read", "source_kind": "survey"},
}


def written(path: Path, *lines: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows({**LINE, **line} for line in lines)
    return path


def reproduced(path: Path, *lines: dict[str, str]) -> Path:
    usual = {name: LINE[name] for name in REPRODUCTION_COLUMNS if name in LINE}
    usual |= {"published": "40.00", "found": "38.50", "by": "a user", "source": "issue 6"}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, REPRODUCTION_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows({**usual, **line} for line in lines)
    return path


def number(category: str, metric: str, value: str, method: str = "M", source: str = "S") -> PublishedNumber:
    key = TaskKey("fashioniq", "val", "original", "joined", category)
    return PublishedNumber(method, "P", "V", 2020, "CNN", key, metric, Decimal(value), source, "survey", 2)


def test_the_committed_file_holds_what_was_read_and_nothing_else() -> None:
    numbers = read_published(COMMITTED)
    text = COMMITTED.read_text(encoding="utf-8")
    assert len(numbers) == text.count("\n") - 1 == 791 + 363 + 8
    with COMMITTED.open(encoding="utf-8", newline="") as file:
        assert {line["confidence"] for line in csv.DictReader(file)} == {"read"}
    assert {n.key.dataset for n in numbers} == {"cirr", "fashioniq", "shoes", "fashion200k"}
    assert {n.key.split for n in numbers if n.key.dataset == "cirr"} == {"test1"}


def test_averages_that_papers_print_wrongly_are_found_in_the_committed_file() -> None:
    rows: dict[tuple[TaskKey, tuple[str, str, str]], list[PublishedNumber]] = {}
    for n in read_published(COMMITTED):
        block = TaskKey(n.key.dataset, n.key.split, n.key.protocol, n.key.text_mode)
        rows.setdefault((block, n.row), []).append(n)
    differing = {
        (row[0], place[1]): (made.printed, round(made.value, 2))
        for (_, row), numbers in rows.items()
        for place, made in recomputed(numbers).items()
        if made.differs
    }
    assert differing[("CLIP4Cir (CVPRW22, text encoder tuned)", "R@10")] == (Decimal("38.32"), Decimal("38.40"))
    assert differing[("SPRC", "R@10")] == (Decimal("54.92"), Decimal("54.72"))
    assert ("SPRC", "mean(R@10,R@50)") not in differing
    assert len(differing) == 16


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "FashionIq"}, "unknown dataset 'FashionIq': did you mean FashionIQ"),
        ({"split": "test"}, "unknown split of FashionIQ 'test'"),
        ({"protocol": "orginal"}, "did you mean original"),
        ({"protocol": "official"}, "unknown protocol of FashionIQ"),
        ({"text_mode": "single"}, "unknown text_mode of FashionIQ"),
        ({"metric": "R@5"}, "unknown metric of FashionIQ 'R@5'"),
        ({"category": "all"}, "unknown category of FashionIQ 'all'"),
        ({"value": "100.01"}, "between 0 and 100"),
        ({"value": "-1"}, "between 0 and 100"),
        ({"value": "nan"}, "between 0 and 100"),
        ({"value": "4e1"}, "between 0 and 100"),
        ({"value": ""}, "value '' must be given"),
        ({"source": ""}, "source '' must be given"),
        ({"source": " S"}, "needless blanks"),
        ({"method": "a\nb"}, "line breaks"),
        ({"source_kind": "hearsay"}, "unknown source_kind"),
        ({"confidence": "memory"}, "only numbers that were read"),
        ({"year": "20"}, "four digits"),
        ({"source_kind": "rerun"}, "rerun_by '' must say who ran it again"),
        ({"rerun_by": "somebody"}, "where source_kind is rerun, and only there"),
        ({"erratum": "typo"}, "must begin with 'wrong: ' or 'doubtful: '"),
    ],
)
def test_what_the_schema_rules_out_is_told_with_its_line(tmp_path: Path, change: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match="line") as error:
        read_published(written(tmp_path / "p.csv", {"category": "shirt"}, change))
    line = 4 if "\n" in change.get("method", "") else 3
    assert f"p.csv, line {line}: " in str(error.value) and told in str(error.value)


def test_all_problems_come_in_one_go(tmp_path: Path) -> None:
    lines = [{"value": "x", "year": "x"}, {"dataset": "GeneCIS"}, {}, {}, {"value": "41.00"}]
    with pytest.raises(UserError) as error:
        read_published(written(tmp_path / "p.csv", *lines))
    told = [line.split("p.csv, ")[1] for line in str(error.value).splitlines()]
    assert [line.split(":")[0] for line in told] == ["line 2", "line 2", "line 3", "line 5", "line 6"]
    assert "the same number as line 4" in told[3] and "the same number as line 4" in told[4]


@pytest.mark.parametrize("content", [b"method,paper\n", b"", b"\xff\xfe", b'"' + b"a" * 9, b"\0"])
def test_what_is_no_such_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(UserError, match="p.csv") as error:
        read_published(tmp_path / "p.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [",more\n", "\n"])
def test_too_many_or_too_few_fields_are_told(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / "p.csv", {})
    header, line = path.read_text(encoding="utf-8").splitlines()
    short = line if "more" in ending else line.rsplit(",", 1)[0]
    path.write_text(f"{header}\n{short}{ending}", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: must have 19 fields"):
        read_published(path)


def test_no_file_is_no_number_and_foreign_line_ends_are_read(tmp_path: Path) -> None:
    assert read_published(tmp_path / "none.csv") == ()
    path = written(tmp_path / "p.csv", {})
    expected = read_published(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_published(path) == expected


def test_names_become_ours(tmp_path: Path) -> None:
    line = {"dataset": "CIRR", "split": "test1", "protocol": "official", "text_mode": "single", "category": "all"}
    (found,) = read_published(written(tmp_path / "p.csv", {**line, "metric": "R_s@1"}))
    assert found.metric == "R_subset@1" and found.key == TaskKey("cirr", "test1", "official", "single")
    assert metric_name("(R@5+R_s@1)/2") == "(R@5+R_subset@1)/2"
    assert components("(R@5+R_subset@1)/2") == ("R@5", "R_subset@1")
    assert components("mean(R@1,R@10,R@50)") == ("R@1", "R@10", "R@50")
    assert components("R@10") == ()


def test_rounding_is_no_difference_and_a_hundredth_more_is() -> None:
    parts = [number("dress", "R@10", "10.00"), number("shirt", "R@10", "10.00"), number("toptee", "R@10", "10.01")]
    for printed, differs in (("10.00", False), ("10.01", False), ("10.02", True), ("9.99", True), ("10.0", False)):
        made = recomputed([*parts, number("average", "R@10", printed)])["average", "R@10"]
        assert made.differs is differs, printed
        assert made.value == Decimal("30.01") / 3


def test_a_mean_of_metrics_is_made_from_the_categories_not_from_a_misprinted_average() -> None:
    parts = [number(c, m, v) for c in ("dress", "shirt", "toptee") for m, v in (("R@10", "40.00"), ("R@50", "60.00"))]
    printed = [number("average", "R@10", "48.00"), number("average", "mean(R@10,R@50)", "50.00")]
    made = recomputed([*parts, *printed])
    assert made["average", "R@10"].differs and not made["average", "mean(R@10,R@50)"].differs
    assert made["average", "R@50"].printed is None and made["average", "R@50"].value == 60
    only_averages = recomputed([printed[0], number("average", "R@50", "60.00")])
    assert only_averages["average", "mean(R@10,R@50)"].value == 54
    assert ("average", "R@10") not in recomputed([*parts[2:], printed[0]])


def test_cells_stand_as_printed_with_marks_and_every_source() -> None:
    parts = [number(c, "R@10", "40.00") for c in ("dress", "shirt", "toptee")]
    rows = published_rows(
        [
            *parts,
            number("average", "R@10", "48.00", source="T"),
            number("average", "R@50", "60.00"),
            *(number(c, "R@10", "30.00", "N") for c in ("dress", "shirt", "toptee")),
        ]
    )
    (m, n), notes = rows[TaskKey("fashioniq", "val", "original", "joined")]
    parts_of = {("dress", "R@10"), ("shirt", "R@10"), ("toptee", "R@10")}
    assert {place: cell.text for place, cell in m.cells.items()} == {
        **dict.fromkeys(parts_of, "40.00"), ("average", "R@10"): "48.00†", ("average", "R@50"): "60.00",
    }  # fmt: skip
    assert {place: cell.text for place, cell in n.cells.items()} == {
        **dict.fromkeys(parts_of, "30.00"), ("average", "R@10"): "30.00‡",
    }  # fmt: skip
    assert m.cells["average", "R@10"].value == 48.0 and m.records == ()
    assert m.label.endswith(", survey [1, 2]") and n.label.endswith(", survey [1]")
    assert any(note.startswith("Not from the first source") and note.endswith("M [CNN] R@10: [2]") for note in notes)
    assert any(note.startswith("†") and "M [CNN] R@10 40.00" in note for note in notes)
    assert any(note.startswith("‡") for note in notes)


def test_the_schema_names_the_protocols_and_text_modes_that_the_datasets_declare() -> None:
    registry = discover()
    assert {schema.name for schema in PUBLISHED.values()} <= set(registry.datasets())
    for title, schema in PUBLISHED.items():
        info = registry.datasets()[schema.name]
        assert info.title == title
        assert info.default_protocol in schema.protocols
        declared = declared_protocols(registry.dataset_module(schema.name))
        if declared:
            assert {p.name for p in declared} == set(schema.protocols) - {UNCLEAR}
            modes = {mode for p in declared for mode in p.text_modes}
            assert modes - {CORRECTED} == set(schema.text_modes) - {UNCLEAR, CORRECTED}
            assert {split for p in declared for split in p.splits} >= set(schema.splits)


def declared_protocols(module: object) -> tuple[ProtocolInfo, ...]:
    """Those of the module's dataset class; Shoes' depend on the lists that are there."""
    classes = (value for value in vars(module).values() if isinstance(value, type))
    found = [c.protocols for c in classes if isinstance(getattr(c, "protocols", None), tuple)]
    return found[0] if found else ()


def test_a_wrong_number_stays_struck_through_beside_a_right_one_and_enters_no_average(tmp_path: Path) -> None:
    parts = [{"category": c, "value": "40.00"} for c in ("dress", "shirt", "toptee")]
    wrong = {"category": "shirt", "value": "90.00", "source": "T", "erratum": "wrong: copied from another row"}
    lonely = {"method": "N", "value": "10.00", "erratum": "wrong: a column to the left"}
    doubtful = {"method": "N", "category": "shirt", "value": "11.00", "erratum": "doubtful: two tables differ"}
    numbers = read_published(written(tmp_path / "p.csv", *parts, wrong, lonely, doubtful, {"category": "average", "metric": "R@10"}))
    ((m, n), notes), = published_rows(numbers).values()
    assert m.cells["shirt", "R@10"].text == "40.00" and m.cells["average", "R@10"].text == "40.00"
    assert n.cells["dress", "R@10"].wrong and n.cells["dress", "R@10"].text == "10.00"
    assert n.cells["shirt", "R@10"].text == "11.00?" and not n.cells["shirt", "R@10"].wrong
    told = "\n".join(notes)
    assert "M [CNN] shirt R@10 ~~90.00~~: copied from another row" in told
    assert "N [CNN] dress R@10 ~~10.00~~: a column to the left" in told
    assert "? in doubt: N [CNN] shirt R@10 11.00: two tables differ" in told
    with pytest.raises(UserError, match="the same number as line 2"):
        read_published(written(tmp_path / "p.csv", lonely, {**lonely, "value": "12.00"}))


def test_what_decides_comparability_is_told(tmp_path: Path) -> None:
    again = {"source_kind": "rerun", "rerun_by": "others", "value": "39.00"}
    other = {"extra_data": "CC3M pictures", "language_model": "GPT <b>"}
    numbers = read_published(written(tmp_path / "p.csv", {}, again, {**other, "method": "O"}))
    (rows, notes), = published_rows(numbers).values()
    assert [row.label for row in rows] == ["CNN, 2020, survey [1]", "CNN, re-run by others, 2020, rerun [1]", "CNN, 2020, survey [1]"]
    told = "\n".join(notes)
    assert "Trained on besides this dataset, where it is said: O [CNN]: CC3M pictures" in told
    assert "A language model takes part, where it is said: O [CNN]: GPT \\<b>" in told
    assert "1.11 at 50 % and 0.67 at 90 % on n = 2,017 queries" in told
    assert rows[0].cells["dress", "R@10"].half == pytest.approx(1.96 * binomial_error(40.0, [2017]))


def test_a_reproduction_stands_below_its_row_and_at_the_foot_with_all_that_is_said(tmp_path: Path) -> None:
    numbers = read_published(written(tmp_path / "p.csv", {}, {"method": "Other"}))
    found = read_reproductions(reproduced(tmp_path / "r.csv", {"remark": "at rate 1e-5"}), numbers)
    ((mine, other), notes), = published_rows(numbers, found).values()
    assert mine.below == (("reproduced, a user", {("dress", "R@10"): "-1.50"}),) and other.below == ()
    assert mine.published["reproduced"] == "dress R@10 -1.50 by a user"
    section = reproduction_section(found)
    assert "| M [CNN] " in section and "| -1.50 | a user |" in section and "issue 6; at rate 1e-5" in " ".join(section.split())
    assert any(note.startswith("Reproduced: ") for note in notes)


@pytest.mark.parametrize(
    "text", ["<b>x</b>", "`run`", "[a](javascript:b)", "*a* _b_ ~~c~~", "a | b", "# a", "<!-- a", "<script>alert(1)</script>"]
)
def test_what_stands_in_a_published_row_is_shown_and_never_obeyed(tmp_path: Path, text: str) -> None:
    shown = {"method": text, "paper": text, "venue": text, "backbone": text, "source": text, "extra_data": text}
    more = {"language_model": text, "erratum": f"doubtful: {text}"}
    numbers = read_published(written(tmp_path / "p.csv", shown | more, {**shown, "protocol": "val", "value": "50.00"}))
    again = {"method": text, "backbone": text, "by": text, "source": text, "seeds": text, "hardware": text, "remark": text}
    found = read_reproductions(reproduced(tmp_path / "r.csv", again), numbers)
    (tmp_path / "p.csv").rename(tmp_path / "published.csv")
    (tmp_path / "r.csv").rename(tmp_path / "reproductions.csv")
    assert len(found) == 1
    made = pages(tmp_path, {"fashioniq": discover().datasets()["fashioniq"]})
    for name in ("fashioniq.md", "same-model-other-protocol.md"):
        page = made[tmp_path / "leaderboard" / name]
        own = re.sub(r"`(?:python|results/|unclear|published\.csv|reproductions\.csv|--limit)[^`]*`", "", page)
        assert not re.search(r"(?<!\\)[<~`]|(?<!\\)\]\(|(?<![\\*])\*(?!\*)", own), own
        assert "\n# a" not in page
        of_page = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
        assert all(len({len(re.findall(r"(?<!\\)\|", line)) for line in t.splitlines()}) == 1 for t in of_page)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "GeneCIS"}, "unknown dataset 'GeneCIS'"),
        ({"metric": "R@7"}, "unknown metric of FashionIQ"),
        ({"found": "lower"}, "found 'lower' must be a percentage"),
        ({"by": ""}, "by '' must be given"),
        ({"published": "41.00"}, "published '41.00': published.csv has 40.00"),
    ],
)
def test_a_wrong_reproduction_is_told_with_its_line(tmp_path: Path, change: dict[str, str], told: str) -> None:
    numbers = read_published(written(tmp_path / "p.csv", {}))
    with pytest.raises(UserError) as error:
        read_reproductions(reproduced(tmp_path / "r.csv", {}, change), numbers)
    assert f"r.csv, line 3: {told}" in str(error.value) and "\n" not in str(error.value)


def test_the_committed_reproductions_and_errata_are_applied() -> None:
    numbers = read_published(COMMITTED)
    found = read_reproductions(COMMITTED.with_name("reproductions.csv"), numbers)
    assert len(found) == 9 and {str(r.gap) for r in found} >= {"-6.82", "-0.02", "0.32", "-10.8"}
    assert all(r.seeds == r.hardware == "" for r in found)
    wrong = {(n.method, n.metric, str(n.value)) for n in numbers if n.is_wrong}
    assert ("CoVR-2", "(R@5+R_subset@1)/2", "79.28") in wrong and len([w for w in wrong if w[0] == "TIRG"]) == 8
    corrected = {n.method for n in numbers if n.key.text_mode == CORRECTED}
    assert corrected == {"DQU-CIR", "ENCODER", "TG-CIR", "COMBINER", "MEDIAN", "OFFSET", "HABIT", "ConeSep"}
    assert {n.key.text_mode for n in numbers if n.method == "HUG" and n.key.dataset == "fashioniq"} == {"joined"}
    assert {n.rerun_by for n in numbers if n.source_kind == "rerun"} == {"QuRe authors", "CrossPath author", "a user"}
