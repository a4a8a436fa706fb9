"""Captions of pictures and words of pairs: found by the pair's key, read only where asked for, kept with their pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark.datasets import cirr, fashion200k, fashioniq, shoes
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from benchmark.datasets.demo.fashion200k import LabelSizes
from command_line import Command

from benchmark.data.noise import NoisyDataset
from benchmark.data.wrapped import WrappedDataset
from benchmark.dataset import Queries
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.records.record import read_record, run_key
from benchmark.text_rules import corrected, side_texts_of, text_rule
from benchmark.training.selection import heldout_task

SMALL = Sizes(2, 3, 2, 3, 1, 3)
NOISY = Sizes(4, 6, 2, 3, 1, 3)
MODULES: dict[str, Any] = {"cirr": cirr, "fashioniq": fashioniq, "shoes": shoes, "fashion200k": fashion200k}


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    sizes = {"cirr": NOISY, "shoes": Sizes(2, 3, 0, 0, 2, 3), "fashion200k": LabelSizes(12, 12, 20)}
    for name in MODULES:
        write_demo(name, folder / name, sizes.get(name, SMALL), workers=1)
    return folder


def load(demos: Path, name: str, *splits: str) -> Any:
    return MODULES[name].load(demos / name, splits=splits)


def read(folder: Path, name: str) -> Any:
    return json.loads(next(folder.rglob(name)).read_text())


def shown(queries: Queries) -> list[tuple[str, str]]:
    return [(text, side_texts_of(c).note) for text, c in zip(queries.texts, queries.captions, strict=True)]


def test_cirr_joins_without_a_blank_and_test1_goes_by_the_pairs_id(demos: Path) -> None:
    data = load(demos, "cirr", "train", "val", "test1")
    for split, protocol in (("val", "official"), ("test1", "official")):
        (task,) = data.tasks(split, protocol, "caption-as-is")
        captions = read(demos / "cirr", f"image_captions_cirr_{split}.json")
        words = read(demos / "cirr", f"keywords_in_mods_cirr_{split}.json")
        expected = []
        for entry in read(demos / "cirr", f"cap.rc2.{split}.json"):
            own = entry["reference"]
            key = f"{own}+{entry['target_hard']}" if split == "val" else f"{entry['pairid']}+{own}"
            expected.append((f"{captions[own]}, but{entry['caption']}", words[key][-1]))
        assert shown(task.queries) == expected and task.key.text_mode == "single"
        heldout = heldout_task(data, data.train_triplets(0, 0), text_rule("caption-as-is")).queries
        by_text = {text: note for text, note in read(demos / "cirr", "keywords_in_mods_cirr_train.json").values()}
        assert all(by_text[text.partition(", but")[2]] == note for text, note in shown(heldout))
        part = task.queries.take(task.queries.group.argsort()[::-1][:2])
        assert all(pair in expected for pair in shown(part))


def test_fashioniq_and_shoes_correct_the_text_behind_the_caption(demos: Path) -> None:
    (demos / "shoes" / "correction_dict_shoes.json").write_text('{"are": "were"}')
    words, captions = read(demos / "shoes", "keywords_in_mods_shoes.json"), read(demos / "shoes", "image_captions_shoes.json")
    listed = read(demos / "shoes", "relative_captions_shoes.json")
    by_pair = {
        (captions[e["ReferenceImageName"]], words[f"{e['ReferenceImageName']}+{e['ImageName']}"][-1]): e["RelativeCaption"]
        for e in listed
    }
    (task,) = load(demos, "shoes", "test").tasks("test", "official", "caption-corrected")
    for text, note in shown(task.queries):
        caption, _, rest = text.partition(", but ")
        assert rest == corrected(by_pair[caption, note], {"are": "were"}) and task.key.text_mode == "corrected"
    data = load(demos, "fashioniq", "train", "val", "test")
    triplets = data.train_triplets(0, 0)
    names, rule = data.pictures.names, text_rule("caption-corrected")
    of = {c: read(demos / "fashioniq", f"keywords_in_mods_{c}.json") for c in fashioniq.CATEGORIES}
    every = {key: words for category in of.values() for key, words in category.items()}
    for reference, target, own in zip(
        triplets.reference_picture.tolist(), triplets.target_picture.tolist(), triplets.captions, strict=True
    ):
        text, words = every[f"{names[reference]}_{names[target]}"]
        assert rule.queries(own)[0].endswith(f", but {text}") and side_texts_of(own).note == words
    # What nobody made for a split is told; who does not ask for it does not miss it.
    assert data.tasks("test", "original", "joined")
    with pytest.raises(UserError, match="come without captions of their pictures"):
        data.tasks("test", "original", "caption-corrected")


def test_fashion200k_takes_both_from_its_labels(demos: Path) -> None:
    data = load(demos, "fashion200k", "train", "test")
    rule, triplets = text_rule("caption-template"), data.train_triplets(0, 0)
    names, described = data.pictures.names, data.side_texts()
    for reference, target, own in zip(
        triplets.reference_picture.tolist(), triplets.target_picture.tolist(), triplets.captions, strict=True
    ):
        (description,), (other,) = described[names[reference]], described[names[target]]
        assert rule.queries(own)[0] == f"{description}, but {own[0]}"
        assert side_texts_of(own).note == own[0].split(" with ")[-1] and side_texts_of(own).note in other.split()
    (task,) = data.tasks("test", "tirg", "caption-template")
    assert all(note == text.rpartition(" ")[2] and ", but replace " in text for text, note in shown(task.queries))


def test_noise_moves_a_caption_with_its_picture_and_words_with_their_text(demos: Path) -> None:
    data = load(demos, "cirr", "train")
    captions = read(demos / "cirr", "image_captions_cirr_train.json")
    words = read(demos / "cirr", "keywords_in_mods_cirr_train.json")
    by_text = {text: note for text, note in words.values()}
    noisy = NoisyDataset(WrappedDataset(data), 1.0, 3, "ntc").train_triplets(0, 0)
    clean = data.train_triplets(0, 0)
    assert (noisy.reference_picture != clean.reference_picture).any()
    for reference, own in zip(noisy.reference_picture.tolist(), noisy.captions, strict=True):
        assert side_texts_of(own).picture_text == captions[data.pictures.names[reference]]
        assert by_text[own[0]] == side_texts_of(own).note


@pytest.mark.parametrize(
    "gone", ["image_captions_dress_val.json", "keywords_in_mods_shirt.json", "correction_dict_toptee.json"]
)
def test_a_missing_file_or_entry_is_told_before_anything_is_done(demos: Path, command: Command, gone: str) -> None:
    file = next((demos / "fashioniq").rglob(gone))
    kept = file.read_text()
    given = ("run", "--method", "dqu_cir", "--dataset", "fashioniq", "--data-root", demos / "fashioniq", "--dry-run",
             "--batch-size", 2)  # fmt: skip
    try:
        file.unlink()
        outcome = command(*given)
        assert outcome.status == 2 and len(outcome.errors) == 1 and gone in outcome.err
        assert "github.com/haokunwen/DQU-CIR" in outcome.err and "--assets-root" in outcome.err
        (Path.cwd() / "data" / "FashionIQ" / "captions").mkdir(parents=True)
        (Path.cwd() / "data" / "FashionIQ" / "captions" / gone).write_text(kept)
        assert command(*given, "--assets-root", "data").status == 0
        if gone.startswith("correction"):
            return
        file.write_text("{}")
        data = load(demos, "fashioniq", "train", "val")
        with pytest.raises(UserError, match=gone):
            for split in ("train", "val"):
                asked = data.training_texts() if split == "train" else [
                    c for task in data.tasks("val", "original", "joined") for c in task.queries.captions
                ]
                for captions in asked:
                    assert side_texts_of(captions).picture_text and side_texts_of(captions).note
    finally:
        file.write_text(kept)
    plain = command("run", "--method", "text_only", *given[3:-2], "--set", "method.encoder=untouched")
    assert plain.status == 0, "nobody else asks for them"


def test_other_files_make_another_run(demos: Path, command: Command) -> None:
    given = ("--method", "dqu_cir", "--dataset", "cirr", "--data-root", demos / "cirr", "--epochs", "0")
    assert command("run", *given, "--output", "out", "--set", "dqu_cir.batch_size=2").status == 0
    record = read_record(Path("out"))
    read_files = {f"{kind}_cirr_{split}.json" for kind in ("image_captions", "keywords_in_mods") for split in ("train", "val")}
    assert record.identity.side_texts == {
        name: file_digest(next((demos / "cirr").rglob(name))) for name in sorted(read_files)
    }
    assert any("others than the released ones" in note for note in record.results[0].notes)
    others = record.identity.model_copy(update={"side_texts": dict.fromkeys(record.identity.side_texts or {}, "0" * 64)})
    assert run_key(record) != run_key(record.model_copy(update={"identity": others}))
