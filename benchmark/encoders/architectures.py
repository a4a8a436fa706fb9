"""Which of CLIP's architectures a state dict with OpenAI's names is of, told from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import open_clip

from benchmark.encoders.backbones import CLIP_VOCABULARY, TINY
from benchmark.encoders.pretrained import split_name
from benchmark.errors import UserError
from benchmark.weights.fit import Shapes

_CONTEXT = 77
_STAGES = range(1, 5)


@dataclass(frozen=True)
class Sizes:
    """What tells architectures apart. ``layers``: blocks of each stage of a ResNet, or of a ViT."""

    width: int
    image_size: int
    layers: tuple[int, ...] | int
    channels: int
    patch: int | None
    context: int
    vocabulary: int
    text_width: int
    text_layers: int


def sizes_of(shapes: Shapes) -> Sizes:
    """Sizes from the shapes of a state dict. Raises KeyError where a tensor that tells one is missing."""
    is_vit = "visual.proj" in shapes
    positions = shapes["visual.positional_embedding" if is_vit else "visual.attnpool.positional_embedding"][0]
    side = math.isqrt(positions - 1)
    first = shapes["visual.conv1.weight"]
    return Sizes(
        width=shapes["text_projection"][1],
        image_size=side * (first[-1] if is_vit else 32),
        layers=(
            _count(shapes, "visual.transformer.resblocks.")
            if is_vit
            else tuple(_count(shapes, f"visual.layer{stage}.") for stage in _STAGES)
        ),
        channels=first[0] if is_vit else shapes["visual.layer1.0.conv1.weight"][0],
        patch=first[-1] if is_vit else None,
        context=shapes["positional_embedding"][0],
        vocabulary=shapes["token_embedding.weight"][0],
        text_width=shapes["ln_final.weight"][0],
        text_layers=_count(shapes, "transformer.resblocks."),
    )


def architecture_of(shapes: Shapes, source: str) -> str:
    """The name of an architecture. Raises UserError where the sizes are those of none that is known."""
    try:
        found = sizes_of(shapes)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{source}: no CLIP with OpenAI's names: {error.args[0] if error.args else 'a tensor'} is missing or "
            "misshapen, by which its architecture would be told; name it with --backbone"
        ) from None
    for name, sizes in _known().items():
        if sizes == found:
            return name
    told = ", ".join(f"{field.name} {value}" for field, value in zip(fields(found), astuple(found), strict=True))
    raise UserError(f"{source}: no architecture of open_clip has these sizes: {told}; name one with --backbone")


def _count(shapes: Shapes, prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def _known() -> dict[str, Sizes]:
    """Sizes of every plain CLIP by name, without what a name says of the activation."""
    known = {"tiny": _of_config(TINY)}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if config is not None and isinstance(config["vision_cfg"].get("layers"), int | list):
            known.setdefault(split_name(name)[0], _of_config(config))
    return known


def _of_config(config: Mapping[str, Any]) -> Sizes:
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers = vision["layers"]
    return Sizes(
        width=config["embed_dim"],
        image_size=vision["image_size"] if isinstance(vision["image_size"], int) else 0,
        layers=layers if isinstance(layers, int) else tuple(layers),
        channels=vision["width"],
        patch=vision.get("patch_size") if isinstance(layers, int) else None,
        context=text.get("context_length", _CONTEXT),
        vocabulary=text.get("vocab_size", CLIP_VOCABULARY),
        text_width=text.get("width", 0),
        text_layers=text.get("layers", 0),
    )
