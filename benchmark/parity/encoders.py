"""CLIP's encoders with golden weights, and inputs for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from benchmark.encoders.architectures import Activation, openai_architecture
from benchmark.encoders.backbones import ClipBackbone, build_clip
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.parity.files import Form, GoldenFile
from benchmark.parity.rules import clip_images, clip_weight, draw_weights, padded_tokens


class EncoderSizes(Form):
    """OpenAI's sizes of a model, and of the images that are drawn for it."""

    embed_dim: PositiveInt
    image_resolution: PositiveInt
    vision_layers: PositiveInt | list[PositiveInt]
    vision_width: PositiveInt
    vision_patch_size: PositiveInt | None
    vision_heads: PositiveInt
    context_length: PositiveInt
    vocab_size: PositiveInt
    transformer_width: PositiveInt
    transformer_heads: PositiveInt
    transformer_layers: PositiveInt
    batch: PositiveInt
    coarse: PositiveInt

    @model_validator(mode="after")
    def _blotches_fit(self) -> EncoderSizes:
        if self.image_resolution % self.coarse:
            raise ValueError(f"coarse {self.coarse} must divide the side {self.image_resolution}")
        return self


SMALL: Mapping[str, Any] = {
    "embed_dim": 64, "image_resolution": 64, "vision_layers": [1, 1, 1, 1], "vision_width": 16,
    "vision_patch_size": None, "vision_heads": 8, "context_length": 77, "vocab_size": 49408,
    "transformer_width": 128, "transformer_heads": 2, "transformer_layers": 2,
}  # fmt: skip
"""The model "small", which training files name without its sizes."""


def golden_backbone(name: str, sizes: EncoderSizes, prefix: str, activation: Activation) -> ClipBackbone:
    """A backbone in evaluation mode with weights by CLIP's rule."""
    clip = build_clip(openai_architecture(sizes.model_dump()), activation)
    draw_weights(clip, clip_weight, prefix)
    preprocessing = Preprocessing("targetpad", sizes.image_resolution)
    return ClipBackbone(clip, preprocessing, name, "golden", activation).eval()


def golden_tokens(file: GoldenFile, rows: list[list[int]], sizes: EncoderSizes) -> Tensor:
    """(B, L) token numbers as listed, padded. Raises UserError for what does not fit the model."""
    try:
        tokens = padded_tokens(rows, sizes.context_length)
    except ValueError as error:
        raise file.error(f"entry 'token_ids': {error}") from None
    if int(tokens.max()) >= sizes.vocab_size or int(tokens.min()) < 0:
        raise file.error(f"entry 'token_ids': a token is not below {sizes.vocab_size}")
    return tokens


def golden_pixels(prefix: str, name: str, sizes: EncoderSizes) -> Tensor:
    """(B, 3, S, S) of that name."""
    return torch.from_numpy(clip_images(name, sizes.batch, sizes.image_resolution, sizes.coarse, prefix))
