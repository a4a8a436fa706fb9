"""Which published weights an architecture has, where they lie on disk, and their activation.

Nothing is downloaded. The activation matters because a state dict loads into QuickGELU and GELU
alike, and the wrong one spoils the features by about 1 % without an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from open_clip import pretrained as open_clip_table

from benchmark.encoders.architectures import OWN, Activation, Architecture, architecture_named
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.encoders.preprocessing import CLIP_MEAN, CLIP_STD, Colours, colours
from benchmark.errors import UserError, unknown_name
from benchmark.settings import BackboneSettings
from benchmark.structured_files import SMALL, read_json, typed
from benchmark.weights.assets import in_hub_cache
from benchmark.weights.reading import WeightsFile

RANDOM = "random"
Interpolation = Literal["bicubic", "bilinear"]
_HUB_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
_HUB_FILES = (
    ("open_clip_config.json", "preprocess_cfg", ("mean", "std", "interpolation")),
    ("preprocessor_config.json", "", ("image_mean", "image_std", "resample")),
)
_BILINEAR = ("bilinear", 2)
"""As open_clip's files name it, and by Pillow's number, as transformers' do."""
_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def published(architecture: str) -> dict[str, Mapping[str, Any]]:
    """Tag → open_clip's entry (url, hf_hub, mean, std, quick_gelu) of an architecture."""
    names = (f"{architecture}-quickgelu", architecture)
    return {
        tag: open_clip_table.get_pretrained_cfg(name, tag)
        for name in names
        for tag in open_clip_table.list_pretrained_tags_by_model(name)
    }


@dataclass(frozen=True)
class Normalisation:
    """What a backbone's pixels of 0…1 are normalised with, and how that is known; three numbers each."""

    mean: Colours
    std: Colours
    known_by: str
    interpolation: Interpolation = "bicubic"

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        resized = "" if self.interpolation == "bicubic" else f", resized {self.interpolation}"
        return f"mean {mean}; std {std} ({self.known_by}){resized}"


def normalisation_of(
    label: str, weights: str, path: Path | None, settings: BackboneSettings | None = None
) -> Normalisation:
    """The user's, or what is published of the weights, by their tag, their file's name, or the file beside it.

    CLIP's own where none tells. ``label``: the architecture's; ``path``: the weights' file, None for random ones.
    """
    known = _known_normalisation(label, weights, path)
    if settings is None:
        return known
    known = replace(known, interpolation=settings.interpolation or known.interpolation)
    if not settings.mean or (settings.mean, settings.std) == (known.mean, known.std):
        return known
    asked = "--set backbone.mean and backbone.std"
    return Normalisation(colours(settings.mean), colours(settings.std), asked, known.interpolation)


def _known_normalisation(label: str, weights: str, path: Path | None) -> Normalisation:
    if path is None:
        return Normalisation(CLIP_MEAN, CLIP_STD, "CLIP's own")
    entries = published(label)
    named = weights.lower().replace("-", "_")
    tag = named if named in entries and not is_path(weights) else _tag_in_name(entries, path)
    if tag:
        entry = entries[tag]
        return Normalisation(
            colours(entry.get("mean") or CLIP_MEAN),
            colours(entry.get("std") or CLIP_STD),
            f"published with {tag}",
            "bilinear" if entry.get("interpolation") == "bilinear" else "bicubic",
        )
    return _told_beside(path) or Normalisation(
        CLIP_MEAN, CLIP_STD, "CLIP's own, since the file's name is that of no published weights; --set backbone.mean "
        "and backbone.std for others"
    )  # fmt: skip


def with_normalisation(
    settings: BackboneSettings, name: str, weights: str, assets_root: Path | None
) -> BackboneSettings:
    """The settings with what the weights were trained with, where that is not CLIP's own, so that it is recorded."""
    if weights == RANDOM:
        return settings
    label = architecture_named(name).label
    found = normalisation_of(label, weights, weights_path(name, weights, assets_root))
    changed: dict[str, Any] = {}
    if not settings.mean and (found.mean, found.std) != (CLIP_MEAN, CLIP_STD):
        changed |= {"mean": found.mean, "std": found.std}
    if not settings.interpolation and found.interpolation != "bicubic":
        changed["interpolation"] = found.interpolation
    return settings.model_copy(update=changed) if changed else settings


