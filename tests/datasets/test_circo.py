"""CIRCO's layouts, columns, metrics of several positives, and everything that can be wrong with its files.

The annotations are made up (the official ones may not be passed on); the golden numbers are those of the official script
on made-up annotations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.datasets import circo

from benchmark.data.annotated import require_counts
from benchmark.data.folders import locate_root
from benchmark.data.partial import PartialDataset
from benchmark.errors import UserError
from benchmark.interop.rankings import evaluate_rankings
from benchmark.records.aspects import aspect_section
from benchmark.records.proof import prove
from benchmark.records.record import Record, read_per_query, read_record, write_record
from benchmark.report.breakdowns import breakdowns_of
from benchmark.report.runs import Block, ReportedData
from benchmark.text_rules import text_rule

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "circo_metrics.json").read_text())
COCO = "COCO2017_unlabeled"
INFO = f"{COCO}/annotations/image_info_unlabeled2017.json"
HIDDEN = ("target_img_id", "gt_img_ids", "semantic_aspects")


def entry(number: int, reference: int, positives: list[int], aspects: tuple[str, ...] = ("addition",)) -> dict[str, Any]:
    return {
        "id": number, "reference_img_id": reference, "target_img_id": positives[0] if positives else 0,
        "relative_caption": f"has {number} dogs", "shared_concept": "dogs on a sofa",
        "gt_img_ids": positives, "semantic_aspects": list(aspects),
    }  # fmt: skip


ENTRIES = [entry(0, 104, [7, 350]), entry(1, 350, [7], ("addition", "negation")), entry(2, 104, [12, 7, 350], ())]
GALLERY = [350, 7, 999_999_999_999, 12, 104]


def write(root: Path, entries: list[Any] = ENTRIES, gallery: list[int] = GALLERY, name: str = "") -> Path:
    """Both splits in the official layout; ``name``: of somebody's own data."""
    (root / "annotations").mkdir(parents=True)
    (root / INFO).parent.mkdir(parents=True)
    (root / "annotations" / "val.json").write_text(json.dumps(entries))
    hidden = [{k: v for k, v in e.items() if k not in HIDDEN} for e in entries]
    (root / "annotations" / "test.json").write_text(json.dumps(hidden))
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "license": 1} for i in gallery]
    (root / INFO).write_text(json.dumps({"info": {}, "images": images}))
    if name:
        (root / "dataset.json").write_text(json.dumps({"name": name}))
    return root


def load(root: Path, splits: tuple[str, ...] = ("val", "test")) -> circo.CIRCO:
    return circo.load(locate_root(circo.INFO, circo.LAYOUTS, root), splits=splits)


def refusal(root: Path, splits: tuple[str, ...] = ("val", "test")) -> str:
    with pytest.raises(UserError) as caught:
        load(root, splits)
    return str(caught.value)


