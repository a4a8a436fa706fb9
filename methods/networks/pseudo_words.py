"""A picture as a word: networks that turn a picture's feature into one, and the frozen text tower that reads it.

A network φ maps a picture's raw feature of CLIP (after its projection, of whatever norm) to a vector among CLIP's
token embeddings. It takes the place of a token of a sentence; what the text tower says of the sentence is the query.
CLIP never changes, and gradients flow through its tower to φ.

Notation: B batch, d width of CLIP's features, w width of its text tower, L tokens, K sentences of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.backbone import Backbone
from benchmark.encoding import Encoding
from benchmark.method import Method, Views
from benchmark.text_rules import sentences_of

from .layers import normalise

TEXT = "{text}"
"""What a prompt has in the place of the modification text."""

Places = Callable[[Tensor, int], Tensor]
"""Tokens (…, L) and a token's number to the positions that the word takes, bool of the same shape."""


def first_place(tokens: Tensor, placeholder: int) -> Tensor:
    """The first of each row; later ones stay what they are."""
    found = tokens == placeholder
    return found & (found.cumsum(dim=-1) == 1)


def every_place(tokens: Tensor, placeholder: int) -> Tensor:
    """All of each row."""
    return tokens == placeholder


class Im2Text(nn.Module):
    """Pic2Word's φ: d → h → h → w, dropout before the ReLU. Names are those of the released state dict."""

    def __init__(self, width: int, words: int, hidden: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(given, hidden), nn.Dropout(dropout), nn.ReLU())
                for given in (width, hidden)
            )
        )
        self.fc_out = nn.Linear(hidden, words)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, d) → (B, w)."""
        words: Tensor = self.fc_out(self.layers(pictures))
        return words


class Phi(nn.Module):
    """SEARLE's and LinCIR's φ: d → 4d → 4d → w with exact GELU. Names are those of the released state dicts."""

    def __init__(self, width: int, words: int, hidden: int = 0, dropout: float = 0.5) -> None:
        super().__init__()
        inner = hidden or 4 * width
        self.layers = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(inner, inner), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(inner, words),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, d) → (B, w)."""
        words: Tensor = self.layers(pictures)
        return words


class FrozenText(nn.Module):
    """A backbone's text side with words put in. No parameter or buffer of the backbone is this module's.

    ``placeholder``: the sign of one token that a word takes the place of, ``places`` which of them.
    """

    def __init__(self, backbone: Backbone, placeholder: str, places: Places) -> None:
        super().__init__()
        backbone.requires_grad_(False)
        # Not as a submodule: a checkpoint of φ holds φ, and not the CLIP that it was trained with.
        self._hidden = (backbone,)
        self._sign, self._places = placeholder, places

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.backbone._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def backbone(self) -> Backbone:
        return self._hidden[0]

    @cached_property
    def _placeholder(self) -> int:
        """Its number: the only token between start and end."""
        return int(self.backbone.tokenize([self._sign])[0, 1])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(n, L) int64, up to the end of the longest."""
        return self.backbone.shortened(self.backbone.tokenize(texts))

    def tokenize_marked(self, texts: Sequence[str], mark: str) -> Tensor:
        """Texts in which ``mark`` stands for the word, whatever it touches: it is one token, and what is between
        two of them is tokenised by itself. (n, L) int64, cut at the context, the end token kept."""
        pieces = [text.split(mark) for text in texts]
        # All at once: a call for each would take most of the time.
        said = self.backbone.tokenize([piece for own in pieces for piece in own])
        start, end = int(said[0, 0]), int(said[0].max())
        read = zip(said.tolist(), said.argmax(dim=1).tolist(), strict=True)
        whole = said.new_zeros(len(texts), said.shape[1])
        for row, own in zip(whole, pieces, strict=True):
            numbers = [start]
            for place, (tokens, length) in enumerate(islice(read, len(own))):
                numbers += [self._placeholder] * (place > 0) + tokens[1:length]
            numbers = [*numbers[: len(row) - 1], end]
            row[: len(numbers)] = torch.tensor(numbers)
        return self.backbone.shortened(whole)

    def forward(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        """Tokens (B, L), and words (B, w) to put in, or none → (B, d), raw."""
        embedded = self.backbone.embed_tokens(tokens)
        if words is not None:
            taken = self._places(tokens, self._placeholder)[..., None]
            embedded = torch.where(taken, words[:, None].to(embedded.dtype), embedded)
        return self.backbone.encode_embedded(embedded, tokens)


class PseudoWord(Method):
    """Query: a sentence with the reference as a word in it; target: the untouched picture. Both (B, d), unit norm.

    ``prompt``: a sentence with the placeholder and :data:`TEXT`; a query of several sentences is the mean of them.
    """

    def __init__(self, phi: nn.Module, text: FrozenText, prompt: str) -> None:
        super().__init__()
        self.phi, self.text = phi, text
        self._prompt = prompt

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """The mean of the sentences' features of unit norm; a single sentence's own."""
        return self._mean(text["tokens"], self.phi(reference["global"]))

    def encode_target(self, target: Views) -> Tensor:
        return normalise(target["global"])

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Modification texts, put into the prompt: "tokens" (B, K, L). A query of fewer sentences repeats its own."""
        return {"tokens": self._tokens(texts, self._prompt)}

    def encode_text_alone(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The modification text as it stands, and the prompt with its placeholder."""
        device = next(self.phi.parameters()).device
        prompts = {"text": TEXT, "prompt": self._prompt}
        return {name: self._mean(self._tokens(texts, prompt).to(device)) for name, prompt in prompts.items()}

    def _tokens(self, texts: Sequence[str], prompt: str) -> Tensor:
        asked = [[prompt.replace(TEXT, text) for text in sentences_of(query)] for query in texts]
        most = max(map(len, asked), default=1)
        repeated = [sentences[k % len(sentences)] for sentences in asked for k in range(most)]
        tokens = self.text.tokenize(repeated)
        return tokens.view(len(asked), most, tokens.shape[1])

    def _mean(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        """Of the sentences' features of unit norm; tokens (B, K, L), words (B, w)."""
        repeated = None if words is None else words.repeat_interleave(tokens.shape[1], dim=0)
        said = normalise(self.text(tokens.flatten(0, 1), repeated))
        return normalise(said.view(*tokens.shape[:2], -1).mean(dim=1))
