"""Dictionaries of corrected words, which the text rule `corrected` reads: the user's files, known by digest.

They are JSON objects, wrong word to right word, one for each category, made by the authors of TG-CIR and DQU-CIR.
Many of their corrections are wrong, and those of several categories contradict each other: numbers are comparable
with the released files alone, and with the category's own. A run is refused where one is missing; demo data carries
empty ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmark.dataset import Captions, CategoryCaptions, Dataset, DatasetInfo
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.structured_files import SMALL, read_json, typed

_REMEDY = "get it again, or write an object of wrong words and right ones"


class WordDictionary:
    """One file, looked for in ``places`` when it is first asked for. ``info``: of its dataset, which tells the names
    and sha256 of the released files."""

    def __init__(self, info: DatasetInfo, category: str, places: Iterable[Path]) -> None:
        self._info, self.file = info, str(info.dictionaries[category]["file"])
        self._released = str(info.dictionaries[category]["sha256"])
        self.places = list(dict.fromkeys(places))

    @cached_property
    def path(self) -> Path:
        """Raises UserError where it is in none of its places."""
        found = next((path for place in self.places if (path := place / self.file).is_file()), None)
        if found is None:
            told = self._info.dictionaries.values()
            every = ", ".join(f"{one['file']} (sha256 {one['sha256']})" for one in told)
            raise UserError(
                f"{self._info.name}: the text rule corrected needs {self.file}, which is in none of "
                f"{', '.join(map(str, self.places))}; get {every} from the folder data of "
                "https://github.com/haokunwen/DQU-CIR, or name their folder with --assets-root"
            )
        return found

    @cached_property
    def digest(self) -> str:
        return file_digest(self.path)

    @property
    def is_released(self) -> bool:
        return self.digest == self._released

    @cached_property
    def words(self) -> Mapping[str, str]:
        """Wrong word to right word, or words."""
        return typed(dict[str, str], read_json(self.path, SMALL, _REMEDY), str(self.path), _REMEDY)

    def captions(self, captions: Captions) -> Captions:
        """The captions, knowing by which dictionary they are corrected."""
        return CategoryCaptions(captions, self)


@runtime_checkable
class _HasDictionaries(Protocol):
    @property
    def dictionaries(self) -> Mapping[str, WordDictionary]: ...


def dictionaries_of(dataset: Dataset) -> Mapping[str, WordDictionary]:
    """By category; none where the dataset has no corrected texts."""
    return dataset.dictionaries if isinstance(dataset, _HasDictionaries) else {}


def dictionary_digests(dataset: Dataset) -> dict[str, str]:
    """File to sha256 of what corrects the dataset's texts; raises UserError where one is missing."""
    return {dictionary.file: dictionary.digest for dictionary in dictionaries_of(dataset).values()}


def dictionary_notes(dictionaries: Iterable[WordDictionary]) -> tuple[str, ...]:
    """What has to be known of texts that these correct."""
    others = [dictionary.file for dictionary in dictionaries if not dictionary.is_released]
    return (f"texts corrected by other dictionaries than the released ones: {', '.join(others)}",) if others else ()