def test_columns_and_tasks(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    assert dataset.pictures.names == ("350", "7", "999999999999", "12", "104")
    assert dataset.pictures.paths[1] == tmp_path / COCO / "unlabeled2017" / "000000000007.jpg"
    kept, removed = (dataset.tasks("val", name, "as-is")[0] for name in ("official", "official-noref"))
    assert (kept.exclude_reference, removed.exclude_reference) == (False, True)
    assert str(kept.key) == "circo · val · official · single" and str(removed.key) == "circo · val · official-noref · single"
    queries = kept.queries
    assert queries.ids == ("0", "1", "2") and queries.texts[1] == "has 1 dogs"
    assert [queries.positives[i].tolist() for i in range(3)] == [[1, 0], [1], [3, 1, 0]]
    assert queries.target is not None and queries.target.tolist() == [1, 1, 3]
    assert queries.aspects == (("addition",), ("addition", "negation"), ())
    # The reference is known, and queries of one reference are drawn together.
    assert queries.reference_in_gallery.tolist() == queries.group.tolist() == [4, 0, 4]
    (test,) = dataset.tasks("test", "official", "as-is")
    assert not test.labelled and test.queries.target is None and len(test.queries.positives.values) == 0
    assert np.array_equal(dataset.split_pictures("val"), dataset.split_pictures("test"))
    taken = queries.take(np.array([2, 0]))
    assert taken.target is not None and taken.target.tolist() == [3, 1] and taken.aspects == ((), ("addition",))


def moved(root: Path) -> Path:
    """CIRCUS' way: the queries among COCO's annotations."""
    for split in ("val", "test"):
        (root / "annotations" / f"{split}.json").rename(root / COCO / "annotations" / f"{split}.json")
    return root


def magiclens(root: Path) -> Path:
    inner = root / "data" / "circo"
    inner.mkdir(parents=True)
    for part in ("annotations", COCO):
        (root / part).rename(inner / part)
    return root


@pytest.mark.parametrize("arranged", [lambda root: root, moved, magiclens])
def test_layouts(arranged: Callable[[Path], Path], tmp_path: Path) -> None:
    whole = load(write(tmp_path / "plain" / "CIRCO"))
    arranged(write(tmp_path / "CIRCO"))
    (tmp_path / "plain").rename(tmp_path.with_name(f"{tmp_path.name}-plain"))
    for data_root in (tmp_path, tmp_path / "CIRCO"):
        dataset = load(data_root)
        assert dataset.fingerprint == whole.fingerprint and dataset.pictures.names == whole.pictures.names
        assert dataset.pictures.paths[0].parts[-3:] == (COCO, "unlabeled2017", "000000000350.jpg")


def test_concept_modes_are_columns_of_their_own(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    (one,), (other,) = (dataset.tasks("val", "official", rule) for rule in ("with-concept", "with-concept-bge-vl"))
    assert one.queries.texts[0] == "find dogs on a sofa but has 0 dogs"
    assert other.queries.texts[0] == "Find a picture that also dogs on a sofa, but has 0 dogs."
    assert len({task.key.text_mode for task in (one, other, *dataset.tasks("val", "official", "as-is"))}) == 3
    with pytest.raises(UserError, match="no shared concept; use it with CIRCO"):
        text_rule("with-concept").queries(("is red",))
    # A training triplet has no concept: it shows its caption.
    assert text_rule("with-concept").draw(("is red",), np.random.default_rng(0)) == "is red"


def changed(number: int, **values: Any) -> list[Any]:
    return [e | values if i == number else e for i, e in enumerate(ENTRIES)]


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (changed(1, gt_img_ids=[7, 8]), "val.json: entry 1 (id 1): positive 8 is not in the gallery"),
        (changed(1, id=2), "val.json: entry 1 (id 2): ids count from 0 in the order of the file: 1 is expected here"),
        (ENTRIES[::-1], "test.json: entry 0 (id 2): ids count from 0"),
        (changed(0, reference_img_id=8), "entry 0 (id 0): reference_img_id 8 is not in the gallery"),
        (changed(0, gt_img_ids=[7, 7]), "entry 0 (id 0): gt_img_ids names a picture twice: 7"),
        (changed(0, target_img_id=12), "entry 0 (id 0): target_img_id 12 is not among gt_img_ids"),
        (changed(0, gt_img_ids=[7, 104]), "entry 0 (id 0): reference_img_id 104 is a positive of its own query"),
        (changed(0, gt_img_ids=["7"]), "a positive of gt_img_ids is '7', not a whole number"),
        (changed(0, gt_img_ids=[]), "target_img_id 7 is not among gt_img_ids"),
        (changed(0, semantic_aspects=["a b"]), "semantic aspect 'a b' is not a name"),
        (changed(0, semantic_aspects=["x", "x"]), "semantic_aspects names one twice"),
        (changed(0, relative_caption=3), "entry 0: 'relative_caption' is 3, not a text"),
        ([], "must be a JSON list of entries and is empty"),
    ],
)  # fmt: skip
def test_bad_queries_are_told_in_one_line_each(entries: list[Any], told: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, entries))
    assert told in message and circo.INFO.obtain in message.splitlines()[-1], message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"images": [{"id": 7}, {"id": 7}]}, "images, entry 1: id 7 is that of entry 0 already"),
        ({"images": [{"id": 10**12}]}, "images, entry 0: id 1000000000000 has no name of twelve digits"),
        ({"images": [{"id": "7"}]}, "images, entry 0: 'id' is '7', not a whole number"),
        ({"images": []}, "must be a JSON object with 'images'"),
        ([], "must be a JSON object with 'images'"),
        (None, "no such file; the gallery of both splits is read from it"),
    ],
)
def test_a_bad_list_of_pictures(content: Any, told: str, tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / INFO).write_text(json.dumps(content))
    if content is None:
        (root / INFO).unlink()
    assert f"{root / INFO}: {told}" in refusal(root)