def _tag_in_name(entries: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """The longest tag that stands in a file's name, or in its repository's in Hugging Face's cache; "" for none."""
    places = [path.name, *(part for part in path.parts if part.startswith("models--"))]
    words = "_".join(re.sub(r"[^a-z0-9]+", "_", place.lower()) for place in places)
    return max((tag for tag in entries if f"_{tag}_" in f"_{words}_"), key=len, default="")


def _told_beside(path: Path) -> Normalisation | None:
    """What a hub's file of preprocessing says beside weights that bear a hub's name."""
    if path.name not in _HUB_NAMES:
        return None
    for name, within, (mean, std, interpolation) in _HUB_FILES:
        beside = path.with_name(name)
        if beside.is_file():
            content = read_json(beside, SMALL)
            told = content.get(within, {}) if within and isinstance(content, dict) else content
            values = {"mean": told.get(mean), "std": told.get(std)} if isinstance(told, dict) else {}
            found = typed(_Told, values, str(beside), "correct it, or --set backbone.mean and backbone.std")
            is_bilinear = isinstance(told, dict) and told.get(interpolation) in _BILINEAR
            known_by = f"told by {name} beside the weights"
            return Normalisation(found.mean, found.std, known_by, "bilinear" if is_bilinear else "bicubic")
    return None


@dataclass(frozen=True)
class _Told:
    mean: Colours
    std: Colours


def activation_of(
    architecture: Architecture, weights: str, file: WeightsFile | None, entry: Mapping[str, Any]
) -> Activation:
    """The activation of weights: their file tells it, or what is published of them (``entry``), or the name.

    Raises UserError where these contradict each other, or none tells.
    """
    label, asked = architecture.label, architecture.activation
    if label in OWN:
        return OWN[label][1]
    published_with = {_activation(entry) for entry in published(label).values()}
    likely = published_with.pop() if len(published_with) == 1 else None
    if likely is None and is_path(weights) and (tag := _tag_in_name(published(label), Path(weights))):
        likely = _activation(published(label)[tag])
    required = _activation(entry) if entry else None
    if file is not None and file.from_openai:
        if required == "gelu":
            raise UserError(
                f"{weights}: published with GELU, but the file found is one of OpenAI's, which use "
                "QuickGELU; name the right file with --weights FILE"
            )
        required = "quickgelu"
    if required is not None and asked is not None and required != asked:
        raise UserError(
            f"--backbone {label} with {asked}: the weights {weights} were trained with {required}; "
            f"use --backbone {label}, or other weights"
        )
    if likely is None and (file is None or architecture.is_file):
        likely = "gelu"
    chosen = required or asked or likely
    if chosen is None:
        raise UserError(
            f"{weights}: nothing in it tells the activation it was trained with; say --backbone "
            f"{label}-quickgelu (OpenAI's weights and all fine-tuned from them) or {label}-gelu"
        )
    return chosen


def _activation(entry: Mapping[str, Any]) -> Activation:
    """The activation that published weights were trained with."""
    return "quickgelu" if entry.get("quick_gelu") else "gelu"


def is_path(weights: str) -> bool:
    """Whether `--weights` names a file rather than a tag."""
    return "/" in weights or weights.endswith(_ENDINGS) or Path(weights).is_file()


def find_weights(architecture: str, tag: str, assets_root: Path | None) -> Path:
    """The file of published weights in ``assets_root`` or the usual caches.

    Raises UserError for an unknown tag, and where no file is found: what was looked for, and
    where to get it.
    """
    entries = published(architecture)
    tag = tag.lower().replace("-", "_")
    if tag not in entries:
        raise unknown_name(f"weights of {architecture}", tag, [*entries, RANDOM])
    url, hub = str(entries[tag].get("url", "")), str(entries[tag].get("hf_hub", ""))
    names = [url.rpartition("/")[2]] if url else []
    names += [f"{architecture}-{tag}.pt", f"{architecture}-{tag}.safetensors"]
    folders = [folder for folder in (assets_root, Path.home() / ".cache" / "clip") if folder is not None]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return in_hub_cache(hub) or _missing(architecture, tag, names, folders, url, hub)


def weights_path(architecture: str, weights: str, assets_root: Path | None) -> Path:
    """The file that `--weights` means, a path or a tag. Raises UserError where it is not on this machine."""
    if not is_path(weights):
        return find_weights(architecture_named(architecture).label, weights, assets_root)
    if not Path(weights).is_file():
        raise UserError(f"--weights {weights}: no such weights file")
    return Path(weights)


def _missing(architecture: str, tag: str, names: list[str], folders: list[Path], url: str, hub: str) -> Path:
    sources, places = ([url] if url else []), ", ".join(map(str, folders))
    if hub:
        repository = hub.rpartition("/")[0]
        sources.append(f"https://huggingface.co/{repository}")
        places += f", and for {repository} in the Hugging Face cache"
    info = BACKBONES.get(architecture)
    sizes = [source.megabytes for source in info.sources if source.tag == tag] if info else []
    size = f" (about {sizes[0]} MB)" if sizes else ""
    raise UserError(
        f"backbone {architecture}: its weights '{tag}' are not on this machine: "
        f"looked for {', '.join(names)} in {places}; get them{size} from {' or '.join(sources)} "
        "and put the file there, or name it with --weights FILE"
    )
