"""What every method needs from outside: file, size, source, licence, and whether it is on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.encoders.backbone_table import BACKBONES, clip_asset
from benchmark.facts import Asset
from benchmark.registry import Registry
from benchmark.weights.assets import find_asset

CLIP = "clip"
_BACKBONE = "RN50x4"


@dataclass(frozen=True)
class MethodNeed:
    """One file that a method may need. ``found``: its path, "" where it is not on this machine."""

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


def needs_of_methods(registry: Registry, assets_root: Path | None) -> list[MethodNeed]:
    """Of every method on the shelf, in its order; methods that need nothing are left out."""
    return list(_needs(registry, assets_root))


def _needs(registry: Registry, assets_root: Path | None) -> Iterator[MethodNeed]:
    assets = registry.assets()
    clip = clip_asset(BACKBONES[_BACKBONE])
    for method in registry.methods().values():
        for name in method.required_files:
            asset = clip if name == CLIP else assets.get(name)
            # A plug-in may name what it needs in plain words, without declaring a file.
            yield _need(method.name, asset or Asset(name, name, "", 0, "", ""), assets_root)


def _need(method: str, asset: Asset, assets_root: Path | None) -> MethodNeed:
    found = find_asset(asset, assets_root) if asset.file else None
    return MethodNeed(
        method=method,
        name=asset.name,
        summary=asset.summary,
        file=asset.file,
        megabytes=asset.megabytes,
        source=asset.source,
        licence=asset.licence,
        when=asset.when,
        optional=asset.optional,
        found=str(found or ""),
    )


def told(needs: Sequence[MethodNeed]) -> str:
    """Each file once, with the methods that ask for it."""
    blocks = []
    for need in {need.name: need for need in needs}.values():
        methods = [other.method for other in needs if other.name == need.name]
        lines = [f"{need.file or need.name}: {need.summary}{', optional' if need.optional else ''}"]
        lines += [f"for      {', '.join(methods)}" + (f" (with {need.when})" if need.when else "")]
        if need.file:
            lines += [f"size     {need.megabytes:,} MB", f"licence  {need.licence}", f"source   {need.source}"]
            lines += [f"here     {need.found or 'not found'}"]
        blocks.append("\n  ".join(lines))
    return "\n\n".join([*blocks, "Looked for under --assets-root and in the usual caches; nothing is downloaded."])
