"""What the cache of features holds, what it takes on the disk, and how it is freed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError, unknown_name
from benchmark.files import disk_bytes
from benchmark.structured_files import SMALL, read_json

_NOTE = "encoder.json"


@dataclass(frozen=True)
class KeptFeatures:
    """One folder of the cache: of an encoder's texts, or of a list of pictures. ``encoder``: its own folder's name."""

    encoder: str
    what: str
    architecture: str
    precision: str
    bytes: int

    @property
    def name(self) -> str:
        """What `--remove` calls it."""
        return f"{self.encoder}/{self.what}"


def kept_features(folder: Path) -> Iterator[KeptFeatures]:
    """All that lies in the cache, encoder by encoder; folders that another program made are left out."""
    for note in sorted(folder.glob(f"*/{_NOTE}")):
        told = read_json(note, SMALL)
        architecture, precision = (str(told.get(key, "unknown")) for key in ("architecture", "precision"))
        for part in sorted(path for path in note.parent.iterdir() if path.is_dir()):
            yield KeptFeatures(note.parent.name, part.name, architecture, precision, _size(part))
        texts = sum(disk_bytes(path) for path in note.parent.glob("texts.*"))
        yield KeptFeatures(note.parent.name, "texts", architecture, precision, texts)


def format_kept(kept: list[KeptFeatures], folder: Path) -> str:
    """A line for each, and the sum."""
    lines = [f"{part.name}: {part.architecture}, {part.precision}, {part.bytes / 2**20:,.1f} MiB" for part in kept]
    total = sum(part.bytes for part in kept)
    return "\n".join([*lines, f"{total / 2**20:,.1f} MiB in {folder}; `features --remove NAME` frees an entry"])


def remove(names: list[str], folder: Path) -> int:
    """Delete entries by the names that `kept_features` gives, or all of an encoder by its folder's; gives their bytes.

    Raises UserError for a name that is not there; nothing is deleted then.
    """
    kept = list(kept_features(folder))
    known = {part.name for part in kept} | {part.encoder for part in kept}
    for name in names:
        if name not in known:
            raise unknown_name(f"entry of {folder}", name, known)
    freed = 0
    for part in kept:
        if part.name in names or part.encoder in names:
            freed += part.bytes
            _delete(folder / part.encoder, part.what)
    for encoder in {part.encoder for part in kept} & set(names):
        shutil.rmtree(folder / encoder, ignore_errors=True)
    return freed


def _delete(encoder: Path, what: str) -> None:
    try:
        if what == "texts":
            for path in encoder.glob("texts.*"):
                path.unlink()
        else:
            shutil.rmtree(encoder / what)
    except OSError as error:
        raise UserError(f"{encoder / what}: cannot be deleted ({error.strerror}); is a run using it?") from None


def _size(folder: Path) -> int:
    return sum(disk_bytes(path) for path in folder.rglob("*") if path.is_file())
