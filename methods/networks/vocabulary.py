"""Words to numbers and to vectors: the vocabularies of methods that bring their own text encoder.

A tokeniser turns a caption into words; a :class:`Vocabulary` numbers the words of the training captions; given
word vectors (GloVe's text form) may start its embedding. Nothing is downloaded. Notation: B texts, L words of
the longest one, E width of a word vector.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.facts_file import facts_beside
from benchmark.structured_files import typed
from benchmark.weights.assets import given_file, missing

Tokeniser = Callable[[str], list[str]]

_ASSETS = {asset.name: asset for asset in facts_beside(__file__).assets}
_WITHOUT_VECTOR = 0.09
_DAMAGED = "it is damaged, write the checkpoint again"

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DASHES = str.maketrans("/-\\", "   ")
_NOT_ARTEMIS = re.compile(r"[^A-Za-z() ]")


def plain_words(text: str) -> list[str]:
    """ASCII, lower case, punctuation deleted, split at blanks: "V-neck" is "vneck" (TIRG, VAL's Fashion200k)."""
    ascii_only = text.encode("ascii", "ignore").decode("ascii")
    return ascii_only.lower().translate(_PUNCTUATION).split()


def treebank_words(text: str) -> list[str]:
    """Lower case, split in the manner of NLTK's `word_tokenize` with ``preserve_line=True``.

    Punctuation marks, brackets and contractions become words of their own: "isn't" is "is", "n't".
    Equal to NLTK 3.10 on all captions of the field's datasets; older releases leave an opening single
    quote at its word. Without ``preserve_line`` NLTK splits into sentences first (with downloaded tables), which parts
    a full stop in the middle of a caption from its word; the captions read here have none left.
    """
    text = f" {text.lower()} "
    for pattern, replacement in _TREEBANK:
        text = pattern.sub(replacement, text)
    return text.split()


def artemis_words(text: str) -> list[str]:
    """ARTEMIS' cleaning: `/`, `-`, `\\` to blanks; letters, blanks and round brackets are kept, then as above."""
    return treebank_words(_NOT_ARTEMIS.sub("", text.translate(_DASHES)))


_TREEBANK: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«“‘„]|`+", r" \g<0> "),
        (r"^\s*\"", " `` "),
        (r"(?<=[ (\[{<])(?:\"|'')", " `` "),
        # A quote that opens a word, unless it is a contraction's: 'ford' but not 's, 't, 'll.
        (r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)", "' "),
        (r"(?<=[^.])(\.)([\])}>\"'»”’ ]*)\s*$", r" \1 \2 "),
        (r"[:,](?=\D)", r" \g<0> "),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&?!*]", r" \g<0> "),
        (r"(?<=[^'])' ", " '  "),
        (r"[\][(){}<>]", r" \g<0> "),
        (r"--", " -- "),
        (r"[»”’]", r" \g<0> "),
        (r"''|\"", " '' "),
        (r"(?<=[^' ])('[smd]|')(?= )", r" \1 "),
        (r"(?<=[^' ])('ll|'re|'ve|n't)(?= )", r" \1 "),
        (r"\b(can)(not)\b", r" \1 \2 "),
        (r"\b(gim|lem)(me)\b", r" \1 \2 "),
        (r"\b(gon|wan)(na)\b", r" \1 \2 "),
        (r"\b(got)(ta)\b", r" \1 \2 "),
        (r"\b(d)('ye)\b", r" \1 \2 "),
        (r"\b(more)('n)\b", r" \1 \2 "),
        (r"(?<= )('t)(is|was)\b", r" \1 \2 "),
    )
)

TOKENISERS: Mapping[str, Tokeniser] = {
    "plain": plain_words,
    "treebank": treebank_words,
    "artemis": artemis_words,
}


@dataclass(frozen=True)
class Vocabulary:
    """Words by number, and how often each was seen in training (0 for special ones).

    ``unknown`` is the number of every word that is not known; 0 pads.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    unknown: int = 0

    @classmethod
    def of(
        cls,
        sentences: Iterable[Sequence[str]],
        *,
        special: Sequence[str] = ("<UNK>",),
        unknown: str = "<UNK>",
        order: Literal["appearance", "alphabet"] = "appearance",
    ) -> Vocabulary:
        """Every word of the tokenised training texts, behind the special ones."""
        seen = Counter(word for sentence in sentences for word in sentence)
        found = [word for word in (sorted(seen) if order == "alphabet" else seen) if word not in special]
        words = (*special, *found)
        return cls(words, tuple(0 if word in special else seen[word] for word in words), words.index(unknown))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def number(self, word: str, least: int = 0) -> int:
        """A word's number; a word seen in training, but fewer than ``least`` times, counts as unknown."""
        number = self.numbers.get(word, self.unknown)
        return self.unknown if 0 < self.counts[number] < least else number

    def encode(self, sentences: Sequence[Sequence[str]], least: int = 0) -> tuple[Tensor, Tensor]:
        """Numbers (B, L), padded with 0 on the right, and lengths (B,), both int64.

        A text without a word becomes one unknown word, so that every length is 1 or more.
        """
        rows = [[self.number(word, least) for word in sentence] or [self.unknown] for sentence in sentences]
        longest = max(map(len, rows), default=1)
        padded = [row + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64), torch.tensor(list(map(len, rows)), dtype=torch.int64)

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` takes back, for a checkpoint."""
        return {"words": list(self.words), "counts": list(self.counts), "unknown": self.unknown}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Vocabulary:
        """Raises UserError where it is not of this form."""
        where = "the vocabulary beside the weights"
        found = typed(cls, dict(saved), where, _DAMAGED)
        if len(found.counts) != len(found.words) or not 0 <= found.unknown < max(len(found.words), 1):
            raise UserError(f"{where}: {len(found.words)} words and {len(found.counts)} counts; {_DAMAGED}")
        return found


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

    The word is all that stands before the last E columns: GloVe's has some with blanks ("to name@domain.com"), which
    are no word of a vocabulary. A first line of two numbers, word2vec's and fastText's, is passed over.
    Raises UserError where the file cannot be read or its vectors have another width.
    """
    wanted, found = set(words), dict[str, Tensor]()
    try:
        # Words are what stands between blanks and line feeds, whatever bytes they are.
        with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            is_first = True
            for number, line in enumerate(file, start=1):
                if number == 1 and width > 1 and _is_header(line):
                    continue
                if is_first or line.partition(" ")[0] in wanted:
                    columns = line.rstrip(" \r\n").rsplit(" ", width)
                    vector = _vector(f"word vectors {path}, line {number}", columns, width, is_first)
                    if columns[0] in wanted:
                        found[columns[0]] = vector
                is_first = False
    except OSError as error:
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


def _is_header(line: str) -> bool:
    """Whether a first line counts words and width."""
    columns = line.split()
    return len(columns) == 2 and all(column.isdecimal() for column in columns)


def _vector(where: str, columns: list[str], width: int, is_first: bool) -> Tensor:
    """The vector of a line that was cut into its word and ``width`` columns; a first line shows the file's width."""
    numbers = columns[1:]
    if is_first or len(numbers) < width:
        # A word with blanks would take what is too much; the first line has none.
        numbers = " ".join(columns).split(" ")[1:]
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise UserError(f"{where}: a word and numbers are expected") from None
    if len(values) != width:
        raise UserError(
            f"{where}: {len(values)} numbers instead of {width}; set the width of words "
            "to the file's with --set method.word_width=…, or choose another file"
        )
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: a number is not finite; get the file again")
    return torch.tensor(values)
