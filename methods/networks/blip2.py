"""BLIP-2's first stage behind its frozen picture encoder: ln_vision, the Q-Former with text, two projections.

Li, Li, Savarese, Hoi, "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and
Large Language Models", ICML 2023 (arXiv 2301.12597), as SPRC's and TME's releases use it. Names inside are the
released ones, so that `blip2_pretrained.pth` and their checkpoints load as they are.

Notation: B batch, T tokens of a picture of width w, n learned query tokens, L text tokens, h width of the
Q-Former, e width of the embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmark.encoders.bert import Bert, BertSizes, initialise_as_bert
from benchmark.encoders.wordpiece import PADDING, encode, padded
from benchmark.settings import MethodSettings
from benchmark.weights.fit import load_into
from benchmark.weights.reading import read_state_dict

TEXT_LENGTH = 32
"""L: texts are padded to it, and cut so that start and end stay."""

VOCABULARY = 30523
"""BERT's 30,522 pieces, and BLIP's ``[DEC]``, which retrieval never uses."""

_TEMPERATURE = 0.07
_PICTURE_SIDE = "visual_encoder."
UNUSED = {
    "Qformer.cls.": "the language model's head, which retrieval does not use",
    "itm_head.": "the matching head, which retrieval does not use",
    "Qformer.bert.embeddings.position_ids": "0, 1, 2, …, no weight",
}
"""Beginnings of released names, and why they change no output."""


class Blip2Sizes(MethodSettings):
    """Sizes behind the picture encoder; the defaults are those of the released files."""

    width: int = Field(768, ge=1, description="h of the Q-Former")
    layers: int = Field(12, ge=1, description="of the Q-Former; every other one looks at the picture")
    heads: int = Field(12, ge=1, description="of its attention")
    inner: int = Field(3072, ge=1, description="width of its feed-forward parts")
    queries: int = Field(32, ge=1, description="n, learned query tokens; as many prompts")
    embedding: int = Field(256, ge=1, description="e of query and target")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the Q-Former")


class _QFormer(nn.Module):
    """Released files have the language model's head beside it."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.bert = Bert(sizes)


class FirstStage(nn.Module):
    """What BLIP-2 trains on the tokens of its frozen picture encoder, with random weights like BERT's."""

    def __init__(self, picture_width: int, sizes: Blip2Sizes) -> None:
        super().__init__()
        h = sizes.width
        self.ln_vision = nn.LayerNorm(picture_width, eps=1e-5)
        self.query_tokens = nn.Parameter(torch.zeros(1, sizes.queries, h))
        bert = BertSizes(
            VOCABULARY, h, sizes.layers, sizes.heads, sizes.inner, sizes.dropout,
            looks_at=picture_width, looking=range(0, sizes.layers, 2), queries_apart=True,
        )  # fmt: skip
        self.Qformer = _QFormer(bert)
        self.vision_proj, self.text_proj = nn.Linear(h, sizes.embedding), nn.Linear(h, sizes.embedding)
        self.temp = nn.Parameter(torch.tensor(_TEMPERATURE))
        initialise_as_bert(self.bert, h)
        nn.init.normal_(self.query_tokens, std=0.02)

    @property
    def bert(self) -> Bert:
        return self.Qformer.bert

    @property
    def queries(self) -> int:
        """n."""
        return self.query_tokens.shape[1]

    def vision(self, tokens: Tensor) -> Tensor:
        """The picture encoder's raw tokens (B, T, w) through ln_vision, in float32 whatever they are stored in."""
        norm = self.ln_vision
        with torch.autocast(tokens.device.type, enabled=False):
            normed: Tensor = norm(tokens.to(norm.weight.dtype))
        return normed

    def picture_queries(self, picture: Tensor) -> Tensor:
        """The n query tokens' outputs of pictures (B, T, w) alone, (B, n, h)."""
        queries = self.query_tokens.expand(len(picture), -1, -1)
        everything = queries.new_ones(queries.shape[:2], dtype=torch.bool)
        outputs: Tensor = self.bert(queries, everything, self.queries, picture)
        return outputs

    def joint(self, picture: Tensor, text: Tensor) -> Tensor:
        """Query tokens and text tokens (B, L) together with pictures (B, T, w), (B, n + L, h)."""
        return self._with_text(self.query_tokens.expand(len(text), -1, -1), text, picture)

    def second_pass(self, queries: Tensor, text: Tensor) -> Tensor:
        """Queries (B, n, h) of an earlier pass and text tokens (B, L), without a picture, (B, n + L, h).

        Row n is the text's start.
        """
        return self._with_text(queries, text, None)

    def text_alone(self, text: Tensor) -> Tensor:
        """Text tokens (B, L) alone, (B, L, h)."""
        outputs: Tensor = self.bert(self.bert.words(text), text != PADDING)
        return outputs

    def targets(self, queries: Tensor) -> Tensor:
        """All n outputs of a picture (B, n, h) → its encoding as a target (B, n, e), each of unit norm."""
        return _embedded(self.vision_proj, queries)

    def query(self, row: Tensor) -> Tensor:
        """A text's row (B, h) → the encoding of a query (B, e), unit norm."""
        return _embedded(self.text_proj, row)

    def _with_text(self, queries: Tensor, text: Tensor, picture: Tensor | None) -> Tensor:
        words = self.bert.words(text)
        rows = torch.cat([queries.to(words.dtype), words], dim=1)
        outputs: Tensor = self.bert(rows, self._mask(text), self.queries, picture)
        return outputs

    def _mask(self, text: Tensor) -> Tensor:
        """(B, n + L), True for n rows that are always seen and for what is no padding."""
        seen = text != PADDING
        return torch.cat([seen.new_ones(len(text), self.queries), seen], dim=1)


