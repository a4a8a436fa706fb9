"""The picture encoder of BLIP-2: EVA-CLIP's ViT, of which the last block, its norm and its head are left out.

Sun, Fang, Wu, Wang, Cao, "EVA-CLIP", 2023; timm's network, whose names are those of `eva_vit_g.pth`.
What it gives is the raw residual stream of all tokens, behind no norm: Q-Formers bring one that they train.

Notation: B batch, S side of the input, T tokens (the class token first, then the patches row by row), w width.
"""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.eva import Eva
from torch import Tensor, nn


@dataclass(frozen=True)
class EvaSizes:
    """Sizes of a ViT; the defaults are ViT-g/14's at 224 pixels, 39 of whose 40 blocks are used."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1408
    layers: int = 39
    heads: int = 16
    inner: int = 6144

    @property
    def tokens(self) -> int:
        """T."""
        return 1 + (self.image_size // self.patch_size) ** 2


TINY = EvaSizes(image_size=56, width=64, layers=2, heads=4, inner=279)
"""For the demo data and tests: 17 tokens, 144,622 parameters."""


def build_eva(sizes: EvaSizes) -> Eva:
    """The ViT with timm's start values; `picture_tokens` asks it."""
    vit = Eva(
        img_size=sizes.image_size, patch_size=sizes.patch_size, embed_dim=sizes.width, depth=sizes.layers,
        num_heads=sizes.heads, mlp_ratio=sizes.inner / sizes.width, num_classes=0, global_pool="",
    )  # fmt: skip
    vit.norm = nn.Identity()
    return vit


def picture_tokens(vit: Eva, pixels: Tensor) -> Tensor:
    """(B, 3, S, S) normalised pixels → (B, T, w), float32 under autocast, too, as the release has it."""
    tokens: Tensor = vit.forward_features(pixels)
    return tokens.float()
