"""The registry: which methods, datasets and recipes there are, and where their files lie.

Names point at files. What a `.py` is called and cites, its recipes and variants stand in the TOML beside
it (:mod:`benchmark.facts_file`), which is read here without importing the `.py`; that happens when one of its
names is asked for. A method's file has ``METHOD = Specification(...)``, or ``METHODS = {"name": ...}``
where it holds several; a dataset's has ``INFO``, ``LAYOUTS`` and ``load``. Sources, in this order: the two
shelves, entry points of other distributions, and files given with `--plugin`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from benchmark.errors import UserError, unknown_name
from benchmark.facts import Asset, DatasetInfo, Facts, MethodInfo, PublishedSizes, Recipe, Variant, choose_recipe
from benchmark.facts_file import read_facts
from benchmark.files import digest_of
from benchmark.progress import counting

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from benchmark.backbone import BackboneFamily
    from benchmark.dataset import Dataset
    from benchmark.method import Specification

_DEMO_MODULE = "benchmark.datasets.demo.demo_data"
_DEFAULT_RECIPES = Path(__file__).with_name("default_recipes.toml")
_NEW_FORM = (
    "write METHOD = Specification(...), or METHODS = {'name': Specification(...)}, and titles, recipes and variants "
    "into a TOML file of the same name beside it (methods/spirit.toml is an example)"
)
_OLD_FORM = re.compile(r"^(METHODS\b[^=\n]*= *\[|(SPECIFICATIONS|RECIPES|VARIANTS|ASSETS)\b)", re.MULTILINE)


@dataclass(frozen=True)
class ShelfFile:
    """One `.py` that gives methods or a dataset, with its facts.

    ``kind``: what a file without a TOML is; "any" has to be imported to know. ``names``: an entry point's,
    or the shelf's, for a file without a TOML. ``brings_backbones``: by its entry point; of a plug-in only its code
    tells.
    """

    module: str
    path: Path
    kind: Literal["method", "dataset", "any"] = "any"
    names: tuple[str, ...] = ()
    is_plugin: bool = False
    brings_backbones: bool = False

    @cached_property
    def facts(self) -> Facts:
        """What the TOML beside it says; without one, names that are their own titles."""
        beside = self.path.with_suffix(".toml")
        if beside.is_file():
            return read_facts(beside)
        if self.kind == "method":
            return Facts(methods=tuple(MethodInfo(name) for name in self.names))
        module = self.load()
        return Facts(
            methods=tuple(MethodInfo(name) for name in self._specifications(module)),
            dataset=getattr(module, "INFO", None),
        )

    def load(self) -> ModuleType:
        """Import the file. Raises UserError where it fails, or is of the form before TOML."""
        if self.module in sys.modules:
            return sys.modules[self.module]
        self._refuse_old_form()
        if not self.is_foreign:
            return importlib.import_module(self.module)
        # Only here: torch takes long to import, and a shelf's facts are read without it.
        from benchmark.plugins import program_settings, put_back

        before = program_settings()
        try:
            module = self._import_plugin() if self.is_plugin else importlib.import_module(self.module)
        except (Exception, SystemExit) as error:
            how = "ended the program" if isinstance(error, SystemExit) else "failed"
            told = " ".join(repr(error).split())
            raise UserError(f"{self.path}: the plug-in {how} on import: {told}") from error
        finally:
            changed = put_back(before)
        if changed:
            sys.modules.pop(self.module, None)
            raise UserError(
                f"{self.path}: the plug-in changes {changed[0]} on import; code from outside changes nothing but "
                "its own"
            )
        return module

    def _import_plugin(self) -> ModuleType:
        """Import a file by its path; what fails leaves no module behind."""
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[self.module]
            raise
        return module

    @cached_property
    def companion(self) -> ModuleType | None:
        """The module ``parity/<same name>.py`` beside the file, which checks and imports its methods; None where
        there is none. It imports the file relatively, as on the shelf."""
        stem = self.path.stem
        if stem == "__init__" or not (self.path.parent / "parity" / f"{stem}.py").is_file():
            return None
        package = self.module.rpartition(".")[0]
        if not package:
            # A file alone has no package that its companion could import it from.
            package = f"{self.module}_shelf"
            shelf = ModuleType(package)
            shelf.__path__ = [str(self.path.parent)]
            sys.modules |= {package: shelf, f"{package}.{stem}": self.load()}
        try:
            return importlib.import_module(f"{package}.parity.{stem}")
        except (Exception, SystemExit) as error:
            if not self.is_foreign:
                raise
            raise UserError(f"{self.path.parent}/parity/{stem}.py: failed on import: {error!r}") from error

    def specification(self, method: str) -> Specification:
        """Import the file and give a method of it."""
        given = self._specifications(self.load())
        if method not in given:
            raise UserError(
                f"{self.path}: gives no method '{method}' (METHOD or METHODS), which its facts name; "
                f"given: {', '.join(given) or 'none'}"
            )
        if not self.is_foreign:
            return given[method]
        from benchmark.plugins import ForeignCode

        return ForeignCode(self.path, method).specification(given[method])

    @property
    def is_foreign(self) -> bool:
        """A plug-in, or of another distribution."""
        return not self.module.startswith("benchmark.")

    def _specifications(self, module: ModuleType) -> dict[str, Specification]:
        several: dict[str, Specification] = getattr(module, "METHODS", {})
        if not isinstance(several, dict):
            raise UserError(f"{self.path}: METHODS is a {type(several).__name__}; {_NEW_FORM}")
        if several or not hasattr(module, "METHOD"):
            return several
        # METHOD has no name of its own: its facts', its entry point's, or the file's.
        beside = self.path.with_suffix(".toml")
        named = [info.name for info in read_facts(beside).methods] if beside.is_file() else self.names
        return {(named or [self.path.stem])[0]: module.METHOD}

    def _refuse_old_form(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read as Python ({error})") from None
        old = _OLD_FORM.search(text)
        if old:
            raise UserError(f"{self.path}: '{old[0].rstrip(' =[')}' is of the old form; {_NEW_FORM}")


@dataclass
class Registry:
    """All known files; `add` and `add_plugin` are the only things that change it."""

    files: list[ShelfFile] = field(default_factory=list)

    def add_plugin(self, path: Path) -> ShelfFile:
        """Add a plug-in file; raises UserError where it is missing or declares nothing."""
        path = path.resolve()
        for known in self.files:
            if known.path == path:
                return known
        if not path.is_file():
            raise UserError(f"--plugin {path}: no such file")
        plugin = ShelfFile(f"benchmark_plugin_{path.stem}_{digest_of(str(path))[:8]}", path, is_plugin=True)
        if plugin.facts == Facts() and not hasattr(plugin.load(), "BACKBONES"):
            raise UserError(
                f"--plugin {path}: gives no method (METHOD or METHODS), no dataset (INFO) and no backbones (BACKBONES)"
            )
        self.add(plugin)
        return plugin

    def add(self, file: ShelfFile) -> None:
        """Raises UserError where the file declares a name that is taken."""
        for known in self.files:
            for taken in _names(known.facts) & _names(file.facts):
                raise UserError(
                    f"{file.path}: declares '{taken[1]}', and so does {known.path}; give one of them another name"
                )
        self.files.append(file)

    def methods(self) -> dict[str, MethodInfo]:
        return {info.name: info for file in self.files for info in file.facts.methods}

    def datasets(self) -> dict[str, DatasetInfo]:
        return {file.facts.dataset.name: file.facts.dataset for file in self.files if file.facts.dataset}

    def assets(self) -> dict[str, Asset]:
        """Files from outside, by the names that methods call them."""
        return {asset.name: asset for file in self.files for asset in file.facts.assets}

    def recipes(self) -> tuple[Recipe, ...]:
        return tuple(recipe for file in self.files for recipe in file.facts.recipes)

    def variants(self, method: str = "") -> tuple[Variant, ...]:
        """The named configurations of a method, or of all."""
        declared = (variant for file in self.files for variant in file.facts.variants)
        return tuple(variant for variant in declared if method in ("", variant.method))

    def specification(self, method: str) -> Specification:
        """Import a method's file and give its specification; raises UserError for unknown names."""
        return self._file_of(method).specification(method)

    def dataset_module(self, name: str) -> ModuleType:
        """Import a dataset's file: its ``INFO``, ``LAYOUTS``, ``load`` and ``present_splits``."""
        return self._file_of_dataset(name).load()

    def backbone_families(self) -> Sequence[BackboneFamily]:
        """Those that files from outside bring (``BACKBONES``), which are imported when they are first looked at; the
        engine's are in `benchmark.encoders.families`."""
        return ForeignFamilies(tuple(file for file in self.files if file.is_plugin or file.brings_backbones))

    def sizes(self, method: str) -> tuple[PublishedSizes, ...]:
        """Published numbers of a method's parameters."""
        return tuple(sizes for file in self.files for sizes in file.facts.sizes if sizes.method == method)

    def companions(self) -> Iterator[ModuleType]:
        """Of all files that declare methods and have one."""
        for file in self.files:
            if file.facts.methods and file.companion is not None:
                yield file.companion

    def companion(self, method: str) -> ModuleType | None:
        """What checks and imports a method, see `ShelfFile.companion`."""
        return self._file_of(method).companion

    def load_dataset(self, name: str, root: Path, splits: tuple[str, ...]) -> Dataset:
        """Import a dataset's file and read its annotations under ``root``."""
        file = self._file_of_dataset(name)
        module = file.load()
        dataset: Dataset
        if file.is_foreign:
            from benchmark.plugins import ForeignCode

            dataset = ForeignCode(file.path, name, "dataset").load_dataset(module, root, splits)
        else:
            dataset = module.load(root, splits=splits)
        return dataset

    def demo_folder(self, name: str, cache: Path) -> Path:
        """The demo data in a dataset's layout in the cache, drawn on first use."""
        with counting("drawing demo pictures") as progress:
            folder: Path = importlib.import_module(_DEMO_MODULE).demo_folder(name, cache, progress)
        return folder

    def write_demo(self, name: str, folder: Path) -> None:
        """Draw the demo data in a dataset's layout into a new folder."""
        with counting("drawing demo pictures") as progress:
            importlib.import_module(_DEMO_MODULE).write_demo(name, folder, progress=progress)

    def recipe(self, stage: str, dataset: str, name: str, initialisation: str) -> Recipe:
        """The recipe of a stage on a dataset, by `choose_recipe`; a stage without any takes a default one."""
        of_the_stage = [recipe for recipe in self.recipes() if recipe.stage == stage]
        if not of_the_stage:
            return choose_recipe(read_facts(_DEFAULT_RECIPES).recipes, "*", dataset, name, initialisation)
        return choose_recipe(of_the_stage, stage, dataset, name, initialisation)

    def _file_of_dataset(self, name: str) -> ShelfFile:
        for file in self.files:
            if file.facts.dataset is not None and file.facts.dataset.name == name:
                return file
        raise unknown_name("dataset", name, self.datasets())

    def _file_of(self, method: str) -> ShelfFile:
        for file in self.files:
            if any(info.name == method for info in file.facts.methods):
                return file
        raise unknown_name("method", method, self.methods())


