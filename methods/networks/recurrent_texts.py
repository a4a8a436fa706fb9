"""Words to ids and recurrent text encoders of the methods that bring their own: TIRG's and ARTEMIS's.

Notation: B texts, L tokens of the longest, V words of the vocabulary, w width of a word vector, d
width of an embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmark.method import Views

from .vocabulary import Vocabulary, artemis_words, plain_words

AND = "<and>"
"""Stands between two captions that the text rule `both-orders` puts into one string."""

ARTEMIS_SPECIAL = ("<pad>", "<start>", AND, "<end>", "<unk>")


def tirg_vocabulary(texts: Iterable[str], left_out: Container[str] = ()) -> Vocabulary:
    """Id 0 for unknown words and padding, then the texts' words in alphabetical order (TIRG)."""
    words = ([word for word in plain_words(text) if word not in left_out] for text in texts)
    return Vocabulary.of(words, order="alphabet")


def artemis_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """The special words, then the texts' words in order of first appearance (ARTEMIS)."""
    return Vocabulary.of(map(artemis_tokens, texts), special=ARTEMIS_SPECIAL, unknown="<unk>")


def artemis_tokens(text: str) -> list[str]:
    """``<start> words <end>``; two captions joined by ``<and>`` keep it as one token."""
    parts = [artemis_words(part) for part in text.split(AND)]
    words = [word for number, part in enumerate(parts) for word in ([AND] if number else []) + part]
    return ["<start>", *words, "<end>"]


def text_views(vocabulary: Vocabulary, sentences: Sequence[Sequence[str]]) -> Views:
    """"tokens" (B, L), padded with 0 on the right, and "lengths" (B,), 1 or more each."""
    tokens, lengths = vocabulary.encode(sentences)
    return {"tokens": tokens, "lengths": lengths}


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
        self.masked = padding == "masked"

    @property
    def vectors(self) -> nn.Embedding:
        return self.embed

    def forward(self, text: Views) -> Tensor:
        outputs, _ = self.sent_enc["0"](self.embed(text["tokens"]))
        if self.masked:
            places = torch.arange(outputs.shape[1], device=outputs.device)
            outputs = outputs.masked_fill((places >= text["lengths"][:, None])[..., None], -torch.inf)
        projected: Tensor = self.sent_enc["2"](self.sent_enc["1"](outputs.amax(dim=1)))
        return projected


TextEncoder = LastStateText | BiGruText | MaximumText
