"""A benchmark harness for composed image retrieval.

The two shelves stand beside this package in the repository and are installed inside it, as
``benchmark.methods`` and ``benchmark.datasets``: a top-level package called ``datasets`` would
overwrite Hugging Face's. Where this package is imported straight from the repository, the finder
below resolves exactly these two names; an installed package never needs it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent
_SHELVES = ("methods", "datasets")


class _ShelfFinder:
    """Finds ``benchmark.methods`` and ``benchmark.datasets`` beside the package."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, shelf = name.rpartition(".")
        folder = _PACKAGE.parent / shelf
        if package != __name__ or shelf not in _SHELVES or not (folder / "__init__.py").is_file():
            return None
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


if not any((_PACKAGE / shelf).is_dir() for shelf in _SHELVES):
    # First, since an editable install of another checkout has a finder of its own for these names.
    sys.meta_path.insert(0, _ShelfFinder)


_FROM = {
    "run": "benchmark.pipeline.run",
    "compare": "benchmark.comparison.comparison",
    "load_records": "benchmark.records.frames",
    "per_query": "benchmark.records.frames",
}
"""Where what this package offers lies; each is imported when first asked for, since a run brings torch."""


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(importlib.import_module(_FROM[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
