"""Checking implementations against golden numbers: which reader a file has, and the report.

A file's ``method`` names its form. The engine reads "preprocessing" and "training"; every other
form belongs to a method of the registry. The method's companion (`Registry.companion`) has readers of files by
what they call their ``method`` as ``FORMS``, and of recipes in a training file, by the beginning of their names, as
``TRAINING``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from benchmark.errors import unknown_name
from benchmark.parity.comparison import Deviation
from benchmark.parity.files import GoldenFile
from benchmark.parity.pictures import check_preprocessing
from benchmark.parity.training import CaseReader, check_recipe, read_recipes
from benchmark.progress import say

if TYPE_CHECKING:
    from benchmark.registry import Registry

__all__ = ["Deviation", "check", "report"]

FormReader = Callable[[GoldenFile], Iterable[Deviation]]
"""A golden file to a deviation for each of its outputs; raises UserError where it is of another form."""


def check(path: Path, registry: Registry) -> list[Deviation]:
    """A deviation for every output of a golden file.

    Raises UserError for a file that is missing, truncated, of an unknown form or unlike its form.
    """
    file = GoldenFile.read(path)
    reader = _reader(file, registry)
    say(f"{path}: {file.method}")
    deviations = list(reader(file))
    if not deviations:
        raise file.error("it lists no output")
    return deviations


def report(path: Path, deviations: list[Deviation]) -> str:
    """A markdown table of the largest deviation of every output beside its tolerance."""
    rows = [
        (d.output, f"{d.value:.2g}", f"{d.tolerance:.2g}", "ok" if d.ok else "TOO LARGE", d.at, d.note)
        for d in deviations
    ]
    columns = ("output", "largest deviation", "tolerance", "result", "at", "note")
    table = tabulate(rows, columns, tablefmt="github", disable_numparse=True)
    wrong = sum(not d.ok for d in deviations)
    verdict = f"{wrong} of {len(deviations)} outputs deviate too much" if wrong else "every output agrees"
    return f"{path}\n\n{table}\n\n{path.name}: {verdict}\n"


def _reader(file: GoldenFile, registry: Registry) -> FormReader:
    if file.method == "preprocessing":
        return check_preprocessing
    if file.method == "training":
        return lambda golden: _check_training(golden, registry)
    forms: dict[str, FormReader] = {}
    for companion in registry.companions():
        forms |= getattr(companion, "FORMS", {})
    if file.method not in forms:
        known = {*forms, "preprocessing", "training"}
        raise file.error(str(unknown_name("form of golden numbers", file.method, known)))
    return forms[file.method]


def _check_training(file: GoldenFile, registry: Registry) -> Iterator[Deviation]:
    readers: dict[str, CaseReader] = {}
    for companion in registry.companions():
        readers |= getattr(companion, "TRAINING", {})
    recipes = read_recipes(file)
    chosen = {name: _case_reader(file, name, readers) for name in recipes}
    for name, recipe in recipes.items():
        yield from check_recipe(name, recipe, chosen[name](file, name, recipe))


def _case_reader(file: GoldenFile, name: str, readers: Mapping[str, CaseReader]) -> CaseReader:
    """The reader of the longest beginning of a recipe's name: "spirit" reads "spirit_weight_decay_0"."""
    fitting = [key for key in readers if name == key or name.startswith(f"{key}_")]
    if not fitting:
        raise file.error(str(unknown_name("recipe", name, readers)))
    return readers[max(fitting, key=len)]