class ForeignFamilies(Sequence["BackboneFamily"]):
    """What the files give as ``BACKBONES``; a file is imported when any of it is asked for."""

    def __init__(self, files: tuple[ShelfFile, ...]) -> None:
        self._files = files

    @cached_property
    def _found(self) -> tuple[BackboneFamily, ...]:
        found = (getattr(file.load(), "BACKBONES", None) for file in self._files)
        return tuple(family for family in found if family is not None)

    def __getitem__(self, index: Any) -> Any:
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)


def _names(facts: Facts) -> set[tuple[str, str]]:
    """What only one file may declare: (kind, name)."""
    dataset = {("dataset", facts.dataset.name)} if facts.dataset else set()
    return {("method", m.name) for m in facts.methods} | {("asset", a.name) for a in facts.assets} | dataset


def _shelf_files() -> Iterator[ShelfFile]:
    kinds: tuple[tuple[str, Literal["method", "dataset"]], ...] = (
        ("benchmark.methods", "method"),
        ("benchmark.methods.networks", "method"),
        ("benchmark.datasets", "dataset"),
    )
    for shelf, kind in kinds:
        for folder in importlib.import_module(shelf).__path__:
            for path in sorted(Path(folder).glob("[!_]*.py")):
                # A network's file is no method; it may name assets.
                if not shelf.endswith("networks") or path.with_suffix(".toml").is_file():
                    yield ShelfFile(f"{shelf}.{path.stem}", path, kind, (path.stem,))


