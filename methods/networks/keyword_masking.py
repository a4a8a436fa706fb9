"""Masking the key words of a sentence, as LinCIR trains on it.

Key words are runs of nouns, proper nouns, adjectives and determiners. What is replaced is their string, wherever it
stands, within other words too: "a" alone is hit in every word that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmark.data.trained_elsewhere import training_of
from benchmark.dataset import Dataset
from benchmark.encoders.clip_tokens import clip_tokenizer, count_tokens
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.structured_files import NotWellFormed, parse_json, read_text, typed
from benchmark.weights.assets import given_file

from .sentence_tagging import Tagged, parts_of_speech, pipeline_digest, pipeline_folder

MARK = "[$]"
"""In place of what is masked; one token."""

_KEPT = frozenset({"NOUN", "PROPN", "ADJ", "DET"})
_CONTEXT, _CUT = 77, 75
_VOCABULARY = 49408
_WORDS = Path(__file__).with_name("parts_of_speech.txt")
_WORD = re.compile(r"[\w']+|[^\w\s]")
_FORM = 'a line is {"caption": "a dog", "parts_of_speech": [["a", "DET"], ["dog", "NOUN"]]}'


@dataclass(frozen=True)
class TaggedSentence:
    """A cleaned sentence and its words with their parts of speech."""

    text: str
    words: tuple[Tagged, ...]

    @property
    def keywords(self) -> list[str]:
        """Runs of kept words, joined by a blank."""
        runs = groupby(self.words, key=lambda word: word[1] in _KEPT)
        return [" ".join(word for word, _ in run) for kept, run in runs if kept]


@dataclass(frozen=True)
class TaggedSentences:
    """``label``: what they are called; ``files``: those that were read, name to sha256."""

    label: str
    sentences: tuple[TaggedSentence, ...]
    files: dict[str, str] = field(default_factory=dict)


def cleaned(caption: str) -> str:
    """Lower case without `$`, `<PERSON>` as a word; one that CLIP would cut ends with its 75th token."""
    text = caption.replace("<PERSON>", "person").lower().replace("$", "").strip()
    if count_tokens([text], _VOCABULARY)[0] <= _CONTEXT:
        return text
    tokenizer = clip_tokenizer(_VOCABULARY)
    kept: str = tokenizer.decode(tokenizer.encode(text)[:_CUT])
    return kept.strip()


def masked(sentence: TaggedSentence, rng: np.random.Generator) -> str:
    """The sentence with :data:`MARK` for each key word; a drawn word's where there is none, or one that is not in it.

    Whether a key word is in it is asked of the sentence as it was, not as replaced so far.
    """
    text = sentence.text
    for keyword in sentence.keywords or [""]:
        if keyword and keyword in sentence.text:
            text = text.replace(keyword, MARK)
            continue
        pieces = sentence.text.split(" ")
        text = text.replace(pieces[int(rng.integers(len(pieces)))], MARK)
        break
    return text if MARK in text else f"a photo of {MARK}"


@dataclass(frozen=True)
class _Line:
    caption: str
    parts_of_speech: list[tuple[str, str]]


def tagged_sentences(file: str, tagger: str, dataset: Dataset, assets_root: Path | None) -> TaggedSentences:
    """The sentences of a file; of demo data its modification texts, tagged by a list of words, where none is named.

    Lines of JSON (`.jsonl`) bring their words' parts of speech, those of any other file are tagged by spaCy's pipeline
    whose meta.json is ``tagger``, a path or one under ``assets_root``. Raises UserError where no file is named, or one
    is missing or damaged.
    """
    if not file and dataset.is_demo:
        return demo_sentences(dataset)
    if not file:
        raise UserError("--set method.sentences=FILE is missing: it trains on sentences alone, of no dataset")
    path = Path(file).expanduser()
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    files = {path.name: file_digest(path)}
    if path.suffix == ".jsonl":
        return TaggedSentences(path.name, tuple(_from_json(path, lines)), files)
    meta = given_file(tagger, assets_root) if tagger else None
    if find_spec("spacy") is None or meta is None:
        missing = "the package spacy (`pip install -e '.[lincir]'`)" if meta else f"--set method.tagger=FILE {tagger}"
        raise UserError(
            f"{path}: plain lines are tagged by spaCy's en_core_web_sm, and {missing.strip()} is missing; or give a "
            f".jsonl file whose lines have their parts of speech ({_FORM})"
        )
    pipeline, texts = pipeline_folder(meta), [cleaned(line) for line in lines]
    files[pipeline.name] = pipeline_digest(pipeline)
    return TaggedSentences(path.name, tuple(map(TaggedSentence, texts, parts_of_speech(pipeline, texts))), files)


def demo_sentences(dataset: Dataset) -> TaggedSentences:
    """The modification texts of demo data, whose words are nouns unless `parts_of_speech.txt` lists them."""
    listed, own = _listed_words(), training_of(dataset)
    texts = dict.fromkeys(cleaned(text) for captions in own.training_texts() for text in captions)
    tagged = (TaggedSentence(t, tuple((w, listed.get(w, "NOUN")) for w in _WORD.findall(t))) for t in texts)
    # By the data's fingerprint, since texts that hang on it are no file.
    files = {f"texts of {own.label}": own.fingerprint, _WORDS.name: file_digest(_WORDS)}
    return TaggedSentences(f"texts of {own.label}", tuple(tagged), files)


def _from_json(path: Path, lines: Sequence[str]) -> Iterator[TaggedSentence]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            told = typed(_Line, parse_json(line), where, _FORM)
        except NotWellFormed as error:
            raise UserError(f"{where}: {error}; {_FORM}") from None
        yield TaggedSentence(cleaned(told.caption), tuple(told.parts_of_speech))


@cache
def _listed_words() -> dict[str, str]:
    """Words that are no nouns, with their parts of speech."""
    lines = (line.split() for line in read_text(_WORDS).splitlines())
    return {word: tag for tag, *words in lines for word in words}
