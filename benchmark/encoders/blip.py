"""BLIP's picture and text encoders, a ViT-B/16 and a BERT, whose outputs are projected into one space.

Li, Li, Xiong, Hoi, "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and
Generation", ICML 2022, as Bi-Blip4CIR uses it: timm's ViT at 384 pixels, and the text encoder
without a picture, so that its cross-attention lies idle; it takes part in nothing, and never trains. A text begins with
BERT's own start token.

Notation: B batch, S side of the input, L text tokens, h width of the BERT, d width of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmark.backbone import Backbone, TextContext
from benchmark.encoders.backbone_table import BACKBONES, asset_of
from benchmark.encoders.bert import Bert, BertSizes, initialise_as_bert
from benchmark.encoders.network_family import NetworkFamily
from benchmark.encoders.wordpiece import PADDING, encode, padded, pieces
from benchmark.errors import UserError
from benchmark.weights.assets import described, find_asset
from benchmark.weights.reading import read_state_dict

CONTEXT = 77
"""Tokens of a text, start and end included; longer ones are cut."""

VOCABULARY = 30524
"""BERT's 30,522 pieces, and BLIP's ``[DEC]`` and ``[ENC]``, which retrieval never uses."""

_TEXT_SIDE = ("text_encoder.", "text_proj.")
_USED = ("visual_encoder.", "vision_proj.", *_TEXT_SIDE)
_POSITION_IDS = "text_encoder.embeddings.position_ids"
_POSITIONS = "visual_encoder.pos_embed"
_LAYER = "text_encoder.encoder.layer"
_TUNED = "BLIPTextEncoder"


@dataclass(frozen=True)
class BlipSizes:
    """Sizes of both encoders; the defaults are BLIP-B's at 384 pixels."""

    image_size: int = 384
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_inner: int = 3072
    embedding: int = 256
    dropout: float = 0.1


SIZES = {
    "blip-base-384": BlipSizes(),
    "blip-tiny": BlipSizes(
        image_size=64, patch_size=16, width=64, layers=2, heads=4, text_width=64, text_layers=2, text_heads=4,
        text_inner=128, embedding=32, dropout=0.0,
    ),
}  # fmt: skip


class Blip(Backbone):
    """Both encoders under the names of the released files."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        self.visual_encoder = VisionTransformer(
            img_size=sizes.image_size, patch_size=sizes.patch_size, embed_dim=sizes.width, depth=sizes.layers,
            num_heads=sizes.heads, num_classes=0,
        )  # fmt: skip
        bert = BertSizes(
            VOCABULARY, sizes.text_width, sizes.text_layers, sizes.text_heads, sizes.text_inner, sizes.dropout,
            looks_at=sizes.width, looking=range(sizes.text_layers),
        )  # fmt: skip
        self.text_encoder = Bert(bert)
        initialise_as_bert(self.text_encoder, sizes.text_width)
        self.vision_proj = nn.Linear(sizes.width, sizes.embedding)
        self.text_proj = nn.Linear(sizes.text_width, sizes.embedding)
        for name in self._idle:
            self.get_submodule(name.rstrip(".")).requires_grad_(False)

    @property
    def width(self) -> int:
        return self.vision_proj.out_features

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, d): the class token, projected."""
        tokens: Tensor = self.visual_encoder.forward_features(pixels)
        projected: Tensor = self.vision_proj(tokens[:, 0])
        return projected

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) → (B, d): the row of the start token, projected; padding is not seen."""
        return self.encode_embedded(self.embed_tokens(tokens), tokens)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.text_encoder.embeddings.word_embeddings(tokens)
        return embedded

    def encode_embedded(self, embedded: Tensor, tokens: Tensor) -> Tensor:
        bert = self.text_encoder
        projected: Tensor = self.text_proj(bert(bert.at_positions(embedded), tokens != PADDING)[:, 0])
        return projected

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """As BERT cuts words up, no text cleaned beforehand."""
        return padded([encode(text, CONTEXT) for text in texts], CONTEXT)

    def shortened(self, tokens: Tensor) -> Tensor:
        """Up to the end of the longest text, (B, L)."""
        return tokens[:, : int((tokens != PADDING).sum(dim=1).max())]

    @property
    def text_context(self) -> TextContext:
        return TextContext(self.identity.name, CONTEXT, lambda texts: [len(pieces(text)) + 2 for text in texts])

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        layers = range(len(self.text_encoder.encoder.layer))
        trained = (f"{_LAYER}.{i}.{part}." for i in layers for part in ("attention", "intermediate", "output"))
        return {"image": _USED[:2], "text": ("text_encoder.embeddings.", *trained, "text_proj.")}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """What lies idle, and biases of all keys alike, which shift a softmax's row."""
        keys = (name for name, _ in self.named_parameters() if name.endswith(".attention.self.key.bias"))
        return (*self._idle, *keys)

    @property
    def _idle(self) -> tuple[str, ...]:
        layers = range(len(self.text_encoder.encoder.layer))
        return tuple(f"{_LAYER}.{i}.crossattention." for i in layers)


def enlarged(positions: Tensor, count: int) -> Tensor:
    """Positions of a class token and a square of patches (1, 1 + n², w) for ``count`` of them, (1, count, w).

    Bicubically, as Bi-Blip4CIR does when it loads BLIP's file of 224 pixels; the class token's stays.
    """
    before, after = (round((n - 1) ** 0.5) for n in (positions.shape[1], count))
    if 1 + before**2 != positions.shape[1] or 1 + after**2 != count or before == after:
        return positions
    square = positions[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2).float()
    square = interpolate(square, size=(after, after), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], square.flatten(2).mT.to(positions.dtype)], dim=1)


def _fitted(network: Backbone, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    wanted, found = network.get_parameter(_POSITIONS), tensors.get(_POSITIONS)
    if found is None or found.ndim != wanted.ndim or found.shape[2] != wanted.shape[2]:
        return tensors
    return {**tensors, _POSITIONS: enlarged(found, wanted.shape[1])}


def _read(path: Path) -> dict[str, Tensor]:
    """`model_base.pth`, or a text side tuned by Bi-Blip4CIR, whose pictures are those of `model_base.pth`."""
    file = read_state_dict(path, entry="model")
    state = {name: t for name, t in file.state_dict.items() if name.startswith(_USED) and name != _POSITION_IDS}
    if file.entry == _TUNED or state and all(name.startswith(_TEXT_SIDE) for name in state):
        return {**_read(_base_of(path)), **state}
    return state or dict(file.state_dict)


def _base_of(tuned: Path) -> Path:
    info = BACKBONES["blip-base-384"]
    asset = asset_of(info, info.sources[0])
    found = find_asset(asset, tuned.parent)
    if found is None or found.samefile(tuned):
        raise UserError(f"{tuned}: a tuned text encoder alone; put BLIP's own file beside it: {described(asset)}")
    return found


FAMILY = NetworkFamily(
    "blip",
    tuple(info for info in BACKBONES.values() if info.family == "blip"),
    lambda name: Blip(SIZES[name]),
    _read,
    _fitted,
)
