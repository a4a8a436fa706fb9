"""How many parameters each part of a method has, beside the numbers of its paper or release.

They stand in the method's companion (`Registry.companion`) as ``SIZES``: by the method's name, the network in one
or more of its published forms, by name.
Networks are built without memory for their weights (torch's "meta" device): only shapes are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from benchmark.method import Specification
from benchmark.registry import Registry
from benchmark.stage_building import build_stage


@dataclass(frozen=True)
class Part:
    """A part of a network: beginnings of its parameters' names, and how many a paper or release has there.

    ``within``: how far the published number may be rounded. ``remark``: why ours may be another.
    """

    title: str
    names: tuple[str, ...]
    published: int
    within: int = 0
    remark: str = ""


@dataclass(frozen=True)
class PublishedSizes:
    """A method's numbers of parameters, beside the published ones.

    Counted on the last stage's network with these settings, ``words`` different words of training
    texts, and a backbone of this width ("" for a method that has no part in the backbone).
    """

    parts: tuple[Part, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    width: int = 640
    backbone: str = ""
    words: int = 0


@dataclass(frozen=True)
class Counted:
    """One part of one form of a method."""

    method: str
    form: str
    part: Part
    found: int

    @property
    def agrees(self) -> bool:
        return abs(self.found - self.part.published) <= self.part.within


def count_parts(registry: Registry, method: str = "") -> Iterator[Counted]:
    """Every declared part of a method, or of all."""
    for name in [method] if method else registry.methods():
        specification = registry.specification(name)
        published: Mapping[str, PublishedSizes] = getattr(registry.companion(name), "SIZES", {}).get(name, {})
        for form, sizes in published.items():
            network = _network(specification, sizes)
            for part in sizes.parts:
                yield Counted(name, form, part, _count(network, part.names))


def size_table(registry: Registry) -> str:
    """Markdown: one row per part."""
    rows = [
        (
            counted.method,
            counted.form,
            counted.part.title,
            f"{counted.found:,}",
            f"{counted.part.published:,}" + (f" ± {counted.part.within:,}" if counted.part.within else ""),
            counted.part.remark if counted.agrees else f"DIFFERS {counted.part.remark}".strip(),
        )
        for counted in count_parts(registry)
    ]
    columns = ("method", "form", "part", "parameters", "published", "remark")
    align = ("left", "left", "left", "right", "right", "left")
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True, colalign=align)


def _network(specification: Specification, sizes: PublishedSizes) -> nn.Module:
    with torch.device("meta"):
        backbone: Any = SimpleNamespace(width=sizes.width)
        if sizes.backbone:
            from benchmark.encoders.backbones import load_backbone

            backbone = load_backbone(sizes.backbone, "random")
        settings = specification.settings.model_validate(dict(sizes.settings))
        stage = specification.stages(settings, "pretrained")[-1]
        words = ["".join(letters) for letters in islice(product(ascii_lowercase, repeat=4), sizes.words)]
        return build_stage(stage, backbone, settings, stage.settings(), texts=lambda: words).method


def _count(network: nn.Module, names: tuple[str, ...]) -> int:
    """Entries of all parameters whose names begin so."""
    return sum(p.numel() for name, p in network.named_parameters() if name.startswith(names))
