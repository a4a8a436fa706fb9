"""Picture names that annotation files give: plain names, each once in a list."""

from __future__ import annotations

from benchmark.data.annotations import safe_relative
from benchmark.errors import UserError


def name_problem(name: str) -> str | None:
    """What is wrong with a name that must not lead into another folder, in words."""
    try:
        plain = safe_relative(name) == name and "/" not in name and "\\" not in name
    except UserError as error:
        return str(error)
    return None if plain else f"name '{name}' is a path; a plain name is expected"


def list_faults(names: list[str], word: str, first: int) -> list[str]:
    """A line for every name of an image list that is no plain one or stands there twice.

    ``word`` is what the file's parts are called ("entry", "line"), ``first`` the number of the first.
    """
    seen: dict[str, int] = {}
    faults = []
    for number, name in enumerate(names, start=first):
        if (fault := name_problem(name)) is not None:
            faults.append(f"{word} {number}: {fault}")
        elif seen.setdefault(name, number) != number:
            faults.append(f"{word} {number}: '{name}' is {word} {seen[name]} already")
    return faults
