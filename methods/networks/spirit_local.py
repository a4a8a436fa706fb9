"""SPIRIT's style-guided patch interaction: what the patches of one picture say of its style.

Chen, Zhou, Peng, "SPIRIT: Style-guided Patch Interaction for Fashion Image Retrieval with Text
Feedback", ACM TOMM 20(6), 2024. Reference and target pass through the same network::

    p_c = PSC(P)                  style commonality: what the patches share
    v   = VSA(P)                  one vector that attends to all patches
    p_d = PSD(v, P)               style difference: what single patches stand out with
    p   = PSF(p_c, p_d)           their fusion, of unit norm

Notation: B batch, P patches (13 in the paper: 2×2, then 3×3), d width of the backbone; ``·``
between vectors is elementwise. Attribute names are those of the released state dict. What cannot
change a result is not computed; the tests hold the plain form of each equation beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import UserError

from .layers import Combiner, cast_once, normalise, with_zero_gradient


@dataclass(frozen=True)
class SpiritDesign:
    """Which of SPIRIT's modules there are; the default is the paper's whole method.

    commonality: without PSC, ``p_c`` is the mean of the patches, which PSC refines.
    difference: without PSD, ``p_d`` is v, the vector that PSD starts from; the visual
        self-attention that makes v stays.
    fusion: without PSF, ``p = normalise(normalise(p_c) + p_d)``, both styles with equal weight.
    target_patches: without them a target's style is its whole picture's own feature,
        ``normalise(I)``, which keeps the target as wide as the query and the second half as long
        as before; the reference keeps its patches.

    How many patches there are, and whether any, is the network's ``patches``.
    """

    commonality: bool = True
    difference: bool = True
    fusion: bool = True
    target_patches: bool = True


class LocalNetwork(nn.Module):
    """``p = PSF(PSC(P), PSD(VSA(P), P))``, released as "visual_attn".

    width: d. patches: P, at least one. design: the modules that there are.
    """

    def __init__(self, width: int, patches: int, design: SpiritDesign, dropout: float = 0.5) -> None:
        super().__init__()
        self.transformer = StyleCommonality(width, patches) if design.commonality else None
        self.visual_sa = VisualSelfAttention(width, patches, dropout)
        self.visual_gr = StyleDifference(width) if design.difference else None
        self.local_fusion = Combiner(width, width // 2, width, dropout) if design.fusion else None

    def forward(self, patches: Tensor) -> Tensor:
        """patches: ``(B, P, d)``. Gives the style p, ``(B, d)`` of unit norm."""
        return self.styles(patches)["style_fusion"]

    def attention(self, patches: Tensor) -> dict[str, Tensor]:
        """What attends to what among the patches, for reading: each row of ``(B, P, P)`` and each ``(B, P)`` is shares.

        Of PSC what every patch attends to (mean over heads), of VSA the weight of every patch, of PSD the shares of
        the patches in the filter's sum (g_o has the rest).
        """
        found = {}
        if self.transformer is not None:
            found["commonality: what each patch attends to"] = self.transformer.attention(patches)
        found["self-attention: weights of the patches"] = self.visual_sa.weights(patches).squeeze(-1)
        if self.visual_gr is not None:
            found["difference: shares of the patches"] = self.visual_gr.shares(self.visual_sa(patches), patches)
        return found

    def styles(self, patches: Tensor) -> dict[str, Tensor]:
        """All four vectors, each ``(B, d)``: p_c, v, p_d, p under their names in full."""
        common = patches.mean(dim=1) if self.transformer is None else self.transformer(patches)
        patches = cast_once(patches)  # what follows reads them in products
        attended = self.visual_sa(patches)
        different = attended if self.visual_gr is None else self.visual_gr(attended, patches)
        if self.local_fusion is None:
            fused = normalise(normalise(common) + different)
        else:
            fused = self.local_fusion(common, different)
        return {
            "style_commonality": common,
            "visual_attention": attended,
            "style_difference": different,
            "style_fusion": fused,
        }


class StyleCommonality(nn.Module):
    """PSC: one pre-norm transformer block over the patches, then their mean. ::

        y = P + pos;   y = y + MHA(LN(y));   y = y + MLP(LN(y));   p_c = mean over patches of (y + P)

    The outer residual adds the patches without their position embedding. MLP: d → 4d → d with
    QuickGELU ``u · sigmoid(1.702 u)``.
    """

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(1, patches, width))
        self.resblocks = nn.ModuleList([TransformerBlock(width)])
        nn.init.trunc_normal_(self.positional_embedding, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """``(B, P, d) -> (B, d)``."""
        mean: Tensor = self.resblocks[0](patches + self.positional_embedding)
        return mean + patches.mean(dim=1)

    def attention(self, patches: Tensor) -> Tensor:
        """What each patch attends to, ``(B, P, P)``, mean over heads."""
        (block,) = self.resblocks
        assert isinstance(block, TransformerBlock)
        return block.attn.weights(block.ln_1(patches + self.positional_embedding))


class TransformerBlock(nn.Module):
    """``mean over nodes of y + MLP(LN(y))``, where ``y = x + MHA(LN(x))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = MultiHeadAttention(width)
        self.ln_2 = nn.LayerNorm(width)
        c_fc = _truncated_normal(nn.Linear(width, 4 * width))
        c_proj = _truncated_normal(nn.Linear(4 * width, width))
        self.mlp = nn.ModuleDict({"c_fc": c_fc, "c_proj": c_proj})

    def forward(self, nodes: Tensor) -> Tensor:
        """``(B, P, d) -> (B, d)``."""
        nodes = nodes + self.attn(self.ln_1(nodes))
        # QuickGELU(u) = silu(1.702 u) / 1.702, of which torch has the gradient in one pass. The
        # last linear and the mean commute, so the mean comes first and P - 1 products are saved.
        activated = F.silu(1.702 * self.mlp["c_fc"](self.ln_2(nodes))).mean(dim=1) / 1.702
        projected: Tensor = self.mlp["c_proj"](activated)
        return nodes.mean(dim=1) + projected


