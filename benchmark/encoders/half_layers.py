"""Layers of known classes, computed in fewer operations in half precision; each stands for the one it is derived from.

Notation: N pictures, L tokens, E width, h heads; C channels in and O out, H × W positions.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.MultiheadAttention):
    """Attention of tokens (N, L, E) to themselves as two products of their rows with the attention between.

    torch's turns them to (L, N, E) first: rows are copied into that order, or multiplied position by position, the
    bias of their projection is added apart, and queries, keys and values are copied once more. What else can be asked
    (weights of the attention, padding, other keys) goes torch's way.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, L, E) thrice, the same → (N, L, E). ``attn_mask`` (L, L) is added to the scores."""
        alone = query is key and key is value and query.dim() == 3 and not need_weights and key_padding_mask is None
        if not alone or (attn_mask is not None and (attn_mask.dtype == torch.bool or attn_mask.dim() != 2)):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        # (N, L, 3E) → three of (N, h, L, E / h)
        apart = projected.view(*query.shape[:2], 3, self.num_heads, self.head_dim)
        queries, keys, values = apart.permute(2, 0, 3, 1, 4).unbind()
        mask = None if attn_mask is None else attn_mask.to(projected.dtype)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class PointwiseConv2d(nn.Conv2d):
    """A convolution of 1 × 1 with a shift, as the product of matrices that it is where channels come last.

    A product adds the shift, and clips at zero (``clips``), as it writes what it has; behind cuDNN's convolution each
    is a pass of its own over all that was written.
    """

    clips: bool

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) → (N, O, H, W)."""
        if not input.is_contiguous(memory_format=torch.channels_last) or input.dtype != self.weight.dtype:
            convolved = super().forward(input)
            return convolved.relu_() if self.clips else convolved
        count, channels, height, width = input.shape
        rows, weight = input.permute(0, 2, 3, 1).reshape(-1, channels), self.weight.flatten(1).t()
        multiply: Any = torch._addmm_activation if self.clips else torch.addmm
        product: Tensor = multiply(self.bias, rows, weight)
        return product.view(count, height, width, -1).permute(0, 3, 1, 2)


class HalfLayerNorm(LayerNorm):  # type: ignore[misc]  # untyped
    """open_clip's layer norm of rows in half precision: read, normed in float32 and written in one operation.

    A GPU's autocast makes three of it, with float32 between them. Scale and shift (E) are rounded for it.
    """

    half_weight: Tensor
    half_bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(…, E), of its own type."""
        if x.dtype != self.half_weight.dtype:
            normed: Tensor = super().forward(x)
            return normed
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.half_weight, self.half_bias, self.eps)
