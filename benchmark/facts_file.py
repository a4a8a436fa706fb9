"""Reading facts: the TOML file beside a method's or a dataset's `.py`, checked key by key.

`methods/spirit.toml` holds titles, papers, BibTeX, recipes and variants, `datasets/cirr.toml` where to
get the data. They are read without importing the `.py`, so that `list` and `--help` answer at once. ::

    citation = "..."              # paper, citation, required_files, required_with: above all tables, for every method

    [[method]]                    # MethodInfo; one for each that the file holds
    [[asset]]                     # Asset
    [settings.released]           # what several recipes share; `extends` names such a table, or several
    [[recipe]]                    # Recipe
    extends = "released"
    [[variant]]                   # Variant; `method` may be left out where the file holds one
    [[size]]                      # PublishedSizes; `method` as of a variant, `parts`: a list of tables
    [dataset]                     # DatasetInfo
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from benchmark.errors import UserError, unknown_name
from benchmark.facts import (
    Asset,
    DatasetInfo,
    Facts,
    Initialisation,
    MethodInfo,
    Part,
    PublishedSizes,
    Recipe,
    Variant,
)
from benchmark.structured_files import read_toml


def facts_beside(module_file: str) -> Facts:
    """The facts of the `.py` that calls it with its ``__file__``."""
    return read_facts(Path(module_file).with_suffix(".toml"))


def dataset_info(module_file: str) -> DatasetInfo:
    """The [dataset] table beside a dataset's `.py`, which calls it with its ``__file__``."""
    found = facts_beside(module_file).dataset
    if found is None:
        raise UserError(f"{Path(module_file).with_suffix('.toml')}: has no table [dataset]")
    return found


def read_facts(path: Path) -> Facts:
    """Read and check a file; raises UserError with a line for each problem, which names table and key."""
    return _checked(path, read_toml(path))


def read_own_recipes(path: Path) -> tuple[Recipe, ...]:
    """A user's recipes, `--recipe FILE.toml`: a file of the same form that holds [settings] and [[recipe]] alone.

    Each bears the file's name, so that no row of a table reads as if it were the paper's.
    """
    content = read_toml(path)
    for key in content.keys() - {"settings", "recipe"}:
        raise UserError(f"{path}: {unknown_name('table of a recipe file', key, ('settings', 'recipe'))}")
    recipes = content.get("recipe", [])
    if isinstance(recipes, list) and all(isinstance(table, dict) for table in recipes):
        own = {"name": path.name}
        told = {"dataset": "*", "source": f"the user's own, {path.name}"}
        content["recipe"] = [told | table | own for table in recipes]
    found = _checked(path, content).recipes
    if not found:
        raise UserError(f"{path}: holds no [[recipe]]; `list recipes --json` shows what one may say")
    return found


def _checked(path: Path, content: Mapping[str, Any]) -> Facts:
    reader = _Reader(path)
    facts = reader.facts(content)
    if reader.problems:
        raise UserError.collect(reader.problems)
    return facts


T = TypeVar("T", Asset, MethodInfo, Recipe, Variant, Part, PublishedSizes, DatasetInfo)

_OF_ALL_METHODS = ("paper", "citation", "required_files", "required_with")
_TABLES = ("method", "asset", "settings", "recipe", "variant", "size", "dataset")
_CHECKS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda value: isinstance(value, str)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    dict[str, Any]: ("a table", lambda value: isinstance(value, dict)),
    tuple[str, ...]: (
        "a list of strings",
        lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value),
    ),
    tuple[Part, ...]: ("a list of tables", lambda value: isinstance(value, tuple)),
    Initialisation: ("'pretrained' or 'random'", lambda value: value in ("pretrained", "random")),
}


