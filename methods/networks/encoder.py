"""ENCODER's layers behind the tokens of a CLIP's two towers: factors, entities, and their composition.

Li, Chen, Wen, Fu, Hu, Guan, "ENCODER: Entity Mining and Modification Relation Binding for Composed Image Retrieval",
AAAI 2025, as its release computes it. A side is a picture or a text: its global vector g (B, d) and its local rows
U (B, n, d). It becomes L = 1 + N + P tokens: g, N entities (of a text: actions), P factors. Layers bear the released
names, eps of all layer norms is 1e-5.

Where the release does otherwise than its names say there is a setting, with the released way as default:

- ``filter``: the released scores end in a softmax over one number, so all are 1, and the first 60 % of the rows are
  kept: the upper part of a picture, and the first positions of a text;
- ``relation``: the matrix R is a draw that nothing trains;
- ``affine``: a reshape takes scale and shift of a token from other tokens;
- ``teacher``: its weights of tokens get no gradient.

Notation: B batch, d width of the encoder's vectors, w_v and w_t of its tokens, P factors, N relations.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmark.settings import MethodSettings

_KEPT = 0.6


class EncoderSettings(MethodSettings):
    """Sizes of the head, and its ways; the defaults are the release's for CIRR."""

    factors: int = Field(1, ge=1, description="P, local vectors that attention pools of a picture or a text")
    relations: int = Field(1, ge=1, description="N, entities of a picture, actions of a text")
    hidden: int = Field(512, ge=1, description="width of the layers inside")
    filter: Literal["first", "scored", "none"] = Field(
        "first", description="local rows that are kept: the first 60 %, as released; the 60 % most like the global "
        "vector, which is ours; or all"
    )
    relation: Literal["drawn", "trained"] = Field(
        "drawn", description="the relation matrix: a draw of the seed that stays, as released, or a parameter"
    )
    affine: Literal["mixed", "token-wise"] = Field(
        "mixed", description="scale and shift of a token: of other tokens, as released, or its own"
    )
    teacher: Literal["fixed", "trained"] = Field(
        "fixed", description="weights of the target's tokens in the distillation's teacher; fixed as released"
    )


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Layer norm, linear, exact GELU, linear: the released form of all of them, numbered 0, 1, 3."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


class Factors(nn.Module):
    """P sums of the rows, each weighted by a softmax over them."""

    def __init__(self, width: int, factors: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1, 1))
        self.weight = _mlp(width, width // 5, factors)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, n, d) → (B, P, d)."""
        weights: Tensor = (self.scale * self.weight(rows)).softmax(dim=1)
        return weights.transpose(1, 2) @ rows


class Binding(nn.Module):
    """N entities of a side's global vector and factors, by the relation matrix R (N, d)."""

    learnable_relation: Tensor

    def __init__(self, width: int, sizes: EncoderSettings) -> None:
        super().__init__()
        n, tokens = sizes.relations, 1 + sizes.factors
        self.mlp_p, self.mlp_v = _mlp(n, sizes.hidden, n), _mlp(tokens, sizes.hidden, tokens)
        self.mlp = _mlp(width, sizes.hidden, width)
        relation = torch.randn(n, width)
        if sizes.relation == "trained":
            self.learnable_relation = nn.Parameter(relation)
        else:
            # The release hands a parameter to the card at once; what comes back is none, and no optimiser sees it.
            self.register_buffer("learnable_relation", relation)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + P, d) → (B, N, d): distributions over the channels."""
        relation, scale = self.learnable_relation, math.sqrt(tokens.shape[-1])
        towards_tokens = self.mlp_v(relation @ tokens.transpose(1, 2) / scale)
        towards_relations = self.mlp_p(relation @ relation.T / scale)
        gated = (towards_relations @ towards_tokens).sigmoid() * towards_tokens
        entities: Tensor = self.mlp(gated.softmax(dim=-1) @ tokens).softmax(dim=-1)
        return entities

    def orthogonality(self) -> Tensor:
        """Mean square of what R's cosines differ from the identity; a constant of a drawn R, 0 where N is 1."""
        rows = normalize(self.learnable_relation.float(), dim=-1)
        return (rows @ rows.T - torch.eye(len(rows), device=rows.device)).square().mean()


