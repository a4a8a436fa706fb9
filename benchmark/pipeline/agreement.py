"""What all processes of a job must have alike before they compute together."""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import benchmark
from benchmark.pipeline.plan import Plan

_PACKAGES = ("benchmark", "benchmark.methods", "benchmark.datasets")
_LIBRARIES = ("torch", "deepspeed", "open_clip_torch", "timm", "numpy")
_SHOWN_DIGITS = 12


def facts_of(plan: Plan, device: str) -> dict[str, str]:
    """Program, libraries, data and every setting by a name that a person reads; ``device`` is torch's kind."""
    facts = {
        "the program": f"version {benchmark.__version__}, digest {program_digest()}",
        "Python": platform.python_version(),
        **{library: _installed(library) for library in _LIBRARIES},
        "the kind of device": device,
        "--seed": str(plan.options.seed),
        "--resume": str(plan.options.resume),
        "the run's folder": str(plan.folder),
        "the data's fingerprint": f"{plan.dataset.fingerprint[:_SHOWN_DIGITS]}…",
        **{f"plug-in {name}": f"{digest[:_SHOWN_DIGITS]}…" for name, digest in plan.plugins.items()},
        **_flat("trainer.", plan.trainer.model_dump(mode="json")),
        **_flat("--deepspeed-config: ", plan.deepspeed.values if plan.deepspeed else {}),
        "--monitors": " ".join(plan.monitors) or "none",
    }
    for planned in plan.stages:
        facts |= _flat(f"{planned.stage.name}.", planned.settings.model_dump(mode="json"))
    identity = {name: value for name, value in plan.identity.items() if name not in ("stages", "data", "plugins")}
    return facts | _flat("", identity)


@cache
def program_digest() -> str:
    """Digest of the program's own files, as they are found by this process."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        folder = Path(importlib.import_module(package).__path__[0])
        # Recipes are part of the program as well.
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.toml")]):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:_SHOWN_DIGITS]


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return flat


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
