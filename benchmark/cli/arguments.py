"""Arguments of commands that are options of a run: made from the typed model, and read back into its values.

`RunOptions` says of every option its name, help, choices and bounds once; a command names those that it has.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from benchmark.errors import UserError, gathered

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

DATA = ("data_root", "demo", "cache", "assets_root", "allow_missing", "limit", "device", "plugins")
"""Options that say where data, weights and caches lie, and how much of them is used."""


def add_options(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Give a command these options of a run, one value each; ``helps``: words of its own for some."""
    for name in (*names, *helps):
        _add(parser, name, helps.get(name))


def add_all_options(parser: argparse.ArgumentParser) -> None:
    """Give a command every option of a run, and several values of those that make a run each."""
    for name, field in _fields().items():
        _add(parser, name, None, _told(field)["several"])


def run_values(options: argparse.Namespace) -> dict[str, Any]:
    """What was given, by the names of `RunOptions`; a config file stands below it.

    Methods, datasets, seeds and what else may be several are the command's own to read.
    """
    from benchmark.options import parse_assignments, parse_data_roots, read_config

    values: dict[str, Any] = {}
    problems: list[str] = []
    if getattr(options, "config", None):
        with gathered(problems):
            values.update(read_config(Path(options.config)))
    for name, field in _fields().items():
        given = getattr(options, name, None)
        if given is None or _told(field)["several"]:
            continue
        if name == "data_root":
            with gathered(problems):
                values[name] = parse_data_roots(given)
        elif name == "set":
            with gathered(problems):
                values[name] = {**values.get("set", {}), **parse_assignments(given)}
        else:
            values[name] = tuple(given) if isinstance(given, list) else given
    if problems:
        raise UserError.collect(problems)
    return values


def named_ones(option: str, given: list[Any], known: Iterable[Any] = ()) -> list[Any]:
    """The names given, which `all` stands for all of; raises UserError where one is given twice."""
    from benchmark.options import require_different

    try:
        require_different(given)
    except ValueError as error:
        raise UserError(f"--{option}: {error}") from None
    return list(known) if given == ["all"] else given


def _fields() -> dict[str, FieldInfo]:
    # Here, since the model brings pydantic, which would double the time of `--help`.
    from benchmark.options import RunOptions

    return RunOptions.model_fields


def _told(field: FieldInfo) -> dict[str, Any]:
    """What a field says of itself as an option."""
    told = field.json_schema_extra
    assert isinstance(told, dict)
    return told


def _add(parser: argparse.ArgumentParser, name: str, help: str | None, several: str = "") -> None:
    field = _fields()[name]
    told = _told(field)
    flags = told["flags"] or [f"--{name.replace('_', '-')}"]
    # None stands for "not given" in all: the model knows the defaults.
    shown: dict[str, Any] = {"dest": name, "help": help or field.description, "default": None}
    if field.annotation is bool:
        parser.add_argument(*flags, action="store_true", **shown)
        return
    if told["metavar"]:
        shown["metavar"] = told["metavar"]
    kind, choices = _one_value(field.annotation)
    if several:
        shown["nargs"] = several
    elif told["repeated"]:
        shown["action"] = "append"
    elif get_origin(field.annotation) is tuple:
        shown["nargs"] = "+"
    parser.add_argument(*flags, type=kind, choices=choices, **shown)


def _one_value(annotation: Any) -> tuple[type, list[str] | None]:
    """What a value is read as, and which there are where they have names."""
    inner = [part for part in get_args(annotation) if part not in (type(None), ...)]
    if get_origin(annotation) is tuple:
        return _one_value(inner[0])
    if get_origin(annotation) is Literal:
        return str, [choice for choice in inner if choice]
    return next((kind for kind in (int, float) if kind in (annotation, *inner)), str), None
