"""CLIP's architectures: their configurations by name, and which one a state dict is of, told from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import open_clip
import torch
from pydantic import BaseModel, Field

from benchmark.encoders.backbone_table import (
    BACKBONES,
    CLIP_VOCABULARY,
    LEAST_VOCABULARY,
    all_architectures,
    file_label,
    is_plain,
)
from benchmark.encoders.open_clip_networks import build_network
from benchmark.errors import UserError, unknown_name
from benchmark.structured_files import SMALL, read_json, typed
from benchmark.weights.fit import Shapes

Activation = Literal["quickgelu", "gelu"]

_PARTS = ("embed_dim", "vision_cfg", "text_cfg")
_FURTHER = ("multimodal_cfg", "custom_text", "init_logit_scale", "init_logit_bias")
_Count = Annotated[int, Field(ge=1, le=512)]
_SUFFIXES: tuple[Activation, ...] = ("quickgelu", "gelu")
_CONTEXT = 77
_STAGES = range(1, 5)

TINY: Mapping[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": 4096, "width": 128, "heads": 2, "layers": 2},
}
"""For drawn pictures on two CPU cores. The first 4,096 of CLIP's tokens suffice, and spare the
optimiser 5.8 of 8.1 M parameters in every step."""

TINY_VIT: Mapping[str, Any] = {
    **TINY,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "head_width": 32, "patch_size": 16},
}
"""The same with a ViT of 16 patches in place of the ResNet, for methods that read its tokens."""

OWN: Mapping[str, tuple[Mapping[str, Any], Activation]] = {
    "tiny": (TINY, "quickgelu"),
    "tiny-vit": (TINY_VIT, "quickgelu"),
}


@dataclass(frozen=True)
class Architecture:
    """What `--backbone` names: a label, open_clip's configuration, and the activation asked for, None for none.

    ``is_file``: it is the user's own, which no name stands for; the label then bears the configuration's digest.
    """

    label: str
    config: Mapping[str, Any]
    activation: Activation | None
    is_file: bool = False

    @property
    def image_size(self) -> int:
        """S, in pixels."""
        side = self.config["vision_cfg"]["image_size"]
        return int(side[0] if isinstance(side, list) else side)

    @property
    def is_plain(self) -> bool:
        """A CLIP with CLIP's own text encoder and tokenizer, or with the first of its tokens, as ``tiny``."""
        return is_plain(self.config) or self.label in OWN or (self.is_file and _is_small_clip(self.config))


def architecture_named(name: str) -> Architecture:
    """``RN50x4``, ``ViT-B-32-gelu``, or a JSON file in the form of open_clip's configurations.

    Raises UserError for what is unknown, or a file that no network can be built of.
    """
    if name.endswith(".json"):
        return _of_file(Path(name).expanduser())
    label, asked = split_name(name)
    return Architecture(label, backbone_configuration(name), asked)


def _of_file(path: Path) -> Architecture:
    config = read_json(path, SMALL, "name a configuration of open_clip's form")
    return own_architecture(config, file_label(path), f"--backbone {path}")


def own_architecture(config: Any, label: str, where: str) -> Architecture:
    """An architecture of the user's own; raises UserError where nothing can be built of the configuration."""
    typed(_ClipConfiguration, config, where, "open_clip's model_configs show the form")
    sizes = {key: config[key] for key in (*_PARTS, *_FURTHER) if key in config}
    if config["text_cfg"].get("hf_model_name"):
        return Architecture(label, sizes, _asked_activation(config), is_file=True)
    try:
        with torch.device("meta"):
            build_network(label, sizes, quick_gelu=False, assets_root=None)
    except UserError:
        raise
    except Exception as error:  # whatever torch and timm say of sizes that do not go together
        told = str(error).partition("\n")[0]
        raise UserError(f"{where}: no network can be built of it ({type(error).__name__}: {told})") from None
    return Architecture(label, sizes, _asked_activation(config), is_file=True)


def _asked_activation(config: Mapping[str, Any]) -> Activation | None:
    if "quick_gelu" not in config:
        return None
    return "quickgelu" if config["quick_gelu"] else "gelu"


