"""BERT's WordPiece tokens: text to numbers of the vocabulary of bert-base-uncased.

The vocabulary is Google's (`bert_vocabulary.txt`, Apache-2.0, whose text lies beside it), as BERT's authors
released it: the line of a piece is its number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.resources import files

import torch
from torch import Tensor

PADDING, UNKNOWN, START, END = 0, 100, 101, 102
_LONGEST_WORD = 100
# CJK ideographs, each of which is a word of its own.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@cache
def vocabulary() -> dict[str, int]:
    """The 30,522 pieces and their numbers."""
    text = (files("benchmark.encoders") / "bert_vocabulary.txt").read_text(encoding="utf-8")
    return {piece: number for number, piece in enumerate(text.split("\n")[:-1])}


def encode(text: str, longest: int) -> list[int]:
    """Numbers of ``[CLS]``, the text's pieces and ``[SEP]``; pieces beyond ``longest`` are cut, these two kept."""
    return [START, *pieces(text)[: longest - len((START, END))], END]


def pieces(text: str) -> list[int]:
    """Numbers of all pieces of a text, without those of start and end."""
    return [number for word in _words(text) for number in _pieces_of(word)]


def padded(rows: Sequence[Sequence[int]], length: int = 0) -> Tensor:
    """(B, L) int64, padded with 0 behind each row to ``length`` or else to the longest of them."""
    width = length or max(map(len, rows))
    return torch.tensor([[*row, *[PADDING] * (width - len(row))] for row in rows], dtype=torch.int64)


def _words(text: str) -> Iterator[str]:
    """Words in lower case without accents; every ideograph and every mark of punctuation is one."""
    for word in unicodedata.normalize("NFC", "".join(map(_cleaned, text))).split():
        plain = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        begin = 0
        for place, character in enumerate(plain):
            if _is_punctuation(character):
                if place > begin:
                    yield plain[begin:place]
                yield character
                begin = place + 1
        if begin < len(plain):
            yield plain[begin:]


@lru_cache(1 << 14)
def _cleaned(character: str) -> str:
    """A separator as a blank, an ideograph between blanks, a control character as nothing."""
    category = unicodedata.category(character)
    if character in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
        return " "
    if character in "\0\ufffd" or category.startswith("C"):
        return ""
    return f" {character} " if any(low <= ord(character) <= high for low, high in _IDEOGRAPHS) else character


@lru_cache(1 << 14)
def _is_punctuation(character: str) -> bool:
    """ASCII's marks that are neither letter nor digit ("$" and "+" too), and Unicode's punctuation."""
    is_mark = 33 <= ord(character) <= 126 and not character.isalnum()
    return is_mark or unicodedata.category(character).startswith("P")


@lru_cache(1 << 16)
def _pieces_of(word: str) -> tuple[int, ...]:
    """The longest piece from the left, again and again; a word that cannot be cut up so is unknown whole."""
    known, found, begin = vocabulary(), [], 0
    if len(word) > _LONGEST_WORD:
        return (UNKNOWN,)
    while begin < len(word):
        for end in range(len(word), begin, -1):
            number = known.get(f"##{word[begin:end]}" if begin else word[begin:end])
            if number is not None:
                found.append(number)
                begin = end
                break
        else:
            return (UNKNOWN,)
    return tuple(found)
