"""SPIRIT's network: visual-textual fusion on top of the patch interaction of `spirit_local`.

Chen, Zhou, Peng, "SPIRIT: Style-guided Patch Interaction for Fashion Image Retrieval with Text
Feedback", ACM TOMM 20(6), 2024. For a reference with feature I, patches P and a text feature T::

    query  = VTF([I, Local(P)], [T, T])
    target = normalise([I_target, Local(P_target)])

in which both use the same Local. All features are the frozen encoders' raw outputs.

Notation: B batch, P patches, d width of the backbone. At d = 640 there are 115,581,478 parameters:
101,624,324 in VTF ("combiner"), 13,957,153 in Local ("visual_attn"), 1 in "simi_loss".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Combiner, gate, gated_sum, normalise, with_zero_gradient
from .spirit_local import LocalNetwork, SpiritDesign

__all__ = ["UNUSED_PARAMETERS", "ZERO_GRADIENT_PARAMETERS", "SpiritDesign", "SpiritNetwork"]

UNUSED_PARAMETERS = (
    "combiner.image_mlp.0.weight",
    "combiner.image_mlp.0.bias",
    "combiner.image_mlp.3.weight",
    "combiner.image_mlp.3.bias",
    "simi_loss.alpha",
)
"""Released weights that take no part in the release. They are frozen: DeepSpeed would decay them."""

ZERO_GRADIENT_PARAMETERS = (
    "combiner.text_mlp.0.weight",
    "combiner.text_mlp.0.bias",
    "combiner.text_mlp.3.weight",
    "combiner.text_mlp.3.bias",
    "visual_attn.visual_gr.graph.0.graph_key_w.bias",
    "visual_attn.visual_gr.graph.1.graph_key_w.bias",
    "visual_attn.visual_gr.graph.2.graph_key_w.bias",
)
"""Weights that take part in the release and cannot change a result, since a softmax removes them.

