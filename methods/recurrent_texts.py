"""Words to ids and recurrent text encoders of the methods that bring their own: TIRG's and ARTEMIS's.

Notation: B texts, L tokens of the longest, V words of the vocabulary, w width of a word vector, d
width of an embedding.
"""

from __future__ import annotations

import re
import string
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmark.errors import UserError
from benchmark.method import Views

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TO_BLANK = str.maketrans({"/": " ", "-": " ", "\\": " "})
_DELETED = re.compile(r"[^A-Za-z\s()]")
_TOKEN = re.compile(r"[()]|[^\s()]+")
_CONTRACTIONS = {
    "cannot": ("can", "not"),
    "gimme": ("gim", "me"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "wanna": ("wan", "na"),
}
AND = "<and>"
"""Stands between two captions that the text rule `both-orders` puts into one string."""


def tirg_words(text: str) -> list[str]:
    """ASCII only, lower case, punctuation deleted with nothing in its place, split at blanks (TIRG)."""
    return text.encode("ascii", "ignore").decode().lower().translate(_PUNCTUATION).split()


def artemis_words(text: str) -> list[str]:
    """`/`, `-`, `\\` become blanks, all but ASCII letters and round brackets goes, lower case (ARTEMIS).

    Then what NLTK's word tokenizer does to such a text: brackets are tokens, and its six contractions
    of letters alone are split.
    """
    cleaned = _DELETED.sub("", text.translate(_TO_BLANK)).lower()
    return [word for token in _TOKEN.findall(cleaned) for word in _CONTRACTIONS.get(token, (token,))]


def artemis_tokens(text: str) -> list[str]:
    """``<start> words <end>``; two captions joined by ``<and>`` keep it as one token."""
    parts = [artemis_words(part) for part in text.split(AND)]
    words = [word for number, part in enumerate(parts) for word in ((AND,) if number else ()) + tuple(part)]
    return ["<start>", *words, "<end>"]


ARTEMIS_SPECIAL = ("<pad>", "<start>", AND, "<end>", "<unk>")


@dataclass(frozen=True)
class WordIds:
    """A word's id is its place in ``words``; ``unknown`` is the id of all others."""

    words: tuple[str, ...]
    unknown: int

    @classmethod
    def of_tirg(cls, texts: Iterable[str]) -> WordIds:
        """Id 0 for unknown words and padding, then the texts' words in alphabetical order."""
        return cls(("<UNK>", *sorted({word for text in texts for word in tirg_words(text)})), 0)

    @classmethod
    def of_artemis(cls, texts: Iterable[str], first: Sequence[str] = ()) -> WordIds:
        """The special words, ``first``, then the texts' words in order of first appearance."""
        words = (word for text in texts for word in artemis_tokens(text))
        return cls(tuple(dict.fromkeys((*ARTEMIS_SPECIAL, *first, *words))), ARTEMIS_SPECIAL.index("<unk>"))

    def encode(self, tokens: Sequence[str]) -> list[int]:
        return [self._ids.get(token, self.unknown) for token in tokens]

    @property
    def _ids(self) -> Mapping[str, int]:
        ids = self.__dict__.get("ids")
        if ids is None:
            ids = self.__dict__["ids"] = {word: number for number, word in enumerate(self.words)}
        return ids  # type: ignore[no-any-return]


def text_views(rows: Sequence[Sequence[int]], empty: int) -> Views:
    """Ids padded with 0 on the right, "tokens" (B, L), and their numbers, "lengths" (B,).

    A text without a token becomes the one token ``empty``: there would be no last state to read.
    """
    filled = [list(row) or [empty] for row in rows]
    longest = max(map(len, filled), default=1)
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in filled], dtype=torch.int64)
    return {"tokens": tokens.reshape(len(filled), longest), "lengths": torch.tensor([len(row) for row in filled])}


