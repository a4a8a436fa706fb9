"""Weights files: read without executing anything, and digested.

Forms that are read: safetensors; a plain state dict; open_clip's training checkpoints
(``{"state_dict": ...}``, ``module.`` prefixes); CLIP4Cir's ``{"epoch", "CLIP": state_dict}``; and
OpenAI's TorchScript archives. Whatever would have to run code to be read is refused.
"""

from __future__ import annotations

import hashlib
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.files import name_in_utf8
from benchmark.weights.torchscript import is_torchscript, read_torchscript

StateDict = dict[str, Tensor]

OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Buffers of OpenAI's archives that are sizes, not weights."""

_NESTED = {"CLIP": "clip4cir", "state_dict": "open_clip"}
_PREFIXES = ("module.", "_orig_mod.")
_GLOBALS_SHOWN = 3
_GLOBAL = re.compile(r"(?:GLOBAL|asks for) ([\w.]+)")


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds. ``format``: safetensors, state_dict, open_clip, clip4cir, nested or torchscript.

    ``entry``: the key under which the state dict stood in the file, "" where it is the whole;
    ``others``: what else stood there.
    """

    state_dict: StateDict
    format: str
    note: str = ""
    entry: str = ""
    others: tuple[str, ...] = ()

    @property
    def from_openai(self) -> bool:
        """Whether the file itself shows OpenAI's CLIP classes, and with them QuickGELU."""
        return self.format == "clip4cir" or all(name in self.state_dict for name in OPENAI_SIZES)


def read_state_dict(path: Path, entry: str = "") -> WeightsFile:
    """Read a weights file onto the CPU, tensors as stored (float16 stays float16).

    ``entry`` is taken where a file holds several state dicts, that one among them. Raises UserError
    naming the file where it is missing, empty, damaged, of no known form, or readable only by
    executing code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise UserError(f"{path}: the weights file is empty (0 bytes); get it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights; fetch the file with `git lfs pull`")
    try:
        file = _read(path, head, entry)
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile, torch and safetensors raise almost anything
        raise UserError(f"{path}: {_problem(path, error)}") from error
    for name, tensor in file.state_dict.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise UserError(f"{path}: '{name}' is {kind}, and weights are plain tensors here; save it dense")
    return file


def _problem(path: Path, error: Exception) -> str:
    """Why a file could not be read: it asks for code, or it is no weights file at all."""
    asked = _asked_for(path, error)
    if asked:
        more = f" and {len(asked) - _GLOBALS_SHOWN} more" if len(asked) > _GLOBALS_SHOWN else ""
        return (
            f"refused, since reading it would execute code: the pickle in it calls {', '.join(asked[:_GLOBALS_SHOWN])}"
            f"{more}; weights are read here without executing anything. Where you trust the file, load it with the "
            "program that wrote it, save the model's state dict alone (safetensors, or torch.save), and use that file"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return f"damaged, truncated or not a weights file ({reason}); get it again"


def _asked_for(path: Path, error: Exception) -> list[str]:
    """What a refused pickle would import and call, by its full names; empty where nothing was refused."""
    named = _GLOBAL.findall(str(error)) if isinstance(error, pickle.UnpicklingError) else []
    if zipfile.is_zipfile(path):
        if named:
            with suppress(Exception):  # a damaged archive tells no more than its error did
                named += torch.serialization.get_unsafe_globals_in_checkpoint(path)
    elif not named:
        named = _imports_of_pickle(path)
    return list(dict.fromkeys(named))


def _imports_of_pickle(path: Path) -> list[str]:
    """The names that a plain pickle imports, told from its opcodes, of which none is executed."""
    names: list[str] = []
    strings: list[str] = []
    memo: list[str] = []
    with path.open("rb") as stream, suppress(Exception):  # what is no pickle ends here
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif operation.name == "MEMOIZE":
                memo.append(strings[-1] if strings else "")
            elif operation.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
                strings += memo[argument : argument + 1]
            elif isinstance(argument, str):
                strings.append(argument)
    return names


def _read(path: Path, head: bytes, entry: str) -> WeightsFile:
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        from safetensors.torch import load_file

        with name_in_utf8(path) as name:
            return _without_prefix(WeightsFile(load_file(name), "safetensors"))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if is_torchscript(archive):
                note = "tensors of a TorchScript archive, read without running it"
                return WeightsFile(read_torchscript(archive), "torchscript", note)
    return _without_prefix(_unnest(path, torch.load(path, map_location="cpu", weights_only=True), entry))


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _unnest(path: Path, content: Any, entry: str) -> WeightsFile:
    if _is_state_dict(content):
        return WeightsFile(dict(content), "state_dict")
    entries = content if isinstance(content, Mapping) else {}
    nested = [key for key, value in entries.items() if _is_state_dict(value)]
    chosen = [key for key in nested if key == entry] or [key for key in nested if key in _NESTED] or nested
    if len(chosen) != 1:
        found = f"it holds several: {', '.join(map(str, nested))}" if nested else "it holds none"
        raise UserError(f"{path}: one state dict is expected in a weights file, but {found}")
    key = chosen[0]
    epoch = f", epoch {content['epoch']}" if isinstance(content.get("epoch"), int) else ""
    others = tuple(str(other) for other in content if other != key)
    return WeightsFile(dict(content[key]), _NESTED.get(key, "nested"), f"entry '{key}'{epoch}", str(key), others)


def _without_prefix(file: WeightsFile) -> WeightsFile:
    """Remove what DistributedDataParallel and torch.compile put before every name."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in file.state_dict):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in file.state_dict.items()}
            note = "; ".join(part for part in (file.note, f"'{prefix}' removed from every name") if part)
            return _without_prefix(replace(file, state_dict=stripped, note=note))
    return file


def state_digest(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 over names in order, dtype, shape and bytes, hexadecimal; the device does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
