"""The picture encoder of BLIP-2: EVA-CLIP's ViT-g/14 without its last block, norm and head. It gives tokens.

Sun, Fang, Wu, Wang, Cao, "EVA-CLIP", 2023, as Li, Li, Savarese, Hoi, "BLIP-2", ICML 2023 use it; timm's
network, whose names are those of `eva_vit_g.pth`. What it gives is the raw residual stream of all tokens, behind
no norm: methods bring that one (ln_vision), since they train it. It has no text side.

Notation: B batch, S side of the input, T tokens (the class token first, then the patches row by row), w width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from timm.models.eva import Eva
from torch import Tensor, nn

from benchmark.backbone import TOKENS, Backbone, Output
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.encoders.network_family import NetworkFamily
from benchmark.weights.reading import read_state_dict

_ENTRY = "Blip2QformerCirAlignPrompt"
_PREFIX = "visual_encoder."


@dataclass(frozen=True)
class EvaSizes:
    """Sizes of a ViT; the defaults are ViT-g/14's at 224 pixels, 39 of whose 40 blocks are used."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1408
    layers: int = 39
    heads: int = 16
    inner: int = 6144


SIZES = {
    "blip2-vit-g": EvaSizes(),
    "blip2-tiny": EvaSizes(image_size=56, width=64, layers=2, heads=4, inner=279),
}


def build_eva(sizes: EvaSizes) -> Eva:
    """The ViT with timm's start values; `picture_tokens` asks it."""
    vit = Eva(
        img_size=sizes.image_size, patch_size=sizes.patch_size, embed_dim=sizes.width, depth=sizes.layers,
        num_heads=sizes.heads, mlp_ratio=sizes.inner / sizes.width, num_classes=0, global_pool="",
    )  # fmt: skip
    vit.norm = nn.Identity()
    return vit


def picture_tokens(vit: Eva, pixels: Tensor) -> Tensor:
    """(B, 3, S, S) normalised pixels → (B, T, w), float32 under autocast, too: the residual stream is."""
    tokens: Tensor = vit.forward_features(pixels)
    return tokens.float()


class Blip2Pictures(Backbone):
    """The ViT alone, under the name that it has in checkpoints of the whole first stage."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        self.visual_encoder = build_eva(sizes)
        self._shape = (1 + (sizes.image_size // sizes.patch_size) ** 2, sizes.width)

    @property
    def picture_outputs(self) -> Mapping[str, Output]:
        return {TOKENS: Output(self._shape, "float16")}

    @property
    def text_outputs(self) -> Mapping[str, Output]:
        return {}

    def encode_picture_outputs(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: picture_tokens(self.visual_encoder, pixels) for name in names if name == TOKENS}

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"image": (_PREFIX,)}


def _read(path: Path) -> dict[str, Tensor]:
    """`eva_vit_g.pth`, whose unused last block, norm and head are left out, or SPRC's or TME's whole checkpoint."""
    state = read_state_dict(path, entry=_ENTRY).state_dict
    if any(name.startswith(_PREFIX) for name in state):
        return {name: tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    unused = ("norm.", "head.", f"blocks.{EvaSizes.layers}.")
    return {f"{_PREFIX}{name}": tensor for name, tensor in state.items() if not name.startswith(unused)}


FAMILY = NetworkFamily(
    "blip2",
    tuple(info for info in BACKBONES.values() if info.family == "blip2"),
    lambda name: Blip2Pictures(SIZES[name]),
    _read,
)
