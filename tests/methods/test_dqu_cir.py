"""DQU-CIR: its letters bit by bit, the authors' checkpoint, and what an exported model asks for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.methods.dqu_cir import DquCir
from benchmark.methods.networks import drawn_words
from benchmark.methods.networks.drawn_words import WordDrawer
from benchmark.methods.parity.dqu_cir import released_name
from command_line import Command
from PIL import Image

from benchmark.backbone import BackboneChoice
from benchmark.encoders.families import load_choice
from benchmark.errors import UserError
from benchmark.interop.exported import load
from benchmark.parity.report import check
from benchmark.records.record import read_record
from benchmark.registry import discover
from benchmark.settings import BackboneSettings

GOLDEN = Path(__file__).parent.parent / "golden" / "dqu_cir.json"


def test_every_golden_number_agrees() -> None:
    deviations = check(GOLDEN, discover())
    assert all(deviation.ok for deviation in deviations), [d for d in deviations if not d.ok]
    assert sum(d.output.startswith("picture ") for d in deviations) == 11


@pytest.mark.parametrize("name", ["_LINE", "_SCALE", "_BLUE", "_SIDE", "_FIRST_CHANNEL"])
def test_other_letters_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"_LINE": 30, "_SCALE": 0.71, "_BLUE": (255, 0, 0), "_SIDE": 511, "_FIRST_CHANNEL": (0, 0, 255)}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    manner: Any = "one-word" if name == "_FIRST_CHANNEL" else "resized"
    plain = WordDrawer(manner).draw(image, "red, no belt")
    monkeypatch.setattr(drawn_words, name, other[name])
    changed = WordDrawer(manner).draw(image, "red, no belt")
    assert plain.size != changed.size or not np.array_equal(np.asarray(plain), np.asarray(changed))


def test_an_empty_phrase_keeps_its_line_and_a_turned_picture_is_turned(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    drawer = WordDrawer("own-size")
    plain, second = np.asarray(image), np.asarray(drawer.draw(image, ", red"))
    assert np.array_equal(second[:51], plain[:51]) and not np.array_equal(second[51:81], plain[51:81])
    assert np.array_equal(np.asarray(drawer.draw(image, "")), plain)
    assert np.array_equal(np.asarray(WordDrawer("one-word").draw(image, "")), plain[:, :, ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        turned.load()
    assert drawer.draw(turned, "red").size == (200, 300) and drawer.draw(image, "red").size == (300, 200)


@pytest.mark.parametrize("version", ["", "4.9.0", "5.0.0"])
def test_another_opencv_is_refused_and_the_extra_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__=version) if version else None)
    with pytest.raises(UserError, match=r"cir-benchmark\[words\]") as caught:
        WordDrawer("resized").key()
    assert (version or "not installed") in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as the release saves its own: the CLIP inside, names of the release."""
    torch.manual_seed(0)
    settings = BackboneSettings(preprocessing="clip", rgb_first=True)
    method = DquCir(load_choice(BackboneChoice("tiny", "random", settings, seed=5)), 0.5)
    state = {
        released_name(n): t.reshape(()) if n.endswith("logit_scale") else t for n, t in method.state_dict().items()
    }
    file = tmp_path_factory.mktemp("dqu") / "best_model.pt"
    torch.save(state, file)
    return file


@torch.no_grad()
def test_the_authors_checkpoint_comes_in_and_goes_out_as_one_file(
    command: Command, small_cirr: Path, released: Path
) -> None:
    given = ("--method", "dqu_cir", released, "--dataset", "cirr", "--backbone", "tiny", "--output", "in")
    outcome = command("import", *given)
    assert outcome.status == 0, outcome.err
    account = json.loads(Path("in/import.json").read_text())
    assert len(account) == 1 and all(t["use"].startswith("used as ") for t in account[0]["tensors"])
    outcome = command("evaluate", "--method", "dqu_cir", "--checkpoint", "in", "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    record = read_record(next(Path("in").rglob("record.json")).parent)
    assert command("export", "in", "--output", "dqu.safetensors").status == 0
    model = load("dqu.safetensors")
    entries = json.loads((small_cirr / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((small_cirr / "image_splits" / "split.rc2.val.json").read_text())
    captions, words = (
        json.loads((small_cirr / "captions" / f"{kind}_cirr_val.json").read_text())
        for kind in ("image_captions", "keywords_in_mods")
    )
    names = list(paths)
    references = [small_cirr / paths[entry["reference"]] for entry in entries]
    texts, of_pictures = [e["caption"] for e in entries], [captions[e["reference"]] for e in entries]
    notes = [words[f"{e['reference']}+{e['target_hard']}"][-1] for e in entries]
    gallery = model.encode_target([small_cirr / paths[name] for name in names])
    scores = model.score(model.encode_query(references, texts, of_pictures, notes), gallery)
    ranks = []
    for row, entry in zip(scores, entries, strict=True):
        own, left = float(row[names.index(entry["target_hard"])]), names.index(entry["reference"])
        ranks.append(1 + sum(float(s) > own for i, s in enumerate(row) if i != left))
    found = record.results[0].metrics
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx(100 * np.mean([rank <= k for rank in ranks]))
    bare = model.encode_query(references, texts, of_pictures, [""] * len(texts))
    assert not torch.allclose(bare, model.encode_query(references, texts, of_pictures, notes)), "words are seen"
    for missing, told in (({"notes": notes}, "picture_texts"), ({"picture_texts": of_pictures}, "notes")):
        with pytest.raises(UserError, match=rf"give {told}=\[…\]"):
            model.encode_query(references, texts, **missing)
    with pytest.raises(UserError, match="2 notes for"):
        model.encode_query(references, texts, of_pictures, notes[:2])
    asked = ("search", "--run", "in", "--image", references[0], "--text", texts[0], "--gallery", small_cirr / "dev")
    for further, told in (((), "--caption is missing"), (("--caption", "a dress"), "--words is missing")):
        outcome = command(*asked, *further)
        assert outcome.status == 2 and told in outcome.err and len(outcome.errors) == 1
    outcome = command(*asked, "--caption", of_pictures[0], "--words", notes[0])
    best = float(scores[0].max())
    assert outcome.status == 0 and float(outcome.out.split()[1]) == pytest.approx(best, abs=1e-3)
    wrong = command("import", *given[:-1], "again", "--clip", released)
    assert wrong.status == 2 and "holds its CLIP" in wrong.err and not Path("again").exists()


def test_paper_recipes_ask_for_what_the_release_made(command: Command, small_cirr: Path) -> None:
    outcome = command("run", "--method", "dqu_cir", "--dataset", "cirr", "--data-root", small_cirr, "--recipe", "paper")
    assert outcome.status == 2 and "ViT-H-14" not in outcome.out
    listed = command("list", "recipes", "--json")
    recipes = [r for r in json.loads(listed.out)["recipes"] if r["stage"] == "dqu_cir" and r["name"] == "paper"]
    assert {r["dataset"] for r in recipes} == {"cirr", "fashioniq", "shoes", "fashion200k"}
    assert {r["settings"]["text_rule"] for r in recipes} == {"caption-corrected", "caption-as-is", "caption-template"}
    selected = {r["dataset"]: r["settings"].get("selection_protocol") for r in recipes}
    noref = {"fashioniq": "val-noref", "shoes": "official-noref"}
    assert selected == {**noref, "cirr": None, "fashion200k": None}, "references are left out on every dataset"
