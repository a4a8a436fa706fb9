"""Which backbones there are, readable without torch: those of `backbone_table.toml`, and open_clip's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.facts import Asset, BackboneInfo, WeightsSource
from benchmark.files import digest_of
from benchmark.structured_files import SMALL, read_json, read_toml

if TYPE_CHECKING:
    from benchmark.backbone import BackboneFamily

CLIP_VOCABULARY = 49408
LEAST_VOCABULARY = 514
"""CLIP's 256 bytes inside a word and at its end, and the two special tokens."""


_TABLE = read_toml(Path(__file__).with_suffix(".toml"))



def _info(facts: dict[str, Any]) -> BackboneInfo:
    return BackboneInfo(**{**facts, "sources": tuple(WeightsSource(**source) for source in facts.get("sources", ()))})


BACKBONES: dict[str, BackboneInfo] = {facts["name"]: _info(facts) for facts in _TABLE["backbone"]}


def backbone_label(name: str) -> str:
    """What tables, records and folders call a backbone: its name, or that of the user's own file."""
    return file_label(Path(name).expanduser()) if name.endswith(".json") else name


def file_label(path: Path) -> str:
    """An architecture's file by its name and what it holds, since tensors alone do not tell the heads."""
    readable = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in path.stem)
    return f"{readable}-{digest_of(read_json(path, SMALL))[:8]}"


def all_architectures() -> tuple[str, ...]:
    """Every architecture of open_clip's own list, from its files alone."""
    package = find_spec("open_clip")
    folders = (package.submodule_search_locations if package is not None else None) or ()
    files = sorted(file for folder in folders for file in Path(folder, "model_configs").glob("*.json"))
    return tuple(dict.fromkeys(file.stem.removesuffix("-quickgelu") for file in files))


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of open_clip is a CLIP with CLIP's own text encoder and tokenizer."""
    text = config["text_cfg"]
    other = config.get("custom_text") or "multimodal_cfg" in config or "hf_model_name" in text
    return not (other or text.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY or "hf_tokenizer_name" in text)


def clip_asset(info: BackboneInfo) -> Asset | None:
    """The default weights of a backbone that is listed by name; None for one that starts at random."""
    source = next((source for source in info.sources if source.tag == info.default_weights), None)
    return None if source is None else asset_of(info, source)


def asset_of(info: BackboneInfo, source: WeightsSource) -> Asset:
    """One of its weights files, as it is looked for on disk."""
    repository = source.mirror.partition("huggingface.co/")[2]
    return Asset(
        name=info.name,
        summary=f"weights '{source.tag}' of {info.name}",
        file=source.file,
        megabytes=source.megabytes,
        source=source.url,
        licence=source.licence,
        hub=f"{repository}/open_clip_model.safetensors" if repository else "",
        cache=".cache/clip",
        when="the backbone; --backbone for another",
    )


def listed(families: Sequence[BackboneFamily] = ()) -> Iterator[BackboneInfo]:
    """All that are listed by name: the engine's, and those of the families that files from outside bring."""
    yield from BACKBONES.values()
    for family in families:
        yield from family.backbones.values()
