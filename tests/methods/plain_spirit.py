"""SPIRIT in its plain form, equation by equation, with nothing left out, folded or reordered.

It reads a state dict of the released names, and is what `benchmark.methods.networks.spirit` is
compared with: results, gradients, arithmetic and time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


class PlainSpirit:
    """Written for tests. `weights` are changed in place only in training: the running statistics."""

    def __init__(self, weights: Mapping[str, Tensor], training: bool, dropout: float = 0.0) -> None:
        self.weights = weights
        self.training = training
        self.dropout = dropout

    def encode_query(self, image: Tensor, text: Tensor, patches: Tensor) -> Tensor:
        style = self.local(patches)["style_fusion"]
        return self.fusion(torch.cat([image, style], -1), torch.cat([text, text], -1))

    def encode_target(self, image: Tensor, patches: Tensor) -> Tensor:
        return unit(torch.cat([image, self.local(patches)["style_fusion"]], -1))

    def local(self, patches: Tensor) -> dict[str, Tensor]:
        common = self.commonality(patches)
        attended = self.self_attention(patches)
        different = self.difference(attended, patches)
        fused = unit(self.combine("visual_attn.local_fusion.", common, different))
        return {
            "style_commonality": common,
            "visual_attention": attended,
            "style_difference": different,
            "style_fusion": fused,
        }

    def commonality(self, patches: Tensor) -> Tensor:
        name = "visual_attn.transformer."
        block = name + "resblocks.0."
        nodes = patches + self.weights[name + "positional_embedding"]
        nodes = nodes + self.attention(block + "attn.", self.layer_norm(block + "ln_1", nodes))
        hidden = self.linear(block + "mlp.c_fc", self.layer_norm(block + "ln_2", nodes))
        nodes = nodes + self.linear(block + "mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
        return (nodes + patches).mean(1)

    def attention(self, name: str, nodes: Tensor) -> Tensor:
        batch, count, width = nodes.shape
        heads = width // 80 if width % 80 == 0 else math.gcd(width, 8)
        weight, bias = self.weights[name + "in_proj_weight"], self.weights[name + "in_proj_bias"]
        parts = F.linear(nodes, weight, bias).chunk(3, -1)
        query, key, value = (part.reshape(batch, count, heads, -1).transpose(1, 2) for part in parts)
        scores = query @ key.transpose(2, 3) / (width // heads) ** 0.5
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return self.linear(name + "out_proj", attended)

    def self_attention(self, patches: Tensor) -> Tensor:
        name = "visual_attn.visual_sa."
        local = self.batch_norm(name + "embedding_local.1", self.linear(name + "embedding_local.0", patches))
        local = self.drop(local.tanh())
        pooled = self.linear(name + "embedding_global.0", patches.mean(1))
        pooled = self.drop(self.batch_norm(name + "embedding_global.1", pooled).tanh())
        pooled = pooled.unsqueeze(1).repeat(1, patches.shape[1], 1)
        weights = self.linear(name + "embedding_common.0", local * pooled).squeeze(2).softmax(1)
        vector = (weights.unsqueeze(2) * patches).sum(1)
        return unit(vector + self.attention_on_attention(name + "self_attention.aoa.", vector))

    def attention_on_attention(self, name: str, vector: Tensor) -> Tensor:
        sequence = vector.unsqueeze(1)
        query = sequence @ self.weights[name + "to_q.weight"].T
        key, value = (sequence @ self.weights[name + "to_kv.weight"].T).chunk(2, -1)
        split = [u.reshape(*u.shape[:2], 8, -1).transpose(1, 2) for u in self.divisible(query, key, value)]
        scores = split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5
        attended = (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)[..., : query.shape[-1]]
        first, last = self.linear(name + "aoa.0", torch.cat([attended, query], -1)).chunk(2, -1)
        return (first * torch.sigmoid(last)).squeeze(1)

    @staticmethod
    def divisible(*vectors: Tensor) -> list[Tensor]:
        """Padded with zeros to a multiple of 8 heads: over one token that changes nothing."""
        return [F.pad(vector, (0, -vector.shape[-1] % 8)) for vector in vectors]

    def difference(self, attended: Tensor, patches: Tensor) -> Tensor:
        name = "visual_attn.visual_gr."
        nodes = torch.cat([attended.unsqueeze(1), patches], 1)
        for layer in range(3):
            graph = f"{name}graph.{layer}."
            query = self.linear(graph + "graph_query_w", nodes)
            key = self.linear(graph + "graph_key_w", nodes)
            edges = (query @ key.transpose(1, 2)).softmax(-1)
            nodes = self.linear(graph + "sim_graph_w", edges @ nodes).relu()
        reasoned = nodes[:, 0]
        filtered = self.filtration(name + "attention_filtration.", reasoned, patches)
        return unit(self.weights[name + "alpha"] * reasoned + self.weights[name + "beta"] * filtered)

    def filtration(self, name: str, reasoned: Tensor, patches: Tensor) -> Tensor:
        nodes = torch.cat([reasoned.unsqueeze(1), patches], 1)
        gates = self.linear(name + "attn_sim_w", nodes).permute(0, 2, 1)
        gates = self.batch_norm(name + "bn", gates).sigmoid()
        shares = gates / (gates.abs().sum(-1, keepdim=True) + 1e-8)
        return unit((shares.permute(0, 2, 1) * nodes).sum(1))

    def fusion(self, image: Tensor, text: Tensor) -> Tensor:
        name = "combiner."
        first = self.combine(name, image, text)
        text = self.drop((text * self.mlp(name + "text_mlp.", text).softmax(1)).relu())
        image = self.drop((image * self.mlp(name + "text_mlp.", image).softmax(1)).relu())
        joint = torch.cat([text, image], -1)
        mixture = self.linear(name + "output_layer2", self.active(name + "combiner_layer2", joint))
        share = self.linear(name + "dynamic_scalar2.3", self.active(name + "dynamic_scalar2.0", joint)).sigmoid()
        return unit(first + mixture + share * text + (1 - share) * image)

    def mlp(self, name: str, vectors: Tensor) -> Tensor:
        return self.linear(name + "3", self.active(name + "0", vectors))

    def combine(self, name: str, image: Tensor, text: Tensor) -> Tensor:
        projections = [
            self.active(name + "text_projection_layer", text),
            self.active(name + "image_projection_layer", image),
        ]
        joint = torch.cat(projections, -1)
        mixture = self.linear(name + "output_layer", self.active(name + "combiner_layer", joint))
        share = self.linear(name + "dynamic_scalar.3", self.active(name + "dynamic_scalar.0", joint)).sigmoid()
        return mixture + share * text + (1 - share) * image

    def active(self, name: str, vectors: Tensor) -> Tensor:
        return self.drop(self.linear(name, vectors).relu())

    def linear(self, name: str, vectors: Tensor) -> Tensor:
        return F.linear(vectors, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def layer_norm(self, name: str, vectors: Tensor) -> Tensor:
        gain, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return F.layer_norm(vectors, gain.shape, gain, bias, 1e-5)

    def batch_norm(self, name: str, vectors: Tensor) -> Tensor:
        w = self.weights
        if self.training:
            w[name + ".num_batches_tracked"].add_(1)
        return F.batch_norm(
            vectors,
            w[name + ".running_mean"],
            w[name + ".running_var"],
            w[name + ".weight"],
            w[name + ".bias"],
            self.training,
            0.1,
            1e-5,
        )

    def drop(self, vectors: Tensor) -> Tensor:
        return F.dropout(vectors, self.dropout, self.training)


def unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-8)
