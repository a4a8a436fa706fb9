"""Weights files: read without executing anything, digested, checked against a module.

Forms that are read: safetensors; a plain state dict; open_clip's training checkpoints
(``{"state_dict": ...}``, ``module.`` prefixes); CLIP4Cir's ``{"epoch", "CLIP": state_dict}``; and
OpenAI's TorchScript archives. Whatever would have to run code to be read is refused.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.torchscript import is_torchscript, read_torchscript

StateDict = dict[str, Tensor]

OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Buffers of OpenAI's archives that are sizes, not weights."""

_NESTED = {"CLIP": "clip4cir", "state_dict": "open_clip"}
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 10


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds. ``format``: safetensors, state_dict, open_clip, clip4cir, nested or torchscript."""

    state_dict: StateDict
    format: str
    note: str = ""

    @property
    def from_openai(self) -> bool:
        """Whether the file itself shows OpenAI's CLIP classes, and with them QuickGELU."""
        return self.format == "clip4cir" or all(name in self.state_dict for name in OPENAI_SIZES)


def read_state_dict(path: Path) -> WeightsFile:
    """Read a weights file onto the CPU, tensors as stored (float16 stays float16).

    Raises UserError naming the file where it is missing, empty, damaged, of no known form, or
    readable only by executing code.
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
        return _read(path, head)
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile, torch and safetensors raise almost anything
        raise UserError(f"{path}: {_problem(error)}") from error


def _problem(error: Exception) -> str:
    """Why a file could not be read: it asks for code, or it is no weights file at all."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    asks = [line for line in lines if "GLOBAL" in line or "asks for" in line]
    if isinstance(error, pickle.UnpicklingError) and asks:
        return (
            f"refused, since reading it would execute code that it carries ({asks[0][:200]}); where you "
            "trust it, save its state dict alone (safetensors, or torch.save) and use that file"
        )
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return f"damaged, truncated or not a weights file ({reason}); get it again"


def _read(path: Path, head: bytes) -> WeightsFile:
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        from safetensors.torch import load_file

        return _without_prefix(WeightsFile(load_file(path), "safetensors"))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if is_torchscript(archive):
                note = "tensors of a TorchScript archive, read without running it"
                return WeightsFile(read_torchscript(archive), "torchscript", note)
    return _without_prefix(_unnest(path, torch.load(path, map_location="cpu", weights_only=True)))


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _unnest(path: Path, content: Any) -> WeightsFile:
    if _is_state_dict(content):
        return WeightsFile(dict(content), "state_dict")
    entries = content if isinstance(content, Mapping) else {}
    nested = [key for key, value in entries.items() if _is_state_dict(value)]
    chosen = [key for key in nested if key in _NESTED] or nested
    if len(chosen) != 1:
        found = f"it holds several: {', '.join(map(str, nested))}" if nested else "it holds none"
        raise UserError(f"{path}: one state dict is expected in a weights file, but {found}")
    key = chosen[0]
    epoch = f", epoch {content['epoch']}" if isinstance(content.get("epoch"), int) else ""
    return WeightsFile(dict(content[key]), _NESTED.get(key, "nested"), f"entry '{key}'{epoch}")


def _without_prefix(file: WeightsFile) -> WeightsFile:
    """Remove what DistributedDataParallel and torch.compile put before every name."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in file.state_dict):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in file.state_dict.items()}
            note = "; ".join(part for part in (file.note, f"'{prefix}' removed from every name") if part)
            return _without_prefix(WeightsFile(stripped, file.format, note))
    return file


def state_digest(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 over names in order, dtype, shape and bytes, hexadecimal; the device does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(module: torch.nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into a module, every tensor and no other; floats are cast to the module's.

    A tensor of one entry fits whether it is a scalar or a vector (CLIP's logit scale is stored
    both ways). Raises UserError with the first ten of what is missing, extra or of another shape.
    """
    expected = module.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state_dict]
    problems += [f"{name} is not expected" for name in state_dict if name not in expected]
    for name, tensor in expected.items():
        if name in state_dict and not _fits(state_dict[name], tensor):
            found, wanted = tuple(state_dict[name].shape), tuple(tensor.shape)
            problems.append(f"{name} is {found} where {wanted} is expected")
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{source}: {len(problems)} tensors do not fit: {'; '.join(problems[:_SHOWN])}{more}. "
            f"{_likely_cause(expected, state_dict)}"
        )
    module.load_state_dict({name: state_dict[name].reshape(t.shape) for name, t in expected.items()})


def _fits(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape or (found.numel() == wanted.numel() == 1)


def _likely_cause(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    shared = expected.keys() & found.keys()
    if any(name.startswith(("vision_model.", "text_model.")) for name in found):
        return "The names are Hugging Face transformers'; get the weights in OpenAI's or open_clip's form"
    if not shared:
        return "No name is shared: most likely these are the weights of another kind of model"
    if any(not _fits(found[name], expected[name]) for name in shared):
        return "Most likely these are the weights of another architecture or width; name it with --backbone"
    if len(shared) == len(expected):
        return "Most likely the file holds more than this model: save the model's own tensors alone"
    return "Most likely the file holds one part of the model only, or another depth; check --backbone"
