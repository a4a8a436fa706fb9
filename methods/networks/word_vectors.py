"""Given word vectors (GloVe's text form) as the start of a method's own embedding."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.facts_file import facts_beside
from benchmark.method import RequiredFile
from benchmark.weights.assets import given_file, missing

_ASSETS = {asset.name: asset for asset in facts_beside(__file__).assets}
_WITHOUT_VECTOR = 0.09


def word_vector_files(asset: str, given: str) -> tuple[RequiredFile, ...]:
    """Word vectors as a required file: optional, and missing only where a file was named."""
    return (RequiredFile(asset, given),)


def word_vector_remarks(given: str) -> tuple[str, ...]:
    """What every output says of the words' start."""
    if given:
        return (f"words start from {Path(given).name}",)
    return ("words start at random: no word vectors given (--set method.word_vectors=FILE)",)


def find_word_vectors(asset: str, given: str, assets_root: Path | None) -> str:
    """The file that was named, as a path or as a name under ``assets_root``; "" where none was.

    Raises UserError that says where to get one.
    """
    if not given:
        return ""
    found = given_file(given, assets_root)
    if found is None:
        raise missing(_ASSETS[asset], assets_root, given)
    return str(found)


def read_word_vectors(path: str, words: tuple[str, ...], width: int) -> dict[str, Tensor]:
    """Vectors (E,) of those words that the file has; a line is a word and E numbers.

    Raises UserError where the file cannot be read or its vectors have another width.
    """
    wanted, found = set(words), dict[str, Tensor]()
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, _, values = line.rstrip().partition(" ")
                if number == 1 or word in wanted:
                    vector = _vector(path, number, values, width)
                    if word in wanted:
                        found[word] = vector
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"word vectors {path}: cannot be read ({error}); name a file in GloVe's text form "
            "(https://nlp.stanford.edu/projects/glove)"
        ) from None
    return found


def start_from_vectors(embedding: nn.Embedding, words: tuple[str, ...], vectors: dict[str, Tensor]) -> None:
    """Fill an embedding (V, E); words without a vector are drawn, normal of standard deviation 0.09."""
    with torch.no_grad():
        embedding.weight.normal_(std=_WITHOUT_VECTOR)
        for number, word in enumerate(words):
            if word in vectors:
                embedding.weight[number] = vectors[word]


def _vector(path: str, number: int, values: str, width: int) -> Tensor:
    try:
        vector = torch.tensor([float(value) for value in values.split()])
    except ValueError:
        raise UserError(f"word vectors {path}, line {number}: a word and numbers are expected") from None
    if len(vector) != width:
        raise UserError(
            f"word vectors {path}, line {number}: {len(vector)} numbers instead of {width}; set the width of words "
            "to the file's with --set method.word_width=…, or choose another file"
        )
    return vector