Their gradient is a tensor of zeros, not None, so that weight decay moves them as it did there.
"""


SHIFT_PARAMETERS = (
    "visual_attn.visual_sa.embedding_common.0.bias",
    "visual_attn.visual_sa.embedding_global.0.bias",
    "visual_attn.visual_gr.attention_filtration.attn_sim_w.bias",
)
"""Biases that shift a softmax row, or that a batch norm removes: their gradient is rounding noise."""


class VisualTextualFusion(Combiner):
    """VTF, at width 2d: a Combiner and, beside it, a second branch without projections. ::

        first  = Combiner(2d, p, h)(V, T2) before its normalisation
        T'     = drop(relu(T2 · softmax(mlp(T2)))),   V' = drop(relu(V · softmax(mlp(V))))
        second = W_o drop(relu(W_c [T', V'])) + s·T' + (1 − s)·V'
        query  = normalise(first + second)

    with ``V = [I, p]`` and ``T2 = [T, T]``. The softmax is over a width of one and so always 1:
    neither mlp is computed. The text's takes part in the release, the image's does not.
    """

    def __init__(self, width: int, projection: int, hidden: int, dropout: float = 0.5) -> None:
        double = 2 * width
        super().__init__(double, projection, hidden, dropout)
        self.text_mlp = _mlp(double, dropout)
        self.image_mlp = _mlp(double, dropout)
        self.image_mlp.requires_grad_(False)
        self.combiner_layer2 = nn.Linear(2 * double, hidden)
        self.output_layer2 = nn.Linear(hidden, double)
        self.dynamic_scalar2 = gate(2 * double, hidden, dropout)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """V ``(B, 2d)`` and the text feature T ``(B, d)``, once, give the query ``(B, 2d)``."""
        names = ("0.weight", "0.bias", "3.weight", "3.bias")
        text = with_zero_gradient(text, [self.text_mlp.get_parameter(name) for name in names])
        doubled = torch.cat([text, text], dim=-1)
        first = self.combine(image, doubled, self._project_doubled(text))
        return normalise(first + self._second_branch(image, doubled))

    def _project_doubled(self, text: Tensor) -> Tensor:
        """``W_t [T, T] + b`` as ``(W_t's left half + its right half) T + b``, ``(B, p)``."""
        left, right = self.text_projection_layer.weight.chunk(2, dim=1)
        return F.linear(text, left + right, self.text_projection_layer.bias)

    def _second_branch(self, image: Tensor, doubled: Tensor) -> Tensor:
        """``(B, 2d)``. Dropout draws T' anew in each half, so that this product cannot be folded."""
        text, image = self.active(doubled), self.active(image)
        joint = torch.cat([text, image], dim=-1)
        mixture: Tensor = self.output_layer2(self.active(self.combiner_layer2(joint)))
        return mixture + gated_sum(self.dynamic_scalar2(joint), text, image)


class SpiritNetwork(nn.Module):
    """SPIRIT between the frozen encoders' features and the dot product.

    width: d. patches: how many a picture is cut into (13 for 2×2 and 3×3, 4 or 9 for one of them,
    or any other number); 0 for none, where the whole picture's own feature ``normalise(I)`` stands
    in the place of the style, for reference and target. projection, hidden: p and h of VTF, by
    default 4d and 8d as published. design: the modules that there are.

    In training call `encode_query` before `encode_target`, as the release does: each normalises
    its own batch, and both move the batch norms' running statistics, in this order.
    """

    def __init__(
        self,
        width: int,
        patches: int = 13,
        projection: int | None = None,
        hidden: int | None = None,
        design: SpiritDesign | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.design = design or SpiritDesign()
        self.combiner = VisualTextualFusion(width, projection or 4 * width, hidden or 8 * width, dropout)
        self.visual_attn = LocalNetwork(width, patches, self.design, dropout) if patches else None
        self.simi_loss = nn.Module()
        self.simi_loss.alpha = nn.Parameter(torch.zeros(1), requires_grad=False)

    def encode_query(self, image: Tensor, text: Tensor, patches: Tensor | None = None) -> Tensor:
        """I ``(B, d)``, T ``(B, d)``, P ``(B, P, d)`` of the reference give the query, ``(B, 2d)``.

        Unit norm. Patches are not read where the network has none. Raises UserError in training
        on a single row, which batch norms forbid.
        """
        style = self._style(image, patches, self.visual_attn)
        query: Tensor = self.combiner(torch.cat([image, style], dim=-1), text)
        return query

    def encode_target(self, image: Tensor, patches: Tensor | None = None) -> Tensor:
        """I ``(B, d)`` and P ``(B, P, d)`` of a target give its encoding, ``(B, 2d)`` of unit norm.

        The loss's gradient flows into it. Patches are not read where the design gives targets none.
        """
        local = self.visual_attn if self.design.target_patches else None
        return normalise(torch.cat([image, self._style(image, patches, local)], dim=-1))

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Names of the weights that the loss cannot move; of modules that the design leaves out there are none."""
        names = {name for name, _ in self.named_parameters()}
        still = (*UNUSED_PARAMETERS, *ZERO_GRADIENT_PARAMETERS, *SHIFT_PARAMETERS)
        return tuple(name for name in still if name in names)

    def local(self, patches: Tensor) -> dict[str, Tensor]:
        """``style_commonality`` p_c, ``visual_attention`` v, ``style_difference`` p_d and
        ``style_fusion`` p of a picture's patches ``(B, P, d)``, each ``(B, d)``."""
        if self.visual_attn is None:
            raise ValueError("this SPIRIT was built without patches")
        return self.visual_attn.styles(patches)

    @staticmethod
    def _style(image: Tensor, patches: Tensor | None, local: LocalNetwork | None) -> Tensor:
        if local is None:
            return normalise(image)
        if patches is None:
            raise ValueError("this SPIRIT reads patches, and none were given")
        style: Tensor = local(patches)
        return style


def _mlp(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))
