"""Plain sentences tagged by spaCy: a small pipeline is trained here, since the real one is nobody's to pass on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from benchmark.methods.networks.keyword_masking import cleaned, masked, tagged_sentences
from benchmark.methods.networks.sentence_tagging import parts_of_speech, pipeline_digest
from command_line import Command

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.records.record import read_record

spacy = pytest.importorskip("spacy", reason='spaCy is not installed: pip install -e ".[lincir]"')

UNIVERSAL = {"DT": "DET", "JJ": "ADJ", "NN": "NOUN", "IN": "ADP", "VBZ": "VERB", "CC": "CCONJ"}
TAUGHT = {
    "a red dress with short sleeves": "DT JJ NN IN JJ NN",
    "the blue shirt has a collar": "DT JJ NN VBZ DT NN",
    "person wears a black hat": "NN VBZ DT JJ NN",
    "is shorter and has a belt": "VBZ JJ CC VBZ DT NN",
    "a dog on the grass": "DT NN IN DT NN",
    "has long sleeves": "VBZ JJ NN",
    "the green coat with a zip": "DT JJ NN IN DT NN",
    "a white skirt and a belt": "DT JJ NN CC DT NN",
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder: a tagger of Penn's tags, and the rules that make them Universal Dependencies'."""
    spacy.util.fix_random_seed(0)
    model = spacy.blank("en")
    model.add_pipe("tagger")
    examples = [
        spacy.training.Example.from_dict(model.make_doc(text), {"tags": tags.split()}) for text, tags in TAUGHT.items()
    ]
    optimiser = model.initialize(lambda: examples)
    for _ in range(25):
        model.update(examples, sgd=optimiser)
    model.add_pipe("attribute_ruler").load_from_tag_map({tag: {"POS": part} for tag, part in UNIVERSAL.items()})
    folder: Path = tmp_path_factory.mktemp("models") / "en_small-1.0"
    model.to_disk(folder)
    return folder


@pytest.fixture
def copied(pipeline: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(pipeline, tmp_path / "copied"))


def read(file: Path, tagger: Path | str = "") -> list[tuple[str, list[str], str]]:
    """Of each sentence of a file its text, its key words, and how it is masked."""
    own = cast(Dataset, SimpleNamespace(is_demo=False, label="own"))
    found = tagged_sentences(str(file), str(tagger), own, None)
    rng = np.random.default_rng(0)
    return [(sentence.text, sentence.keywords, masked(sentence, rng)) for sentence in found.sentences]


