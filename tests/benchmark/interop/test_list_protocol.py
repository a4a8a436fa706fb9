"""Under which protocol ranked lists are scored: asked for, named by the file, or shown by the lists themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_lists import Lists, as_lines, refusal, score
from outside_data import load, order, plain_metrics, write_fashioniq

from benchmark.errors import UserError
from benchmark.interop.query_export import export_queries
from benchmark.leaderboards.book import add, refusals
from benchmark.records.measurement import Outside
from benchmark.records.record import read_per_query, write_record


def test_a_list_belongs_to_one_protocol(tmp_path: Path) -> None:
    root = write_fashioniq(tmp_path / "data")
    dataset = load("fashioniq", root)
    tasks = dataset.tasks("val", "original", "joined")
    lists = {q: r for task in tasks for q, r in zip(task.queries.ids, order(task, dataset), strict=True)}
    options: dict[str, Any] = {"dataset": "fashioniq"}
    record = score(root, tmp_path / "a", as_lines(lists), **options)
    assert {result.protocol for result in record.results} == {"original"}
    for task, result in zip(tasks, record.results, strict=False):
        assert result.metrics == pytest.approx(plain_metrics(task, dataset))
    assert record.results[-1].category == "average"
    told = refusal(root, tmp_path / "b", as_lines(lists), protocol=("original-noref",), **options)
    assert "the reference is ranked, which this protocol removes: 36 queries, dress/0 (B00000)" in told
    told = refusal(root, tmp_path / "c", as_lines(lists), protocol=("original", "val"), **options)
    assert "one at a time" in told
    swapped = lists | {"dress/0": lists["shirt/0"], "shirt/0": lists["dress/0"]}
    assert "names that are not in the gallery: 2 queries" in refusal(root, tmp_path / "d", as_lines(swapped), **options)


def fashioniq_lists(root: Path, protocol: str) -> Lists:
    """The best 50 of every query, made under one protocol."""
    dataset = load("fashioniq", root)
    tasks = dataset.tasks("val", protocol, "joined")
    return {q: r[:50] for task in tasks for q, r in zip(task.queries.ids, order(task, dataset), strict=True)}


@pytest.mark.parametrize("made_for", ["original", "original-noref", "val", "val-noref"])
def test_where_several_protocols_fit_the_protocol_is_asked_for(tmp_path: Path, made_for: str) -> None:
    """What is scored under the protocol that it was made for is right; without a word it is scored under none."""
    root = write_fashioniq(tmp_path / "data", size=200, count=60)
    dataset = load("fashioniq", root)
    lists = fashioniq_lists(root, made_for)
    options: dict[str, Any] = {"dataset": "fashioniq"}
    record = score(root, tmp_path / "a", as_lines(lists), protocol=(made_for,), **options)
    for task, result in zip(dataset.tasks("val", made_for, "joined"), record.results, strict=False):
        assert result.metrics == pytest.approx(plain_metrics(task, dataset)) and result.notes == ()
    fitting = [
        name
        for name in ("original", "original-noref", "val", "val-noref")
        if fits(root, tmp_path / "b", lists, name)
    ]
    assert made_for in fitting
    if fitting == [made_for]:
        assert score(root, tmp_path / "c", as_lines(lists), **options).results == record.results
    else:
        told = refusal(root, tmp_path / "d", as_lines(lists), **options)
        assert f"--protocol is missing: the lists pass for {', '.join(fitting)}" in told and "\n" not in told
        assert f"their own evidence speaks for {made_for}: none of " in told


def fits(root: Path, folder: Path, lists: Lists, protocol: str) -> bool:
    folder.mkdir(exist_ok=True)
    try:
        score(root, folder / protocol, as_lines(lists), dataset="fashioniq", protocol=(protocol,))
    except UserError:
        return False
    return True


def test_evidence_against_the_protocol_that_was_asked_for_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_fashioniq(tmp_path / "data", size=200, count=60)
    lists = fashioniq_lists(root, "val-noref")
    record = score(root, tmp_path / "a", as_lines(lists), dataset="fashioniq", protocol=("original",))
    printed = capsys.readouterr().err
    for text in (*(note for result in record.results[:3] for note in result.notes), printed):
        assert "doubtful: none of 180 lists ranks its reference, which original keeps in the gallery" in text
        assert "listed names is outside of the" in text
    assert record.outside is not None and "asked for by --protocol" in record.outside.evidence[0]
    assert any(text.startswith("doubtful: none of 180 lists") for text in refusals(record))
    assert "none of 180 lists" in (tmp_path / "a/run/table.md").read_text(encoding="utf-8").replace("\n  ", " ")


def test_the_same_lists_are_not_added_under_two_protocols(tmp_path: Path) -> None:
    """Renamed or not: only one of the two numbers can be right."""
    root = write_fashioniq(tmp_path / "data", size=200, count=60)
    text, folders = as_lines(fashioniq_lists(root, "val-noref")), []
    for protocol in ("val-noref", "original-noref"):
        record = score(root, tmp_path / protocol, text, dataset="fashioniq", protocol=(protocol,))
        data = record.identity.data.model_copy(update={"is_official": True}) if record.identity.data else None
        official = record.identity.model_copy(
            update={"data": data, "inputs": {f"{protocol}.txt": record.identity.inputs["mine.txt"]}}
        )
        # As if nothing in the lists spoke against either.
        seen = Outside(evidence=("protocol: asked for by --protocol",))
        ranks = read_per_query(tmp_path / protocol / "run", record)
        folders.append(tmp_path / f"added {protocol}")
        write_record(folders[-1], record.model_copy(update={"identity": official, "outside": seen, "files": {}}), ranks)
    add(folders[0], tmp_path / "results")
    with pytest.raises(UserError, match="the same lists stand in .* as val-noref, and lists are made for one protocol"):
        add(folders[1], tmp_path / "results")


def test_a_file_that_names_its_protocol_is_taken_at_its_word(tmp_path: Path) -> None:
    root = write_fashioniq(tmp_path / "data", size=200, count=60)
    lists = fashioniq_lists(root, "val-noref")
    export_queries("fashioniq", tmp_path / "lines", data_root={"*": str(root)}, protocol=("val-noref",))
    exported = [json.loads(line) for line in (tmp_path / "lines").read_text(encoding="utf-8").splitlines()]
    claims = {line["query"]: line for line in exported if "query" in line}
    kept = ("protocol", "queries_digest")
    lines = [{"query": q, "ranking": r, **{key: claims[q][key] for key in kept}} for q, r in lists.items()]
    text = "\n".join(map(json.dumps, lines))
    options: dict[str, Any] = {"dataset": "fashioniq"}
    record = score(root, tmp_path / "a", text, **options)
    assert {result.protocol for result in record.results} == {"val-noref"}
    told = refusal(root, tmp_path / "b", text, protocol=("original",), **options)
    assert "says that it was made for protocol val-noref, not for original" in told
    lines[5]["protocol"] = "val"
    told = refusal(root, tmp_path / "c", "\n".join(map(json.dumps, lines)), **options)
    assert "line 6: another protocol than the lines before" in told
    wrong = text.replace(claims["dress/0"]["queries_digest"], "0" * 16)
    assert "its queries_digest 0000000000000000 is of other queries" in refusal(root, tmp_path / "d", wrong, **options)
