"""Tables: seeds are averaged, nothing else is; numbers stand alone in cells, and demo data is named where they do."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.records.layout import metric_order
from benchmark.records.record import Record, read_record
from benchmark.records.tables import run_table, tables

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_1.json").model_dump(mode="json")


def made(seed: int = 0, recall: float = 20.0, *, demo: bool = False, **identity: Any) -> Record:
    """One selected result with R@1 (interval ± 2) and R@5, on official data unless told otherwise."""
    raw = copy.deepcopy(GOLDEN)
    raw["results"] = [raw["results"][0]]
    raw["results"][0].update(
        dataset="demo-cirr" if demo else "cirr",
        metrics={"R@5": 50.0, "R@1": recall},
        intervals={"R@1": [recall - 2, recall + 2]},
        ties=0,
    )
    raw["identity"]["data"].update(
        label="demo-cirr" if demo else "cirr", is_demo=demo, is_official=not demo
    )
    raw["identity"].update(seed=seed, **identity)
    return Record.model_validate(raw)


def changed(record: Record, **top: Any) -> Record:
    return Record.model_validate({**record.model_dump(mode="json"), **top})


def with_result(record: Record, **entries: Any) -> Record:
    raw = record.model_dump(mode="json")
    raw["results"][0].update(entries)
    return Record.model_validate(raw)


def lines(records: list[Record], bold: bool = False, width: int = 200) -> list[list[str]]:
    """Cells of the lines of the only table, where names have room."""
    (table,) = tables(records, bold=bold)
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.body(width).splitlines()[2:]]


def test_half_of_the_interval_stands_below_the_number() -> None:
    assert lines([made()]) == [["SPIRIT, best epoch", "20.00", "50.00"], ["±", "2.0", ""]]
    assert "±: half the 95 % interval" in tables([made()])[0].caption()[1]


def test_several_seeds_show_mean_interval_and_standard_deviation() -> None:
    """20, 22 and 27: mean 23, standard deviation sqrt((9 + 1 + 16) / 2) = 3.61."""
    found = lines([made(0, 20.0), made(2, 27.0), made(1, 22.0)])
    assert found == [["SPIRIT, best epoch", "23.00", "50.00"], ["±", "2.0", ""], ["sd", "3.6", "0.0"]]
    (table,) = tables([made(0, 20.0), made(2, 27.0), made(1, 22.0)])
    assert "; seeds: 0, 1, 2" in table.all_notes()[0] and "sd: their standard deviation" in table.content()


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged() -> None:
    found = lines([made(0, 20.0), made(1, 30.0, batch_size=64, negative_group=32)])
    assert {row[0]: row[-2] for row in found if row[0] != "±"} == {
        "SPIRIT [batch_size 256, negative_group 256], best epoch": "20.00",
        "SPIRIT [batch_size 64, negative_group 32], best epoch": "30.00",
    }


def test_rows_that_differ_in_a_stage_or_in_the_data_say_how() -> None:
    stages = copy.deepcopy(GOLDEN["identity"]["stages"])
    stages[1]["settings"]["learning_rate"] = 0.1
    names = {row[0] for row in lines([made(), made(1, stages=stages)])}
    assert "SPIRIT [stages.spirit.settings.learning_rate 0.1], best epoch" in names
    other = made(1, data={**made().model_dump(mode="json")["identity"]["data"], "fingerprint": "77" * 32})
    assert any("data.fingerprint 7777" in row[0] for row in lines([made(), other]))


def test_every_record_of_a_configuration_enters_its_mean_and_two_seeds_have_no_deviation() -> None:
    later = changed(made(0, 40.0), created="2031-01-01T00:00:00Z")
    for order in ([made(0, 20.0), later], [later, made(0, 20.0)]):
        assert lines(order) == [["SPIRIT, best epoch", "30.00", "50.00"], ["±", "2.0", ""]]
        content = tables(order)[0].content()
        assert "2 records of 1 seeds; each enters the mean" in content and "sd" not in content
    found = lines([made(0, 20.0), later, made(1, 30.0)])
    assert found == [["SPIRIT, best epoch", "30.00", "50.00"], ["±", "2.0", ""]]


@pytest.mark.parametrize(
    "entries",
    [{"split": "test1"}, {"protocol": "official-partial"}, {"text_mode": "joined"}],
)
def test_other_columns_are_other_tables(entries: dict[str, str]) -> None:
    assert len(tables([made(), with_result(made(1), **entries)])) == 2


def test_demo_and_official_data_of_one_label_do_not_share_a_table() -> None:
    raw = made(1, demo=True).model_dump(mode="json")
    raw["identity"]["data"]["label"] = raw["results"][0]["dataset"] = "cirr"
    assert len(tables([made(), Record.model_validate(raw)])) == 2


def test_of_imported_weights_neither_recipe_nor_seed_is_claimed() -> None:
    """Whatever an older record of theirs says of this program's recipe."""
    (table,) = tables([with_result(made(), weights_from="imported")])
    text = " ".join(table.content().split())
    assert "imported: recipe and seed unknown" in text and "recipe: unknown" in text and "seeds: unknown" in text
    assert "from-scratch" not in text


