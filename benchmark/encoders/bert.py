"""BERT, with what BLIP and BLIP-2 add to it; names inside are the released ones.

Devlin, Chang, Lee, Toutanova, "BERT", NAACL 2019: post-norm layers, exact GELU, layer norms of eps 1e-12,
learned positions, no token types, no pooler. BLIP-2's Q-Former puts learned query tokens in front of the
words, which look at a picture in every other layer and have a feed-forward part of their own (Li, Li,
Savarese, Hoi, ICML 2023, section 3.1).

Notation: B batch, m query rows in front, L words, N = m + L rows, h width, T tokens of a picture of width w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

_EPS = 1e-12
_POSITIONS = 512


@dataclass(frozen=True)
class BertSizes:
    """Sizes of a BERT; the defaults are bert-base's.

    ``looks_at``: width w of a picture's tokens, 0 for a text alone; ``looking``: the layers that look at them.
    ``queries_apart``: query rows have a feed-forward part of their own.
    """

    vocabulary: int
    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    dropout: float = 0.1
    looks_at: int = 0
    looking: Sequence[int] = ()
    queries_apart: bool = False


class Bert(nn.Module):
    """Rows of any kind through the layers; `words` gives those of a text."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.embeddings = _Embeddings(sizes)
        self.encoder = _Layers(sizes)

    def words(self, tokens: Tensor) -> Tensor:
        """(B, L) numbers → their word embeddings with positions 0 … L − 1, before the norm, (B, L, h)."""
        return self.at_positions(self.embeddings.word_embeddings(tokens))

    def at_positions(self, rows: Tensor) -> Tensor:
        """Positions 0, 1, … added to rows (B, N, h)."""
        positions: Tensor = self.embeddings.position_embeddings.weight
        return rows + positions[: rows.shape[1]]

    def forward(self, rows: Tensor, mask: Tensor, queries: int = 0, picture: Tensor | None = None) -> Tensor:
        """Rows (B, N, h) before their norm, ``mask`` (B, N) True where a row is seen, to the last layer's (B, N, h).

        The first ``queries`` rows look at the ``picture`` (B, T, w). Without one all rows go through the
        feed-forward part of words, queries too: SPRC's and TME's change of BLIP-2, where this is an error.
        """
        states: Tensor = self.embeddings.dropout(self.embeddings.LayerNorm(rows))
        seen = mask[:, None, None, :]
        for layer in self.encoder.layer:
            states = layer(states, seen, queries, picture)
        return states


class _Embeddings(nn.Module):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position_embeddings = nn.Embedding(_POSITIONS, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=_EPS)
        self.dropout = nn.Dropout(sizes.dropout)


class _Layers(nn.Module):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(sizes, number in sizes.looking) for number in range(sizes.layers))


class _Layer(nn.Module):
    def __init__(self, sizes: BertSizes, looks: bool) -> None:
        super().__init__()
        self.attention = _Attention(sizes, sizes.width)
        self.crossattention = _Attention(sizes, sizes.looks_at) if looks else None
        self.intermediate, self.output = _Dense(sizes.width, sizes.inner), _Output(sizes, sizes.inner)
        if sizes.queries_apart:
            self.intermediate_query, self.output_query = _Dense(sizes.width, sizes.inner), _Output(sizes, sizes.inner)

    def forward(self, states: Tensor, seen: Tensor, queries: int, picture: Tensor | None) -> Tensor:
        states = self.attention(states, states, seen)
        if picture is None:
            return self._words(states)
        front, behind = states[:, :queries], states[:, queries:]
        if self.crossattention is not None:
            front = self.crossattention(front, picture, None)
        front = self.output_query(gelu(self.intermediate_query(front)), front)
        return torch.cat([front, self._words(behind)], dim=1) if behind.shape[1] else front

    def _words(self, states: Tensor) -> Tensor:
        changed: Tensor = self.output(gelu(self.intermediate(states)), states)
        return changed


class _Attention(nn.Module):
    """Attention of rows to themselves or to a picture, and what follows it."""

    def __init__(self, sizes: BertSizes, source: int) -> None:
        super().__init__()
        self.self = _Heads(sizes, source)
        self.output = _Output(sizes, sizes.width)

    def forward(self, states: Tensor, source: Tensor, seen: Tensor | None) -> Tensor:
        changed: Tensor = self.output(self.self(states, source, seen), states)
        return changed


class _Heads(nn.Module):
    def __init__(self, sizes: BertSizes, source: int) -> None:
        super().__init__()
        self._heads = sizes.heads
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key = nn.Linear(source, sizes.width)
        self.value = nn.Linear(source, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, states: Tensor, source: Tensor, seen: Tensor | None) -> Tensor:
        query, key, value = (
            linear(rows).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for linear, rows in ((self.query, states), (self.key, source), (self.value, source))
        )
        # The releases add -10,000 to the scores of what is not seen: a weight of exactly 0, as here.
        dropout = self.dropout.p if self.training else 0.0
        read = scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return read.transpose(1, 2).flatten(2)


class _Dense(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)

    def forward(self, states: Tensor) -> Tensor:
        wide: Tensor = self.dense(states)
        return wide


class _Output(nn.Module):
    """Linear, dropout, the sum with what came in, and the norm behind it."""

    def __init__(self, sizes: BertSizes, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=_EPS)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        changed: Tensor = self.LayerNorm(self.dropout(self.dense(states)) + residual)
        return changed


def initialise_as_bert(bert: Bert, width: int) -> None:
    """BERT's start values: normal of 0.02, for other widths than 768 of the same effect; biases 0.

    Where rows look at a picture they are three times that: at BERT's size a picture would change a row by a tenth,
    all pictures would look alike, and a contrastive loss would begin with a long plateau.
    """
    std = 0.02 * (768 / width) ** 0.5
    for layer in bert.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=std)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for layer in bert.modules():
        if isinstance(layer, _Layer) and layer.crossattention is not None:
            for matrix in (layer.crossattention.self.query, layer.crossattention.output.dense):
                matrix.weight.data.mul_(3)
