"""Embeddings from outside: scored as a method's are, and refused where they are not what they seem."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.datasets.demo.demo_data import write_demo
from benchmark.datasets.demo.fashion200k import LabelSizes
from outside_data import arrays, load, plain_metrics, vectors, write_cirr, write_fashioniq
from safetensors.torch import save_file

from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.interop.embeddings import evaluate_embeddings
from benchmark.interop.query_export import export_queries
from benchmark.records.record import Record, read_per_query, read_record

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def cirr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cirr(tmp_path_factory.mktemp("cirr"))


@pytest.fixture(scope="module")
def fashioniq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashioniq(tmp_path_factory.mktemp("fashioniq"))


def cirr_arrays(root: Path) -> Arrays:
    dataset = load("cirr", root)
    return arrays(dataset.tasks("val", "official", "as-is"), dataset)


def score(root: Path, folder: Path, content: Arrays, dataset: str = "cirr", **values: Any) -> Record:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "mine.npz", **content)
    options = {"data_root": {"*": str(root)}, "output": str(folder / "run"), **values}
    record, _ = evaluate_embeddings(folder / "mine.npz", dataset, **options)
    return record


def fashioniq_arrays(root: Path, rule: str = "joined") -> Arrays:
    dataset = load("fashioniq", root)
    return arrays(dataset.tasks("val", "original", rule), dataset)


def refusal(root: Path, folder: Path, content: Arrays, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        score(root, folder, content, **values)
    return str(caught.value)


def test_numbers_are_those_of_a_plain_computation_and_the_record_says_where_they_come_from(
    cirr: Path, tmp_path: Path
) -> None:
    record = score(cirr, tmp_path, cirr_arrays(cirr), name="My  model")
    dataset = load("cirr", cirr)
    (task,) = dataset.tasks("val", "official", "as-is")
    (result,) = record.results
    assert result.metrics == pytest.approx(plain_metrics(task, dataset))
    assert 0 < result.metrics["R@10"] < 100
    assert (record.kind, record.title, result.weights_from) == ("embeddings", "My model", "external")
    assert record.identity.inputs == {"mine.npz": file_digest(tmp_path / "mine.npz")}
    assert record.identity.encoder is None and record.identity.seed is None
    assert set(result.intervals) == set(result.metrics)
    low, high = result.intervals["R@10"]
    assert low < result.metrics["R@10"] < high
    assert read_record(tmp_path / "run") == record
    assert read_per_query(tmp_path / "run", record)[0].ids == task.queries.ids
    assert "My model" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert not (tmp_path / "run" / "examples.png").exists()


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4", "shuffled", "fortran", "numbers", "bytes"])
def test_order_and_types_change_nothing(cirr: Path, tmp_path: Path, kind: str) -> None:
    content = cirr_arrays(cirr)
    plain = score(cirr, tmp_path / "plain", content)
    if kind == "shuffled":
        for matrix, ids in (("queries", "query_ids"), ("gallery", "gallery_ids")):
            mixed = np.random.default_rng(1).permutation(len(content[ids]))
            content[matrix], content[ids] = content[matrix][mixed], content[ids][mixed]
    elif kind == "fortran":
        content["gallery"] = np.asfortranarray(content["gallery"])
    elif kind == "numbers":
        content["query_ids"] = content["query_ids"].astype(np.int64)
    elif kind == "bytes":
        content["gallery_ids"] = content["gallery_ids"].astype("S")
    else:
        content |= {name: content[name].astype(kind) for name in ("queries", "gallery")}
    assert score(cirr, tmp_path / "other", content).results == plain.results


@pytest.mark.parametrize("place", ["metadata", "side file"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_safetensors_give_the_same(cirr: Path, tmp_path: Path, place: str, dtype: torch.dtype) -> None:
    content = cirr_arrays(cirr)
    if dtype == torch.bfloat16:
        content |= {n: torch.from_numpy(content[n]).to(dtype).float().numpy() for n in ("queries", "gallery")}
    plain = score(cirr, tmp_path, content)
    ids = {name: content[name].tolist() for name in ("query_ids", "gallery_ids")}
    file, side = tmp_path / "mine.safetensors", tmp_path / "mine.safetensors.ids.json"
    tensors = {name: torch.from_numpy(content[name]).to(dtype) for name in ("queries", "gallery")}
    in_metadata = {"format": "pt"} | {name: json.dumps(values) for name, values in ids.items()}
    save_file(tensors, file, metadata=in_metadata if place == "metadata" else None)
    if place == "side file":
        side.write_text(json.dumps(ids), encoding="utf-8")
    options: dict[str, Any] = {"data_root": {"*": str(cirr)}, "output": str(tmp_path / "another")}
    record, _ = evaluate_embeddings(file, "cirr", **options)
    assert record.results == plain.results
    expected = {"mine.safetensors"} | ({"mine.safetensors.ids.json"} if place == "side file" else set())
    assert set(record.identity.inputs) == expected
    if place == "side file":
        save_file(tensors, file, metadata=in_metadata)
        with pytest.raises(UserError, match="ids stand in its metadata and in mine.safetensors.ids.json"):
            evaluate_embeddings(file, "cirr", **options)


def test_safetensors_are_checked(cirr: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    content = cirr_arrays(cirr)
    save_file(
        {"queries": torch.from_numpy(content["queries"]).int(), "gallery_ids": torch.zeros(3)},
        file,
        metadata={"gallery_ids": "not JSON"},
    )
    with pytest.raises(UserError) as caught:
        evaluate_embeddings(file, "cirr", data_root={"*": str(cirr)})
    for words in ("torch.int32, not a floating one", "ids belong into the metadata", "'gallery_ids' is no list"):
        assert words in str(caught.value)


def twice(content: Arrays) -> None:
    content["gallery_ids"][5] = content["gallery_ids"][4]


def infinite(content: Arrays) -> None:
    content["gallery"][3, 2] = np.inf
    content["queries"][0, 0] = np.nan


def beyond_float32(content: Arrays) -> None:
    content["gallery"] = content["gallery"].astype(np.float64)
    content["gallery"][3, 2] = 1e300


def missing(content: Arrays) -> None:
    content["gallery"], content["gallery_ids"] = content["gallery"][15:], content["gallery_ids"][15:]


def unknown(content: Arrays) -> None:
    content["query_ids"] = np.array([f"x{n}" for n in content["query_ids"]])


def narrower(content: Arrays) -> None:
    content["queries"] = content["queries"][:, :5]


def too_few_ids(content: Arrays) -> None:
    content["query_ids"] = content["query_ids"][:-2]


def no_ids(content: Arrays) -> None:
    del content["gallery_ids"]


def no_gallery(content: Arrays) -> None:
    del content["gallery"]


def one_dimension(content: Arrays) -> None:
    content["queries"] = content["queries"][0]


def no_width(content: Arrays) -> None:
    content["queries"] = content["queries"][:, :0]


def integers(content: Arrays) -> None:
    content["queries"] = content["queries"].astype(np.int32)


def complex_numbers(content: Arrays) -> None:
    content["queries"] = content["queries"].astype(np.complex64)


def brain_floats(content: Arrays) -> None:
    content["queries"] = content["queries"].astype(np.float16).view("V2")  # as numpy reads bfloat16


def misspelt(content: Arrays) -> None:
    content["galery"] = content["gallery"]


def objects(content: Arrays) -> None:
    content["query_ids"] = content["query_ids"].astype(object)


def fractions(content: Arrays) -> None:
    content["query_ids"] = content["query_ids"].astype(np.float64)


def byte_numbers(content: Arrays) -> None:
    content["gallery"] = content["gallery"].astype(np.int8)


def tokens(content: Arrays) -> None:
    content["gallery"] = np.stack([content["gallery"]] * 3, axis=1)


def many_more(content: Arrays) -> None:
    content |= {f"layer{number}": content["gallery"] for number in range(20)}


def no_digest(content: Arrays) -> None:
    content["queries_digest"] = np.array(3.5)


def other_digest(content: Arrays) -> None:
    content["queries_digest"] = np.array("0123456789abcdef")


def category(content: Arrays) -> None:
    content["dress/gallery"], content["dress/gallery_ids"] = content["gallery"], content["gallery_ids"]


FAULTS: dict[Callable[[Arrays], None], tuple[str, ...]] = {
    twice: ("'gallery_ids' names 1 ids more than once: dev-0-2-img0",),
    infinite: ("'gallery' has 1 rows that are not finite in float32, of the ids dev-0-1-img1", "'queries' has 1 rows"),
    beyond_float32: ("'gallery' has 1 rows that are not finite in float32, of the ids dev-0-1-img1",),
    missing: ("'gallery' lacks 15 of 72 ids: dev-0-0-img0, ", "dev-1-1-img1, …", "data export-queries cirr"),
    unknown: ("'queries' lacks 36 of 36 ids", "'queries' has 36 unknown ids: x10", "split val", "text mode single"),
    narrower: ("widths differ: 'queries' 5, 'gallery' 8",),
    too_few_ids: ("'queries' has 36 rows and 'query_ids' 34 ids",),
    no_ids: ("'gallery' has no 'gallery_ids'",),
    no_gallery: ("'gallery_ids' stands without 'gallery'",),
    one_dimension: ("'queries' has shape (8,), not (rows, width)",),
    no_width: ("'queries' has shape (36, 0)",),
    integers: ("'queries' has type int32, not a floating one",),
    complex_numbers: ("'queries' has type complex64", "store real and imaginary parts side by side"),
    brain_floats: ("'queries' has type",),
    misspelt: ("unknown array 'galery': did you mean gallery",),
    objects: ("'query_ids' is no list of texts or whole numbers but of type object", ".astype(str)"),
    fractions: ("'query_ids' is no list of texts or whole numbers but of type float64", ".astype(int).astype(str)"),
    byte_numbers: ("'gallery' has type int8, not a floating one", "scale quantised ones back first"),
    tokens: ("'gallery' has shape (72, 3, 8): several vectors a row", "--rankings"),
    many_more: ("20 unknown arrays: layer0, layer1, ", "known: queries, gallery, query_ids, gallery_ids"),
    no_digest: ("'queries_digest' is no text",),
    other_digest: ("its queries_digest 0123456789abcdef is of no protocol that fits",),
    category: ("'dress/gallery': unknown category 'dress'",),
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_file_is_refused(cirr: Path, tmp_path: Path, spoil: Callable[[Arrays], None]) -> None:
    content = cirr_arrays(cirr)
    spoil(content)
    told = refusal(cirr, tmp_path, content)
    assert "mine.npz: " in told
    if spoil is not infinite and spoil is not unknown:
        assert len(told.splitlines()) == 1
    for words in FAULTS[spoil]:
        assert words in told
    assert not (tmp_path / "run").exists()


def test_all_problems_of_a_file_are_told_at_once(cirr: Path, tmp_path: Path) -> None:
    content = cirr_arrays(cirr)
    twice(content)
    infinite(content)
    misspelt(content)
    assert len(refusal(cirr, tmp_path, content).splitlines()) == 4
    content = cirr_arrays(cirr)
    missing(content)
    unknown(content)
    narrower(content)
    assert len(refusal(cirr, tmp_path, content).splitlines()) == 4


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut off", b"something else"])
def test_what_is_no_such_file_is_refused(cirr: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.npz"
    file.write_bytes(content)
    with pytest.raises(UserError, match="mine.npz: (not a readable npz|neither an npz nor a safetensors)"):
        evaluate_embeddings(file, "cirr", data_root={"*": str(cirr)})
    with pytest.raises(UserError, match="no such file"):
        evaluate_embeddings(tmp_path / "none.npz", "cirr", data_root={"*": str(cirr)})


def test_a_truncated_archive_is_refused(cirr: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **cirr_arrays(cirr))
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "mine.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable npz file"):
        evaluate_embeddings(tmp_path / "mine.npz", "cirr", data_root={"*": str(cirr)})


def write_header(file: Path, key: str, shape: tuple[int, ...], dtype: str) -> None:
    """An npz whose array declares more than the few bytes that follow its header."""
    with zipfile.ZipFile(file, "w") as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
        archive.writestr(f"{key}.npy", head.getvalue() + b"\0" * 64)


@pytest.mark.parametrize("shape", [(2_000_000, 2000), (10**9, 10**9), (36, 8)])
def test_an_array_that_declares_more_than_is_there_is_refused_before_it_is_allocated(
    cirr: Path, tmp_path: Path, shape: tuple[int, int]
) -> None:
    write_header(tmp_path / "mine.npz", "queries", shape, "<f4")
    with pytest.raises(UserError, match=r"'queries' declares .*, [\d,]+ bytes, and 64 are there") as caught:
        evaluate_embeddings(tmp_path / "mine.npz", "cirr", data_root={"*": str(cirr)})
    assert "\n" not in str(caught.value)


def test_more_than_the_memory_is_refused(cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "mine.npz", queries=np.zeros((5000, 1000), np.float32))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000_000))
    with pytest.raises(UserError, match="declares 0.0 GB, and 0.0 GB of memory are free"):
        evaluate_embeddings(tmp_path / "mine.npz", "cirr", data_root={"*": str(cirr)})


def test_other_kinds_of_files_are_named(cirr: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("a.pt", "old.pt", "a.npy", "pipe")}
    torch.save({"queries": torch.zeros(3, 2)}, files["a.pt"])
    torch.save({"queries": torch.zeros(3, 2)}, files["old.pt"], _use_new_zipfile_serialization=False)
    np.save(files["a.npy"], np.zeros((3, 2)))
    os.mkfifo(files["pipe"])
    for name, words in (
        ("a.pt", "a file of torch.save"), ("old.pt", "a pickle"), ("a.npy", "one array alone"), ("pipe", "a pipe"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            evaluate_embeddings(files[name], "cirr", data_root={"*": str(cirr)})
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_what_is_scored_is_told_and_recorded(
    cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = cirr_arrays(cirr)
    content |= {name: content[name].astype(np.float64) for name in ("queries", "gallery")}
    seen = score(cirr, tmp_path / "a", content).outside
    told = capsys.readouterr().err
    assert "of width 8, float64 rounded to float32, scored by their dot product in float32; rows are of norms" in told
    assert seen is not None and (seen.width, seen.dtype, seen.score) == (8, "float64", "dot product in float32")
    norms = np.concatenate([np.linalg.norm(content[name], axis=1) for name in ("queries", "gallery")])
    assert seen.norms == pytest.approx((norms.min(), norms.max()))
    assert seen.evidence == ("the file does not say which queries were embedded",)
    for name in ("queries", "gallery"):
        unit = content[name] / np.linalg.norm(content[name], axis=1, keepdims=True)
        content[name] = unit.astype(np.float16)
    score(cirr, tmp_path / "b", content)
    assert "float16, scored by their dot product in float32; rows are of unit norm" in capsys.readouterr().err


def test_a_digest_proves_which_queries_were_embedded(fashioniq: Path, tmp_path: Path) -> None:
    """Protocols that differ in the gallery alone ask the same; another text rule asks otherwise."""
    export_queries("fashioniq", tmp_path / "lines", data_root={"*": str(fashioniq)})
    (digest,) = {
        line["queries_digest"] for line in map(json.loads, (tmp_path / "lines").open()) if "query" in line
    }  # fmt: skip
    content = fashioniq_arrays(fashioniq) | {"queries_digest": np.array(digest)}
    proved = score(fashioniq, tmp_path / "a", content, dataset="fashioniq")
    assert {result.protocol for result in proved.results} == {"original", "original-noref", "val", "val-noref"}
    assert proved.outside is not None and proved.outside.evidence[0].startswith(f"queries_digest {digest}: ")
    told = refusal(fashioniq, tmp_path / "b", content, dataset="fashioniq", text_mode="per-caption")
    assert f"its queries_digest {digest} is of no protocol" in told
    options: dict[str, Any] = {"dataset": "fashioniq", "text_mode": "per-caption", "protocol": ("val",)}
    assert "is of other queries than those of protocol val" in refusal(fashioniq, tmp_path / "c", content, **options)


def test_a_stand_in_for_the_reference_has_to_be_proved(tmp_path: Path) -> None:
    """Fashion200k's two protocols ask by the same ids; what was made for one is not taken for the other."""
    root = tmp_path / "data"
    write_demo("fashion200k", root, LabelSizes(train_looks=6, test_looks=6, queries=25), workers=1)
    dataset = load("fashion200k", root, ("test",))
    content = arrays(dataset.tasks("test", "tirg", "template"), dataset)
    assert [r.protocol for r in score(root, tmp_path / "a", content, dataset="fashion200k").results] == ["tirg"]
    options: dict[str, Any] = {"dataset": "fashion200k", "protocol": ("spirit",)}
    told = refusal(root, tmp_path / "b", content, **options)
    assert "nothing in it says that its queries were embedded with the stand-in references" in told
    digests = {}
    for protocol in ("tirg", "spirit"):
        export_queries("fashion200k", tmp_path / protocol, data_root={"*": str(root)}, protocol=(protocol,))
        line = (tmp_path / protocol).read_text(encoding="utf-8").splitlines()[-1]
        digests[protocol] = json.loads(line)["queries_digest"]
    told = refusal(root, tmp_path / "c", content | {"queries_digest": np.array(digests["tirg"])}, **options)
    assert "is of other queries than those of protocol spirit" in told and "--protocol spirit" in told
    proved = score(root, tmp_path / "d", content | {"queries_digest": np.array(digests["spirit"])}, **options)
    assert [result.protocol for result in proved.results] == ["spirit"]


