"""Annotation files: read and checked entry by entry, every problem of every file told in one error.

Every dataset of the shelf reads through here. Entries count from 0, as the query ids do; lines of text
files count from 1, as editors do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.structured_files import read_json, read_text

_SHOWN = 10
_TYPE_WORDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class AnnotationFile:
    """A file that a split is read from, and whether it is there."""

    split: str
    path: Path

    @property
    def found(self) -> bool:
        return self.path.is_file()


class Problems:
    """Collects what is wrong with the files of a folder and tells it in one error.

    ``advice`` ends the error: where to get the files again.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._by_file: dict[str, list[str]] = {}

    def add(self, path: Path, text: str) -> None:
        """``text`` says where in the file (entry or line) and what."""
        self._by_file.setdefault(str(path), []).append(f"{path}: {text}")

    def add_error(self, path: Path, error: UserError) -> None:
        """An error that names the file itself."""
        self._by_file.setdefault(str(path), []).append(str(error))

    def __len__(self) -> int:
        return sum(map(len, self._by_file.values()))

    def raise_all(self) -> None:
        """Raise UserError with the first ten problems of every file and their count, if there are any."""
        lines: list[str] = []
        for path, found in self._by_file.items():
            lines += found[:_SHOWN]
            if len(found) > _SHOWN:
                lines.append(f"{path}: {len(found):,} problems in all, the first {_SHOWN} are shown")
        if lines:
            lines[-1] = f"{lines[-1]}; {self._advice}" if self._advice else lines[-1]
            raise UserError.collect(lines)


def type_problem(value: object, wanted: type) -> str | None:
    """What is wrong with a value's type, in words; a bool is no number here."""
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return None
    shown = repr(value)
    return f"is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {_TYPE_WORDS[wanted]}"


def read_records(path: Path, required: Mapping[str, type], problems: Problems) -> list[tuple[int, dict[str, Any]]]:
    """Entries of a JSON list of objects with their numbers; faulty ones are told and left out.

    ``required``: key → type. Other keys are ignored.
    """
    try:
        content = read_json(path)
    except UserError as error:
        problems.add_error(path, error)
        return []
    if not isinstance(content, list) or not content:
        problems.add(path, "must be a JSON list of entries" + (" and is empty" if content == [] else ""))
        return []
    good = []
    for number, record in enumerate(content):
        faults = list(record_faults(record, required))
        for fault in faults:
            problems.add(path, f"entry {number}: {fault}")
        if not faults:
            good.append((number, record))
    return good


def record_faults(record: object, required: Mapping[str, type]) -> Iterator[str]:
    if not isinstance(record, dict):
        yield "must be an object with keys " + ", ".join(required)
        return
    for key, wanted in required.items():
        if key not in record:
            yield f"key '{key}' is missing"
        elif (fault := type_problem(record[key], wanted)) is not None:
            yield f"'{key}' {fault}"


def read_names(path: Path, problems: Problems) -> list[str]:
    """Lines of a UTF-8 text file; any line ends, blanks around a line and final empty lines are dropped."""
    try:
        text = read_text(path)
    except UserError as error:
        problems.add_error(path, error)
        return []
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line:
            problems.add(path, f"line {number} is empty")
    return [line for line in lines if line]


def safe_relative(path: str) -> str:
    """``./dev/a.png`` → ``dev/a.png``; UserError where it is empty, absolute or climbs out with ``..``."""
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":"):
        raise UserError(f"path '{path}' is absolute; a path below the data folder is expected")
    if ".." in parts:
        raise UserError(f"path '{path}' leaves the data folder through '..'")
    kept = [part for part in path.split("/") if part not in ("", ".")]
    if not kept or "\0" in path:
        raise UserError(f"path '{path}' names no file")
    return "/".join(kept)


def path_problem(path: str) -> str | None:
    """Why a path does not lead below the data folder, in words."""
    try:
        safe_relative(path)
    except UserError as error:
        return str(error)
    return None


def name_problem(name: str) -> str | None:
    """What is wrong with a name that must not lead into another folder, in words."""
    if (problem := path_problem(name)) is not None:
        return problem
    plain = safe_relative(name) == name and "/" not in name and "\\" not in name
    return None if plain else f"name '{name}' is a path; a plain name is expected"


def relative_path(value: object) -> str:
    """The entry of an image list that is to be a path, cleaned; raises UserError where it is none."""
    if (fault := type_problem(value, str)) is not None:
        raise UserError(f"the path {fault}")
    return safe_relative(str(value))


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
