"""The backbones that are listed by name, from `backbone_table.toml`: readable without torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.facts import Asset


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


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

BACKBONES: dict[str, BackboneInfo] = {facts["name"]: BackboneInfo.of(facts) for facts in _TABLE["backbone"]}


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