class MultiHeadAttention(nn.Module):
    """Self-attention, scale 1/√(head width), no mask, biases; q, k and v in one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads(width)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = _truncated_normal(nn.Linear(width, width))
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, nodes: Tensor) -> Tensor:
        """``(B, P, d) -> (B, P, d)``."""
        query, key, value = self._split(nodes)
        attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def weights(self, nodes: Tensor) -> Tensor:
        """The attention itself, ``(B, P, P)``, mean over heads."""
        query, key, _ = self._split(nodes)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        mean: Tensor = scores.softmax(dim=-1).mean(dim=1)
        return mean

    def _split(self, nodes: Tensor) -> Tensor:
        """q, k and v by head, ``(3, B, heads, P, d / heads)``."""
        projected = F.linear(nodes, self.in_proj_weight, self.in_proj_bias)
        return projected.reshape(*nodes.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)


class VisualSelfAttention(nn.Module):
    """VSA: a weighted mean of the patches, refined by attention on attention. ::

    l = drop(tanh(BN_P(W_l P)))                 one channel per patch
    g = drop(tanh(BN_d(W_g mean(P))))
    v = Σ softmax over patches of (w · (l·g)) P
    v = normalise(v + AoA(v))
    """

    def __init__(self, width: int, patches: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding_local = _embedding(width, nn.BatchNorm1d(patches), dropout)
        self.embedding_global = _embedding(width, nn.BatchNorm1d(width), dropout)
        self.embedding_common = nn.Sequential(_xavier(nn.Linear(width, 1)))
        self.self_attention = nn.ModuleDict({"aoa": AttentionOnAttention(width)})

    def forward(self, patches: Tensor) -> Tensor:
        """``(B, P, d) -> (B, d)`` of unit norm. Raises UserError in training on a single row."""
        if self.training and len(patches) == 1:
            raise UserError(
                "SPIRIT's batch norms cannot train on a negative group of one pair: "
                "choose a batch and a negative group of at least 2 for each process"
            )
        pooled = (self.weights(patches).transpose(1, 2) @ patches).squeeze(1)
        return normalise(pooled + self.self_attention["aoa"](pooled))

    def weights(self, patches: Tensor) -> Tensor:
        """Shares of the patches in their mean, ``(B, P, 1)``."""
        local = self.embedding_local(patches)
        glob = self.embedding_global(patches.mean(dim=1))
        weights: Tensor = self.embedding_common(local * glob.unsqueeze(1)).softmax(dim=1)
        return weights


class AttentionOnAttention(nn.Module):
    """``GLU(W [attended, q])`` with q = W_q v (Huang et al., ICCV 2019), over one token.

    The softmax over a single token is 1, so ``attended = W_v v``: W_k, the first half of
    ``to_kv``, is not computed with and gets a gradient of zeros.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = 640 if width % 80 == 0 else width
        self.to_q = nn.Linear(width, self.inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * self.inner, bias=False)
        self.aoa = nn.Sequential(nn.Linear(2 * self.inner, 2 * width), nn.GLU())

    def forward(self, token: Tensor) -> Tensor:
        """``(B, d) -> (B, d)``."""
        attended = F.linear(token, self.to_kv.weight[self.inner :])
        output: Tensor = self.aoa(torch.cat([attended, self.to_q(token)], dim=-1))
        return output


