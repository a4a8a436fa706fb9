"""A folder belongs to one run: what it is stands in `run.json` from the moment it is begun.

A folder of another run (method, data, settings, seed) is refused; `--overwrite` replaces it, whole. Only
files that this program writes are ever removed, and only where its mark or a record of its own stands:
anybody's other files stay, wherever `--output` points.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import UserError
from benchmark.files import atomic_write_json, file_digest, folder_lock, remove_partial
from benchmark.records.record import RECORD_NAME, Record, read_record
from benchmark.structured_files import read_json
from benchmark.training.resumable_state import format_differences
from benchmark.weights.checkpoints import read_header

MARK = "run.json"
UNTRAINED = "weights/untrained.safetensors"
"""Of a method with nothing of its own to train: what it is, and which encoder it scores."""

Kind = Literal["run", "evaluation", "embeddings", "rankings", "joined"]

_FORMAT = "cir-benchmark folder 1"
_OWN_WEIGHTS = ("weights/selected.safetensors", "weights/last.safetensors", UNTRAINED)
_STATES = ("training/resume.json", "training-*/resume.json")
_WORTH_KEEPING = ("per_query.npz", *_OWN_WEIGHTS, *_STATES)
_WRITTEN = (
    RECORD_NAME,
    *_WORTH_KEEPING,
    "table.md",
    "examples.png",
    "training-log.json",
    "training/resume-*.pt",
    "training-*/resume-*.pt",
    "monitor/**/*",
    "submission/submission.json",
    "submission/cirr-test1-*.json",
    "weights/evaluated-*/*",
)
"""What a run and the commands that take its folder leave in there: by name, since others may keep files of their
own beside it. The record is the first to go."""
_SELECTED = ("weights/selected.safetensors", "selected.safetensors", UNTRAINED)


@dataclass(frozen=True)
class Owner:
    """Whose a folder is. ``identity``: JSON-like, all that its numbers depend on, the seed included."""

    kind: Kind
    identity: Mapping[str, Any]

    def mark(self) -> dict[str, Any]:
        """What `run.json` holds, as it is read back."""
        mark = {"format": _FORMAT, "kind": self.kind, "identity": dict(self.identity)}
        plain: dict[str, Any] = json.loads(json.dumps(mark, default=str))
        return plain


@contextmanager
def held_folder(folder: Path, owner: Owner, resume: bool = False, overwrite: bool = False) -> Iterator[bool]:
    """Hold a folder for this process and begin its owner's work there, or go on with it (``resume``).

    Gives True, and leaves all as it is, where ``resume`` finds the work finished. A finished run is otherwise
    replaced by the same one. Raises UserError, and changes nothing, where the folder is in use, holds
    something else, or an unfinished run that neither ``resume`` nor ``overwrite`` speaks of.
    """
    with folder_lock(folder, owner.kind):
        if resume and _mark_of(folder) == owner.mark() and _is_finished(folder):
            remove_partial(folder)
            yield True
            return
        goes_on = require_free(folder, owner, resume, overwrite)
        if (folder / MARK).exists() or (folder / RECORD_NAME).exists():
            remove_partial(folder)
            if not goes_on:
                _clear(folder)
        # Last: until it stands, what is left is the former owner's, and unfinished.
        atomic_write_json(folder / MARK, owner.mark())
        yield False


def require_free(folder: Path, owner: Owner, resume: bool, overwrite: bool) -> bool:
    """Raises UserError unless the owner may begin in the folder; gives whether it goes on with what is there."""
    mark = _mark_of(folder)
    goes_on = resume and mark in (None, owner.mark()) and not (folder / RECORD_NAME).exists()
    if mark is None:
        _refuse_unmarked(folder, owner, goes_on, overwrite)
    else:
        _refuse_marked(folder, owner, mark, goes_on, overwrite)
    return goes_on


def _mark_of(folder: Path) -> dict[str, Any] | None:
    path = folder / MARK
    if not path.exists():
        return None
    mark = read_json(path)
    if not isinstance(mark, dict) or mark.get("format") != _FORMAT or not isinstance(mark.get("identity"), dict):
        raise UserError(f"{path}: not of this program, or of a newer version of it; choose another --output")
    return mark


def _is_finished(folder: Path) -> bool:
    """Whether a record stands there, and the weights that it was made with."""
    if not (folder / RECORD_NAME).is_file():
        return False
    weights = read_record(folder).weights
    return all((folder / n).is_file() and file_digest(folder / n) == digest for n, digest in weights.items())


def _refuse_unmarked(folder: Path, owner: Owner, goes_on: bool, overwrite: bool) -> None:
    """Of a folder that no run has begun: of an older version of this program, or somebody's."""
    held = _found(folder, (RECORD_NAME, *_WORTH_KEEPING))
    if not held or (goes_on and _found(folder, _STATES)):
        return
    if (folder / RECORD_NAME).is_file():
        record = read_record(folder)
        if owner.kind == "evaluation":
            # A record of the kind "run" in either case: the run's own has its weights beside it.
            replaceable = record.kind == "run" and not _found(folder, _OWN_WEIGHTS)
        else:
            replaceable = record.kind == owner.kind
        if overwrite and replaceable:
            return
        raise UserError(
            f"{folder}: holds a record of {record.method} (seed {record.identity.seed}) of an older version; choose "
            "another --output" + (", or replace it whole with --overwrite" if replaceable else "")
        )
    raise UserError(
        f"{folder}: holds {held[0].relative_to(folder)}, which would be written over, and no record that says whose "
        "it is; choose another --output"
    )