def test_plain_lines_are_masked_as_the_same_words_and_tags_from_a_file(pipeline: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("A red dress with short sleeves\n\n<PERSON> wears a $black hat\nis and has\n")
    found = read(plain, pipeline / "meta.json")
    assert found[0] == ("a red dress with short sleeves", ["a red dress", "short sleeves"], "[$] with [$]")
    assert found[1] == ("person wears a black hat", ["person", "a black hat"], "[$] wears [$]")
    assert found[2][1] == [] and found[2][2].count("[$]") == 1
    captions = [line for line in plain.read_text().splitlines() if line]
    words = parts_of_speech(pipeline, [cleaned(caption) for caption in captions])
    lines = [{"caption": c, "parts_of_speech": own} for c, own in zip(captions, words, strict=True)]
    (tmp_path / "tagged.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read(tmp_path / "tagged.jsonl") == found


def test_a_package_as_it_is_unpacked_is_read_too_and_known_by_all_of_its_files(pipeline: Path, tmp_path: Path) -> None:
    """Its outer folder has a meta.json as well, and no pipeline."""
    package = tmp_path / "en_small"
    shutil.copytree(pipeline, package / "en_small-1.0")
    shutil.copy(pipeline / "meta.json", package)
    (tmp_path / "plain.txt").write_text("a dog")
    assert read(tmp_path / "plain.txt", package / "meta.json") == read(tmp_path / "plain.txt", pipeline / "meta.json")
    assert pipeline_digest(package / "en_small-1.0") == pipeline_digest(pipeline)
    with (package / "en_small-1.0" / "tagger" / "model").open("ab") as file:
        file.write(b" ")
    assert pipeline_digest(package / "en_small-1.0") != pipeline_digest(pipeline)


def test_rules_by_grammatical_relations_are_kept(copied: Path, tmp_path: Path) -> None:
    """As en_core_web_sm has them: without its parser they would change nothing, and other words be masked."""
    model = spacy.load(copied)
    related = spacy.training.Example.from_dict(model.make_doc("a dog"), {"heads": [1, 1], "deps": ["det", "ROOT"]})
    model.add_pipe("parser", before="attribute_ruler").initialize(lambda: [related], nlp=model)
    model.get_pipe("attribute_ruler").add([[{"DEP": "ROOT"}]], {"POS": "PRON"})
    shutil.rmtree(copied)
    model.to_disk(copied)
    (words,) = parts_of_speech(copied, ["a dog"])
    assert "PRON" in [part for _, part in words]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no spaCy", "the package spacy (`pip install -e '.[lincir]'`) is missing"),
        ("no such file", "is missing; or give a .jsonl file"),
        ("no pipeline", "holds no pipeline of spaCy's (config.cfg is missing)"),
        ("damaged", "cannot be read by spaCy"),
        ("cut", "cannot be read by spaCy"),
        ("German", "is made for the language 'de', CLIP reads English"),
        ("no tagger", "gives no parts of speech (it has sentencizer)"),
        ("no rules", "gives no parts of speech (it has tagger)"),
    ],
)
def test_what_cannot_tag_is_told_in_a_line(
    fault: str, told: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain.txt").write_text("a dog")
    if fault == "no spaCy":
        monkeypatch.setitem(sys.modules, "spacy", None)
    elif fault == "no pipeline":
        (copied / "config.cfg").unlink()
    elif fault == "damaged":
        (copied / "config.cfg").write_text("[nlp")
    elif fault == "cut":
        whole = (copied / "tagger" / "model").read_bytes()
        (copied / "tagger" / "model").write_bytes(whole[: len(whole) // 2])
    elif fault == "German":
        spacy.blank("de").to_disk(copied)
    elif fault == "no tagger":
        model = spacy.blank("en")
        model.add_pipe("sentencizer")
        model.to_disk(copied)
    elif fault == "no rules":
        model = spacy.load(copied, exclude=["attribute_ruler"])
        shutil.rmtree(copied)
        model.to_disk(copied)
    meta = tmp_path / "nowhere.json" if fault == "no such file" else copied / "meta.json"
    with pytest.raises(UserError) as error:
        read(tmp_path / "plain.txt", meta)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_pipeline_of_another_version_is_told_and_used(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = json.loads((copied / "meta.json").read_text())
    (copied / "meta.json").write_text(json.dumps({**meta, "spacy_version": ">=3.0.0,<3.1.0"}))
    (tmp_path / "plain.txt").write_text("a dog")
    assert read(tmp_path / "plain.txt", copied / "meta.json") == [("a dog", ["a dog"], "[$]")]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "[W095]" in line]
    assert line.startswith("--set method.tagger: ")


def test_a_run_is_trained_on_plain_lines_and_names_what_tagged_them(
    pipeline: Path, command: Command, small_cirr: Path
) -> None:
    Path("plain.txt").write_text("\n".join(TAUGHT))
    given = ("--method", "lincir", "--dataset", "cirr", "--data-root", small_cirr, "--set", "method.encoder=untouched")
    files = ("--set", "method.sentences=plain.txt", "--set", f"method.tagger={pipeline / 'meta.json'}")
    outcome = command("run", *given, *files, "--epochs", 1, "--set", "lincir.batch_size=8", "--output", "run")
    assert outcome.status == 0, outcome.err
    assert set(read_record(Path("run")).identity.training_files or {}) == {"plain.txt", "en_small-1.0"}
