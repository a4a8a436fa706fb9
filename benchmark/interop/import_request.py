"""What is to be imported, how its files are called, and which dataset they were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown_name
from benchmark.facts import DatasetInfo
from benchmark.registry import Registry


@dataclass(frozen=True)
class ImportRequest:
    """What to import. ``file`` is None for methods that have no weights of their own.

    ``dataset``: the one that the weights were trained on, "" to take it from the files' names.
    ``backbone``: CLIP's architecture, "" to tell it from the shapes. ``variant``: the method's named
    configuration that the weights are of. ``settings``: as of `--set`.
    """

    method: str
    file: Path | None
    clip: Path | None
    dataset: str = ""
    backbone: str = ""
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()


def dataset_of(request: ImportRequest, registry: Registry) -> DatasetInfo:
    """The dataset that is named, or the only one whose name stands in a file's name."""
    known = registry.datasets()
    if request.dataset:
        if request.dataset not in known:
            raise unknown_name("dataset", request.dataset, known)
        return known[request.dataset]
    names = " ".join(path.name.lower() for path in (request.file, request.clip) if path is not None)
    found = [info for name, info in known.items() if name in names]
    if len(found) != 1:
        raise UserError(
            "--dataset is missing: the files' names do not tell which dataset the weights were trained on; "
            f"known: {', '.join(sorted(known))}"
        )
    return found[0]


def file_label(path: Path, sources: Sequence[Path]) -> str:
    """What records call a file: its name, with its folder where another one has the same name."""
    alike = [other for other in sources if other.name == path.name]
    return path.name if len(alike) == 1 else f"{path.parent.name}/{path.name}"
