"""What `leaderboard --add` takes: records whose every number follows from the ranks beside them, on the official files."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proved_records import ranks_of, write_proved

from benchmark.dataset import Ragged
from benchmark.errors import UserError
from benchmark.evaluation.metrics import interval, metric_values
from benchmark.evaluation.per_query import PerQuery, write_per_query_file
from benchmark.files import file_digest
from benchmark.leaderboards.book import add, proved
from benchmark.records.proof import prove
from benchmark.records.record import Record, read_per_query, read_record, write_record

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")
DIGEST = {"cap.rc2.val.json": "digest", "split.rc2.val.json": "digest", "cap.rc2.train.json": "counts"}


def real(**identity: Any) -> dict[str, Any]:
    raw = copy.deepcopy(GOLDEN)
    raw["identity"]["data"].update(label="cirr", is_demo=False, is_official=True, checked=DIGEST)
    raw["identity"].update(identity)
    for result in raw["results"]:
        result["dataset"] = "cirr"
    return raw


def run(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """A run's folder whose ranks prove its record, and then ``change`` made to the record alone."""
    write_proved(folder, Record.model_validate(real()))
    if change is not None:
        raw = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        change(raw)
        (folder / "record.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def refused(run_folder: Path, results: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        add(run_folder, results)
    for word in words:
        assert word in str(error.value)
    assert not results.exists()


def set_metric(index: int, name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        raw["results"][index]["metrics"][name] = value
    return change


METRICS = [(i, name) for i in (0, 1) for name in GOLDEN["results"][i]["metrics"]]


@pytest.mark.parametrize(("index", "name"), METRICS)
@pytest.mark.parametrize("by", [0.25, -0.25, 0.002])
def test_every_metric_is_made_again_from_the_ranks(tmp_path: Path, index: int, name: str, by: float) -> None:
    """Those that other metrics of the record contradict are refused already where it is read."""
    value = GOLDEN["results"][index]["metrics"][name] + by
    words = (name,) if name.startswith("(") else (name, "its ranks give") if abs(by) < 0.01 else (name,)
    refused(run(tmp_path / "run", set_metric(index, name, value)), tmp_path / "results", *words)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "one more query": (lambda raw: raw["results"][0].update(queries=401), "is nothing that its record has"),
    "a smaller gallery": (lambda raw: raw["results"][0].update(gallery=479), "is nothing that its record has"),
    "ties": (lambda raw: raw["results"][0].update(ties=401), "ties in 401 of 400 queries"),
    "a narrower interval": (
        lambda raw: raw["results"][0]["intervals"].update({"R@5": [65.4, 65.6]}), "the interval of R@5 is 65.40 to 65.60",
    ),
    "a metric that no ranks give": (
        lambda raw: raw["results"][0]["metrics"].update({"nDCG@10": 99.0}), "nDCG@10 does not follow from its ranks",
    ),
    "mAP": (lambda raw: raw["results"][0]["metrics"].update({"MAP@10": 99.0}), "MAP@10 does not follow"),
    "a result without ranks": (
        lambda raw: raw["results"].append({**raw["results"][0], "protocol": "other"}), "no ranks of it lie beside",
    ),
    "an average of nothing": (
        lambda raw: raw["results"].append({**raw["results"][0], "category": "average"}), "does not hold",
    ),
    "no ranks at all": (lambda raw: raw.update(files={}), "no ranks of it lie beside the record"),
    "ranks of another name": (
        lambda raw: raw["files"]["per_query"].update(name="../run/per_query.npz"), "inside the record's folder",
    ),
    "a method that climbs out": (lambda raw: raw.update(method="../../x"), "method"),
    "a dataset that climbs out": (lambda raw: raw["identity"]["data"].update(name="../x"), "identity.data.name"),
    "another annotation file": (
        lambda raw: raw["identity"]["data"]["checked"].update({"cap.rc2.val.json": "differs"}),
        "cap.rc2.val.json: not the official cirr files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_an_edited_record_is_refused(tmp_path: Path, name: str) -> None:
    change, words = FORGERIES[name]
    refused(run(tmp_path / "run", change), tmp_path / "results", words)


def test_a_record_of_an_older_version_keeps_its_ranks_as_proof(tmp_path: Path) -> None:
    """That it names an older version excuses no number that its ranks contradict."""

    def older(raw: dict[str, Any]) -> None:
        raw["schema_version"] = 3
        raw["results"][0]["metrics"]["R@10"] += 0.25

    refused(run(tmp_path / "run", older), tmp_path / "results", "R@10 is 83.50, its ranks give 83.25")


def test_what_no_ranks_prove_is_said_to_be_not_derivable(tmp_path: Path) -> None:
    def older(raw: dict[str, Any]) -> None:
        raw.update(schema_version=3, files={})
        raw["identity"]["data"].pop("checked")

    folder, unproved = add(run(tmp_path / "old", older), tmp_path / "results")
    assert len(unproved) == 2 and all("older record" in reason for reason in unproved)
    # Brought to the present version when it was added, it stays what it was.
    (kept,) = proved(tmp_path / "results" / "records").records
    notes = " ".join(kept.results[0].notes)
    assert "not every number of it can be derived" in notes and "nobody held its annotations" in notes

    def by_server(raw: dict[str, Any]) -> None:
        raw["identity"]["seed"] = 1
        raw["results"].append(
            {**raw["results"][0], "split": "test1", "measured_by": "server", "metrics": {"R@1": 40.1}, "intervals": {}}
        )

    _, unproved = add(run(tmp_path / "server", by_server), tmp_path / "results")
    assert unproved == ("cirr · test1 · official · single, selected: measured by the test server",)


def test_damaged_missing_and_foreign_ranks_are_refused(tmp_path: Path) -> None:
    results = tmp_path / "results"
    whole = run(tmp_path / "whole")
    content = (whole / "per_query.npz").read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.choice(len(content), 20, replace=False).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        (whole / "per_query.npz").write_bytes(flipped)
        refused(whole, results, "not the file that its record was written with")
    for damaged in (b"", content[:100], content + b"x"):
        (whole / "per_query.npz").write_bytes(damaged)
        refused(whole, results, "not the file that its record was written with")
    (whole / "per_query.npz").unlink()
    refused(whole, results, "missing beside its record")


def with_ranks(folder: Path, change: Callable[[PerQuery], PerQuery]) -> Path:
    """A run whose ranks were changed, and their digest in the record with them."""
    record = read_record(run(folder))
    ranks = {i: change(found) for i, found in read_per_query(folder, record).items()}
    size, sha256 = write_per_query_file(folder / "per_query.npz", ranks)
    return rewritten(folder, size, sha256)


def rewritten(folder: Path, size: int, sha256: str) -> Path:
    raw = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    raw["files"]["per_query"].update(size=size, sha256=sha256)
    (folder / "record.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


WRONG_RANKS: dict[str, tuple[Callable[[PerQuery], PerQuery], str]] = {
    "another run's": (lambda r: replace(r, rank=np.roll(r.rank, 1) % 7 + 1), "its ranks give"),
    "negative": (lambda r: replace(r, rank=np.where(r.rank == r.rank.max(), -1, r.rank)), "a rank lies outside"),
    "beyond the gallery": (lambda r: replace(r, rank=np.where(r.rank > 50, 481, r.rank)), "a rank lies outside"),
    "some left out": (lambda r: replace(r, rank=np.where(r.rank > 50, 0, r.rank)), "its ranks give"),
    "all left out": (lambda r: replace(r, rank=0 * r.rank), "no query of its ranks has a right answer"),
    "one query twice": (lambda r: replace(r, ids=(r.ids[1], *r.ids[1:])), "name a query twice"),
    "one query fewer": (
        lambda r: replace(r, ids=r.ids[1:], rank=r.rank[1:], group=r.group[1:], top=r.top[1:], subset_rank=r.subset_rank[1:]),
        "is nothing that its record has",
    ),
    "no subset ranks": (lambda r: replace(r, subset_rank=None), "R_subset@1 does not follow"),
    "other groups": (lambda r: replace(r, group=np.arange(400) // 100), "the interval of"),
    "places that are no ranks": (
        lambda r: replace(r, positive_ranks=Ragged.single(r.rank + 1)), "places are not its ranks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_RANKS)
def test_ranks_that_do_not_fit_are_refused_whatever_their_digest(tmp_path: Path, name: str) -> None:
    change, words = WRONG_RANKS[name]
    refused(with_ranks(tmp_path / "run", change), tmp_path / "results", words)


def archive(arrays: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in arrays.items():
            made.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def declaring(shape: str, kind: str = "<i8") -> bytes:
    """Only the header of an array."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


HOSTILE = {
    "16 GB declared": archive({"0/rank": declaring("(2000000000,)")}),
    "of a negative size": archive({"0/rank": declaring("(-1,)")}),
    "16 GB of texts": archive({"0/ids": declaring("(400,)", "<U10000000")}),
    "pickled": archive({"0/rank": npy(np.array([{}] * 400, dtype=object), allow_pickle=True)}),
    "floats": archive({"0/rank": npy(np.ones(400))}),
    "no arrays": archive({}),
    "lacking": archive({"0/rank": npy(np.ones(400, dtype=np.int64))}),
    "a strange name": archive({"../rank": npy(np.ones(400, dtype=np.int64))}),
    "a result too many": archive({"7/rank": npy(np.ones(400, dtype=np.int64))}),
    "no archive": b"no archive at all",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_of_ranks_is_refused_in_one_line_before_it_is_loaded(tmp_path: Path, name: str) -> None:
    folder = run(tmp_path / "run")
    (folder / "per_query.npz").write_bytes(HOSTILE[name])
    rewritten(folder, len(HOSTILE[name]), file_digest(folder / "per_query.npz"))
    with pytest.raises(UserError) as error:
        prove(folder, read_record(folder))
        add(folder, tmp_path / "results")
    assert "per_query.npz" in str(error.value) or "no ranks of it lie beside the record" in str(error.value)


def test_the_book_is_proved_again_whenever_its_pages_are_made(tmp_path: Path) -> None:
    folder, _ = add(run(tmp_path / "run"), tmp_path / "results")
    assert len(proved(tmp_path / "results" / "records").records) == 1
    raw = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    raw["results"][0]["metrics"]["R@50"] += 0.25
    (folder / "record.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(UserError, match="R@50 is 98.75, its ranks give 98.50"):
        proved(tmp_path / "results" / "records")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_ranks_prove_their_own_metrics_and_no_others(tmp_path: Path, data: st.DataObject) -> None:
    """Random ranks with several positives: what is computed from them is proved, what is off by a query is not."""
    queries, gallery = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 60))
    places = [
        sorted(data.draw(st.sets(st.integers(1, gallery), min_size=1, max_size=3))) for _ in range(queries)
    ]
    rank = np.array([found[0] for found in places])
    ranks = PerQuery(
        ids=tuple(map(str, range(queries))), group=np.arange(queries) // 2, rank=rank, positive_ranks=Ragged.of(places)
    )
    values = {n: metric_values(n, rank, None, ranks.positive_ranks) for n in ("R@1", "R@10", "mAP@5", "mean(R@1,R@10)")}
    metrics = {name: 100 * float(np.mean(value)) for name, value in values.items() if value is not None}
    raw = real()
    raw["results"] = [raw["results"][0]]
    raw["results"][0].update(
        queries=queries, gallery=gallery, ties=0, metrics=metrics,
        intervals={n: interval(v, ranks.group) for n, v in values.items() if v is not None},
    )  # fmt: skip
    record = write_record(tmp_path, Record.model_validate(raw), {0: ranks})
    assert prove(tmp_path, record).faults == ()
    name = data.draw(st.sampled_from(sorted(metrics)))
    wrong = metrics[name] + data.draw(st.sampled_from([-1, 1])) * 100 / (queries * 60)
    result = record.results[0].model_copy(update={"metrics": {**metrics, name: min(max(wrong, 0.0), 100.0)}})
    if result.metrics[name] != metrics[name]:
        (fault,) = prove(tmp_path, record.model_copy(update={"results": (result,)})).faults
        assert f"{name} is " in fault


def test_a_mean_over_categories_is_made_again(tmp_path: Path) -> None:
    raw = real()
    raw["identity"]["data"].update(name="fashioniq", label="fashioniq")
    usual = {"dataset": "fashioniq", "intervals": {}, "ties": 1, "texts_cut": 0}
    first = {**raw["results"][0], **usual}
    raw["results"] = [
        {**first, "category": "dress", "metrics": {"R@10": 30.0, "R@50": 50.0}},
        {**first, "category": "shirt", "metrics": {"R@10": 40.0, "R@50": 60.0}},
        {**first, "category": "average", "metrics": {"R@10": 35.0, "R@50": 55.0}, "queries": 800, "gallery": 960, "ties": 2},
    ]
    whole = Record.model_validate(raw)
    ranks = {i: ranks_of(whole.results[i]) for i in (0, 1)}
    assert prove(tmp_path, write_record(tmp_path, whole, ranks)).faults == ()
    for change, words in (
        ({"metrics": {"R@10": 35.1, "R@50": 55.0}}, "R@10 is 35.10, its categories give 35.00"),
        ({"metrics": {"R@1": 35.0}}, "R@1 is 35.00, its categories give nothing"),
        ({"queries": 801}, "queries is 801, its categories have 800"),
        ({"ties": 3}, "ties is 3, its categories have 2"),
    ):
        raw["results"][2].update(change)
        changed = write_record(tmp_path, Record.model_validate(raw), ranks)
        assert any(words in fault for fault in prove(tmp_path, changed).faults)