def _entry_point_files() -> Iterator[ShelfFile]:
    """One for each module that entry points name, in the order of the groups."""
    from importlib.metadata import entry_points

    installed = entry_points()
    found: dict[str, ShelfFile] = {}
    kinds: tuple[Literal["method", "dataset"], ...] = ("method", "dataset")
    for kind in kinds:
        for entry in installed.select(group=f"benchmark.{kind}s"):
            known = found.get(entry.module)
            same_kind = known is None or known.kind == kind
            names = (*(known.names if known else ()), entry.name)
            found[entry.module] = ShelfFile(entry.module, _path_of(entry), kind if same_kind else "any", names)
    for entry in installed.select(group="benchmark.backbones"):
        # Imported only where a backbone is asked for: it declares no method by this.
        known = found.get(entry.module, ShelfFile(entry.module, _path_of(entry), "method"))
        found[entry.module] = replace(known, brings_backbones=True)
    for file in found.values():
        declared = {name for _, name in _names(file.facts)}
        for name in file.names:
            if name not in declared:
                raise UserError(
                    f"entry point {name}: {file.path} declares {', '.join(sorted(declared))}; an entry point's name "
                    "is its method's or its dataset's"
                )
        yield file


def _path_of(entry: EntryPoint) -> Path:
    """Of an entry point's module, which is not imported. Raises UserError where there is none."""
    try:
        spec = importlib.util.find_spec(entry.module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(
            f"entry point {entry.name} of {entry.group}: there is no module {entry.module}; "
            "install its distribution again, or uninstall it"
        )
    return Path(spec.origin)


def discover() -> Registry:
    """A registry of the shelves and of installed entry points."""
    registry = Registry(list(_shelf_files()))
    for file in _entry_point_files():
        registry.add(file)
    return registry
