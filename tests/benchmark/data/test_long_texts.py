"""Texts longer than an encoder's context: counted as the tokenizer would cut them, told in log, notes, record, verify."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from command_line import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.backbone import BackboneChoice, TextContext
from benchmark.encoders.backbones import load_backbone
from benchmark.encoders.clip_tokens import clip_tokenizer
from benchmark.encoders.families import family_of
from benchmark.records.record import read_record


def text_context(name: str) -> TextContext:
    context = family_of(name).outline(BackboneChoice(name, "random")).text_context
    assert context is not None
    return context


TINY = text_context("tiny")
WORDS = ("red", "dress", "a", "sleeveless", "…", "Ünïcode", "&amp;", "\ud83d", "👗", "x" * 40, ".,;", "\n", "12345")


@cache
def vocabulary() -> int:
    return int(load_backbone("tiny", "random").clip.vocab_size)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), max_size=6))
def test_what_is_counted_is_what_the_tokenizer_cuts(texts: list[str]) -> None:
    whole = clip_tokenizer(vocabulary())(texts, context_length=5000) if texts else []
    lengths = [int((tokens != 0).sum()) for tokens in whole]
    # The first token of the vocabulary is numbered 0, as the padding is: those of these words never are.
    assert list(TINY.count(texts)) == lengths
    assert TINY.cut(texts) == sum(length > TINY.length for length in lengths)


def test_a_backbone_and_its_name_give_the_same_context() -> None:
    own = load_backbone("tiny", "random").text_context
    assert (own.name, own.length) == (TINY.name, TINY.length) == ("tiny", 32)
    assert text_context("ViT-B-32").length == 77
    exact = "dress " * 30
    assert own.count([exact]) == [32] and own.cut([exact]) == 0 and own.cut([exact + "x", exact + "x"]) == 2


@pytest.fixture
def long_data(small_cirr: Path, tmp_path: Path) -> Path:
    """The small data with captions of which those of odd number are too long, as data of one's own."""
    folder = tmp_path / "data" / "CIRR"
    shutil.copytree(small_cirr, folder)
    (folder / "dataset.json").write_text('{"name": "long"}')
    for split in ("train", "val"):
        path = folder / "captions" / f"cap.rc2.{split}.json"
        entries = json.loads(path.read_text())
        for number, entry in enumerate(entries):
            entry["caption"] = "the same in the same place, " * (12 if number % 2 else 1) + f"number {number}"
        path.write_text(json.dumps(entries))
    return folder


def test_a_run_counts_the_texts_that_it_cuts(command: Command, long_data: Path, tmp_path: Path) -> None:
    head = ("run", "--method", "sum", "--dataset", "cirr", "--data-root", long_data, "--backbone", "tiny")
    outcome = command(*head, "--weights", "random", "--cache", tmp_path / "cache", "--output", tmp_path / "out",
                      "--set", "method.encoder=untouched")  # fmt: skip
    assert outcome.status == 0, outcome.err
    said = "12 of 24 texts are longer than the 32 tokens that tiny reads, and are cut"
    assert f"evaluation: {said}" in outcome.err
    assert said in " ".join(outcome.out.split()).replace("- ", "")
    results = read_record(tmp_path / "out").results
    assert results and all(result.texts_cut == 12 and said in result.notes for result in results)


def test_data_verify_counts_them_for_a_backbone(command: Command, long_data: Path) -> None:
    outcome = command("data", "verify", "cirr", "--data-root", long_data, "--backbone", "tiny")
    assert outcome.status == 0, outcome.out
    assert "- val · single: 12 of 24 texts are longer than the 32 tokens that tiny reads" in outcome.out
    assert "- train · single: 36 of 72 texts are longer than the 32 tokens that tiny reads" in outcome.out
    told = json.loads(command("data", "verify", "cirr", "--data-root", long_data, "--backbone", "ViT-B-32", "--json").out)
    assert {(found["split"], found["context"], found["cut"]) for found in told["long_texts"]} >= {("val", 77, 12), ("train", 77, 36)}
    assert "longer than" not in command("data", "verify", "cirr", "--data-root", long_data).out
    unknown = command("data", "verify", "cirr", "--data-root", long_data, "--backbone", "tinny")
    assert unknown.status == 2 and "tiny" in unknown.err
