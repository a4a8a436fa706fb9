"""VAL's network: the text encoder, the composition of one level, and the vectors of three levels.

Chen, Gong, Bazzani, "Image Search with Text Feedback by Visiolinguistic Attention Learning",
CVPR 2020, section 3, as its TensorFlow release computes it.

Notation: B batch, L words of the longest text, E width of a word vector, C channels of a level and
h × h its positions, n = h², d = 512 the width of a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FORGET_BIAS = 1.0
_HEADS = 2
_LEAST_SQUARE = 1e-10


@dataclass(frozen=True)
class LayerStyle:
    """What VAL's own layers take over from the CNN: batch norm, activation and random start.

    ``momentum`` is PyTorch's, 1 − the release's decay. ``start``: "fan-in" is a truncated normal of
    variance 2/fan-in, "fixed" one of standard deviation 0.09 before truncation.
    """

    eps: float
    momentum: float
    activation: Literal["relu", "relu6"]
    start: Literal["fan-in", "fixed"]

    def activate(self, x: Tensor) -> Tensor:
        return F.relu6(x) if self.activation == "relu6" else F.relu(x)

    def start_weight(self, weight: Tensor) -> None:
        """Both are cut at two standard deviations, which takes 1/1.3 of the variance."""
        fan_in = weight[0].numel()
        deviation = 0.09 if self.start == "fixed" else math.sqrt(1.3 * 2 / fan_in)
        nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


@dataclass(frozen=True)
class Level:
    """One tap of the CNN: its name, channels C and side h."""

    name: str
    channels: int
    side: int


@dataclass(frozen=True)
class ValSizes:
    """Widths E of words, of the LSTM and d of texts, and the chance to drop in text and attention."""

    word: int = 512
    lstm: int = 1024
    text: int = 512
    dropout: float = 0.1


class TextEncoder(nn.Module):
    """Words → LSTM → maximum over time → dropout → projection → batch norm; no activation after it.

    The LSTM starts from a learned state, the same for every text. Its gates have one trained bias:
    PyTorch's second one is the constant 1 of the forget gate.
    """

    def __init__(self, sizes: ValSizes, style: LayerStyle) -> None:
        super().__init__()
        self.words = nn.Embedding(1, sizes.word)
        self.lstm = nn.LSTM(sizes.word, sizes.lstm, batch_first=True)
        self.cell = nn.Parameter(torch.empty(sizes.lstm))
        self.hidden = nn.Parameter(torch.empty(sizes.lstm))
        self.dropout = nn.Dropout(sizes.dropout)
        self.projection = nn.Linear(sizes.lstm, sizes.text, bias=False)
        self.norm = nn.BatchNorm1d(sizes.text, eps=style.eps, momentum=style.momentum)
        self._start(sizes, style)

    def _start(self, sizes: ValSizes, style: LayerStyle) -> None:
        kernel = math.sqrt(6 / (sizes.word + 5 * sizes.lstm))
        state = math.sqrt(6 / (2 * sizes.lstm))
        weights = dict(self.lstm.named_parameters())
        with torch.no_grad():
            for name in ("weight_ih_l0", "weight_hh_l0"):
                weights[name].uniform_(-kernel, kernel)
            weights["bias_ih_l0"].zero_()
            weights["bias_hh_l0"].zero_()[sizes.lstm : 2 * sizes.lstm] = _FORGET_BIAS
            for start in (self.cell, self.hidden):
                start.uniform_(-state, state)
            style.start_weight(self.projection.weight)
        weights["bias_hh_l0"].requires_grad_(False)

    def use_words(self, count: int) -> None:
        """Make room for a vocabulary, word vectors Glorot uniform over (V, E)."""
        self.words = nn.Embedding(count, self.words.embedding_dim)
        nn.init.xavier_uniform_(self.words.weight)

    def forward(self, tokens: Tensor, lengths: Tensor, zero_padding: bool) -> Tensor:
        """(B, L) and (B,) → (B, d)."""
        text: Tensor = self.norm(self.projection(self.dropout(self.pooled(tokens, lengths, zero_padding))))
        return text

    def pooled(self, tokens: Tensor, lengths: Tensor, zero_padding: bool) -> Tensor:
        """The LSTM's maximum over time, (B, 1024).

        With ``zero_padding`` the positions behind a text's end take part in the maximum as zeros,
        as in the release's padded batches; else only the text's own words do.
        """
        rows = len(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            state = tuple(s.expand(1, rows, -1).contiguous() for s in (self.hidden, self.cell))
            outputs, _ = self.lstm(self.words(tokens), state)
        behind = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        return torch.amax(outputs.masked_fill(behind[..., None], 0.0 if zero_padding else -math.inf), dim=1)


class _Normed(nn.Module):
    """Convolution without bias, batch norm, activation; "SAME" zero padding, the larger half behind."""

    def __init__(self, channels_in: int, channels_out: int, side: int, style: LayerStyle) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, side, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, eps=style.eps, momentum=style.momentum)
        self._style = style
        before, behind = (side - 1) // 2, side // 2
        self._padding = (before, behind, before, behind)
        style.start_weight(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self._padding) if any(self._padding) else x
        return self._style.activate(self.norm(self.conv(padded)))


class _SelfAttention(nn.Module):
    """One half of the channels: softmax(k·vᵀ / √(C/2))·q, in the release's shuffled names."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.k, self.v, self.q):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C/2) → the same."""
        similarity = self.k(x) @ self.v(x).transpose(1, 2) / math.sqrt(x.shape[2])
        attended: Tensor = self.dropout(similarity.softmax(dim=-1)) @ self.q(x)
        return attended


