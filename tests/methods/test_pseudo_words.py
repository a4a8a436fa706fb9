"""A picture as a word of a text: the authors' numbers, which tokens it takes, what it trains on, weights that come in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from benchmark.methods.lincir import Lincir, LincirSettings
from benchmark.methods.networks.inverted_words import inverted_pictures
from benchmark.methods.networks.keyword_masking import MARK, TaggedSentence, cleaned, masked
from benchmark.methods.networks.pseudo_words import FrozenText, Im2Text, Phi, every_place, first_place
from command_line import Command
from safetensors import safe_open
from torch import Tensor

from benchmark.backbone import BackboneChoice
from benchmark.cli import main
from benchmark.dataset import Dataset
from benchmark.encoders.families import load_choice
from benchmark.errors import UserError
from benchmark.method import TrainingRows
from benchmark.records.record import read_per_query, read_record
from benchmark.registry import discover
from benchmark.text_rules import sentences_of, text_rule
from benchmark.weights.checkpoints import read_header

GOLDEN = Path(__file__).parents[1] / "golden"
UNTOUCHED = ("--set", "method.encoder=untouched")


@pytest.fixture(scope="module")
def clip() -> Any:
    return load_choice(BackboneChoice("tiny", "random"))


@pytest.mark.parametrize("name", ["pic2word.json", "searle_phi.json", "lincir.json"])
def test_golden_files_agree(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(GOLDEN / name)]) == 0
    printed = capsys.readouterr().out
    assert "TOO LARGE" not in printed and f"{name}: every output agrees" in printed


def test_what_is_not_the_release_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The likeliest mistakes in place of the release's numbers: each is seen, and nothing else."""
    content = json.loads((GOLDEN / "lincir.json").read_text())
    content["train_dropout_off"]["loss"] = content["not_the_release"]["losses"]["no_noise"]
    searle = json.loads((GOLDEN / "searle_phi.json").read_text())["not_the_release"]
    content["eval"]["fashioniq"]["query"] = searle["fashioniq_mean_of_raw_features"]
    (tmp_path / "lincir.json").write_text(json.dumps(content))
    assert main(["parity", str(tmp_path / "lincir.json")]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if "TOO LARGE" in line]
    assert [line.split("|")[1].strip() for line in wrong] == ["fashioniq query", "train loss"]


def test_a_text_without_a_word_is_open_clips_own(clip: Any) -> None:
    text, said = FrozenText(clip, "$", first_place), ["a photo of a red dress", "", "$ $"]
    tokens = text.tokenize(said)
    with torch.no_grad():
        expected = clip.clip.encode_text(clip.tokenize(said))
    torch.testing.assert_close(text(tokens), expected)
    # A word that is the token's own vector changes nothing either.
    own = clip.embed_tokens(torch.tensor([259])).detach().expand(3, -1)
    torch.testing.assert_close(text(tokens, own), expected)


def test_gradients_reach_the_word_and_never_the_tower(clip: Any) -> None:
    text = FrozenText(clip, "*", first_place)
    words = torch.randn(2, clip.token_width, requires_grad=True)
    torch.autograd.backward(text(text.tokenize(["a photo of *", "no star"]), words).sum())
    assert words.grad is not None and bool(words.grad[0].abs().max() > 0) and not bool(words.grad[1].any())
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert not list(text.parameters()) and not text.state_dict()


def test_the_first_place_or_every_place(clip: Any) -> None:
    tokens = FrozenText(clip, "$", first_place).tokenize(["a $ of $ and a$", "none"])
    assert first_place(tokens, 259).sum(dim=1).tolist() == [1, 0] and every_place(tokens, 259).sum(dim=1).tolist() == [3, 0]
    assert int(first_place(tokens, 259)[0].nonzero()[0]) == 2


def test_a_marked_text_is_cut_with_its_end_kept(clip: Any) -> None:
    text = FrozenText(clip, "$", every_place)
    tokens = text.tokenize_marked([f"we{MARK}rs " * 30, MARK], MARK)
    length = clip.text_context.length
    assert tokens.shape == (2, length) and tokens[0, -1] == tokens.max() and tokens[1, 1] == 259
    assert tokens[1, 2] == tokens.max() and not bool(tokens[1, 3:].any())


