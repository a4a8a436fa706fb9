"""Facts: what a TOML file beside a method's or a dataset's `.py` says of it, typed and checked.

`methods/spirit.toml` holds titles, papers, BibTeX, recipes and variants, `datasets/cirr.toml` where to
get the data. They are read without importing the `.py`, so that `list` and `--help` answer at once. ::

    citation = "..."              # paper, citation, required_files: above all tables, for every method below

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

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from benchmark.errors import UserError, unknown_name

Initialisation = Literal["pretrained", "random"]
"""Where a method's networks start: weights trained before, or a draw by the run's seed."""


@dataclass(frozen=True)
class Asset:
    """A file from outside that methods need. It is looked for on disk, and never fetched by a run.

    ``file``: its name under `--assets-root`; ``megabytes``: of what is to be downloaded; ``source``:
    where. ``hub``: repository and file (``owner/name/file``) in Hugging Face's cache, "" for none;
    ``cache``: a folder below the user's home where another program keeps it. ``when``: which settings
    ask for it. ``optional``: a run does without it, and says so.
    """

    name: str
    summary: str
    file: str
    megabytes: int
    source: str
    licence: str
    hub: str = ""
    cache: str = ""
    when: str = ""
    optional: bool = False


@dataclass(frozen=True)
class MethodInfo:
    """One line of `list methods`, the citation, and which files a method needs from outside.

    ``title``: by default the name. ``required_files``: names of assets, of which settings choose; "clip"
    is the backbone's weights. ``outside_fair``: why the method has no honest adaptation to the encoder
    that a controlled comparison gives to all; "" for one that takes part.
    """

    name: str
    title: str = ""
    summary: str = ""
    paper: str = ""
    citation: str = ""
    required_files: tuple[str, ...] = ()
    outside_fair: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)


@dataclass(frozen=True)
class Recipe:
    """A named set of a stage's settings, keyed by stage, dataset and the weights' initialisation.

    ``dataset`` "*" serves every dataset without a recipe of its own. ``name``: "paper" where the
    paper has one, "adapted" where none has, "from-scratch" for random weights; others may stand
    beside them. ``source`` says where the numbers come from. ``method`` holds settings of the
    method itself.
    """

    stage: str
    dataset: str
    name: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    initialisation: Initialisation = "pretrained"


@dataclass(frozen=True)
class Variant:
    """A named configuration of a method: what `--variant NAME` stands for.

    ``settings``: as `--set` takes them ("method.encoder", "combiner.epochs"); {} names the method as
    it is by default. ``title`` stands in brackets behind the method's in every table, so that no row
    of a variant reads like the method itself. ``source``: where the configuration comes from.
    ``ablation``: the block of the method's ablation table that it belongs to, "" for a version in
    its own right; ``without``: the parts that the ablation takes away, a column of ticks each.
    """

    method: str
    name: str
    title: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    ablation: str = ""
    without: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The title as tables show it."""
        return f"ablation: {self.title}" if self.ablation else self.title


@dataclass(frozen=True)
class Part:
    """A part of a network: beginnings of its parameters' names, and how many a paper or release has there.

    ``within``: how far the published number may be rounded. ``remark``: why ours may be another.
    """

    title: str
    names: tuple[str, ...]
    published: int
    within: int = 0
    remark: str = ""


@dataclass(frozen=True)
class PublishedSizes:
    """Published numbers of parameters of one form of a method's network.

    Counted on the last stage's network with these settings, ``words`` different words of training
    texts, and a backbone of this width ("" for a method that has no part in the backbone).
    """

    method: str
    form: str
    parts: tuple[Part, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    width: int = 640
    backbone: str = ""
    words: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """One line of `list datasets`, where to get the data, and the defaults of a run on it.

    ``folders``: names that the dataset's folder usually has under a data root. ``text_rule``: how
    captions become strings where a recipe does not say. ``equal_captions_answer``: every picture
    with the target's own caption (its side text) is a right answer, not the target alone.
    """

    name: str
    title: str
    summary: str
    licence: str
    obtain: str
    citation: str
    folders: tuple[str, ...] = ()
    default_protocol: str = "official"
    text_rule: str = "as-is"
    evaluation_split: str = "val"
    equal_captions_answer: bool = False


@dataclass(frozen=True)
class Facts:
    """All that one file says."""

    methods: tuple[MethodInfo, ...] = ()
    assets: tuple[Asset, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    variants: tuple[Variant, ...] = ()
    sizes: tuple[PublishedSizes, ...] = ()
    dataset: DatasetInfo | None = None


def facts_beside(module_file: str) -> Facts:
    """The facts of the `.py` that calls it with its ``__file__``."""
    return read_facts(Path(module_file).with_suffix(".toml"))


def dataset_info(module_file: str) -> DatasetInfo:
    """The [dataset] table beside a dataset's `.py`, which calls it with its ``__file__``."""
    found = facts_beside(module_file).dataset
    if found is None:
        raise UserError(f"{Path(module_file).with_suffix('.toml')}: has no table [dataset]")
    return found


@cache
def read_facts(path: Path) -> Facts:
    """Read and check a file; raises UserError with a line for each problem, which names table and key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as TOML ({error})") from None
    reader = _Reader(path)
    facts = reader.facts(content)
    if reader.problems:
        raise UserError.collect(reader.problems)
    return facts


def choose_recipe(
    recipes: Iterable[Recipe], stage: str, dataset: str, name: str, initialisation: str
) -> Recipe:
    """The recipe of a stage on a dataset; ``name`` "" takes the default for this initialisation.

    A dataset's own comes before the general one. Random weights under a recipe for pretrained ones are refused.
    """
    mine = [r for r in recipes if r.stage == stage and r.dataset in (dataset, "*")]
    mine.sort(key=lambda r: r.dataset == "*")
    if name:
        named = [r for r in mine if r.name == name]
        if not named:
            raise unknown_name(f"recipe of stage {stage} on {dataset}", name, {r.name for r in mine})
        if initialisation == "random" and named[0].initialisation != "random":
            raise UserError(
                f"--recipe {name}: it fine-tunes pretrained weights, and these start at random; "
                "use --recipe from-scratch, or give weights with --weights"
            )
        return named[0]
    for recipe in mine:
        if recipe.initialisation == initialisation and recipe.name in ("paper", "adapted", "from-scratch"):
            return recipe
    known = ", ".join(sorted({f"{r.name} ({r.dataset})" for r in mine})) or "none"
    raise UserError(f"no recipe of stage {stage} on {dataset} for {initialisation} weights; known: {known}")


T = TypeVar("T", Asset, MethodInfo, Recipe, Variant, Part, PublishedSizes, DatasetInfo)

_OF_ALL_METHODS = ("paper", "citation", "required_files")
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
