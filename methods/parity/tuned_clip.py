"""The small CLIP that trains with its head in DQU-CIR's and ENCODER's golden files: sizes, weights, pictures, texts."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from benchmark.backbone import BackboneIdentity
from benchmark.encoders.backbones import OPEN_CLIP, ClipBackbone, build_clip
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.parity.comparison import Deviation
from benchmark.parity.files import Form, GoldenFile
from benchmark.parity.rules import Array, clip_images, clip_values, padded_tokens, weight_rule


@weight_rule
def tuned_clip_weight(name: str, g: Array) -> NDArray[Any]:
    """The rule for an entry of a released state dict: lines of the heads, then CLIP's; the first that fits."""
    if name in ("loss_weight", "loss_T"):
        return 10 + 0.1 * g
    if name == "local_weight" or name.endswith(".scale"):
        return 1 + 0.1 * g
    if name == "combiner_fc.0.weight" or name.endswith("learnable_relation"):
        return g
    return clip_values(name, 2 * g if name == "scaler_fc.3.weight" else g)


class TunedClipSizes(Form):
    """``config`` of a file: the CLIP, and the pictures that are drawn for it."""

    embed_dim: PositiveInt
    hidden_dim: PositiveInt
    image_size: PositiveInt
    vision_layers: PositiveInt
    vision_width: PositiveInt
    vision_heads: PositiveInt
    vision_patch_size: PositiveInt
    context_length: PositiveInt
    vocab_size: PositiveInt
    text_width: PositiveInt
    text_heads: PositiveInt
    text_layers: PositiveInt
    batch: PositiveInt
    coarse: PositiveInt

    def backbone(self) -> ClipBackbone:
        """In evaluation mode, with exact GELU and weights that wait for the rule."""
        clip = build_clip(
            {
                "embed_dim": self.embed_dim,
                "vision_cfg": {
                    "image_size": self.image_size, "layers": self.vision_layers, "width": self.vision_width,
                    "head_width": self.vision_width // self.vision_heads, "patch_size": self.vision_patch_size,
                },
                "text_cfg": {
                    "context_length": self.context_length, "vocab_size": self.vocab_size, "width": self.text_width,
                    "heads": self.text_heads, "layers": self.text_layers,
                },
            },
            "gelu",
        )  # fmt: skip
        preprocessing = Preprocessing("clip", self.image_size, rgb_first=True)
        return ClipBackbone(clip, preprocessing, BackboneIdentity(OPEN_CLIP, "golden", "golden", "gelu")).eval()

    def pixels(self, file: GoldenFile, name: str, batch: int = 0) -> Tensor:
        """(B, 3, S, S) of that name."""
        return torch.from_numpy(clip_images(name, batch or self.batch, self.image_size, self.coarse, file.prefix))

    def words(self, rows: list[list[int]]) -> Tensor:
        """(B, L) token numbers as listed, padded to the context."""
        return padded_tokens(rows, self.context_length)


def check_tokens(output: str, found: Tensor, texts: list[str], ids: list[list[int]]) -> Deviation:
    """Tokens (B, L) of every text, equal in each number."""
    same = (found == padded_tokens(ids, found.shape[1])).all(dim=1).tolist()
    wrong = [text for text, is_same in zip(texts, same, strict=True) if not is_same]
    return Deviation(output, len(wrong), 0, repr(wrong[0]) if wrong else "", f"{len(texts)} texts")
