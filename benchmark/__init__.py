"""A benchmark harness for composed image retrieval.

The two shelves stand beside this package in the repository and are installed inside it, as
``benchmark.methods`` and ``benchmark.datasets``: a top-level package called ``datasets`` would
overwrite Hugging Face's. Where this package is imported straight from the repository, the finder
below resolves exactly these two names; an installed package never needs it.
"""

from __future__ import annotations

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


def __getattr__(name: str) -> Any:
    """What this package offers is imported when first asked for: a run brings torch, data frames bring pandas."""
    if name == "run":
        from benchmark.pipeline.run import run

        return run
    if name == "compare":
        from benchmark.comparison.comparison import compare

        return compare
    if name == "load_records":
        from benchmark.records.frames import load_records

        return load_records
    if name == "per_query":
        from benchmark.records.frames import per_query

        return per_query
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