class Affine(nn.Module):
    """Every token of the reference scaled, and of the text added, by channels that the two tell."""

    def __init__(self, width: int, sizes: EncoderSettings) -> None:
        super().__init__()
        self.MLP = _mlp(2 * width, sizes.hidden, 2 * width)
        self._mixed = sizes.affine == "mixed"

    def forward(self, reference: Tensor, text: Tensor) -> Tensor:
        """(B, L, d) and (B, L, d) → (B, L, d)."""
        told: Tensor = self.MLP(torch.cat([reference, text], dim=-1))
        if self._mixed:
            # (B, 2L, d) row by row, both halves of a token one after the other, cut in the middle of the rows: the
            # scales are what the first half of the tokens tells, the shifts what the second tells.
            scale, shift = told.reshape(len(told), -1, reference.shape[-1]).chunk(2, dim=1)
        else:
            scale, shift = told.chunk(2, dim=-1)
        return scale * reference + shift * text


class EncoderHead(nn.Module):
    """All that is trained behind the encoder; ``picture_width``, ``text_width``: of its tokens."""

    def __init__(self, width: int, picture_width: int, text_width: int, sizes: EncoderSettings) -> None:
        super().__init__()
        self.fc, self.text_fc = nn.Linear(picture_width, width), nn.Linear(text_width, width)
        self.fac_net, self.binding_decoder = Factors(width, sizes.factors), Binding(width, sizes)
        self.t_weight_phrases, self.v_weight_phrases = (_mlp(width, sizes.hidden, 1) for _ in range(2))
        self.affine = Affine(width, sizes)
        self.loss_T = nn.Parameter(torch.tensor([10.0]))
        weights = torch.ones(1 + sizes.relations + sizes.factors)
        self.local_weight = nn.Parameter(weights, requires_grad=sizes.teacher == "trained")
        self._filter, self.relations = sizes.filter, sizes.relations

    def picture(self, vector: Tensor, tokens: Tensor) -> Tensor:
        """(B, d) and (B, T, w_v), the class token first, → (B, L, d)."""
        return self._side(vector, self.fc(tokens[:, 1:]))

    def text(self, vector: Tensor, tokens: Tensor) -> Tensor:
        """(B, d) and (B, C, w_t), all positions of the context, → (B, L, d)."""
        return self._side(vector, self.text_fc(tokens))

    def entities(self, tokens: Tensor) -> Tensor:
        """Of a side's tokens (B, L, d) the entities, or actions, (B, N, d)."""
        return tokens[:, 1 : 1 + self.relations]

    def _side(self, vector: Tensor, rows: Tensor) -> Tensor:
        factors = self.fac_net(self._kept(vector, rows))
        tokens = torch.cat([vector[:, None].to(factors.dtype), factors], dim=1)
        return torch.cat([tokens[:, :1], self.binding_decoder(tokens).to(factors.dtype), factors], dim=1)

    def _kept(self, vector: Tensor, rows: Tensor) -> Tensor:
        """Of the rows (B, n, d) those that factors are made of, in their order."""
        count = math.ceil(_KEPT * rows.shape[1])
        if self._filter == "none":
            return rows
        if self._filter == "first":
            return rows[:, :count]
        likeness = (normalize(rows, dim=-1) @ normalize(vector, dim=-1)[:, :, None]).squeeze(-1)
        chosen = likeness.topk(count, dim=1).indices.sort(dim=1).values
        return rows.gather(1, chosen[:, :, None].expand(-1, -1, rows.shape[-1]))

    def matches(self, actions: Tensor, entities: Tensor) -> Tensor:
        """Of texts' actions (B, N, d) and pictures' entities (b, N, d), (B, b).

        Each action with its best entity and each entity with its best action, weighted by signed numbers of unit
        norm: where N is 1, by a sign.
        """
        actions, entities = normalize(actions, dim=-1), normalize(entities, dim=-1)
        of_actions = normalize(self.t_weight_phrases(actions).squeeze(-1), dim=-1)
        of_entities = normalize(self.v_weight_phrases(entities).squeeze(-1), dim=-1)
        cosines = torch.einsum("tid,vjd->tvij", actions, entities)
        best_entities = (of_actions[:, None] * cosines.amax(dim=3)).sum(dim=2)
        best_actions = (of_entities[None] * cosines.amax(dim=2)).sum(dim=2)
        return (best_entities + best_actions) / 2

    def teacher(self, tokens: Tensor) -> Tensor:
        """A target's tokens (B, L, d) as one vector (B, L·d) of unit norm."""
        weighted = self.local_weight[:, None] * normalize(tokens, dim=-1)
        return normalize(weighted.flatten(1), dim=-1)