class _Reader:
    """Makes typed facts of a file's tables and gathers what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def facts(self, content: Mapping[str, Any]) -> Facts:
        for key in content.keys() - {*_TABLES, *_OF_ALL_METHODS}:
            self._unknown("key or table", key, (*_TABLES, *_OF_ALL_METHODS), "")
        common = {key: content[key] for key in _OF_ALL_METHODS if key in content}
        methods = [common | table for table in self._tables(content, "method")]
        named = [method.get("name") for method in methods]
        # A variant of the file's only method need not say whose it is.
        owner = {"method": named[0]} if len(named) == 1 else {}
        shared = self._shared(content.get("settings", {}))
        recipes = [self._extended(table, shared, n) for n, table in enumerate(self._tables(content, "recipe"), start=1)]
        dataset = content.get("dataset")
        found = Facts(
            self._all(MethodInfo, "method", methods),
            self._all(Asset, "asset", self._tables(content, "asset")),
            self._all(Recipe, "recipe", recipes),
            self._all(Variant, "variant", [owner | table for table in self._tables(content, "variant")]),
            self._all(PublishedSizes, "size", [owner | self._sized(t) for t in self._tables(content, "size")]),
            None if dataset is None else self._one(DatasetInfo, "[dataset]", dataset),
        )
        for word, names in (
            ("method", [method.name for method in found.methods]),
            ("asset", [asset.name for asset in found.assets]),
            ("variant", [f"{variant.method} · {variant.name}" for variant in found.variants]),
        ):
            for name in sorted({name for name in names if names.count(name) > 1}):
                self.problems.append(f"{self.path}: declares {word} '{name}' twice; give one of them another name")
        return found

    def _sized(self, table: dict[str, Any]) -> dict[str, Any]:
        """A size's table with its parts made."""
        parts = {"parts": self._all(Part, "size.parts", self._tables(table, "parts"))} if "parts" in table else {}
        return table | parts

    def _tables(self, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        tables = content.get(key, [])
        if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
            return tables
        self.problems.append(f"{self.path}: [{key}] must be written as [[{key}]]")
        return []

    def _all(self, kind: type[T], word: str, tables: Iterable[Mapping[str, Any]]) -> tuple[T, ...]:
        made = [self._one(kind, f"[[{word}]] {number}", table) for number, table in enumerate(tables, start=1)]
        return tuple(one for one in made if one is not None)

    def _one(self, kind: type[T], where: str, table: Mapping[str, Any]) -> T | None:
        if not isinstance(table, dict):
            self.problems.append(f"{self.path}, {where}: must be a table")
            return None
        before = len(self.problems)
        types = get_type_hints(kind)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in types:
                self._unknown("key", key, types, where)
                continue
            what, fits = _CHECKS[types[key]]
            if not fits(value):
                self.problems.append(f"{self.path}, {where}: {key} = {value!r} must be {what}")
            values[key] = tuple(value) if isinstance(value, list) else value
        for required in fields(kind):
            if required.default is MISSING and required.default_factory is MISSING and required.name not in table:
                self.problems.append(f"{self.path}, {where}: lacks {required.name}")
        return kind(**values) if len(self.problems) == before else None

    def _shared(self, tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Each [settings.NAME] with what it extends; a table extends only such as stand above it."""
        shared: dict[str, dict[str, Any]] = {}
        for name, table in tables.items():
            if not isinstance(table, dict):
                self.problems.append(f"{self.path}, [settings]: {name} must be a table, [settings.{name}]")
                continue
            own = {key: value for key, value in table.items() if key != "extends"}
            shared[name] = self._inherited(table, shared, f"[settings.{name}]") | own
        return shared

    def _extended(self, table: Mapping[str, Any], shared: Mapping[str, Any], number: int) -> dict[str, Any]:
        """A recipe's table, its settings over those that it extends."""
        own = {key: value for key, value in table.items() if key != "extends"}
        if "extends" in table and isinstance(own.get("settings", {}), dict):
            own["settings"] = self._inherited(table, shared, f"[[recipe]] {number}") | own.get("settings", {})
        return own

    def _inherited(self, table: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> dict[str, Any]:
        extends = table.get("extends", [])
        names = [extends] if isinstance(extends, str) else extends
        if not _CHECKS[tuple[str, ...]][1](names):
            self.problems.append(f"{self.path}, {where}: extends = {extends!r} must name a [settings.NAME], or several")
            return {}
        settings: dict[str, Any] = {}
        for name in names:
            if name in shared:
                settings |= shared[name]
            else:
                self._unknown("table of settings", name, shared, where)
        return settings

    def _unknown(self, kind: str, name: str, known: Iterable[str], where: str) -> None:
        place = f"{self.path}, {where}" if where else str(self.path)
        self.problems.append(f"{place}: {unknown_name(kind, name, known)}")
