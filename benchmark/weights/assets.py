"""Files from outside: looked for on disk by their declaration, and what to tell where one is not found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.facts import Asset

_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class RequiredAsset:
    """An asset that is asked for. ``given``: the file that the user named for it, or ""."""

    asset: Asset
    given: str = ""

    def find(self, assets_root: str | Path | None) -> Path | None:
        """The file, None where it is not on this machine (or optional and not asked for)."""
        if self.given:
            return given_file(self.given, assets_root)
        return None if self.asset.optional else find_asset(self.asset, assets_root)

    def line(self, assets_root: str | Path | None) -> str:
        """File, size, licence and source, and where it was found."""
        found = self.find(assets_root)
        if self.asset.optional and not self.given:
            return f"{described(self.asset)}: optional, not given"
        return f"{described(self.asset)}: {f'found at {found}' if found else 'NOT FOUND'}"

    def problem(self, assets_root: str | Path | None) -> str:
        """What is missing and where to get it; "" where nothing is."""
        if self.find(assets_root) is not None or (self.asset.optional and not self.given):
            return ""
        return str(missing(self.asset, assets_root, self.given))


def find_asset(asset: Asset, assets_root: str | Path | None) -> Path | None:
    """The file under ``assets_root``, by any of its names, or in another program's cache."""
    root = Path(assets_root).expanduser() if assets_root else None
    for path in [root / name for name in names(asset) if root is not None]:
        if path.is_file():
            return path
    kept = Path.home() / asset.cache / asset.file
    if asset.cache and kept.is_file():
        return kept
    return in_hub_cache(asset.hub)


def names(asset: Asset) -> list[str]:
    """Where the file may lie below a folder: by its own name, or as its repository was downloaded."""
    return [asset.file, *([asset.hub.partition("/")[2], asset.hub] if asset.hub else [])]


def given_file(given: str, assets_root: str | Path | None) -> Path | None:
    """A file that the user named: a path, or a name under ``assets_root``."""
    places = [Path(given).expanduser(), *([Path(assets_root).expanduser() / given] if assets_root else [])]
    return next((path for path in places if path.is_file()), None)


def described(asset: Asset) -> str:
    """One line: file, size, licence, source."""
    return f"{asset.file} ({asset.megabytes:,} MB, {asset.licence}), {asset.source}"


def missing(asset: Asset, assets_root: str | Path | None, given: str = "") -> UserError:
    """An error that names file, size, source and licence, and what else can be done."""
    folder = f"in {assets_root}" if assets_root else "no --assets-root is given"
    if given:
        looked = f"no such file, nor one of that name {folder}" if assets_root else "no such file"
        return UserError(f"{asset.summary} {given}: {looked}; get {described(asset)}, or leave it out")
    looked = f"looked for {' or '.join(names(asset))} {folder}" if assets_root else folder
    cache = " and in the Hugging Face cache" if asset.hub and assets_root else ""
    return UserError(
        f"{asset.summary}: {asset.file} is not on this machine ({looked}{cache}); get it "
        f"({asset.megabytes:,} MB, {asset.licence}) from {asset.source} and name the folder with --assets-root"
    )


def in_hub_cache(hub: str) -> Path | None:
    """The file in Hugging Face's cache; ``hub`` is ``owner/repository/`` and maybe a file name."""
    from huggingface_hub import try_to_load_from_cache

    if not hub:
        return None
    repository, _, file = hub.rpartition("/")
    for name in (file,) if file else _CLIP_FILES:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None
