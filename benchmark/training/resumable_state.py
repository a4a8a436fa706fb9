"""The state from which a killed stage goes on: one file of tensors and plain values, and a pointer to it.

Every save has a file of its own; the pointer, a small JSON file, is written last and holds its size,
its digest and in readable form the settings that it was made with: a crash at any moment leaves the
state before. The state is whole whichever processes computed it, so that any number of them can go on;
rank 0 writes it, and reads it for all. Reading executes nothing from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, cast

import torch
from pydantic import StringConstraints
from torch import Tensor

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.files import atomic_path, atomic_write_json, file_digest
from benchmark.structured_files import SMALL, read_json, typed

_FORM: Literal[2] = 2
"""Of the pointer and of what a stage's state holds; raised where former ones can no longer be read."""
_SHOWN = 3


@dataclass(frozen=True)
class _Pointer:
    """What `resume.json` says: the state's file beside it, and what its settings were."""

    form: Literal[2]
    file: Annotated[str, StringConstraints(pattern=r"^resume-[0-9]+[a-z-]*\.pt$")]
    bytes: int
    sha256: str
    identity: Any


class ResumableState:
    """The one resumable state of a stage, in its folder. ``identity``: what the state depends on, JSON-like."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._pointer = folder / "resume.json"
        self._identity = json.loads(json.dumps(identity, default=str))

    def exists(self) -> bool:
        return self._pointer.is_file()

    def save(self, state: Mapping[str, Any], update: int) -> None:
        """Write a state; the previous one is removed after the pointer names the new one.

        Raises UserError where the disk is full; the previous state then stands as it was.
        """
        path = self.folder / f"resume-{update:08d}.pt"
        if self.exists() and read_json(self._pointer, SMALL)["file"] == path.name:
            # An update may be saved again, after its validation: never over the file that the pointer names.
            path = path.with_stem(f"{path.stem}-again")
        with atomic_path(path) as temporary:
            with temporary.open("wb") as stream:
                written = _Digested(stream)
                torch.save(dict(state), cast(IO[bytes], written))
        pointer = _Pointer(_FORM, path.name, written.size, written.digest(), self._identity)
        atomic_write_json(self._pointer, vars(pointer))
        # Only now: until the pointer stands, the state before is the one that a crash leaves.
        self._remove_states(keep=path.name)

    def require_same_settings(self) -> None:
        """Raises UserError where there is a state that was made with other settings."""
        if self.exists():
            self._read_pointer()

    def load(self) -> dict[str, Any]:
        """Read the state back; raises UserError where it was made with other settings or is damaged."""
        pointer = self._read_pointer()
        path = self.folder / pointer.file
        if not path.is_file() or path.stat().st_size != pointer.bytes or file_digest(path) != pointer.sha256:
            raise UserError(f"{path}: damaged or missing; {self.remedy}")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what is no plain state makes torch raise almost anything
            told = str(error).partition("\n")[0]
            raise UserError(f"{path}: no state of this program ({told}); {self.remedy}") from None
        return state

    @property
    def remedy(self) -> str:
        return f"delete {self.folder} and run again"

    def _read_pointer(self) -> _Pointer:
        remedy = f"damaged, or of another version; {self.remedy}"
        pointer = typed(_Pointer, read_json(self._pointer, SMALL, remedy), str(self._pointer), remedy)
        if pointer.identity != self._identity:
            differences = format_differences(pointer.identity, self._identity)
            raise UserError(
                f"{self.folder}: its resumable state was made with other settings: {differences}; "
                "run with the settings as they were, or delete this folder to start again"
            )
        return pointer

    def load_for_all(self, process: Process) -> dict[str, Any] | None:
        """The state as rank 0 finds it, given to every process; None where there is none.

        Every process must call it; a UserError of rank 0's is raised on all.
        """
        state, problem = None, ""
        if process.is_main and self.exists():
            try:
                state = self.load()
            except UserError as error:
                problem = str(error)
        if process.world_size > 1:
            state, problem = _from_main(state, problem, process)
        if problem:
            raise UserError(problem)
        return state

    def clear(self) -> None:
        self._pointer.unlink(missing_ok=True)
        self._remove_states(keep="")

    def _remove_states(self, keep: str) -> None:
        for path in self.folder.glob("resume-*.pt"):
            if path.name != keep:
                path.unlink(missing_ok=True)


class _Digested:
    """A file that is digested while it is written, so that it need not be read again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._sha256, self.size = stream, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self._stream.write(content)
        self._sha256.update(content)
        self.size += len(content)
        return len(content)

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> str:
        return self._sha256.hexdigest()


def format_differences(before: Any, now: Any) -> str:
    """The settings that differ, old value and new one."""
    old, new = dict(_flattened(before)), dict(_flattened(now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [f"{name} was {_format_value(old, name)}, now {_format_value(new, name)}" for name in names[:_SHOWN]]
    more = len(names) - _SHOWN
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _format_value(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "not there"


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Names as the user writes them: a stage's settings stand behind the stage's name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flattened(inner, path if name == "settings" else f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            stage = inner.get("stage") if isinstance(inner, dict) else None
            yield from _flattened(inner, str(stage) if stage else f"{path}.{number}")
    else:
        yield path, value


def _from_main(
    state: dict[str, Any] | None, problem: str, process: Process
) -> tuple[dict[str, Any] | None, str]:
    """What rank 0 has, on every process: the plain values in one message, then tensor by tensor."""
    tensors: list[Tensor] = []
    plain = _without_tensors(state, tensors)
    message: list[Any] = [(plain, problem, [(t.shape, t.dtype) for t in tensors])]
    torch.distributed.broadcast_object_list(message, src=0, device=process.device)
    plain, problem, kinds = message[0]
    received = []
    for number, (shape, dtype) in enumerate(kinds):
        own = tensors[number] if process.is_main else torch.empty(shape, dtype=dtype)
        # One by one, through the device: NCCL moves nothing that lies on the host.
        moved = own.to(process.device).contiguous()
        torch.distributed.broadcast(moved, src=0)
        received.append(moved.cpu())
    return _with_tensors(plain, received), problem


class _Place(int):
    """The number of a tensor that travels by itself."""


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if isinstance(value, dict):
        return {key: _without_tensors(inner, tensors) for key, inner in value.items()}
    return value


def _with_tensors(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, _Place):
        return tensors[value]
    if isinstance(value, dict):
        return {key: _with_tensors(inner, tensors) for key, inner in value.items()}
    return value