def test_equal_embeddings_are_told_and_ties_count_against(cirr: Path, tmp_path: Path) -> None:
    content = cirr_arrays(cirr)
    content["gallery"][:] = content["gallery"][0]
    (result,) = score(cirr, tmp_path, content).results
    assert result.notes == ("72 of 72 gallery embeddings equal another picture's",)
    assert result.ties == 36
    assert result.metrics["R@50"] == 0 and result.metrics["R_subset@3"] == 0


def test_every_protocol_of_every_category_is_scored_with_its_average(fashioniq: Path, tmp_path: Path) -> None:
    record = score(fashioniq, tmp_path, fashioniq_arrays(fashioniq), dataset="fashioniq")
    dataset = load("fashioniq", fashioniq)
    assert {r.protocol for r in record.results} == {"original", "original-noref", "val", "val-noref"}
    assert len(record.results) == 4 * 4
    for protocol in ("original", "val-noref"):
        found = {r.category: r for r in record.results if r.protocol == protocol}
        tasks = dataset.tasks("val", protocol, "joined")
        for task in tasks:
            assert found[task.key.category].metrics == pytest.approx(plain_metrics(task, dataset))
        mean = np.mean([found[task.key.category].metrics["R@10"] for task in tasks])
        assert found["average"].metrics["R@10"] == pytest.approx(mean)


