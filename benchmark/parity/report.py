"""Checking implementations against golden numbers: which reader a file has, and the report.

A file's ``method`` names its form. The engine reads "preprocessing", "training" and what concerns data alone; every
other form belongs to a method of the registry, whose companion (`Registry.companion`) has its reader: of files in
``FORMS``, of the recipes in a training file in ``TRAINING``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tabulate import tabulate

from benchmark.errors import unknown_name
from benchmark.parity.comparison import Deviation
from benchmark.parity.data import check_circo_metrics, check_corrected_text, check_noise
from benchmark.parity.files import GoldenFile
from benchmark.parity.pictures import check_preprocessing
from benchmark.parity.training import CaseReader, check_recipe, read_recipes
from benchmark.progress import say
from benchmark.registry import Registry

__all__ = ["Deviation", "check", "report"]

FormReader = Callable[[GoldenFile], Iterable[Deviation]]
"""A golden file to a deviation for each of its outputs; raises UserError where it is of another form."""


def check(path: Path, registry: Registry) -> list[Deviation]:
    """A deviation for every output of a golden file.

    Raises UserError for a file that is missing, truncated, of an unknown form or unlike its form.
    """
    file = GoldenFile.read(path)
    readers: dict[str, FormReader] = {
        "preprocessing": check_preprocessing,
        "noisy_triplets": check_noise,
        "corrected_text": check_corrected_text,
        "circo_metrics": check_circo_metrics,
        "training": lambda golden: _check_training(golden, registry),
    }
    for companion in registry.companions():
        readers |= getattr(companion, "FORMS", {})
    if file.method not in readers:
        raise file.error(str(unknown_name("form of golden numbers", file.method, readers)))
    say(f"{path}: {file.method}")
    deviations = list(readers[file.method](file))
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


def _check_training(file: GoldenFile, registry: Registry) -> Iterator[Deviation]:
    readers: dict[str, CaseReader] = {}
    for companion in registry.companions():
        readers |= getattr(companion, "TRAINING", {})
    chosen: dict[str, CaseReader] = {}
    recipes = read_recipes(file)
    for name in recipes:
        # The longest beginning of its name: "spirit" reads "spirit_weight_decay_0".
        fitting = [key for key in readers if name == key or name.startswith(f"{key}_")]
        if not fitting:
            raise file.error(str(unknown_name("recipe", name, readers)))
        chosen[name] = readers[max(fitting, key=len)]
    for name, recipe in recipes.items():
        yield from check_recipe(name, recipe, chosen[name](file, name, recipe))
