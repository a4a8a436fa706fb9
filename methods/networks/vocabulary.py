"""Words to numbers: the tokenisers and vocabularies of methods that bring their own text encoder.

A tokeniser turns a caption into words; a :class:`Vocabulary` numbers the words of the training
captions. Nothing is downloaded. Notation: B texts, L words of the longest one.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

Tokeniser = Callable[[str], list[str]]

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
        return cls(tuple(saved["words"]), tuple(int(count) for count in saved["counts"]), int(saved["unknown"]))