def test_categories_may_have_matrices_of_their_own(fashioniq: Path, tmp_path: Path) -> None:
    whole = score(fashioniq, tmp_path / "a", fashioniq_arrays(fashioniq), dataset="fashioniq", protocol=("original",))
    dataset = load("fashioniq", fashioniq)
    parts: Arrays = {}
    for task in dataset.tasks("val", "original", "joined"):
        category = task.key.category
        own = arrays([task], dataset)
        if category == "shirt":  # of another width than the others: each category is a model of its own
            own["queries"], own["gallery"] = (np.pad(own[n], ((0, 0), (0, 3))) for n in ("queries", "gallery"))
        parts |= {f"{category}/{name}": values for name, values in own.items()}
    options: dict[str, Any] = {"dataset": "fashioniq", "protocol": ("original",)}
    assert score(fashioniq, tmp_path / "b", parts, **options).results == whole.results
    common = {name: values for name, values in fashioniq_arrays(fashioniq).items() if name.startswith("gallery")}
    mixed = common | {name: values for name, values in parts.items() if name.startswith(("dress/q", "toptee/q"))}
    mixed |= {name: values for name, values in parts.items() if name.startswith("shirt")}
    assert score(fashioniq, tmp_path / "c", mixed, **options).results == whole.results
    told = refusal(fashioniq, tmp_path / "d", {n: v for n, v in mixed.items() if n[:7] != "toptee/"}, **options)
    assert "holds neither 'queries' nor 'toptee/queries'" in told and "dress" not in told
    assert "widths differ: 'shirt/queries' 11, 'gallery' 8" in refusal(
        fashioniq, tmp_path / "e", {n: v for n, v in mixed.items() if n[:7] != "shirt/g"}, **options
    )


