"""Composition in the leaderboard follows from ranks: the row's own, or those of one modality alone on the same encoder."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_uncertainty import kept, ranks, run

from benchmark.comparison.composition import compose, compose_tasks
from benchmark.dataset import Ragged
from benchmark.errors import UserError
from benchmark.evaluation.metrics import metric_values
from benchmark.evaluation.per_query import PerQuery
from benchmark.leaderboards.audit import differences
from benchmark.leaderboards.book import add
from benchmark.leaderboards.composition import with_composition
from benchmark.leaderboards.formats import format_tables
from benchmark.records.record import Record, write_record
from benchmark.records.rows import COMPOSITION, COMPOSITION_NAMES
from benchmark.records.tables import Table, tables

METHOD, PICTURE, TEXT = ranks(1), ranks(2, shift=4), ranks(3, shift=6)


def ran(folder: Path, method: str, found: dict[str, PerQuery], weights: str = "selected", **identity: Any) -> Record:
    record = run(folder, method, found)
    raw = record.model_dump(mode="json")
    raw["identity"].update(identity)
    for result in raw["results"]:
        result["weights_from"] = weights
    return write_record(folder, Record.model_validate(raw), dict(enumerate(found.values())))


def composed(folder: Path, found: dict[str, dict[str, PerQuery]], **identity: Any) -> Table:
    """The table of some runs, by method; ``identity``: what is another of the method's."""
    records = {m: ran(folder / m, m, of, **(identity if m == "spirit" else {})) for m, of in found.items()}
    (table,) = tables(records.values())
    return with_composition(table, kept(*((records[m], list(of.values())) for m, of in found.items())))


def test_cells_are_what_compose_says_of_the_three_runs(tmp_path: Path) -> None:
    table = composed(tmp_path, {"spirit": {"": METHOD}, "image_only": {"": PICTURE}, "text_only": {"": TEXT}})
    rows = {row.name: row for row in table.rows}
    (ten,) = [at for at in compose(*(tmp_path / name for name in rows)).at if at.metric == "R@10"]
    shown = rows["spirit"].composition
    values = [ten.picture, ten.text, ten.gap, ten.union, ten.hard_recall]
    assert [shown[name].value for name in COMPOSITION_NAMES if name in shown] == pytest.approx(values) and values[2] > 0
    # 10,000 draws there, 2,000 here.
    assert shown["gap"].half == pytest.approx((ten.gap_interval[1] - ten.gap_interval[0]) / 2, rel=0.1)
    assert shown["one"].half == pytest.approx((ten.union_interval[1] - ten.union_interval[0]) / 2, rel=0.1)
    assert rows["image_only"].composition == rows["text_only"].composition == {}
    assert f"{ten.gap:+.2f}" in table.content() and "gap: method - max(picture, text)" in table.content()


def test_a_run_s_own_ranks_of_one_modality_go_before_those_of_others(tmp_path: Path) -> None:
    own = replace(METHOD, picture_rank=ranks(8, shift=2).rank, text_rank=ranks(9, shift=9).rank)
    table = composed(tmp_path, {"spirit": {"": own}, "image_only": {"": PICTURE}, "text_only": {"": TEXT}})
    (row,) = [row for row in table.rows if row.name == "spirit"]
    assert row.composition["picture"].value == pytest.approx(100 * float((ranks(8, shift=2).rank <= 10).mean()))


def test_where_a_target_is_named_the_gap_of_precision_stands_beside_that_of_hits(tmp_path: Path) -> None:
    def precise(found: PerQuery) -> PerQuery:
        places = [[rank, rank + 3] for rank in found.rank.tolist()]
        return replace(found, positive_ranks=Ragged.of(places), target_rank=found.rank)

    found = {"spirit": precise(METHOD), "image_only": precise(PICTURE), "text_only": precise(TEXT)}
    records = {}
    for name, of in found.items():
        raw = ran(tmp_path / name, name, {"": of}).model_dump(mode="json")
        raw["results"][0]["metrics"] |= {
            metric: 100 * float(np.mean(metric_values(metric, of.rank, None, of.positive_ranks, of.target_rank)))
            for metric in ("mAP@10", "R_target@10")
        }
        records[name] = write_record(tmp_path / name, Record.model_validate(raw), {0: of})
    (table,) = tables(records.values())
    made = with_composition(table, kept(*((record, [found[name]]) for name, record in records.items())))
    (row,) = [row for row in made.rows if row.name == "spirit"]
    (ten,) = [at for at in compose(*(tmp_path / name for name in found)).at if at.metric == "mAP@10"]
    assert row.composition["gap mAP@10"].value == pytest.approx(ten.gap) and ten.gap > 0
    assert list(row.composition) == list(COMPOSITION_NAMES)
    assert f"{ten.gap:+.2f}" in made.content() and "gap mAP@10: the gap of mAP@10" in " ".join(made.content().split())
    # Other tables have no such column, nor words on it.
    assert "mAP" not in composed(tmp_path / "other", {"spirit": {"": METHOD}, "image_only": {"": PICTURE}, "text_only": {"": TEXT}}).content()


def test_categories_are_averaged(tmp_path: Path) -> None:
    of = {"dress": 1, "shirt": 2}
    found = {"spirit": 0, "image_only": 3, "text_only": 6}
    table = composed(tmp_path, {m: {c: ranks(n + more, shift=more) for c, n in of.items()} for m, more in found.items()})
    (row,) = [row for row in table.rows if row.name == "spirit"]
    hits = {m: np.mean([(ranks(n + more, shift=more).rank <= 10).mean() for n in of.values()]) for m, more in found.items()}
    gap = 100 * (hits["spirit"] - max(hits["image_only"], hits["text_only"]))
    assert row.composition["gap"].value == pytest.approx(gap)