def _is_small_clip(config: Mapping[str, Any]) -> bool:
    """A plain CLIP but for its vocabulary, of which it has the first tokens."""
    text = config["text_cfg"]
    as_clip = {**config, "text_cfg": {**text, "vocab_size": CLIP_VOCABULARY}}
    return is_plain(as_clip) and int(text.get("vocab_size", CLIP_VOCABULARY)) <= CLIP_VOCABULARY


_Size = Annotated[int, Field(ge=1, le=65_536)]


class _VisionSizes(BaseModel):
    image_size: Annotated[int, Field(ge=1, le=4096)]
    layers: _Count | Annotated[list[_Count], Field(min_length=4, max_length=4)] = 12
    width: _Size = 768
    patch_size: _Size | None = 16
    head_width: _Size = 64


class _TextSizes(BaseModel):
    context_length: _Size = _CONTEXT
    vocab_size: Annotated[int, Field(ge=LEAST_VOCABULARY, le=2**20)] = CLIP_VOCABULARY
    width: _Size = 512
    heads: _Size = 8
    layers: _Count = 12


class _ClipConfiguration(BaseModel):
    """The sizes that bound how much is allocated; what else a configuration holds is open_clip's to read."""

    embed_dim: _Size
    vision_cfg: _VisionSizes
    text_cfg: _TextSizes
    quick_gelu: bool = False


def split_name(name: str) -> tuple[str, Activation | None]:
    """``RN50x4-quickgelu`` → ``RN50x4`` and the activation asked for; None where none is named."""
    for suffix in _SUFFIXES:
        if name.endswith(f"-{suffix}"):
            return name.removesuffix(f"-{suffix}"), suffix
    return name, None


def backbone_configuration(name: str) -> Mapping[str, Any]:
    """open_clip's configuration of a name; raises UserError for what is unknown."""
    architecture, asked = split_name(name)
    if architecture in OWN and asked is None:
        return OWN[architecture][0]
    known = {split_name(model)[0] for model in open_clip.list_models()}
    config: dict[str, Any] | None = None
    if architecture in known:
        config = open_clip.get_model_config(architecture)
    if config is None and architecture in known:
        config = open_clip.get_model_config(f"{architecture}-quickgelu")
    if config is None:
        raise unknown_name("backbone", name, {*BACKBONES, *all_architectures()}, "list backbones")
    return config


def openai_architecture(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's configuration from OpenAI's sizes (``embed_dim``, ``image_resolution``, ...).

    ``vision_layers`` is a list of four for a ModifiedResNet, a number for a ViT.
    """
    is_resnet = not isinstance(sizes["vision_layers"], int)
    head_features = sizes["vision_width"] * (32 if is_resnet else 1)
    return {
        "embed_dim": sizes["embed_dim"],
        "vision_cfg": {
            "image_size": sizes["image_resolution"],
            "layers": sizes["vision_layers"],
            "width": sizes["vision_width"],
            "patch_size": sizes["vision_patch_size"],
            "head_width": head_features // sizes["vision_heads"],
        },
        "text_cfg": {
            "context_length": sizes["context_length"],
            "vocab_size": sizes["vocab_size"],
            "width": sizes["transformer_width"],
            "heads": sizes["transformer_heads"],
            "layers": sizes["transformer_layers"],
        },
    }


@dataclass(frozen=True)
class ClipSizes:
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


def sizes_of(shapes: Shapes) -> ClipSizes:
    """Sizes from the shapes of a state dict. Raises KeyError where a tensor that tells one is missing."""
    is_vit = "visual.proj" in shapes
    positions = shapes["visual.positional_embedding" if is_vit else "visual.attnpool.positional_embedding"][0]
    side = math.isqrt(positions - 1)
    first = shapes["visual.conv1.weight"]
    return ClipSizes(
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


def _known() -> dict[str, ClipSizes]:
    """Sizes of every plain CLIP by name, without what a name says of the activation."""
    known = {name: _of_config(config) for name, (config, _) in OWN.items()}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if config is not None and isinstance(config["vision_cfg"].get("layers"), int | list):
            if is_plain(config):
                known.setdefault(split_name(name)[0], _of_config(config))
    return known


def _of_config(config: Mapping[str, Any]) -> ClipSizes:
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers = vision["layers"]
    return ClipSizes(
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