class Composition(nn.Module):
    """One level's composition, equations 2 to 6: O = w_j · J · X + w_s · S.

    F joins reference map and text, J = sigmoid(a_c) · sigmoid(a_s) gates the map's channels and
    positions ("joint attention"), S is self-attention over F. As w_s starts at 0, the attention
    branch has no gradient at the first step but through w_s.
    """

    def __init__(self, level: Level, sizes: ValSizes, style: LayerStyle) -> None:
        super().__init__()
        c = level.channels
        self.fusion = _Normed(c + sizes.text, c, 1, style)
        self.channel_gate = _Normed(c, c, 1, style)
        self.spatial_gate = _Normed(1, 1, level.side, style)
        self.heads = nn.ModuleList(_SelfAttention(c // _HEADS, sizes.dropout) for _ in range(_HEADS))
        self.attended = _Normed(c, c, 1, style)
        # One entry each and not scalars, which DeepSpeed cannot send to other processes.
        self.joint_weight = nn.Parameter(torch.ones(1))
        self.self_weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Map (B, C, h, h) and text (B, d) → composed map (B, C, h, h)."""
        fused = self.fuse(x, text)
        return self.joint_weight * self.joint_gate(fused) * x + self.self_weight * self.attention(fused)

    def fuse(self, x: Tensor, text: Tensor) -> Tensor:
        """F, (B, C, h, h): the text tiled over the positions, behind the map's channels."""
        tiled = text[:, :, None, None].expand(-1, -1, *x.shape[2:])
        fused: Tensor = self.fusion(torch.cat([x, tiled.to(x.dtype)], dim=1))
        return fused

    def joint_gate(self, fused: Tensor) -> Tensor:
        """J, (B, C, h, h), in [0.25, 1) since both gates pass an activation first."""
        channel = self.channel_gate(fused.mean(dim=(2, 3), keepdim=True))
        spatial = self.spatial_gate(fused.mean(dim=1, keepdim=True))
        return torch.sigmoid(channel) * torch.sigmoid(spatial)

    def attention(self, fused: Tensor) -> Tensor:
        """S, (B, C, h, h)."""
        positions = fused.flatten(2).transpose(1, 2)
        halves = [head(half) for head, half in zip(self.heads, positions.chunk(_HEADS, dim=2), strict=True)]
        joined: Tensor = self.attended(torch.cat(halves, dim=2).transpose(1, 2).reshape(fused.shape))
        return joined


class ValNetwork(nn.Module):
    """Everything of VAL but the CNN. Nothing of it is on the target's side."""

    def __init__(self, levels: Sequence[Level], sizes: ValSizes, style: LayerStyle) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.text = TextEncoder(sizes, style)
        self.compositions = nn.ModuleList(Composition(level, sizes, style) for level in levels)

    def compose(self, maps: Sequence[Tensor], text: Tensor) -> list[Tensor]:
        """The composed map of each level, shapes as the reference's."""
        return [compose(x, text) for compose, x in zip(self.compositions, maps, strict=True)]

    def joint_gates(self, maps: Sequence[Tensor], text: Tensor) -> dict[str, Tensor]:
        """J of each level by its name, the mean over channels, (B, h, h)."""
        gates = {}
        for level, compose, x in zip(self.levels, self.compositions, maps, strict=True):
            assert isinstance(compose, Composition)
            gates[level.name] = compose.joint_gate(compose.fuse(x, text)).mean(dim=1)
        return gates


def level_vectors(maps: Sequence[Tensor]) -> Tensor:
    """Averages over positions, each of unit norm, side by side: (B, ΣC). The whole has norm √3."""
    return torch.cat([unit_norm(x.to(_single_at_least(x)).mean(dim=(2, 3))) for x in maps], dim=1)


def unit_norm(x: Tensor) -> Tensor:
    """x / √max(Σx², 1e-10) over the columns of (B, C)."""
    return x / x.square().sum(dim=1, keepdim=True).clamp(min=_LEAST_SQUARE).sqrt()


def _single_at_least(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