def test_counts_digests_and_missing_files(tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "a"))
    with pytest.raises(UserError, match="circo val has 5 gallery, 123,403 are published") as told:
        require_counts(dataset)
    assert "circo val has 3 queries, 220 are published" in str(told.value)
    assert dataset.checked == {name: "differs" for name in ("val.json", "test.json", "image_info_unlabeled2017.json")}
    own = load(write(tmp_path / "b", name="my-shop"))
    require_counts(own)
    assert (own.label, own.is_official, own.checked) == ("my-shop", False, {})
    (tmp_path / "a" / "annotations" / "test.json").unlink()
    assert circo.present_splits(tmp_path / "a") == ("val",)
    assert "test.json: no such file; split test is read from it" in refusal(tmp_path / "a")
    with pytest.raises(UserError, match="no training triplets; train on those of another one by --train-dataset"):
        own.train_triplets(0, 0)


def test_without_pictures_queries_go_with_their_target(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    gone = PartialDataset(dataset, np.array([3]))  # picture 12, the target of query 2
    (task,) = gone.tasks("val", "official", "as-is")
    assert task.queries.ids == ("0", "1") and task.key.protocol == "official-partial"
    assert task.queries.target is not None and task.queries.target.tolist() == [1, 1]
    gone = PartialDataset(dataset, np.array([0]))  # picture 350: a positive of 0 and 2, the reference of 1
    (task,) = gone.tasks("val", "official", "as-is")
    assert [task.queries.positives[i].tolist() for i in range(2)] == [[0], [2, 0]]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """The golden lists on the golden annotations, through reader, evaluator and record."""
    base = tmp_path_factory.mktemp("circo")
    made = {"relative_caption": "x", "shared_concept": "y"}
    gallery = sorted({*GOLDEN["gallery"], *(i for ids in GOLDEN["rankings"].values() for i in ids)})
    write(base / "CIRCO", [query | made for query in GOLDEN["queries"]], gallery, name="made-up")
    # One list is shorter than 50, which the script allows and this program does not: filled with what is never right.
    lists = dict(GOLDEN["rankings"])
    for query in GOLDEN["queries"]:
        own, right = lists[str(query["id"])], query["gt_img_ids"]
        lists[str(query["id"])] = own + [i for i in gallery if i not in (*own, *right)][: max(50 - len(own), 0)]
    (base / "lists.json").write_text(json.dumps(lists))
    record, folder = evaluate_rankings(
        base / "lists.json", "circo", data_root=str(base), protocol=("official",), output=str(base / "run")
    )
    return record, folder


def test_the_official_script_s_numbers(scored: tuple[Record, Path]) -> None:
    (result,) = scored[0].results
    for k in ("5", "10", "25", "50"):
        assert result.metrics[f"mAP@{k}"] == pytest.approx(100 * GOLDEN["mAP"][k], abs=1e-7)
        assert result.metrics[f"R_target@{k}"] == pytest.approx(100 * GOLDEN["recall_of_target"][k], abs=1e-7)
        any_positive = GOLDEN["not_the_release"][f"R@{k} of any positive"]
        assert result.metrics[f"R@{k}"] == pytest.approx(100 * any_positive, abs=1e-7)
    aspects = {name: value for name, value in GOLDEN["semantic_mAP@10"].items() if value is not None}
    assert {name: told.value for name, told in result.aspects.items()} == pytest.approx(
        {name: 100 * value for name, value in aspects.items()}, abs=1e-7
    )
    # Overlapping: a query counts under each of its aspects.
    assert sum(told.queries for told in result.aspects.values()) == sum(len(q["semantic_aspects"]) for q in GOLDEN["queries"])
    assert set(result.intervals) == set(result.metrics)


def test_the_record_is_proved_by_its_ranks(scored: tuple[Record, Path], tmp_path: Path) -> None:
    record, folder = scored
    assert read_record(folder) == record
    assert prove(folder, record).faults == () and not prove(folder, record).without_ranks
    (result,), ranks = record.results, read_per_query(folder, record)
    aspect, told = next(iter(result.aspects.items()))
    wrong = {
        "R_target@5 is": {"metrics": result.metrics | {"R_target@5": result.metrics["R_target@5"] - 5}},
        "mAP@25 is": {"metrics": result.metrics | {"mAP@25": 1.0}},
        f"mAP@10 of {aspect} is": {"aspects": result.aspects | {aspect: told.model_copy(update={"value": 1.0})}},
        f"the interval of mAP@10 of {aspect}": {
            "aspects": result.aspects | {aspect: told.model_copy(update={"interval": (0.0, 1.0)})}
        },
        f"{aspect} has {told.queries + 1}": {
            "aspects": result.aspects | {aspect: told.model_copy(update={"queries": told.queries + 1})}
        },
        "mAP@10 of invented stands": {"aspects": result.aspects | {"invented": told}},
    }
    for reason, update in wrong.items():
        other = record.model_copy(update={"results": (result.model_copy(update=update),), "files": {}})
        (fault,) = prove(tmp_path, write_record(tmp_path, other, ranks)).faults
        assert reason in fault, fault
    (queries,) = ranks.values()
    assert queries.target_rank is not None
    elsewhere = {0: queries.__class__(**{**vars(queries), "target_rank": np.maximum(queries.target_rank - 1, 1)})}
    plain = record.model_copy(update={"files": {}})
    assert "a target's rank is none of its query's positives" in prove(tmp_path, write_record(tmp_path, plain, elsewhere)).faults[0]


def test_a_report_breaks_precision_down_by_aspect(scored: tuple[Record, Path]) -> None:
    record, folder = scored
    (result,), (queries,) = record.results, read_per_query(folder, record).values()
    block = Block(
        key=result.key, data=ReportedData(None), ids={"": queries.ids}, groups={"": queries.group},
        ranked={0: {"": (queries, queries)}}, asked={"": {}}, is_demo=False,
    )  # fmt: skip
    (found,) = breakdowns_of(block)
    assert found.title == "Aspect (a query may have several): mAP@10"
    assert {row.name: row.queries for row in found.rows} == {name: a.queries for name, a in result.aspects.items()}
    for row in found.rows:
        ((value, half),) = row.cells
        told = result.aspects[row.name]
        assert value == pytest.approx(told.value) and half == pytest.approx((told.interval[1] - told.interval[0]) / 2)


def test_a_run_s_table_has_a_line_for_each_aspect(scored: tuple[Record, Path]) -> None:
    text = aspect_section(scored[0])
    assert text.splitlines()[0].split("|")[1].strip() == "mAP@10 by aspect"
    (result,) = scored[0].results
    for name, told in result.aspects.items():
        assert f"| {name}" in text and f"{told.value:.2f}" in text
    assert f"{aspect_section(scored[0]).strip()}" in (scored[1] / "table.md").read_text()
    # mAP stands first, the target's recall is told from that of any positive, which the table leaves to the record.
    head = next(line for line in (scored[1] / "table.md").read_text().splitlines() if line.startswith("| method"))
    names = [cell.strip() for cell in head.split("|")[2:-1]]
    assert names == [f"{kind}@{k}" for kind in ("mAP", "Rt") for k in (5, 10, 25, 50)]
    assert "R@5" in result.metrics