class LastStateText(nn.Module):
    """TIRG's text encoder: words → LSTM → output at the last token → dropout → linear; (B, d).

    Not normalised, no activation. Padding stands behind the output that is read and has no effect.
    Attribute names are the released ones.
    """

    def __init__(self, words: int, word_width: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding_layer = nn.Embedding(words, word_width)
        self.lstm = nn.LSTM(word_width, width, batch_first=True)
        self.fc_output = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width))

    @property
    def vectors(self) -> nn.Embedding:
        return self.embedding_layer

    def forward(self, text: Views) -> Tensor:
        outputs, _ = self.lstm(self.embedding_layer(text["tokens"]))
        rows = torch.arange(len(outputs), device=outputs.device)
        projected: Tensor = self.fc_output(outputs[rows, text["lengths"] - 1])
        return projected


class BiGruText(nn.Module):
    """ARTEMIS's text encoder: words → GRU in both directions → last states side by side; (B, d)."""

    def __init__(self, words: int, word_width: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, word_width)
        self.sent_enc = nn.GRU(word_width, width // 2, batch_first=True, bidirectional=True)

    @property
    def vectors(self) -> nn.Embedding:
        return self.embed

    def forward(self, text: Views) -> Tensor:
        packed = pack_padded_sequence(
            self.embed(text["tokens"]), text["lengths"].cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.sent_enc(packed)
        return torch.cat([last[0], last[1]], dim=-1)


class MaximumText(nn.Module):
    """ARTEMIS's other text encoder: words → LSTM → maximum over time → dropout → linear; (B, d).

    ``padding`` "masked" leaves padding out of the maximum; "released" lets it take part, and a text's
    embedding then depends on the longest text of its batch.
    """

    def __init__(
        self, words: int, word_width: int, hidden: int, width: int, padding: Literal["masked", "released"],
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.Embedding(words, word_width)
        self.sent_enc = nn.ModuleDict(
            OrderedDict(
                [
                    ("0", nn.LSTM(word_width, hidden, batch_first=True)),
                    ("1", nn.Dropout(dropout)),
                    ("2", nn.Linear(hidden, width)),
                ]
            )
        )
        self._masked = padding == "masked"

    @property
    def vectors(self) -> nn.Embedding:
        return self.embed

    def forward(self, text: Views) -> Tensor:
        outputs, _ = self.sent_enc["0"](self.embed(text["tokens"]))
        if self._masked:
            places = torch.arange(outputs.shape[1], device=outputs.device)
            outputs = outputs.masked_fill((places >= text["lengths"][:, None])[..., None], -torch.inf)
        projected: Tensor = self.sent_enc["2"](self.sent_enc["1"](outputs.amax(dim=1)))
        return projected


TextEncoder = LastStateText | BiGruText | MaximumText


@torch.no_grad()
def use_word_vectors(encoder: TextEncoder, words: WordIds, path: Path) -> int:
    """Set the vectors of the words that a GloVe text file has, ``word number …`` a line; gives their number.

    The others keep their start. Raises UserError for a file that is missing or of another width.
    """
    table = encoder.vectors.weight
    ids, found = {word: number for number, word in enumerate(words.words)}, 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                word, _, rest = line.rstrip("\n").partition(" ")
                if word in ids:
                    table[ids[word]] = _vector(rest, table.shape[1], f"{path}, line {number}")
                    found += 1
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as word vectors ({error}); {WORD_VECTORS}") from None
    return found


WORD_VECTORS = (
    "get glove.840B.300d.txt (5,600 MB, public domain, PDDL) from https://nlp.stanford.edu/projects/glove and name "
    "it with --set method.word_vectors=FILE, or leave that out for a random start"
)


def _vector(numbers: str, width: int, where: str) -> Tensor:
    try:
        vector = torch.tensor([float(number) for number in numbers.split()])
    except ValueError:
        raise UserError(f"{where}: no word vector; {WORD_VECTORS}") from None
    if len(vector) != width:
        raise UserError(
            f"{where}: a vector of {len(vector)} numbers, but words are {width} wide; choose another file or "
            "--set method.word_width"
        )
    return vector
