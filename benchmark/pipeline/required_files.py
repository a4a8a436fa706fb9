"""What every method reads from outside: file, size, source, licence, and whether it is on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.encoders.backbone_table import BACKBONES, clip_asset
from benchmark.facts import Asset
from benchmark.registry import Registry
from benchmark.weights.assets import find_asset

CLIP = "clip"
"""What methods on CLIP's features call its weights; those of another backbone bear its own name."""

_BACKBONE = "RN50x4"


@dataclass(frozen=True)
class FileOfMethod:
    """One file that a method may ask for. ``found``: its path, "" where it is not on this machine."""

    method: str
    name: str
    summary: str
    file: str
    megabytes: int
    source: str
    licence: str
    when: str
    optional: bool
    found: str


def files_of_methods(registry: Registry, assets_root: Path | None) -> Iterator[FileOfMethod]:
    """Of every method on the shelf, in its order; methods that read nothing from outside are left out."""
    assets = registry.assets() | {name: asset for name, info in BACKBONES.items() if (asset := clip_asset(info))}
    for method in registry.methods().values():
        for name in method.required_files:
            declared = assets.get(_BACKBONE if name == CLIP else name)
            # A plug-in may name what it reads in plain words, without declaring a file.
            asset = declared or Asset(name, name, "", 0, "", "")
            found = find_asset(asset, assets_root) if asset.file else None
            yield FileOfMethod(
                method=method.name,
                name=asset.name,
                summary=asset.summary,
                file=asset.file,
                megabytes=asset.megabytes,
                source=asset.source,
                licence=asset.licence,
                when=_settings(method.required_with[name]) if name in method.required_with else asset.when,
                optional=asset.optional,
                found=str(found or ""),
            )


def _settings(values: Mapping[str, Any]) -> str:
    return " and ".join(f"method.{key}={value}" for key, value in values.items())


def format_files(files: Sequence[FileOfMethod]) -> str:
    """Each file once, with the methods that ask for it."""
    blocks = []
    for file in {file.name: file for file in files}.values():
        asking: dict[str, list[str]] = {}
        for other in files:
            if other.name == file.name:
                asking.setdefault(other.when, []).append(other.method)
        lines = [f"{file.file or file.name}: {file.summary}{', optional' if file.optional else ''}"]
        for when, methods in asking.items():
            lines.append(f"for      {', '.join(methods)}" + (f" (with {when})" if when else ""))
        if file.file:
            lines += [f"size     {file.megabytes:,} MB", f"licence  {file.licence}", f"source   {file.source}"]
            lines += [f"here     {file.found or 'not found'}"]
        blocks.append("\n  ".join(lines))
    return "\n\n".join([*blocks, "Looked for under --assets-root and in the usual caches; nothing is downloaded."])
