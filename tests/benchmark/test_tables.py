"""Tables: seeds are averaged, nothing else is; demo data is named in every line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmark.records.record import Record, read_record
from benchmark.records.tables import metric_order, run_table, tables

GOLDEN = read_record(Path(__file__).parents[1] / "golden" / "record_version_1.json").model_dump(mode="json")


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


def lines(records: list[Record], bold: bool = False) -> list[list[str]]:
    """Cells of the rows of the only table."""
    (table,) = tables(records, bold=bold)
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.body.splitlines()[2:]]


def test_one_seed_shows_half_its_interval() -> None:
    assert lines([made()]) == [["SPIRIT", "20.00 ± 2.0", "50.00"]]


def test_several_seeds_show_mean_standard_deviation_and_interval() -> None:
    """20, 22 and 27: mean 23, standard deviation sqrt((9 + 1 + 16) / 2) = 3.61."""
    found = lines([made(0, 20.0), made(2, 27.0), made(1, 22.0)])
    assert found == [["SPIRIT", "23.00 (sd 3.6) ± 2.0", "50.00 (sd 0.0)"]]
    (table,) = tables([made(0, 20.0), made(2, 27.0), made(1, 22.0)])
    assert "seeds: 0, 1, 2" in table.content() and "standard deviation over seeds" in table.content()


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged() -> None:
    found = lines([made(0, 20.0), made(1, 30.0, batch_size=64, negative_group=32)])
    assert {row[0]: row[-2] for row in found} == {
        "SPIRIT [batch_size 256, negative_group 256]": "20.00 ± 2.0",
        "SPIRIT [batch_size 64, negative_group 32]": "30.00 ± 2.0",
    }


def test_rows_that_differ_in_a_stage_or_in_the_data_say_how() -> None:
    stages = copy.deepcopy(GOLDEN["identity"]["stages"])
    stages[1]["settings"]["learning_rate"] = 0.1
    names = {row[0] for row in lines([made(), made(1, stages=stages)])}
    assert "SPIRIT [stages.spirit.settings.learning_rate 0.1]" in names
    other = made(1, data={**made().model_dump(mode="json")["identity"]["data"], "fingerprint": "77" * 32})
    assert any("data.fingerprint 7777" in row[0] for row in lines([made(), other]))


def test_the_same_seed_twice_shows_the_later_record_only() -> None:
    later = changed(made(0, 40.0), created="2031-01-01T00:00:00Z")
    for order in ([made(0, 20.0), later], [later, made(0, 20.0)]):
        assert lines(order) == [["SPIRIT", "40.00 ± 2.0", "50.00"]]
        assert "1 earlier records of the same seed" in tables(order)[0].content()


@pytest.mark.parametrize(
    "entries",
    [{"split": "test1"}, {"protocol": "official-partial"}, {"text_mode": "joined"}, {"category": "dress"}],
)
def test_other_columns_are_other_tables(entries: dict[str, str]) -> None:
    assert len(tables([made(), with_result(made(1), **entries)])) == 2


def test_demo_and_official_data_of_one_label_do_not_share_a_table() -> None:
    raw = made(1, demo=True).model_dump(mode="json")
    raw["identity"]["data"]["label"] = raw["results"][0]["dataset"] = "cirr"
    assert len(tables([made(), Record.model_validate(raw)])) == 2


def test_averages_stand_before_their_categories() -> None:
    record = made().model_dump(mode="json")
    result = record["results"][0]
    record["results"] = [{**result, "category": c} for c in ("dress", "shirt", "average")]
    found = tables([Record.model_validate(record)])
    assert [table.key.category for table in found] == ["average", "dress", "shirt"]


def test_every_line_of_a_demo_table_names_it_and_nothing_is_bold() -> None:
    records = [made(s, 20.0 + s, demo=True) for s in (0, 1)] + [made(0, 30.0, demo=True, recipe="other")]
    (table,) = tables(records, bold=True)
    header, _, *rest = table.content().splitlines()
    assert "R@1" in header and "drawn pictures" in table.block
    assert len(rest) > 4
    for line in filter(None, rest):
        assert "drawn pictures" in line.lower(), line
    assert "**" not in table.content()


def test_the_best_measured_value_of_each_metric_is_bold() -> None:
    other = changed(made(0, 25.0), method="sum", title="Sum")
    found = lines([made(), other], bold=True)
    assert found == [
        ["SPIRIT", "20.00 ± 2.0", "**50.00**"],
        ["Sum", "**25.00 ± 2.0**", "**50.00**"],
    ]
    assert "**" not in str(lines([made()], bold=True))


def test_a_metric_that_a_row_lacks_is_an_empty_cell() -> None:
    other = with_result(
        changed(made(), method="sum", title="Sum"), metrics={"R@1": 1.0, "mAP@10": 3.0}, intervals={}
    )
    assert lines([made(), other]) == [["SPIRIT", "20.00 ± 2.0", "50.00", ""], ["Sum", "1.00", "", "3.00"]]


def test_selected_and_last_weights_are_rows_of_their_own_selected_first() -> None:
    record = made().model_dump(mode="json")
    record["results"].append({**record["results"][0], "weights_from": "last", "metrics": {"R@1": 3.0}})
    record["results"][1]["intervals"] = {}
    found = lines([Record.model_validate(record)])
    assert [row[1] for row in found] == ["best epoch (paper)", "last epoch"]


def test_an_epoch_that_nothing_chose_is_not_called_the_best() -> None:
    record = made().model_dump(mode="json")
    (stage,) = record["identity"]["stages"][-1:]
    stage["settings"] |= {"epochs": 30, "validate_every": 1000}
    chosen = copy.deepcopy(record)
    chosen["identity"]["stages"][-1]["settings"]["validate_every"] = 1
    found = lines([Record.model_validate(chosen), Record.model_validate(record)])
    assert sorted(row[1] for row in found) == ["best epoch (paper)", "last epoch (paper)"]


def test_what_a_reader_must_know_stands_under_the_table() -> None:
    record = with_result(made(limit=64, missing_pictures=["dev-9"], skipped_triplets=3), ties=7, notes=["x."])
    (table,) = tables([record])
    text = table.content()
    assert "| SPIRIT (limited to 64)" in text
    for words in (
        "best epoch on the reported split", "limited to 64 by --limit", "in 7 queries", "dev-9",
        "3 triplets", "400 queries, gallery of 480 pictures", ": x.\n",
    ):
        assert words in text, words
    server = with_result(made(), measured_by="server", weights_from="selected")
    assert "returned by the official test server" in tables([server])[0].content()


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
    assert "| a\\|b c " in table.body
    assert all(line.startswith(("|", "- ")) for line in filter(None, table.content().splitlines()))


def test_metrics_stand_in_the_order_of_papers() -> None:
    names = ["mAP@5", "R_subset@2", "R@50", "(R@5+R_subset@1)/2", "R@5", "R@10", "R_subset@1", "R@5"]
    assert metric_order(names) == [
        "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "mAP@5", "(R@5+R_subset@1)/2",
    ]
