"""Which published weights an architecture has, where they lie on disk, and their activation.

Nothing is downloaded. The activation matters because a state dict loads into QuickGELU and GELU
alike, and the wrong one spoils the features by about 1 % without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip import pretrained as open_clip_table

from benchmark.encoders.architectures import OWN, Activation, split_name
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.errors import UserError, unknown_name
from benchmark.weights.assets import in_hub_cache
from benchmark.weights.reading import WeightsFile

RANDOM = "random"
_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def published(architecture: str) -> dict[str, Mapping[str, Any]]:
    """Tag → open_clip's entry (url, hf_hub, mean, std, quick_gelu) of an architecture."""
    names = (f"{architecture}-quickgelu", architecture)
    return {
        tag: open_clip_table.get_pretrained_cfg(name, tag)
        for name in names
        for tag in open_clip_table.list_pretrained_tags_by_model(name)
    }


def activation_of(name: str, weights: str, file: WeightsFile | None, entry: Mapping[str, Any]) -> Activation:
    """The activation of weights: their file tells it, or what is published of them (``entry``), or the name.

    Raises UserError where these contradict each other, or none tells.
    """
    architecture, asked = split_name(name)
    if architecture in OWN:
        return OWN[architecture][1]
    published_with = {_activation(entry) for entry in published(architecture).values()}
    likely = published_with.pop() if len(published_with) == 1 else None
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
            f"--backbone {name}: the weights {weights} were trained with {required}; "
            f"use --backbone {architecture}, or other weights"
        )
    if file is None and likely is None:
        likely = "gelu"
    chosen = required or asked or likely
    if chosen is None:
        raise UserError(
            f"{weights}: nothing in it tells the activation it was trained with; say --backbone "
            f"{architecture}-quickgelu (OpenAI's weights and all fine-tuned from them) or {architecture}-gelu"
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
        return find_weights(split_name(architecture)[0], weights, assets_root)
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
