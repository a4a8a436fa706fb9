"""Tensors out of a TorchScript archive (OpenAI's CLIP files), without running any of its code.

Such an archive is a zip: ``data.pkl`` holds the tree of modules as a pickle, ``data/<n>`` the bytes
of each tensor, and ``code/`` the source of every module class. The pickle is read by an unpickler
that knows tensors and lists only; every module class becomes an inert stand-in. The class sources
are read as text, for the names that they declare as parameters and buffers: a plain tensor
attribute (an attention mask) is no part of a state dict.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n((?:[ \t]+__(?:parameters|buffers)__ = \[.*\]\n)*)", re.MULTILINE
)
_NAME = re.compile(r'"([^"]+)"')


class _Module:
    """Stands in for every module class: holds the pickled attributes, does nothing."""

    qualified_name = ""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _ArchiveUnpickler(pickle.Unpickler):
    """Resolves tensors, their storages, lists and inert modules; refuses every other name."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive = archive
        self._root = root
        self._classes: dict[str, type[_Module]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            qualified = f"{module}.{name}"
            stand_in = type("_Module", (_Module,), {"qualified_name": qualified})
            return self._classes.setdefault(qualified, stand_in)
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = _REBUILD.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"the archive asks for {module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat tensor of one storage: pid is ('storage', dtype, key, device, number of entries)."""
        _, dtype, key, _, _ = pid
        content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _rebuild_tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: object
) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).contiguous()


def _first(value: object, *_: object) -> object:
    return value


_REBUILD: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "device"): _first,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch.jit._pickle", name): _first for name in _LISTS},
}


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Whether a zip is a TorchScript archive: only these carry a constants table."""
    return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """The state dict: parameters and buffers of the module tree, by dotted name, as stored.

    Raises pickle.UnpicklingError ("the archive asks for ...") where anything but tensors and modules
    is needed, and whatever zipfile, pickle and torch raise on a damaged archive.
    """
    root = next(PurePosixPath(n).parts[0] for n in archive.namelist() if PurePosixPath(n).name == "data.pkl")
    module = _ArchiveUnpickler(archive, root).load()
    if not isinstance(module, _Module):
        raise ValueError("the archive holds no module")
    return dict(_named_tensors(module, "", _declared(archive, root)))


def _declared(archive: zipfile.ZipFile, root: str) -> dict[str, set[str]]:
    """Qualified class name → the names it declares as parameters and buffers."""
    declared = {}
    for name in archive.namelist():
        if not (name.startswith(f"{root}/code/") and name.endswith(".py")):
            continue
        module = ".".join(PurePosixPath(name).relative_to(f"{root}/code").with_suffix("").parts)
        for class_name, lists in _CLASS.findall(archive.read(name).decode("utf-8", errors="replace")):
            if lists:
                declared[f"{module}.{class_name}"] = set(_NAME.findall(lists))
    return declared


def _named_tensors(
    module: _Module, prefix: str, declared: dict[str, set[str]]
) -> Iterator[tuple[str, Tensor]]:
    names = declared.get(module.qualified_name)
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _named_tensors(value, f"{prefix}{name}.", declared)
        elif isinstance(value, Tensor) and (names is None or name in names):
            yield f"{prefix}{name}", value
