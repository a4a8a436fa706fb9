"""The registry: which methods, datasets and recipes there are, and where their files lie.

Names point at files. A file declares itself with literals (``INFO = DatasetInfo(...)``,
``METHODS = [MethodInfo(...)]``, ``RECIPES = [Recipe(...)]``, ``VARIANTS = [Variant(...)]``,
``ASSETS = [Asset(...)]``) that are read here without importing it, and is imported when one of its
names is asked for. Sources, in this order: the two shelves, entry points of other distributions, and
files given with `--plugin`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmark.declarations import Asset, DatasetInfo, MethodInfo, Recipe, Variant
from benchmark.errors import UserError, unknown_name
from benchmark.files import digest_of

if TYPE_CHECKING:
    from benchmark.dataset import Dataset
    from benchmark.method import Specification

_DECLARED: dict[str, Callable[..., Any]] = {
    "Asset": Asset,
    "DatasetInfo": DatasetInfo,
    "MethodInfo": MethodInfo,
    "Recipe": Recipe,
    "Variant": Variant,
}
_NAMED_PER_OWNER = (Recipe, Variant)
_DEMO_MODULE = "benchmark.datasets.demo.demo_data"
_ENTRY_POINT_GROUPS = ("benchmark.methods", "benchmark.datasets")


@dataclass(frozen=True)
class ShelfFile:
    """One file that may declare methods, recipes or a dataset."""

    module: str
    path: Path
    is_plugin: bool = False

    @cached_property
    def declared(self) -> tuple[Asset | DatasetInfo | MethodInfo | Recipe | Variant, ...]:
        """Everything declared at the top of the file. Raises UserError where it is no literal."""
        try:
            tree = ast.parse(self.path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read as a plug-in ({error})") from None
        found: list[Asset | DatasetInfo | MethodInfo | Recipe | Variant] = []
        known: dict[str, Any] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                for call in _declaring_calls(statement.value):
                    found.append(self._evaluate(call, known))
                known |= _named_literal(statement, known)
        return tuple(found)

    def _evaluate(self, call: ast.Call, known: Mapping[str, Any]) -> Any:
        assert isinstance(call.func, ast.Name)
        try:
            arguments = {k.arg or "": _literal(k.value, known) for k in call.keywords}
            return _DECLARED[call.func.id](**arguments)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.path}, line {call.lineno}: {call.func.id}(...) must have literal keyword "
                f"arguments only, or names of literals above it ({error})"
            ) from None

    def load(self) -> ModuleType:
        """Import the file."""
        if self.module in sys.modules:
            return sys.modules[self.module]
        if not self.is_plugin:
            return importlib.import_module(self.module)
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[self.module]
            raise UserError(f"{self.path}: the plug-in failed on import: {error!r}") from error
        return module

    @cached_property
    def companion(self) -> ModuleType | None:
        """The module ``parity/<same name>.py`` beside the file, which checks, imports and counts its methods;
        None where there is none. It imports the file relatively, as on the shelf."""
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
        except Exception as error:
            if not self.is_plugin:
                raise
            raise UserError(f"{self.path.parent}/parity/{stem}.py: failed on import: {error!r}") from error


def _declaring_calls(value: ast.expr) -> Iterator[ast.Call]:
    candidates = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    for candidate in candidates:
        if (
            isinstance(candidate, ast.Call)
            and isinstance(candidate.func, ast.Name)
            and candidate.func.id in _DECLARED
        ):
            yield candidate


def _named_literal(statement: ast.Assign | ast.AnnAssign, known: Mapping[str, Any]) -> dict[str, Any]:
    """The name and value of `NAME = literal`; nothing where the value is no literal."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    assert statement.value is not None
    try:
        value = _literal(statement.value, known)
    except (ValueError, TypeError):
        return {}
    return {target.id: value for target in targets if isinstance(target, ast.Name)}


