"""What SEARLE's φ is distilled from: a word of each picture, concepts that it resembles, and phrases about these.

The words were made by optimisation, picture by picture ("OTI"), the phrases by a language model: both are files that
the user brings. On demo data, where nobody has any, words are drawn and phrases put together from the demo's texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmark.array_files import open_arrays
from benchmark.data.trained_elsewhere import training_of
from benchmark.dataset import Dataset, Pictures
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.structured_files import read_json, typed

from .keyword_masking import demo_sentences
from .pseudo_word_stage import pictures_of

FIRST_CONCEPTS = 150
_DRAWN_SPREAD = 0.02
_FILES = ("oti_words", "concepts", "phrases")
_REMEDY = "methods/README.md says what it holds"

T = TypeVar("T")


@dataclass(frozen=True)
class InvertedPictures:
    """N pictures by their words, concepts and phrases.

    ``words``: (N, w), None where they are drawn. ``concepts``: of each picture, the most similar first; one list for
    all pictures where there is one only.
    """

    label: str
    pictures: Pictures
    words: NDArray[np.float32] | None
    concepts: Sequence[Sequence[str]]
    phrases: Mapping[str, Sequence[str]]
    files: Mapping[str, str]

    def words_of(self, rows: NDArray[np.int64], width: int) -> NDArray[np.float32]:
        """(B, w). Raises UserError where the file's words are of another width than the backbone's."""
        if self.words is None:
            drawn = [np.random.default_rng(int(row)).standard_normal(width, dtype=np.float32) for row in rows]
            return _DRAWN_SPREAD * np.stack(drawn)
        if self.words.shape[1] != width:
            raise UserError(
                f"--set method.oti_words: words of width {self.words.shape[1]}, and the backbone's tokens have "
                f"{width}; give those that were made with this CLIP"
            )
        return self.words[rows]

    def drawn_phrase(self, row: int, rng: np.random.Generator) -> tuple[str, str]:
        """A phrase about one of the picture's concepts, and the same with " $ " wherever the concept's name stands."""
        of_picture = self.concepts[row if len(self.concepts) > 1 else 0][:FIRST_CONCEPTS]
        concept = of_picture[int(rng.integers(len(of_picture)))]
        phrases = self.phrases[concept]
        phrase = phrases[int(rng.integers(len(phrases)))]
        return phrase, phrase.replace(concept, " $ ")


def inverted_pictures(folder: str, given: Mapping[str, str], dataset: Dataset) -> InvertedPictures:
    """Of a folder of pictures and three files: "oti_words", an npz of names (N,) and words (N, w); "concepts", JSON of
    a picture's name to its concepts; "phrases", JSON of a concept to its phrases.

    Raises UserError where one is missing or damaged, or leaves a picture or a concept out.
    """
    label, pictures = pictures_of(folder, dataset)
    if not any(given.values()) and dataset.is_demo:
        return _of_demo(label, pictures, dataset)
    if missing := [f"--set method.{name}=FILE" for name in _FILES if not given.get(name)]:
        raise UserError(f"{' and '.join(missing)} missing: φ is distilled from them; {_REMEDY}")
    paths = {name: Path(given[name]).expanduser() for name in _FILES}
    words = _words(paths["oti_words"], pictures)
    concepts = _typed(dict[str, list[str]], paths["concepts"])
    phrases = _typed(dict[str, list[str]], paths["phrases"])
    # Concepts with a phrase that lacks their name are left out, as released.
    usable = {concept for concept, own in phrases.items() if own and all(concept in phrase for phrase in own)}
    told = {name: [concept for concept in concepts.get(name, ()) if concept in usable] for name in pictures.names}
    if without := next((name for name, of_picture in told.items() if not of_picture), ""):
        raise UserError(f"{paths['concepts']}: no concept with a phrase for the picture '{without}'; {_REMEDY}")
    files = {path.name: file_digest(path) for path in paths.values()}
    return InvertedPictures(label, pictures, words, list(told.values()), phrases, files)


def _words(path: Path, pictures: Pictures) -> NDArray[np.float32]:
    with open_arrays(path) as file:
        arrays = {name: file.read(name) for name in file.headers}
    if set(arrays) != {"names", "words"} or arrays["words"].ndim != 2 or len(arrays["names"]) != len(arrays["words"]):
        raise UserError(f"{path}: names (N,) and words (N, w) are expected; {_REMEDY}")
    row_of = {str(name): row for row, name in enumerate(arrays["names"].tolist())}
    if without := next((name for name in pictures.names if name not in row_of), ""):
        raise UserError(f"{path}: has no word of the picture '{without}'; {_REMEDY}")
    return np.asarray(arrays["words"][[row_of[name] for name in pictures.names]], dtype=np.float32)


def _typed(kind: type[T], path: Path) -> T:
    return typed(kind, read_json(path), str(path), _REMEDY)


def _of_demo(label: str, pictures: Pictures, dataset: Dataset) -> InvertedPictures:
    phrases: dict[str, list[str]] = {}
    sentences = demo_sentences(dataset)
    for sentence in sentences.sentences:
        for word, tag in sentence.words:
            if tag == "NOUN":
                phrases.setdefault(word, []).append(f"a photo of {word} that {sentence.text}")
    by_frequency = sorted(phrases, key=lambda word: (-len(phrases[word]), word))
    files = {**sentences.files, "words drawn in place of optimised ones": training_of(dataset).fingerprint}
    return InvertedPictures(label, pictures, None, [by_frequency], phrases, files)