def test_categories_stand_side_by_side_as_papers_print_them() -> None:
    """R@10 and R@50 of each, their average last, and the mean of both metrics under the average alone."""
    record = made().model_dump(mode="json")
    result = {**record["results"][0], "intervals": {}}
    recalls = {"toptee": 30.0, "average": 20.0, "dress": 10.0}
    record["results"] = [
        {**result, "category": c, "metrics": {"mean(R@10,R@50)": r + 5, "R@50": r + 10, "R@10": r}}
        for c, r in recalls.items()
    ]
    (table,) = tables([Record.model_validate(record)])
    head, _, metrics, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in table.body().splitlines())
    assert head[1:] == ["dress", "", "toptee", "", "average", "", ""]
    assert metrics[1:] == ["R@10", "R@50", "R@10", "R@50", "R@10", "R@50", "mean"]
    assert rows == [["SPIRIT, best epoch", "10.00", "20.00", "30.00", "40.00", "20.00", "30.00", "25.00"]]
    assert "mean: (R@10+R@50)/2" in table.caption()[1] and "dress 400 and 480, toptee 400 and 480" in table.caption()[0]


def test_one_table_of_a_run_says_once_what_all_have_in_common() -> None:
    record = made(demo=True).model_dump(mode="json")
    record["results"] = [{**record["results"][0], "protocol": name} for name in ("official", "official-noref")]
    record["results"][1]["notes"] = ["another gallery"]
    text = run_table(Record.model_validate(record))
    headings = [line for line in text.splitlines() if line.startswith("demo-cirr · ")]
    assert len(headings) == 2 and all(line.endswith(": demo, synthetic pictures, ranks no methods") for line in headings)
    assert text.count("bootstrap") == text.count("400 queries") == text.count("encoder: ") == 1
    assert text.index("another gallery") < text.index("encoder: ")


def test_the_caption_names_the_demo_once_and_nothing_is_bold() -> None:
    records = [made(s, 20.0 + s, demo=True) for s in (0, 1)] + [made(0, 30.0, demo=True, recipe="other")]
    (table,) = tables(records, bold=True)
    assert table.heading.endswith(": demo, synthetic pictures, ranks no methods")
    assert "synthetic" not in table.content() and "**" not in table.content()
    assert "R@1" in table.body().splitlines()[0]


def test_the_best_measured_value_of_each_metric_is_bold_from_three_seeds_on() -> None:
    three = [made(seed) for seed in (0, 1, 2)]
    others = [changed(made(seed, 25.0), method="sum", title="Sum") for seed in (0, 1, 2)]
    found = lines([*three, *others], bold=True)
    assert [row for row in found if row[0] not in ("±", "sd")] == [
        ["SPIRIT, best epoch", "20.00", "**50.00**"], ["Sum, best epoch", "**25.00**", "**50.00**"],
    ]  # fmt: skip
    assert "**" not in str(lines(three, bold=True))
    # Of two seeds the best is not set in bold, and nothing else is in its place.
    fewer = lines([*three, *others[:2]], bold=True)
    assert [row for row in fewer if row[0] not in ("±", "sd")] == [
        ["SPIRIT, best epoch", "20.00", "**50.00**"], ["Sum, best epoch", "25.00", "50.00"],
    ]  # fmt: skip


def test_a_metric_that_a_row_lacks_is_an_empty_cell() -> None:
    other = with_result(
        changed(made(), method="sum", title="Sum"), metrics={"R@1": 1.0, "mAP@10": 3.0}, intervals={}
    )
    assert lines([made(), other]) == [
        ["SPIRIT, best epoch", "20.00", "50.00", ""], ["±", "2.0", "", ""], ["Sum, best epoch", "1.00", "", "3.00"],
    ]  # fmt: skip