def test_sizes_are_the_published_ones() -> None:
    def count(network: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):
        assert count(Im2Text(768, 768)) == 1_050_368
        found = [count(Phi(d, w)) for d, w in ((512, 512), (768, 768), (1024, 1024), (1280, 1280))]
    assert found == [6_296_064, 14_162_688, 25_175_040, 39_333_120]


def test_captions_in_reverse_and_both_orders_in_one_query() -> None:
    captions = (" is red. ", "Has a belt?")
    assert text_rule("last-first").queries(captions) == ("Has a belt? and  is red. ",)
    (query,) = text_rule("averaged-orders").queries(captions)
    assert sentences_of(query) == ("is red and Has a belt", "Has a belt and is red")
    assert text_rule("averaged-orders").queries(("one.",)) == ("one",)


def test_a_long_sentence_ends_with_its_75th_token_and_a_word_is_drawn() -> None:
    assert len(cleaned("dog " * 90).split()) == 75
    drawn = {masked(TaggedSentence("it runs now", ()), np.random.default_rng(seed)) for seed in range(20)}
    assert drawn == {f"{MARK} runs now", f"it {MARK} now", f"it runs {MARK}"}


@pytest.fixture
def without_triplets(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.datasets.cirr import CIRR

    def refuse(self: Any, *given: Any) -> None:
        raise AssertionError("a triplet was asked for")

    monkeypatch.setattr(CIRR, "train_triplets", refuse)


@pytest.mark.usefixtures("without_triplets")
def test_a_run_sees_no_triplet_and_says_so(command: Command, small_cirr: Path) -> None:
    given = ("--method", "lincir", "--dataset", "cirr", "--data-root", small_cirr, *UNTOUCHED, "--epochs", "1")
    outcome = command("run", *given, "--set", "lincir.batch_size=8", "--output", "run")
    assert outcome.status == 0, outcome.err
    assert "zero-shot: trained on texts of demo-cirr (" in " ".join(outcome.out.split())
    identity = read_record(Path("run")).identity
    assert identity.zero_shot and set(identity.training_files or {}) == {"texts of demo-cirr", "parts_of_speech.txt"}
    assert [stage.triplets_seen for stage in identity.stages] == [0]
    with safe_open("run/weights/selected.safetensors", "pt") as file:
        assert all(name.startswith("phi.") for name in file.keys())
    again = command("evaluate", "--method", "lincir", "--checkpoint", "run", "--data-root", small_cirr)
    assert again.status == 0, again.err
    scored = read_record(Path("run/weights/evaluated-demo-cirr"))
    assert scored.identity.training_files == identity.training_files
    assert scored.results[0].metrics == read_record(Path("run")).results[-1].metrics


def rows_of(method: str, given: dict[str, str], is_demo: bool = False) -> TrainingRows:
    specification = discover().specification(method)
    settings = specification.settings(**given)
    rows = specification.stages(settings, "pretrained")[-1].rows
    assert rows is not None
    return rows(settings, cast(Dataset, SimpleNamespace(is_demo=is_demo, label="own")), None)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the three train on, two of each, in the working folder."""
    monkeypatch.chdir(tmp_path)
    lines = [{"caption": "A red dog", "parts_of_speech": [["a", "DET"], ["red", "ADJ"], ["dog", "NOUN"]]}] * 2
    Path("tagged.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("bad.jsonl").write_text(f'{json.dumps(lines[0])}\n{{"caption": "a dog"}}\n')
    Path("plain.txt").write_text("a dog\n")
    Path("pictures/more").mkdir(parents=True)
    for name in ("a.png", "more/b.JPG", "notes.txt"):
        Path("pictures", name).touch()
    words = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez("oti.npz", names=np.array(["more/b.JPG", "a.png"]), words=words)
    Path("concepts.json").write_text(json.dumps({"a.png": ["dog", "cat"], "more/b.JPG": ["cat", "dog"]}))
    Path("phrases.json").write_text(json.dumps({"dog": ["a dog and a dog"], "cat": ["a photo of nothing"]}))


SEARLES = {"pictures": "pictures", "oti_words": "oti.npz", "concepts": "concepts.json", "phrases": "phrases.json"}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("method", "given", "told"),
    [
        ("pic2word", {}, "--set method.pictures=FOLDER is missing"),
        ("pic2word", {"pictures": "nowhere"}, "nowhere: no such folder"),
        ("pic2word", {"pictures": "."}, None),
        ("lincir", {}, "--set method.sentences=FILE is missing"),
        ("lincir", {"sentences": "plain.txt"}, "--set method.tagger=FILE is missing"),
        ("lincir", {"sentences": "bad.jsonl"}, "bad.jsonl, line 2"),
        ("searle", {"pictures": "pictures"}, "--set method.oti_words=FILE and"),
        ("searle", {**SEARLES, "oti_words": "concepts.json"}, "concepts.json: not a readable npz file"),
        ("searle", {**SEARLES, "pictures": "pictures/more"}, "oti.npz: has no word of the picture 'b.JPG'"),
        ("searle", {**SEARLES, "phrases": "concepts.json"}, "no concept with a phrase for the picture 'a.png'"),
    ],
)
def test_what_is_missing_or_damaged_is_told_in_a_line(method: str, given: dict[str, str], told: str | None) -> None:
    if told is None:
        rows = rows_of(method, given)
        assert rows.pictures.names == ("pictures/a.png", "pictures/more/b.JPG") and rows.label == Path.cwd().name
        return
    with pytest.raises(UserError) as error:
        rows_of(method, given)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("files")
def test_searle_reads_words_by_name_and_leaves_out_concepts_whose_phrases_lack_them(clip: Any) -> None:
    rows = rows_of("searle", SEARLES)
    assert rows.pictures.names == ("a.png", "more/b.JPG") and set(rows.files) == {"oti.npz", "concepts.json", "phrases.json"}
    found = inverted_pictures("pictures", {k: v for k, v in SEARLES.items() if k != "pictures"}, own())
    assert found.words_of(np.array([0, 1]), 3).tolist() == [[3, 4, 5], [0, 1, 2]]
    drawn = {found.drawn_phrase(row, np.random.default_rng(seed)) for row in (0, 1) for seed in range(5)}
    assert drawn == {("a dog and a dog", "a  $  and a  $ ")}
    with pytest.raises(UserError, match="words of width 3"):
        found.words_of(np.array([0]), clip.token_width)


@pytest.mark.usefixtures("files")
def test_lincir_masks_and_draws_by_the_generator_alone(clip: Any) -> None:
    rows = rows_of("lincir", {"sentences": "tagged.jsonl"})
    assert rows.sentences == ("a red dog",) * 2 and set(rows.files) == {"tagged.jsonl"}
    method = Lincir(64, clip.token_width, FrozenText(clip, "$", every_place), LincirSettings())
    views = [rows.text(method, np.array([0, 1]), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(torch.equal(views[0][name], views[1][name]) for name in ("masked", "noise"))
    assert views[0]["masked"][:, 1].tolist() == [259, 259] and not torch.equal(views[0]["noise"], views[2]["noise"])
    # One strength per row, below 1, of a direction of unit variance.
    spread = torch.cat([rows.text(method, np.array([0, 1]), np.random.default_rng(s))["noise"] for s in range(200)]).std(dim=1)
    assert spread.max() < 1.5 and spread.min() < 0.1 and 0.4 < spread.mean() < 0.6


def own() -> Dataset:
    return cast(Dataset, SimpleNamespace(is_demo=False, label="own"))


@pytest.mark.parametrize(
    ("method", "entry", "prompt"), [("pic2word", "state_dict_img2text", "a photo of * , {}"), ("searle", "Phi", "a photo of $ that {}")]
)
def test_a_released_file_is_scored_as_its_own_arithmetic_says(
    method: str, entry: str, prompt: str, command: Command, small_cirr: Path, clip: Any
) -> None:
    torch.manual_seed(0)
    phi = (Im2Text if method == "pic2word" else Phi)(clip.width, clip.token_width).eval()
    torch.save({"epoch": 3, entry: {f"module.{n}": t for n, t in phi.state_dict().items()}}, "released.pt")
    torch.save(clip.openai_state_dict(), "clip.pt")
    given = ("--method", method, "released.pt", "--dataset", "cirr", "--clip", "clip.pt", "--backbone", "tiny")
    outcome = command("import", *given, *UNTOUCHED, "--output", "in")
    assert outcome.status == 0, outcome.err
    outcome = command("evaluate", "--method", method, "--checkpoint", "in", "--data-root", small_cirr)
    assert outcome.status == 0, outcome.err
    record = read_record(Path("in/weights/evaluated-demo-cirr"))
    pads = {"pic2word": "clip", "searle": "targetpad"}
    assert read_header(Path("in/weights/selected.safetensors")).backbone["settings"]["preprocessing"] == pads[method]
    assert record.identity.zero_shot and not record.identity.training_files
    ranks = ranks_by_hand(phi, small_cirr, clip, prompt, pads[method])
    for k in (1, 5, 10):
        assert record.results[0].metrics[f"R@{k}"] == pytest.approx(100 * float((ranks <= k).mean()))
    # What its words add: beside the picture and the caption alone stands the sentence with a sign in the word's place.
    told = read_per_query(Path("in/weights/evaluated-demo-cirr"), record)[0]
    assert told.rank.tolist() == ranks.tolist() and told.picture_rank is not None
    captions, prompts = (ranks_by_hand(None, small_cirr, clip, sentence, pads[method]) for sentence in ("{}", prompt))
    assert told.text_rank is not None and told.text_rank.tolist() == captions.tolist()
    assert told.prompt_rank is not None and told.prompt_rank.tolist() == prompts.tolist() != captions.tolist()
    outcome = command("compose", "in/weights/evaluated-demo-cirr", "--format", "json")
    (row,) = [part for part in json.loads(outcome.out)["prompt"] if part["metric"] == "R@10"]
    hits = [100 * float((found <= 10).mean()) for found in (prompts, ranks)]
    assert [row["prompt"], row["method"], row["word"]] == pytest.approx([*hits, hits[1] - hits[0]])
    outcome = command("compose", "in/weights/evaluated-demo-cirr")
    assert "| R@10 " in outcome.out and "its prompt, a mere sign for the word" in outcome.out


@torch.no_grad()
def ranks_by_hand(phi: torch.nn.Module | None, data: Path, clip: Any, prompt: str, pad: str) -> np.ndarray:
    """Ranks of val's targets, the reference left out, with the text tower written out; without φ no word is put in."""
    from benchmark.data.pictures import open_picture

    entries = json.loads((data / "captions" / "cap.rc2.val.json").read_text())
    paths = json.loads((data / "image_splits" / "split.rc2.val.json").read_text())
    names, reading = list(paths), replace(clip.preprocessing, name=pad)
    pixels = torch.from_numpy(np.stack([reading.picture(open_picture(data / paths[name])) for name in names]))
    features, network = clip.encode_image(reading.normalise(pixels)), clip.clip
    ranks = []
    for entry in entries:
        own, left = names.index(entry["target_hard"]), names.index(entry["reference"])
        tokens = clip.tokenize([prompt.format(entry["caption"])])
        states = network.token_embedding(tokens)
        if phi is not None:
            states[0, 4] = phi(features[left : left + 1])[0]
        states = network.ln_final(network.transformer(states + network.positional_embedding, attn_mask=network.attn_mask))
        query: Tensor = states[0, int(tokens.argmax())] @ network.text_projection
        scores = torch.nn.functional.cosine_similarity(query[None], features)
        ranks.append(1 + sum(bool(scores[i] > scores[own]) for i in range(len(names)) if i != left))
    return np.array(ranks)


def test_a_prompt_has_its_text_and_its_sign(command: Command, small_cirr: Path) -> None:
    given = ("run", "--method", "searle", "--dataset", "cirr", "--data-root", small_cirr, *UNTOUCHED)
    for prompt, told in (("a photo of $", "has {text} once"), ("a photo of {text}", "has no $")):
        outcome = command(*given, "--set", f"method.prompt={prompt}")
        assert outcome.status == 2 and len(outcome.errors) == 1 and told in outcome.err, outcome.err
