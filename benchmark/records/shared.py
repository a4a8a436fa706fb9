"""A record as it may be given away: without absolute paths, which name somebody's machine and account."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from benchmark.records.record import Record, repeatable_command

_ABSOLUTE = re.compile(r"(?:(?<=^)|(?<=[\s'\"=(]))(?:~?/|[A-Za-z]:[\\/])[^\s'\",;)]*[\w.-]")
_SEPARATOR = re.compile(r"[\\/]")


def shareable(record: Record) -> Record:
    """The record with the last part of every absolute path in its texts, and nothing else changed."""
    return Record.model_validate(shareable_json(record.as_json()))


def shareable_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a record's file, whatever its version."""
    found: dict[str, Any] = _without_paths(values)
    return {**found, "command": _command(repeatable_command(str(values.get("command", ""))))}


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        return _ABSOLUTE.sub(lambda match: _last_part(match[0]), value)
    if isinstance(value, Mapping):
        return {_without_paths(name): _without_paths(inner) for name, inner in value.items()}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def _command(command: str) -> str:
    """Each argument is looked at whole, since a quoted path may hold blanks."""
    try:
        arguments = shlex.split(command)
    except ValueError:
        return str(_without_paths(command))
    return shlex.join(map(_argument, arguments)) if any(map(_is_path, arguments)) else command


def _is_path(argument: str) -> bool:
    return bool(re.match(r"~?/|[A-Za-z]:[\\/]", argument.rpartition("=")[2]))


def _argument(argument: str) -> str:
    name, equals, path = argument.rpartition("=")
    return f"{name}{equals}{_last_part(path)}" if _is_path(argument) else argument


def _last_part(path: str) -> str:
    return next((part for part in reversed(_SEPARATOR.split(path)) if part and part != "~"), "FOLDER")