def _embedded(projection: nn.Linear, rows: Tensor) -> Tensor:
    """Projected, of unit norm; in float32, since at the start of training all embeddings nearly agree."""
    with torch.autocast(rows.device.type, enabled=False):
        return normalize(projection(rows.to(projection.weight.dtype)), dim=-1)


class PromptedStage(FirstStage):
    """With what SPRC adds: n learned prompts, and runs of a text into which they are put."""

    def __init__(self, picture_width: int, sizes: Blip2Sizes) -> None:
        super().__init__(picture_width, sizes)
        self.prompt_tokens = nn.Parameter(0.02 * torch.randn_like(self.query_tokens))

    def prompted(self, text: Tensor) -> Tensor:
        """The prompts behind the start of texts (B, L), with positions like their words, no picture, (B, n + L, h)."""
        words = self.bert.embeddings.word_embeddings(text)
        prompts = self.prompt_tokens.expand(len(text), -1, -1).to(words.dtype)
        rows = torch.cat([words[:, :1], prompts, words[:, 1:]], dim=1)
        outputs: Tensor = self.bert(self.bert.at_positions(rows), self._mask(text))
        return outputs

    def load_pretrained(self, path: Path) -> None:
        """Take `blip2_pretrained.pth`, which has no prompts. Raises UserError where it is refused or does not fit."""
        state = released(read_state_dict(path, entry="model").state_dict)
        load_into(self, {"prompt_tokens": self.prompt_tokens.detach(), **state}, str(path))


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a released state dict what is used behind the picture encoder."""
    aside = (_PICTURE_SIDE, *UNUSED)
    return {name: tensor for name, tensor in state.items() if not name.startswith(aside)}


_BLANKED = re.compile(r'[.!"()*#:;~]')
_RUN = re.compile(r"\s{2,}")
_MOST_WORDS = 50


def cleaned(text: str) -> str:
    """BLIP's cleaning of a caption ("blip_caption"), in training and evaluation alike."""
    text = _RUN.sub(" ", _BLANKED.sub(" ", text.lower()))
    return " ".join(text.rstrip("\n").strip(" ").split(" ")[:_MOST_WORDS])


def text_tokens(texts: Sequence[str]) -> Tensor:
    """Cleaned and cut up, (B, L) int64, padded with 0."""
    return padded([encode(cleaned(text), TEXT_LENGTH) for text in texts], TEXT_LENGTH)