def _literal(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of a literal; in it may stand names of literals above it, and `**` of a dict."""
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Dict):
        value: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            inner = _literal(item, known)
            value |= inner if key is None else {_literal(key, known): inner}
        return value
    return ast.literal_eval(node)


@dataclass
class Registry:
    """All known files; `add_plugin` is the only thing that changes it."""

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
        if not plugin.declared:
            raise UserError(
                f"--plugin {path}: declares neither METHODS = [MethodInfo(...)] nor INFO = DatasetInfo(...)"
            )
        self.add(plugin)
        return plugin

    def add(self, file: ShelfFile) -> None:
        """Raises UserError where the file declares a name that is taken."""
        owners = {(type(d), d.name): known.path for known, d in self._all() if not isinstance(d, _NAMED_PER_OWNER)}
        for declared in file.declared:
            owner = owners.get((type(declared), declared.name))
            if owner is not None and not isinstance(declared, _NAMED_PER_OWNER):
                raise UserError(
                    f"{file.path}: declares '{declared.name}', and so does {owner}; give one of them another name"
                )
        self.files.append(file)

    def methods(self) -> dict[str, MethodInfo]:
        return {d.name: d for _, d in self._all() if isinstance(d, MethodInfo)}

    def datasets(self) -> dict[str, DatasetInfo]:
        return {d.name: d for _, d in self._all() if isinstance(d, DatasetInfo)}

    def assets(self) -> dict[str, Asset]:
        """Files from outside, by the names that methods call them."""
        return {d.name: d for _, d in self._all() if isinstance(d, Asset)}

    def recipes(self) -> tuple[Recipe, ...]:
        return tuple(d for _, d in self._all() if isinstance(d, Recipe))

    def variants(self, method: str = "") -> tuple[Variant, ...]:
        """The named configurations of a method, or of all."""
        declared = (d for _, d in self._all() if isinstance(d, Variant))
        return tuple(variant for variant in declared if method in ("", variant.method))

    def specification(self, method: str) -> Specification:
        """Import a method's file and give its specification; raises UserError for unknown names."""
        file = self._file_of(method, MethodInfo, "method")
        specifications: dict[str, Specification] = getattr(file.load(), "SPECIFICATIONS", {})
        if method not in specifications:
            raise UserError(f"{file.path}: declares method '{method}' but SPECIFICATIONS has no such key")
        return specifications[method]

    def companions(self) -> Iterator[ModuleType]:
        """Of all files that declare methods and have one."""
        for file in self.files:
            if any(isinstance(declared, MethodInfo) for declared in file.declared) and file.companion is not None:
                yield file.companion

    def companion(self, method: str) -> ModuleType | None:
        """What checks, imports and counts a method, see `ShelfFile.companion`."""
        return self._file_of(method, MethodInfo, "method").companion

    def load_dataset(self, name: str, root: Path, splits: tuple[str, ...]) -> Dataset:
        """Import a dataset's file and read its annotations under ``root``."""
        dataset: Dataset = self._file_of(name, DatasetInfo, "dataset").load().load(root, splits=splits)
        return dataset

    def locate(self, name: str, data_root: Path) -> Path:
        """A dataset's folder under ``data_root``; raises UserError naming what was looked for."""
        from benchmark.data.annotations import locate_root

        file = self._file_of(name, DatasetInfo, "dataset")
        module = file.load()
        return locate_root(module.INFO, module.LAYOUTS, data_root)

    def demo_folder(self, name: str, cache: Path) -> Path:
        """The demo data in a dataset's layout in the cache, drawn on first use."""
        from benchmark.progress import counting

        with counting("drawing demo pictures") as progress:
            folder: Path = importlib.import_module(_DEMO_MODULE).demo_folder(name, cache, progress)
        return folder

    def write_demo(self, name: str, folder: Path) -> None:
        """Draw the demo data in a dataset's layout into a new folder."""
        from benchmark.progress import counting

        with counting("drawing demo pictures") as progress:
            importlib.import_module(_DEMO_MODULE).write_demo(name, folder, progress=progress)

    def dataset_module(self, name: str) -> ModuleType:
        return self._file_of(name, DatasetInfo, "dataset").load()

    def recipe(self, stage: str, dataset: str, name: str, start: str) -> Recipe:
        """The recipe of a stage on a dataset; ``name`` "" takes the default for this start.

        Random weights under a recipe for pretrained ones are refused.
        """
        mine = [r for r in self.recipes() if r.stage == stage and r.dataset in (dataset, "*")]
        mine.sort(key=lambda r: r.dataset == "*")
        if name:
            named = [r for r in mine if r.name == name]
            if not named:
                raise unknown_name(f"recipe of stage {stage} on {dataset}", name, {r.name for r in mine})
            if start == "random" and named[0].start != "random":
                raise UserError(
                    f"--recipe {name}: it fine-tunes pretrained weights, and these start at random; "
                    "use --recipe from-scratch, or give weights with --weights"
                )
            return named[0]
        fitting = [r for r in mine if r.start == start]
        for recipe in sorted(fitting, key=lambda r: r.dataset == "*"):
            if recipe.name in ("paper", "adapted", "from-scratch"):
                return recipe
        known = ", ".join(sorted({f"{r.name} ({r.dataset})" for r in mine})) or "none"
        raise UserError(f"no recipe of stage {stage} on {dataset} for {start} weights; known: {known}")

    def _all(self) -> Iterator[tuple[ShelfFile, Any]]:
        for file in self.files:
            for declared in file.declared:
                yield file, declared

    def _file_of(self, name: str, kind: type, word: str) -> ShelfFile:
        for file, declared in self._all():
            if isinstance(declared, kind) and declared.name == name:  # type: ignore[attr-defined]
                return file
        known = {d.name for _, d in self._all() if isinstance(d, kind)}  # type: ignore[attr-defined]
        raise unknown_name(word, name, known)


def _shelf_files() -> Iterator[ShelfFile]:
    for shelf in ("benchmark.methods", "benchmark.methods.networks", "benchmark.datasets"):
        package = importlib.import_module(shelf)
        for folder in package.__path__:
            for path in sorted(Path(folder).glob("[!_]*.py")):
                yield ShelfFile(f"{shelf}.{path.stem}", path)


def _entry_point_files() -> Iterator[ShelfFile]:
    from importlib.metadata import entry_points

    for group in _ENTRY_POINT_GROUPS:
        for entry in entry_points(group=group):
            try:
                spec = importlib.util.find_spec(entry.module)
            except ImportError:
                spec = None
            if spec is None or spec.origin is None:
                raise UserError(
                    f"entry point {entry.name} of {group}: there is no module {entry.module}; "
                    "install its distribution again, or uninstall it"
                )
            yield ShelfFile(entry.module, Path(spec.origin))


def discover() -> Registry:
    """A registry of the shelves and of installed entry points."""
    registry = Registry(list(_shelf_files()))
    for file in dict.fromkeys(_entry_point_files()):
        registry.add(file)
    return registry
