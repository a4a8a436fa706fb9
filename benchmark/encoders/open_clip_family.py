"""open_clip's family of backbones: its architectures by name or file, and ``tiny`` of our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.backbone import Backbone, BackboneChoice, BackboneFile
from benchmark.encoders.architectures import architecture_named
from benchmark.encoders.backbone_table import BACKBONES, clip_asset
from benchmark.encoders.backbones import (
    OPEN_CLIP,
    default_weights,
    load_backbone,
    rebuild_backbone,
    require_weights_fit,
)
from benchmark.encoders.hub_tokenizers import hub_folders, require_transformers
from benchmark.encoders.pretrained import RANDOM, normalisation_of, weights_path, with_normalisation
from benchmark.errors import UserError
from benchmark.facts import BackboneInfo
from benchmark.settings import BackboneSettings
from benchmark.weights.assets import described


class OpenClipFamily:
    """A `BackboneFamily`."""

    name = OPEN_CLIP

    @property
    def backbones(self) -> Mapping[str, BackboneInfo]:
        return {name: info for name, info in BACKBONES.items() if info.family == self.name}

    def require_known(self, name: str) -> None:
        architecture_named(name)

    def default_weights(self, name: str) -> str:
        return default_weights(architecture_named(name).label)

    def settled(self, choice: BackboneChoice) -> BackboneSettings:
        return with_normalisation(choice.settings, choice.name, self._weights(choice), choice.assets_root)

    def files(self, choice: BackboneChoice) -> tuple[BackboneFile, ...]:
        architecture = architecture_named(choice.name)
        of_the_hub = [folder.listed(choice.assets_root) for folder in hub_folders(choice.name, architecture.config)]
        if of_the_hub:
            require_transformers(choice.name)
        return (*self._weights_file(choice), *of_the_hub)

    def _weights_file(self, choice: BackboneChoice) -> tuple[BackboneFile, ...]:
        weights = self._weights(choice)
        if weights == RANDOM:
            return ()
        info = self.backbones.get(choice.name)
        asset = clip_asset(info) if info is not None and weights == info.default_weights else None
        what = described(asset) if asset is not None else f"weights {weights} of {choice.name}"
        try:
            return (BackboneFile(what, weights_path(choice.name, weights, choice.assets_root)),)
        except UserError as error:
            return (BackboneFile(what, None, str(error)),)

    def pixels(self, choice: BackboneChoice) -> str:
        weights = self._weights(choice)
        path = None if weights == RANDOM else weights_path(choice.name, weights, choice.assets_root)
        return str(normalisation_of(architecture_named(choice.name).label, weights, path, choice.settings))

    def outline(self, choice: BackboneChoice) -> Backbone:
        settings = choice.settings
        with torch.device("meta"):
            return load_backbone(
                choice.name,
                RANDOM,
                preprocessing=settings.preprocessing,
                rgb_first=settings.rgb_first,
                assets_root=choice.assets_root,
                settings=settings,
            )

    def require_fit(self, choice: BackboneChoice) -> None:
        weights = self._weights(choice)
        if weights != RANDOM:
            require_weights_fit(choice.name, weights, choice.assets_root)

    def load(self, choice: BackboneChoice) -> Backbone:
        settings = choice.settings
        return load_backbone(
            choice.name,
            choice.weights or None,
            preprocessing=settings.preprocessing,
            rgb_first=settings.rgb_first,
            seed=choice.seed,
            assets_root=choice.assets_root,
            settings=settings,
        )

    def rebuild(self, description: Mapping[str, Any], source: str, assets_root: Path | None = None) -> Backbone:
        return rebuild_backbone(description, source, assets_root)

    def _weights(self, choice: BackboneChoice) -> str:
        return choice.weights or self.default_weights(choice.name)
