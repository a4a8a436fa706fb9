"""The folders show the architecture: dependencies point one way, and the shelves hold nothing but what they are for.

Imports count wherever they stand: at the top, inside functions, for typing alone.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHELVES = {"benchmark": ROOT / "benchmark", "benchmark.methods": ROOT / "methods", "benchmark.datasets": ROOT / "datasets"}
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc)(_|$)")


def modules() -> dict[str, Path]:
    """Every module of the three packages, by the name that it is imported under."""
    found = {}
    for package, folder in SHELVES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


@cache
def declarations(name: str) -> list[ast.Import | ast.ImportFrom | ast.ClassDef]:
    """A module's imports and classes, wherever they stand."""
    nodes = ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)]


def imported(name: str) -> Iterator[str]:
    """The project's modules that a module imports."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in declarations(name):
        if isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            asked = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in asked:
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            if target and target not in (name, "benchmark"):
                yield target


def place(module: str) -> str:
    """The folder that a module lies in; a contract at the top of the engine is a place of its own."""
    parts = module.split(".")[1:]
    if parts[:1] in (["methods"], ["datasets"]):
        return "/".join(parts[:2]) if len(parts) > 2 else parts[0]
    return parts[0] if parts else "benchmark"


@cache
def imports() -> dict[str, set[str]]:
    """What every module imports; read at the first test that asks, not where tests are collected."""
    return {name: set(imported(name)) for name in MODULES}


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_one_that_imports_it_back() -> None:
    assert circle(imports()) == []


def test_no_folder_imports_one_that_imports_it_back() -> None:
    between: dict[str, set[str]] = defaultdict(set)
    for name, targets in imports().items():
        # The package's own file gives `benchmark.run` under the name that users import.
        if name != "benchmark":
            between[place(name)] |= {place(target) for target in targets} - {place(name)}
    assert circle(dict(between)) == []


def test_the_graph_of_imports_sees_relative_lazy_and_typing_imports() -> None:
    assert "benchmark.methods.networks.layers" in imports()["benchmark.methods.clip4cir"]
    assert "benchmark.pipeline.run" in set(imported("benchmark.cli.run"))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and not circle({"a": {"b"}, "b": {"c"}})


@pytest.mark.parametrize("shelf", ["methods", "datasets"])
def test_the_engine_imports_nothing_of_a_shelf_but_through_the_registry(shelf: str) -> None:
    engine = [name for name in MODULES if not name.startswith(("benchmark.methods", "benchmark.datasets"))]
    for name in engine:
        assert not [target for target in imports()[name] if target.startswith(f"benchmark.{shelf}")], name


def test_nothing_imports_the_command_line() -> None:
    for name, targets in imports().items():
        if not name.startswith(("benchmark.cli", "benchmark.__main__")):
            assert not [target for target in targets if target.startswith("benchmark.cli")], name


def test_a_method_never_imports_another_s_parity_and_a_dataset_no_dataset() -> None:
    for name, targets in imports().items():
        if name.startswith("benchmark.methods.") and place(name) == "methods":
            assert not [target for target in targets if place(target) == "methods/parity"], name
        if name.startswith("benchmark.datasets.") and place(name) == "datasets":
            assert not [t for t in targets if place(t) == "datasets" and t != "benchmark.datasets"], name


@pytest.mark.parametrize("shelf", ["methods", "datasets"])
def test_a_shelf_holds_files_with_their_facts_and_nothing_else(shelf: str) -> None:
    folder = ROOT / shelf
    files = {path.name for path in folder.iterdir() if path.is_file()}
    stems = {Path(name).stem for name in files if name.endswith(".py")} - {"__init__"}
    assert files == {"__init__.py", "README.md"} | {f"{stem}{end}" for stem in stems for end in (".py", ".toml")}


def test_names_say_what_a_module_holds() -> None:
    assert not [name for name in MODULES if VAGUE.search(name.rpartition(".")[2])]


def test_a_class_name_means_one_thing() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for name in MODULES:
        for node in declarations(name):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                defined[node.name].append(name)
    assert not {name: places for name, places in defined.items() if len(places) > 1}