class StyleDifference(nn.Module):
    """PSD: three graph layers over [v; P], then a filter over the patches. ::

    g_o = node 0 of the three graph layers over [v; P]
    f   = filter([g_o; P])
    p_d = normalise(α·g_o + β·f)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.graph = nn.ModuleList([GraphReasoning(width) for _ in range(3)])
        self.attention_filtration = AttentionFiltration(width)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, attended: Tensor, patches: Tensor) -> Tensor:
        """v ``(B, d)`` and the patches ``(B, P, d)`` give p_d, ``(B, d)`` of unit norm."""
        reasoned = self._reasoned(attended, patches)
        filtered = self.attention_filtration(reasoned, patches)
        return normalise(self.alpha * reasoned + self.beta * filtered)

    def shares(self, attended: Tensor, patches: Tensor) -> Tensor:
        """Shares of the patches in the filter's sum, ``(B, P)``; what is left to 1 is g_o's."""
        nodes = _nodes(self._reasoned(attended, patches), patches)
        shares: Tensor = self.attention_filtration.shares(nodes)
        return shares[:, 0, 1:]

    def _reasoned(self, attended: Tensor, patches: Tensor) -> Tensor:
        """g_o, ``(B, d)``."""
        first, second, last = self.graph
        nodes = _nodes(attended, patches)
        nodes = first(nodes, nodes)
        nodes = second(nodes, nodes)
        reasoned: Tensor = last(nodes[:, :1], nodes).squeeze(1)
        return reasoned


class GraphReasoning(nn.Module):
    """One graph layer: ``E = softmax(Q(nodes) · K(nodes)ᵀ)`` over the keys, ``relu(W(E · nodes))``.

    No scale and no residual.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.graph_query_w = _xavier(nn.Linear(width, width))
        self.graph_key_w = _xavier(nn.Linear(width, width))
        self.sim_graph_w = _xavier(nn.Linear(width, width))

    def forward(self, receivers: Tensor, nodes: Tensor) -> Tensor:
        """The new values of the receivers, ``(B, R, d)``, which read all nodes ``(B, N, d)``.

        With the receivers being all nodes it is the layer as published; what follows the last
        layer reads node 0 only, which is then the only receiver.
        """
        edges = (self._keys_applied(receivers) @ nodes.transpose(1, 2)).softmax(dim=-1)
        reasoned: Tensor = self.sim_graph_w(edges @ nodes)
        return F.relu(reasoned)

    def _keys_applied(self, receivers: Tensor) -> Tensor:
        """u with ``softmax(u · nodesᵀ) = E``, ``(B, R, d)``: W_k acts on the receivers instead.

        ``Q(a)·K(b) = (W_kᵀ(W_q a + b_q))·b + Q(a)·b_k``, where the last term is the same for every
        node b and the softmax removes it. Where there are more receivers than W has rows, W_kᵀ W_q
        is the cheaper product to make first.
        """
        query, key = self.graph_query_w, self.graph_key_w
        if receivers.shape[0] * receivers.shape[1] > receivers.shape[2]:
            applied = F.linear(receivers, key.weight.T @ query.weight, query.bias @ key.weight)
        else:
            applied = query(receivers) @ key.weight
        return with_zero_gradient(applied, [key.bias])


class AttentionFiltration(nn.Module):
    """A gated sum over [g_o; P], with the batch norm over batch and nodes together. ::

    a = sigmoid(BN_1(w · node)), divided by its L1 norm over the nodes
    f = normalise(Σ a · node)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_sim_w = _xavier(nn.Linear(width, 1))
        self.bn = nn.BatchNorm1d(1)

    def forward(self, reasoned: Tensor, patches: Tensor) -> Tensor:
        """g_o ``(B, d)`` and the patches ``(B, P, d)`` give f, ``(B, d)`` of unit norm."""
        nodes = _nodes(reasoned, patches)
        return normalise((self.shares(nodes) @ nodes).squeeze(1))

    def shares(self, nodes: Tensor) -> Tensor:
        """a of the nodes ``(B, N, d)``, ``(B, 1, N)``."""
        gates: Tensor = self.bn(self.attn_sim_w(nodes).transpose(1, 2)).sigmoid()
        return gates / (gates.sum(dim=-1, keepdim=True) + 1e-8)


def heads(width: int) -> int:
    """PSC's attention heads: of width 80 where that divides d, else 8 (or the most that 8 allows)."""
    return width // 80 if width % 80 == 0 else math.gcd(width, 8)


def _nodes(first: Tensor, patches: Tensor) -> Tensor:
    """``[first; P]``, ``(B, P + 1, d)``, for products."""
    return torch.cat([cast_once(first).unsqueeze(1), cast_once(patches)], dim=1)


def _embedding(width: int, norm: nn.BatchNorm1d, dropout: float) -> nn.Sequential:
    return nn.Sequential(_xavier(nn.Linear(width, width)), norm, nn.Tanh(), nn.Dropout(dropout))


def _xavier(layer: nn.Linear) -> nn.Linear:
    """Uniform within ±√6/√(in + out), zero biases: VSA's embeddings and all of PSD."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _truncated_normal(layer: nn.Linear) -> nn.Linear:
    """Standard deviation 0.02, zero biases: PSC's output projection and MLP."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
