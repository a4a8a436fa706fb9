"""Configurations that come with the program, found by name: TOML files of options, JSON files of DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import UserError, unknown_name

FOLDER = Path(__file__).parent


def ready_names(ending: str) -> list[str]:
    """Names of the files that end so (".toml", ".json")."""
    return sorted(path.stem for path in FOLDER.glob(f"*{ending}"))


def ready_configuration(name: str, ending: str, option: str) -> Path:
    """A file by its path, or one of the ready ones by its name; raises UserError naming the nearest."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    ready = ready_names(ending)
    if path.suffix or "/" in name:
        raise UserError(f"{option} {name}: no such file; the ready ones, without an ending: {', '.join(ready)}")
    if name not in ready:
        raise UserError(f"{option}: {unknown_name('configuration', name, ready)}")
    return FOLDER / f"{name}{ending}"
