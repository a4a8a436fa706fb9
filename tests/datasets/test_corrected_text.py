"""The text rule `corrected`: each category by its own dictionary, in training and evaluation alike, named in records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark.datasets import fashioniq, shoes
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from command_line import Command
from test_fashioniq import load as load_fashioniq
from test_fashioniq import write as write_fashioniq
from test_shoes import load as load_shoes
from test_shoes import write as write_shoes

from benchmark.data.dictionaries import dictionaries_of, dictionary_digests
from benchmark.data.noise import NoisyDataset
from benchmark.data.wrapped import WrappedDataset
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.records.record import read_record, run_key
from benchmark.text_rules import CORRECTED, TEXT_RULES, corrected, text_rule

CATEGORIES = ("dress", "shirt", "toptee")


def words(**pairs: str) -> str:
    return json.dumps(pairs)


def test_a_word_is_replaced_once_and_whole() -> None:
    given = {"colar": "color", "color": "colour", "vneck": "v neck", "t": "tee"}
    assert corrected("  Colar of the V-Neck VNECK, colars! t-shirt’s", given) == "color of the v neck v neck colars tee shirt’s"
    assert corrected("…", given) == "…" and corrected(" .;!", given) == ""


def test_each_category_has_its_own_dictionary_in_training_and_evaluation(tmp_path: Path) -> None:
    data = load_fashioniq(write_fashioniq(tmp_path), ("train", "val"))
    folder = next(tmp_path.rglob("cap.dress.val.json")).parent
    plain = {task.key.category: task for task in data.tasks("val", "original", "joined")}
    for category in CATEGORIES:
        (folder / f"correction_dict_{category}.json").write_text(words(**{"is": category, "has": f"{category} owns"}))
    rule = text_rule(CORRECTED)
    for task in data.tasks("val", "original", CORRECTED):
        category = task.key.category
        assert task.key.text_mode == CORRECTED and task.queries.ids == plain[category].queries.ids
        raw = json.loads((folder / f"cap.{category}.val.json").read_text())
        given = {"is": category, "has": f"{category} owns"}
        assert task.queries.texts == tuple(" and ".join(corrected(c, given) for c in e["captions"]) for e in raw)
        assert f"correction_dict_{category}.json" in task.notes[-1] and "other dictionaries" in task.notes[-1]
    triplets = data.train_triplets(0, 0)
    raw = [(c, e) for c in CATEGORIES for e in json.loads((folder / f"cap.{c}.train.json").read_text())]
    expected = [" and ".join(corrected(x, {"is": c, "has": f"{c} owns"}) for x in e["captions"]) for c, e in raw]
    # Nothing is drawn, and what is taken elsewhere keeps its category.
    noisy = NoisyDataset(WrappedDataset(data), 0.5, 42, "ntc").train_triplets(0, 0)
    assert [rule.draw(captions, None) for captions in triplets.captions] == expected  # type: ignore[arg-type]
    assert sorted(rule.queries(c)[0] for c in noisy.captions) == sorted(expected)
    assert all(len(rule.entries(c)) == 1 for c in triplets.captions)


def test_shoes_have_one_dictionary_and_one_caption(tmp_path: Path) -> None:
    data = load_shoes(write_shoes(tmp_path / "shoes"))
    (tmp_path / "shoes" / "captions").mkdir()
    (tmp_path / "shoes" / "captions" / "correction_dict_shoes.json").write_text(words(are="were"))
    (task,) = data.tasks("test", "official", CORRECTED)
    (plain,) = data.tasks("test", "official", "as-is")
    assert task.queries.texts == tuple(corrected(text, {"are": "were"}) for text in plain.queries.texts)
    assert task.key.text_mode == CORRECTED and plain.key.text_mode == "single"
    assert dictionary_digests(data) == {
        "correction_dict_shoes.json": file_digest(tmp_path / "shoes" / "captions" / "correction_dict_shoes.json")
    }


def test_without_a_dictionary_it_is_refused_and_the_files_are_named(tmp_path: Path) -> None:
    data = load_fashioniq(write_fashioniq(tmp_path), ("train", "val"))
    with pytest.raises(UserError) as caught:
        data.tasks("val", "original", CORRECTED)
    told = str(caught.value)
    assert "\n" not in told and "DQU-CIR" in told and "--assets-root" in told
    for facts in fashioniq.INFO.dictionaries.values():
        assert facts["file"] in told and facts["sha256"] in told
    assert data.tasks("val", "original", "joined"), "nobody else asks for one"
    dictionaries_of(data)["dress"].places.append(tmp_path / "assets")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "correction_dict_dress.json").write_text('{"is": 3}')
    with pytest.raises(UserError, match=r"correction_dict_dress\.json"):
        data.tasks("val", "original", CORRECTED)
    with pytest.raises(UserError, match="no dictionary"):
        text_rule(CORRECTED).queries(("is red",))


def test_rules_that_read_files_are_the_last_ones_so_that_no_default_becomes_it() -> None:
    of_files = [rule.corrects or rule.describes or rule.mode.startswith("with-concept") for rule in TEXT_RULES.values()]
    files = [name for name, reads in zip(TEXT_RULES, of_files, strict=True) if reads]
    assert list(TEXT_RULES)[-len(files) :] == files and files[0] == CORRECTED
    assert all(p.text_modes[0] != CORRECTED for info in (fashioniq.FashionIQ,) for p in info.protocols)
    assert {facts["file"] for facts in shoes.INFO.dictionaries.values()} == {"correction_dict_shoes.json"}


def test_demo_data_carries_empty_ones_and_a_record_names_what_was_used(command: Command, tmp_path: Path) -> None:
    write_demo("fashioniq", tmp_path / "demo", Sizes(1, 2, 1, 2, 1, 1), workers=1)
    outcome = command(
        "run", "--method", "text_only", "--dataset", "fashioniq", "--data-root", tmp_path / "demo", "--backbone", "tiny",
        "--protocol", "original", "--set", "method.encoder=untouched", "--text-mode", "corrected", "--output", "out",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    record = read_record(Path("out"))
    found = record.identity
    empty = file_digest(next((tmp_path / "demo").rglob("correction_dict_dress.json")))
    assert found.text_rule == CORRECTED
    assert found.dictionaries == {f"correction_dict_{category}.json": empty for category in CATEGORIES}
    assert {result.text_mode for result in record.results} == {CORRECTED}
    others = found.model_copy(update={"dictionaries": {"correction_dict_dress.json": "0" * 64}})
    assert run_key(record) != run_key(record.model_copy(update={"identity": others})), "another dictionary, another row"
