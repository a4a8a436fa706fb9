"""Which published weights an architecture has, where they lie on disk, and their activation.

Nothing is downloaded. The activation matters because a state dict loads into QuickGELU and GELU
alike, and the wrong one spoils the features by about 1 % without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from open_clip import pretrained as open_clip_table

from benchmark.encoders.backbone_table import BACKBONES
from benchmark.errors import UserError, unknown_name
from benchmark.weights.assets import in_hub_cache

Activation = Literal["quickgelu", "gelu"]

RANDOM = "random"
_SUFFIXES: tuple[Activation, ...] = ("quickgelu", "gelu")
_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def split_name(name: str) -> tuple[str, Activation | None]:
    """``RN50x4-quickgelu`` → ``RN50x4`` and the activation asked for; None where none is named."""
    for suffix in _SUFFIXES:
        if name.endswith(f"-{suffix}"):
            return name.removesuffix(f"-{suffix}"), suffix
    return name, None


def published(architecture: str) -> dict[str, Mapping[str, Any]]:
    """Tag → open_clip's entry (url, hf_hub, mean, std, quick_gelu) of an architecture."""
    names = (f"{architecture}-quickgelu", architecture)
    return {
        tag: open_clip_table.get_pretrained_cfg(name, tag)
        for name in names
        for tag in open_clip_table.list_pretrained_tags_by_model(name)
    }


def tag_activation(entry: Mapping[str, Any]) -> Activation:
    """The activation that published weights were trained with."""
    return "quickgelu" if entry.get("quick_gelu") else "gelu"


def common_activation(architecture: str) -> Activation | None:
    """The activation of all published weights of an architecture; None where they differ or none exist."""
    found = {tag_activation(entry) for entry in published(architecture).values()}
    return found.pop() if len(found) == 1 else None


def choose_activation(
    name: str, source: str, required: Activation | None, likely: Activation | None
) -> Activation:
    """QuickGELU or GELU, from what the weights require, what the name asks for, what is likely.

    Raises UserError where name and weights contradict each other, and where nothing decides.
    """
    architecture, asked = split_name(name)
    if required is not None and asked is not None and required != asked:
        raise UserError(
            f"--backbone {name}: the weights {source} were trained with {required}; "
            f"use --backbone {architecture}, or other weights"
        )
    chosen = required or asked or likely
    if chosen is None:
        raise UserError(
            f"{source}: nothing in it tells the activation it was trained with; say --backbone "
            f"{architecture}-quickgelu (OpenAI's weights and all fine-tuned from them) or {architecture}-gelu"
        )
    return chosen


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