OTHER_ENCODER = {"name": "tiny", "weights": "random", "digest": "e" * 64, "start": "random", "state": "untouched"}


@pytest.mark.parametrize("identity", [{"encoder": OTHER_ENCODER}, {"encoder": None}, {"text_rule": "another"}])
def test_other_encoders_and_texts_stand_for_nothing(identity: dict[str, Any], tmp_path: Path) -> None:
    table = composed(
        tmp_path, {"spirit": {"": METHOD}, "image_only": {"": PICTURE}, "text_only": {"": TEXT}}, **identity
    )
    assert all(not row.composition for row in table.rows) and COMPOSITION not in table.content().lower()


def test_other_queries_stand_for_nothing(tmp_path: Path) -> None:
    renamed = replace(PICTURE, ids=tuple(f"other-{name}" for name in PICTURE.ids))
    table = composed(tmp_path, {"spirit": {"": METHOD}, "image_only": {"": renamed}, "text_only": {"": TEXT}})
    assert all(not row.composition for row in table.rows)


@pytest.mark.parametrize("trains_the_encoder", [True, False])
def test_the_last_epoch_of_a_tuned_encoder_is_another_encoder(trains_the_encoder: bool, tmp_path: Path) -> None:
    """A method on a tuned encoder has the one that was kept, whatever its epoch; the tuning itself has not."""
    base = run(tmp_path / "base", "spirit", {"": METHOD}).model_dump(mode="json")["identity"]
    stage = {**base["stages"][0], "artefact": "a" * 64}
    head = {**base["stages"][0], "name": "head", "artefact": None}
    encoder = {**OTHER_ENCODER, "state": "finetuned"}
    tuned = {"encoder": encoder, "stages": [stage]}
    found = {"image_only": PICTURE, "text_only": TEXT}
    records = {m: ran(tmp_path / m, m, {"": of}, "none trained", **tuned) for m, of in found.items()}
    mine = {"encoder": encoder, "stages": [stage] if trains_the_encoder else [stage, head]}
    records["spirit"] = ran(tmp_path / "spirit", "spirit", {"": METHOD}, "last", **mine)
    (table,) = tables(records.values())
    of = {**found, "spirit": METHOD}
    made = with_composition(table, kept(*((record, [of[m]]) for m, record in records.items())))
    (row,) = [row for row in made.rows if row.name == "spirit"]
    assert bool(row.composition) != trains_the_encoder


def test_every_format_has_them_and_the_audit_names_their_cells(tmp_path: Path) -> None:
    table = composed(tmp_path, {"spirit": {"": METHOD}, "image_only": {"": PICTURE}, "text_only": {"": TEXT}})
    (row,) = [row for row in table.rows if row.name == "spirit"]
    gap = row.composition["gap"]
    entries = list(csv.DictReader(io.StringIO(format_tables([table], "csv"))))
    (line,) = [entry for entry in entries if (entry["category"], entry["metric"]) == (COMPOSITION, "gap")]
    assert float(line["value"]) == gap.value and float(line["half_interval"]) == gap.half and line["queries"] == "400"
    numbers = json.loads(format_tables([table], "json"))[0]["numbers"]
    assert gap.value in [entry["value"] for entry in numbers]
    latex = format_tables([table], "latex")
    assert gap.text in latex and r"\label{tab:composition-" in latex and "Method & picture & text & gap & one & hard" in latex
    page = format_tables([table], "html")
    assert f'data-value="{gap.value}"' in page and f'<th colspan="5">{COMPOSITION}</th>' in page
    markdown = format_tables([table], "markdown")
    assert max(map(len, markdown.splitlines())) <= 100
    (tmp_path / "page.md").write_text(markdown.replace(gap.text, "+99.99"))
    (fault,) = differences({tmp_path / "page.md": markdown})
    assert "spirit" in fault and ", gap: '+99.99' does not follow" in fault


def test_a_record_s_composition_must_be_that_of_its_ranks(tmp_path: Path) -> None:
    own = replace(METHOD, picture_rank=PICTURE.rank, text_rank=TEXT.rank)
    record = run(tmp_path / "run", "spirit", {"": own})
    result = record.results[0]
    right = compose_tasks(result.key, [own], list(result.metrics))
    data = record.identity.data
    assert data is not None
    demo = record.identity.model_copy(update={"data": data.model_copy(update={"is_demo": True}), "limit": None})
    whole = record.model_copy(
        update={"identity": demo, "results": (result.model_copy(update={"composition": right}),)}
    )
    write_record(tmp_path / "run", whole, {0: own})
    add(tmp_path / "run", tmp_path / "results", demo=True)
    ten = right["R@10"]
    changed = {**right, "R@10": ten.model_copy(update={"composed": ten.composed + 1, "lost": ten.lost + 1})}
    wrong = whole.model_copy(update={"results": (result.model_copy(update={"composition": changed}),)})
    write_record(tmp_path / "run", wrong, {0: own})
    with pytest.raises(UserError, match=r"'composed' of the composition of R@10 is .*, its ranks give"):
        add(tmp_path / "run", tmp_path / "results", demo=True)
