"""Given word vectors (GloVe's text form) as the start of a method's own embedding."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

_WITHOUT_VECTOR = 0.09


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
            "(https://nlp.stanford.edu/projects/glove, glove.42B.300d: 1.9 GB zipped, public domain)"
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
