"""How many parameters each part of a method has, beside the numbers of its paper or release.

The published ones are facts of the method, [[size]] in its TOML.
Networks are built without memory for their weights (torch's "meta" device): only shapes are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from benchmark.backbone import GLOBAL, Output
from benchmark.facts import Part, PublishedSizes
from benchmark.method import Specification
from benchmark.registry import Registry
from benchmark.stage_building import build_stage


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
        for sizes in registry.sizes(name):
            counts = {n: p.numel() for n, p in _network(registry.specification(name), sizes).named_parameters()}
            for part in sizes.parts:
                found = sum(count for parameter, count in counts.items() if parameter.startswith(part.names))
                yield Counted(name, sizes.form, part, found)


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
        backbone: Any = SimpleNamespace(width=sizes.width, picture_outputs={GLOBAL: Output((sizes.width,))})
        if sizes.backbone:
            from benchmark.backbone import BackboneChoice
            from benchmark.encoders.families import load_choice

            backbone = load_choice(BackboneChoice(sizes.backbone, "random"))
        settings = specification.settings.model_validate(dict(sizes.settings))
        stage = specification.stages(settings, "pretrained")[-1]
        words = ["".join(letters) for letters in islice(product(ascii_lowercase, repeat=4), sizes.words)]
        return build_stage(stage, backbone, settings, stage.settings(), texts=lambda: words).method
