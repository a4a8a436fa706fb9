"""Which backbones there are, readable without torch: those of `backbone_table.toml`, and open_clip's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.facts import Asset
from benchmark.files import digest_of
from benchmark.structured_files import SMALL, read_json, read_toml

CLIP_VOCABULARY = 49408
LEAST_VOCABULARY = 514
"""CLIP's 256 bytes inside a word and at its end, and the two special tokens."""


@dataclass(frozen=True)
class WeightsSource:
    """Where a weights file comes from: ``file`` is its usual name, ``megabytes`` its rough size."""

    tag: str
    file: str
    url: str
    mirror: str
    megabytes: int
    licence: str


@dataclass(frozen=True)
class BackboneInfo:
    """``width``: d of the embedding. ``image_size``: side of the input in pixels."""

    name: str
    summary: str
    width: int
    image_size: int
    default_weights: str
    sources: tuple[WeightsSource, ...] = ()

    @classmethod
    def of(cls, facts: dict[str, Any]) -> BackboneInfo:
        return cls(**{**facts, "sources": tuple(WeightsSource(**source) for source in facts.get("sources", ()))})


_TABLE = read_toml(Path(__file__).with_suffix(".toml"))

BACKBONES: dict[str, BackboneInfo] = {facts["name"]: BackboneInfo.of(facts) for facts in _TABLE["backbone"]}


def backbone_label(name: str) -> str:
    """What tables, records and folders call a backbone: its name, or that of the user's own file."""
    return file_label(Path(name).expanduser()) if name.endswith(".json") else name


def file_label(path: Path) -> str:
    """An architecture's file by its name and what it holds, since tensors alone do not tell the heads."""
    readable = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in path.stem)
    return f"{readable}-{digest_of(read_json(path, SMALL))[:8]}"


def plain_architectures() -> tuple[str, ...]:
    """Every architecture of open_clip's own list that is a plain CLIP, from its files alone."""
    package = find_spec("open_clip")
    folders = (package.submodule_search_locations if package is not None else None) or ()
    files = sorted(file for folder in folders for file in Path(folder, "model_configs").glob("*.json"))
    plain = [file for file in files if is_plain(read_json(file))]
    return tuple(dict.fromkeys(file.stem.removesuffix("-quickgelu") for file in plain))


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of open_clip is a CLIP with CLIP's own text encoder and tokenizer."""
    text = config["text_cfg"]
    other = config.get("custom_text") or "multimodal_cfg" in config or "hf_model_name" in text
    return not (other or text.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY or "hf_tokenizer_name" in text)


def clip_asset(info: BackboneInfo) -> Asset | None:
    """The default weights of a backbone that is listed by name; None for one that starts at random."""
    source = next((source for source in info.sources if source.tag == info.default_weights), None)
    if source is None:
        return None
    return Asset(
        name=info.name,
        summary=f"weights '{source.tag}' of {info.name}",
        file=source.file,
        megabytes=source.megabytes,
        source=source.url,
        licence=source.licence,
        hub=f"{source.mirror.partition('huggingface.co/')[2]}/open_clip_model.safetensors",
        cache=".cache/clip",
        when="the backbone; --backbone for another",
    )