def with_last(record: Record, **entries: Any) -> Record:
    raw = record.model_dump(mode="json")
    raw["results"].append({**raw["results"][0], "weights_from": "last", **entries})
    return Record.model_validate(raw)


def test_selected_and_last_weights_are_rows_of_their_own_selected_first() -> None:
    found = lines([with_last(made(), metrics={"R@1": 3.0}, intervals={})])
    assert [row[0] for row in found] == ["SPIRIT", "best epoch", "±", "last epoch"]
    assert [row[1] for row in found] == ["", "20.00", "2.0", "3.00"]


def test_where_the_selected_epoch_is_the_last_one_both_are_one_row() -> None:
    same = [with_last(made(seed)) for seed in (0, 1, 2)]
    assert [row[0] for row in lines(same)] == ["SPIRIT, best = last epoch", "±", "sd"]
    heldout = lines([with_last(made(selection="heldout"))])
    assert heldout[0] == ["SPIRIT, held-out = last epoch", "20.00", "50.00"]
    one_differs = [same[0], with_last(made(1), ties=1)]
    assert [row[0] for row in lines(one_differs) if row[0] not in ("±", "sd")] == ["SPIRIT", "best epoch", "last epoch"]


def test_epochs_that_agree_in_one_column_alone_stay_apart() -> None:
    raw = with_last(made()).model_dump(mode="json")
    selected, last = raw["results"]
    raw["results"] += [{**selected, "protocol": "other"}, {**last, "protocol": "other", "ties": 3}]
    assert all("last epoch" in table.body() and "best =" not in table.body() for table in tables([Record.model_validate(raw)]))


def test_an_epoch_that_nothing_chose_is_not_called_the_best() -> None:
    record = made().model_dump(mode="json")
    (stage,) = record["identity"]["stages"][-1:]
    stage["settings"] |= {"epochs": 30, "validate_every": 1000}
    chosen = copy.deepcopy(record)
    chosen["identity"]["stages"][-1]["settings"]["validate_every"] = 1
    found = lines([Record.model_validate(chosen), Record.model_validate(record)])
    assert sorted(row[0] for row in found if row[0] != "±") == [
        "SPIRIT [stages.spirit.settings.validate_every 1000], last epoch",
        "SPIRIT [stages.spirit.settings.validate_every 1], best epoch",
    ]
    both = lines([with_last(Record.model_validate(record))])
    assert both[0][0] == "SPIRIT, last epoch" and len(both) == 2


def test_what_a_reader_must_know_stands_around_the_table() -> None:
    record = with_result(made(limit=64, missing_pictures=["dev-9"], skipped_triplets=3), ties=7, notes=["x."])
    (table,) = tables([record])
    text = table.content()
    assert "| SPIRIT (limited to 64)" in text
    for words in (
        "best epoch on the reported split", "limited to 64 by --limit", "in 7 queries", "dev-9",
        "3 triplets", "400 queries, gallery of 480 pictures", ": x.\n",
    ):  # fmt: skip
        assert words in text.replace("\n  ", " "), words
    server = with_result(made(), measured_by="server", weights_from="selected")
    assert "returned by the official test server" in tables([server])[0].content()
    assert lines([server])[0][0] == "SPIRIT, measured by the server"


def test_facts_that_differ_are_told_with_the_names_of_their_rows() -> None:
    others = [changed(made(), method=name, title=name) for name in ("A", "B")]
    own = Record.model_validate({**others[0].model_dump(mode="json"), "identity": {
        **others[0].model_dump(mode="json")["identity"], "encoder": None,
    }})  # fmt: skip
    notes = tables([own, others[1], made()])[0].all_notes()
    assert notes[0].startswith("All rows: recipe: ") and "encoder" not in notes[0]
    assert notes[1] == "encoder: its own (A); all others tiny, random weights, finetuned"


def test_own_data_is_never_taken_for_the_official_one() -> None:
    raw = made().model_dump(mode="json")
    raw["identity"]["data"].update(is_official=False, label="my-garments")
    raw["results"][0]["dataset"] = "my-garments"
    assert "own data, not the official cirr" in run_table(Record.model_validate(raw))


def test_run_table_says_what_cannot_be_scored() -> None:
    hidden = with_result(made(), metrics={}, intervals={}, split="test1")
    assert "cirr · test1 · official · single: ranked, not scored" in run_table(hidden)