def test_an_entry_with_two_queries_has_two_ids(fashioniq: Path, tmp_path: Path) -> None:
    content = fashioniq_arrays(fashioniq, "both-orders")
    assert {"dress/0/0", "dress/0/1"} <= set(content["query_ids"])
    options: dict[str, Any] = {"dataset": "fashioniq", "protocol": ("original",)}
    record = score(fashioniq, tmp_path / "a", content, text_mode="both-orders", **options)
    assert {r.text_mode for r in record.results} == {"both-orders"}
    assert record.results[0].queries == 24
    told = refusal(fashioniq, tmp_path / "b", content, **options)
    assert "'queries' has 72 unknown ids: dress/0/0" in told and "text mode joined" in told


def test_a_whole_gallery_serves_a_smaller_one_but_not_the_other_way(fashioniq: Path, tmp_path: Path) -> None:
    dataset = load("fashioniq", fashioniq)
    small = arrays(dataset.tasks("val", "val", "joined"), dataset)
    options: dict[str, Any] = {"dataset": "fashioniq", "protocol": ("val",)}
    big = score(fashioniq, tmp_path / "a", fashioniq_arrays(fashioniq), **options)
    assert big.results == score(fashioniq, tmp_path / "b", small, **options).results
    assert "'gallery' lacks" in refusal(fashioniq, tmp_path / "c", small, dataset="fashioniq", protocol=("original",))
    content = fashioniq_arrays(fashioniq)
    content["gallery_ids"] = np.append(content["gallery_ids"], "B99999")
    content["gallery"] = np.concatenate([content["gallery"], vectors(["B99999"])])
    assert "'gallery' has 1 unknown ids: B99999" in refusal(fashioniq, tmp_path / "d", content, **options)


def test_the_command_prints_the_table_and_refuses_what_it_would_ignore(
    cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "mine.npz", **cirr_arrays(cirr))
    common = ["evaluate", "--embeddings", str(tmp_path / "mine.npz"), "--data-root", str(cirr)]
    assert main([*common, "--dataset", "cirr", "--output", str(tmp_path / "run"), "--name", "Ours"]) == 0
    printed = capsys.readouterr().out
    assert "Ours" in printed and "own data, not the official cirr" in printed and "from outside" in printed
    assert str(tmp_path / "run" / "record.json") in printed and "examples.png" not in printed
    assert main(common) == 2
    assert "--dataset is missing" in capsys.readouterr().err
    for extra in (["--limit", "3"], ["--method", "spirit"], ["--device", "cpu"], ["--subset-rankings", "x"]):
        assert main([*common, "--dataset", "cirr", *extra]) == 2
        assert f"error: {extra[0]} " in capsys.readouterr().err
    assert main(["evaluate", "--checkpoint", "x", "--method", "spirit", "--name", "x"]) == 2
    assert "--name is for files from outside" in capsys.readouterr().err
    assert main([*common, "--dataset", "cirr", "--protocol", "offical"]) == 2
    assert "did you mean official" in capsys.readouterr().err
