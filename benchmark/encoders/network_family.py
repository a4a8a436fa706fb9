"""A family of backbones by two functions: build the network, and read its weights' file.

A file of the engine or a plug-in that brings networks of its own says ``NetworkFamily(...)``; what it
does not say (where weights lie, whether they fit, how a description is built again) is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.backbone import Backbone, BackboneChoice, BackboneFile, BackboneIdentity
from benchmark.encoders.backbone_table import asset_of
from benchmark.encoders.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing, colours
from benchmark.encoders.pretrained import RANDOM, is_path
from benchmark.errors import UserError, unknown_name
from benchmark.facts import BackboneDescription, BackboneInfo
from benchmark.settings import BackboneSettings
from benchmark.structured_files import typed
from benchmark.weights.assets import described, find_asset, missing
from benchmark.weights.fit import load_into, require_module_fits
from benchmark.weights.reading import read_state_dict


def _own_tensors(path: Path) -> Mapping[str, Tensor]:
    """A file that bears the network's own names."""
    return read_state_dict(path).state_dict


@dataclass(frozen=True)
class NetworkFamily:
    """A family by two functions; a `BackboneFamily`. A plug-in's file says
    ``BACKBONES = NetworkFamily(...)``.

    ``build``: a listed backbone's name to its network, with weights that torch's generator draws. ``read``: a
    weights file to tensors by the names of the network's state dict, other entries left out. ``fitted``: those
    tensors for a network of this size, where a file of another one serves (positions that are enlarged).
    """

    name: str
    infos: tuple[BackboneInfo, ...]
    build: Callable[[str], Backbone]
    read: Callable[[Path], Mapping[str, Tensor]] = _own_tensors
    fitted: Callable[[Backbone, Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda network, tensors: tensors

    @property
    def backbones(self) -> Mapping[str, BackboneInfo]:
        return {info.name: info for info in self.infos}

    def require_known(self, name: str) -> None:
        self._info(name)

    def default_weights(self, name: str) -> str:
        return self._info(name).default_weights

    def settled(self, choice: BackboneChoice) -> BackboneSettings:
        info = self._info(choice.name)
        if choice.settings.mean or not info.mean:
            return choice.settings
        return choice.settings.model_copy(update={"mean": colours(info.mean), "std": colours(info.std)})

    def files(self, choice: BackboneChoice) -> tuple[BackboneFile, ...]:
        weights = choice.weights or self.default_weights(choice.name)
        if weights == RANDOM:
            return ()
        if is_path(weights):
            path = Path(weights)
            there = path.is_file()
            what = f"weights {weights} of {choice.name}"
            return (BackboneFile(what, path if there else None, f"--weights {weights}: no such weights file"),)
        info = self._info(choice.name)
        source = next((source for source in info.sources if source.tag == weights), None)
        if source is None:
            raise unknown_name(f"weights of {info.name}", weights, [*(s.tag for s in info.sources), RANDOM])
        asset = asset_of(info, source)
        found = find_asset(asset, choice.assets_root)
        return (BackboneFile(described(asset), found, "" if found else str(missing(asset, choice.assets_root))),)

    def pixels(self, choice: BackboneChoice) -> str:
        preprocessing = self._preprocessing(choice)
        mean, std = (", ".join(f"{value:.4g}" for value in part) for part in (preprocessing.mean, preprocessing.std))
        return f"mean {mean}; std {std}; {preprocessing.interpolation}"

    def outline(self, choice: BackboneChoice) -> Backbone:
        with torch.device("meta"):
            return self._built(choice)

    def require_fit(self, choice: BackboneChoice) -> None:
        path = self._weights_file(choice)
        if path is not None:
            outline = self.outline(choice)
            require_module_fits(outline, self.fitted(outline, self.read(path)), f"{path} as {choice.name}")

    def load(self, choice: BackboneChoice) -> Backbone:
        path = self._weights_file(choice)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(choice.seed)
            backbone = self._built(choice)
        if path is not None:
            load_into(backbone, self.fitted(backbone, self.read(path)), f"{path} as {choice.name}")
        return backbone

    def rebuild(self, description: Mapping[str, Any], source: str, assets_root: Path | None = None) -> Backbone:
        told = typed(BackboneDescription, dict(description), source, "it is damaged, write the file again")
        with torch.random.fork_rng(devices=[]):  # its weights are loaded next
            backbone = self._built(BackboneChoice(told.name, told.weights))
        backbone.preprocessing = Preprocessing.of_key(told.preprocessing, source)
        backbone.identity = replace(backbone.identity, weights=told.weights)
        return backbone

    def _built(self, choice: BackboneChoice) -> Backbone:
        backbone = self.build(self._info(choice.name).name)
        weights = choice.weights or self.default_weights(choice.name)
        label = Path(weights).stem if is_path(weights) else weights
        backbone.identity = BackboneIdentity(self.name, choice.name, label)
        backbone.preprocessing = self._preprocessing(choice)
        return backbone.eval()

    def _preprocessing(self, choice: BackboneChoice) -> Preprocessing:
        info, settings = self._info(choice.name), choice.settings
        mean, std = settings.mean or info.mean or CLIP_MEAN, settings.std or info.std or CLIP_STD
        return Preprocessing(
            settings.preprocessing,
            info.image_size,
            mean=colours(mean),
            std=colours(std),
            rgb_first=settings.rgb_first,
            interpolation=settings.interpolation or "bicubic",
        )

    def _weights_file(self, choice: BackboneChoice) -> Path | None:
        """The one that is read; None for random weights."""
        for file in self.files(choice):
            if file.path is None:
                raise UserError(file.missing)
            return file.path
        return None

    def _info(self, name: str) -> BackboneInfo:
        if name not in self.backbones:
            raise unknown_name("backbone", name, self.backbones, "list backbones")
        return self.backbones[name]
