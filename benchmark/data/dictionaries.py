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

from benchmark.data.released_files import ReleasedFile
from benchmark.dataset import Captions, CategoryCaptions, Dataset, DatasetInfo, SideTexts


class WordDictionary(ReleasedFile):
    """One file. ``info``: of its dataset, which tells the names and sha256 of the released files."""

    def __init__(self, info: DatasetInfo, category: str, places: Iterable[Path]) -> None:
        told = info.dictionaries
        super().__init__(info, told[category], places, "the text rule corrected needs", told.values())

    @cached_property
    def words(self) -> Mapping[str, str]:
        """Wrong word to right word, or words."""
        return self.read(dict[str, str], "wrong words and right ones")

    def captions(self, captions: Captions, side: SideTexts | None = None) -> Captions:
        """The captions, knowing by which dictionary they are corrected, and the side texts of their pair."""
        return CategoryCaptions(captions, self, side)


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