def test_a_title_cannot_break_the_table() -> None:
    (table,) = tables([changed(made(), title="a|b\nc")])
    assert "| a\\|b c, " in table.body()
    assert len({line.replace("\\|", "").count("|") for line in table.body().splitlines()}) == 1


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_table_is_no_wider_than_its_width_and_a_long_name_goes_on_below(width: int) -> None:
    metrics = {f"{kind}@{k}": 50.0 for kind in ("R", "R_subset") for k in (1, 2, 3, 5)}
    title = "A method (both of its encoders tuned, one after the other, TOMM 2023) with a long name"
    record = with_last(with_result(changed(made(), title=title), metrics=metrics), ties=9)
    (table,) = tables([record])
    body = table.body(width).splitlines()
    assert {len(line) for line in body} == {len(body[0])} and len(body[0]) <= width
    names = [line.strip("|").split("|")[0].strip() for line in body[2:]]
    assert " ".join(names[: names.index("best epoch")]) == title
    assert names[names.index("best epoch") :] == ["best epoch", "±", "last epoch", "±"]
    assert all(len(line) <= width for line in table.content(width).splitlines())


def test_metrics_stand_in_the_order_of_papers() -> None:
    names = ["mAP@5", "R_subset@2", "R@50", "(R@5+R_subset@1)/2", "R@5", "R@10", "R_subset@1", "R@5"]
    assert metric_order(names) == [
        "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "mAP@5", "(R@5+R_subset@1)/2",
    ]


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a | b", "`code`", "**bold**", "_slanted_", "~~gone~~",
    "[link](javascript:alert(1))", "![picture](https://example.org/x.png)", "a\\", "# heading", "- entry", "> quote",
    "line\nbreak\r\n", "\x1b[31mred\x1b[0m", "\x00", "\udce9", "a\u202eb", "<!-- ", "&lt;b&gt; <b>",
)  # fmt: skip
OBEYED = re.compile(r"(?<!\\)(?:\\\\)*[`<~]|(?<!\\)\*(?!\*?[\d.]+\*\*)|(?<!\\)\]\(|(?<![\w\\])_|[\x00-\x08\x0b-\x1f\x7f\u202e]")
"""Markup that no backslash makes harmless; bold numbers and the pipes between cells are the table's own."""


@pytest.mark.parametrize("text", HOSTILE)
def test_what_somebody_typed_is_shown_and_never_obeyed(text: str) -> None:
    """Title, recipe, encoder, notes, missing pictures: on a page and on a terminal, whatever stands in them."""
    raw = made(recipe=text, selection_note=text, missing_pictures=[text]).model_dump(mode="python")
    raw["title"] = text
    raw["results"][0]["notes"] = (text,)
    raw["identity"]["encoder"].update(name=text, start="pretrained", weights=text)
    record = Record.model_validate(raw)
    (table,) = tables([record, changed(made(1), title="Other")], bold=True)
    content = f"{table.heading}\n{table.content()}"
    assert not OBEYED.search(content.replace("**", "")), content
    body = [line for line in table.body().splitlines()]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in body}) == 1, "every line has as many cells"
    assert not OBEYED.search(run_table(record)) and run_table(record).encode("utf-8")
    letters = "".join(c for c in text if c.isalnum() and c.isascii())
    assert letters in "".join(c for c in content if c.isalnum() and c.isascii()), "and nothing is lost"


def test_a_selected_epoch_s_lead_over_the_next_is_told() -> None:
    def with_margins(seed: int, *margins: float | None) -> Record:
        chosen = [{"stage": f"stage{n}", "epoch": 3, "margin": m} for n, m in enumerate(margins)]
        return changed(made(seed), selected=chosen)

    notes = tables([with_margins(0, 0.4, 0.214)])[0].all_notes()
    assert any("selected epochs lead the next best by 0.40 (stage0), 0.21 (stage1)" in note for note in notes)
    notes = tables([with_margins(0, 0.4, None), with_margins(1, 0.1, None)])[0].all_notes()
    assert any("lead the next best by at least 0.10 (stage0)" in note for note in notes)
    assert not any("next best" in note for note in tables([with_margins(0, None)])[0].all_notes())


def test_a_row_without_intervals_has_no_word_on_them() -> None:
    for record in (with_result(made(), measured_by="server", intervals={}), with_result(made(), intervals={})):
        assert "interval" not in run_table(record) and "±" not in run_table(record)
