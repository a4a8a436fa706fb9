"""How records of earlier versions become records of the present one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

RENAMED_SETTINGS: Final = {"drawing": "pair_sampling", "frame": "implementation"}
"""Settings of methods and stages that records before version 3 call otherwise: old name to present one."""

RENAMED_VALUES: Final = {("frame", "released"): "original"}
"""Their values that are called otherwise, by old name and old value."""


def _with_renamed_settings(raw: dict[str, Any]) -> dict[str, Any]:
    """The names inside `method_settings` and the stages' `settings`; what is malformed is left to the schema."""

    def renamed(settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        found = {}
        for name, value in settings.items():
            known = RENAMED_VALUES.get((name, value), value) if isinstance(value, str) else value
            found[RENAMED_SETTINGS.get(name, name)] = known
        return found

    identity = raw.get("identity")
    if not isinstance(identity, dict):
        return raw
    mended = dict(identity)
    if "method_settings" in identity:
        mended["method_settings"] = renamed(identity["method_settings"])
    if isinstance(stages := identity.get("stages"), list):
        mended["stages"] = [
            {**stage, "settings": renamed(stage["settings"])} if isinstance(stage, dict) and "settings" in stage
            else stage for stage in stages
        ]  # fmt: skip
    return {**raw, "identity": mended}


UPGRADES: dict[int, Upgrade] = {1: lambda raw: raw, 2: _with_renamed_settings}
"""From version n to n + 1. Version 2 adds `variant`, `tuning`, `cost` and `trials`, which no older record has;
version 3 calls two settings by their present names."""