def _refuse_marked(
    folder: Path, owner: Owner, mark: Mapping[str, Any], goes_on: bool, overwrite: bool
) -> None:
    """Of a folder that has an owner: its work is continued, replaced by itself, or replaced where that is asked."""
    if not _found(folder, (RECORD_NAME, *_WORTH_KEEPING)):
        # Begun, and nothing made yet that could be lost.
        return
    if mark["kind"] != owner.kind:
        raise UserError(f"{folder}: holds a folder of another kind ({mark['kind']}); choose another --output")
    if overwrite or goes_on:
        return
    if mark != owner.mark():
        differences = format_differences(mark["identity"], owner.mark()["identity"])
        raise UserError(
            f"{folder}: holds another {owner.kind}, made with other settings: {differences}; run with the settings as "
            "they were, choose another --output, or replace it whole with --overwrite"
        )
    if owner.kind == "run" and not (folder / RECORD_NAME).exists():
        raise UserError(
            f"{folder}: holds an unfinished run with the same settings; add --resume to continue it, or --overwrite "
            "to start again"
        )


def _found(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if not path.is_dir()]


def _clear(folder: Path) -> None:
    """Remove what a run left, record first, and the folders that are empty then."""
    inside = folder.resolve()
    for path in _found(folder, _WRITTEN):
        # A linked folder leads to files that may be anybody's.
        if path.parent.resolve().is_relative_to(inside):
            path.unlink(missing_ok=True)
    for pattern in ("weights/evaluated-*", "weights", "training*", "submission", "monitor/**", "monitor"):
        for path in sorted(folder.glob(pattern), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()


def checked_weights(checkpoint: Path) -> Path:
    """A weights file, or the selected weights of a run's folder, found to be those that its record tells of.

    Whoever reads a run's weights takes them from here. Raises UserError where there are none, where the
    run is not finished, or where the record beside them was made with others.
    """
    if not checkpoint.is_dir():
        folder = checkpoint.parent.parent if checkpoint.parent.name == "weights" else checkpoint.parent
        if checkpoint.is_file() and (folder / RECORD_NAME).is_file():
            _require_recorded(checkpoint, folder, read_record(folder))
        return checkpoint
    found = next((path for name in _SELECTED if (path := checkpoint / name).is_file()), None)
    folder = checkpoint.parent if checkpoint.name == "weights" else checkpoint
    if (folder / RECORD_NAME).is_file():
        record = read_record(folder)
        # What an older run left beside this one's is not this one's.
        recorded = [path for name in _SELECTED if name in record.weights and (path := folder / name).is_file()]
        found = recorded[0] if recorded else found
        if found is not None:
            _require_recorded(found, folder, record)
    elif (folder / MARK).is_file():
        raise UserError(f"{folder}: holds an unfinished run; finish it with --resume first, or name a weights file")
    if found is None:
        raise UserError(f"{checkpoint}: holds no weights/selected.safetensors; give a run's folder or a weights file")
    return found


def _require_recorded(file: Path, folder: Path, record: Record) -> None:
    name = file.relative_to(folder).as_posix()
    if record.weights:
        wrong = record.weights.get(name) != file_digest(file)
    else:
        # Records of older versions tell no digests.
        header = read_header(file)
        wrong = (header.method, header.seed) != (record.method, record.identity.seed)
    if wrong and record.kind == "run":
        raise UserError(
            f"{file}: not the weights that {folder / RECORD_NAME} was made with; run it again, or move the file out of "
            "this folder to use it by itself"
        )
