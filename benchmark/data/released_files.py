"""Texts that the authors of DQU-CIR made and released, which a dataset's own files do not hold: the user's files, known
by digest.

Dictionaries of corrected words, captions of pictures (by BLIP-2), words that a pair's text asks for (by Gemini). They
were made once, by no code that is released, so that numbers are comparable with these files alone. Nothing is
downloaded: a run that needs one is refused where it is missing. Demo data carries its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from benchmark.dataset import Dataset, DatasetInfo
from benchmark.errors import UserError, first_of
from benchmark.files import file_digest
from benchmark.structured_files import SMALL, read_json, typed

REPOSITORY = "https://github.com/haokunwen/DQU-CIR"

T = TypeVar("T")


class ReleasedFile:
    """One JSON file, looked for in ``places`` when it is first asked for.

    ``facts``: its name and sha256 (or the first digits) as released. ``what`` it holds; ``beside``: the facts of the
    files that are needed together with it.
    """

    def __init__(
        self, info: DatasetInfo, facts: Mapping[str, Any], places: Iterable[Path], what: str,
        beside: Iterable[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        self._info, self._what = info, what
        self._told = [*(dict(one) for one in beside)] or [dict(facts)]
        self.file, self._released = str(facts["file"]), str(facts["sha256"])
        self.places = list(dict.fromkeys(places))

    def look_in(self, folder: Path) -> None:
        """Look for it in a folder that the user names, too: the file's own, or the release's `data`."""
        self.places += [folder, folder / self._info.released_folder]

    @cached_property
    def path(self) -> Path:
        """Raises UserError where it is in none of its places."""
        found = next((path for place in self.places if (path := place / self.file).is_file()), None)
        if found is None:
            every = ", ".join(_described(one) for one in self._told)
            raise UserError(
                f"{self._info.name}: {self._what} {self.file}, which is in none of "
                f"{', '.join(map(str, self.places))}; get {every} from the folder data of {REPOSITORY}, or name "
                "their folder with --assets-root"
            )
        return found

    @cached_property
    def digest(self) -> str:
        return file_digest(self.path)

    @property
    def is_released(self) -> bool:
        return self.digest.startswith(self._released)

    def read(self, kind: type[T], form: str) -> T:
        remedy = f"get it again, or write an object of {form}"
        return typed(kind, read_json(self.path, SMALL, remedy), str(self.path), remedy)


def _described(facts: Mapping[str, Any]) -> str:
    size = f", {facts['bytes']:,} bytes" if "bytes" in facts else ""
    return f"{facts['file']} (sha256 {facts['sha256']}{size})"


class PictureTexts(ReleasedFile):
    """A caption for each picture, by its name."""

    @cached_property
    def _texts(self) -> Mapping[str, str]:
        return self.read(dict[str, str], "names of pictures and their captions")

    def of(self, picture: str) -> str:
        """Raises UserError where there is none."""
        if picture not in self._texts:
            raise UserError(f"{self.path}: has no caption of picture '{picture}'; get the file again, or add it")
        return self._texts[picture]


class PairNotes(ReleasedFile):
    """For each pair its text and, last, the words to show: phrases separated by comma and blank."""

    @cached_property
    def _words(self) -> Mapping[str, list[str]]:
        return self.read(dict[str, list[str]], "pairs and the list of their texts, the words last")

    def of(self, pair: str) -> str:
        """Raises UserError where there are none."""
        if not self._words.get(pair):
            raise UserError(f"{self.path}: has no words of the pair '{pair}'; get the file again, or add them")
        return self._words[pair][-1]


@dataclass(frozen=True)
class ReleasedSide:
    """Side texts of a pair from such files; ``pair`` is its key in the second."""

    texts: PictureTexts
    reference: str
    notes: PairNotes
    pair: str

    @property
    def picture_text(self) -> str:
        return self.texts.of(self.reference)

    @property
    def note(self) -> str:
        return self.notes.of(self.pair)


@dataclass(frozen=True)
class LabelledSide:
    """Side texts of a pair that the dataset's own labels tell."""

    picture_text: str
    note: str


class SideFiles:
    """A dataset's captions of pictures and words of pairs: those files that its splits read, by the facts' keys.

    ``needed_texts``, ``needed_notes``: the keys.
    """

    def __init__(
        self, info: DatasetInfo, places: Iterable[Path], needed_texts: Iterable[str], needed_notes: Iterable[str]
    ) -> None:
        self._info = info
        told, places = (*info.picture_texts.values(), *info.pair_notes.values()), list(places)
        self.texts = {
            key: PictureTexts(info, info.picture_texts[key], places, "captions of pictures are read from", told)
            for key in needed_texts if key in info.picture_texts
        }  # fmt: skip
        self.notes = {
            key: PairNotes(info, info.pair_notes[key], places, "words of pairs are read from", told)
            for key in needed_notes if key in info.pair_notes
        }  # fmt: skip

    @property
    def all(self) -> tuple[ReleasedFile, ...]:
        return (*self.texts.values(), *self.notes.values())

    def of(self, texts: str, reference: str, notes: str, pair: str) -> ReleasedSide | None:
        """Of one pair; None where nothing was released of its split."""
        if texts not in self.texts or notes not in self.notes:
            return None
        return ReleasedSide(self.texts[texts], reference, self.notes[notes], pair)


@runtime_checkable
class _HasSideFiles(Protocol):
    @property
    def side_files(self) -> SideFiles | None: ...


def side_files_of(dataset: Dataset) -> SideFiles | None:
    """None where the dataset has none, or where its own labels say all."""
    return dataset.side_files if isinstance(dataset, _HasSideFiles) else None


def side_digests(dataset: Dataset, *, texts: bool, notes: bool) -> dict[str, str]:
    """File to sha256 of what is read of a dataset's captions of pictures and words of pairs; raises UserError where one
    is missing."""
    files = side_files_of(dataset)
    if files is None:
        return {}
    read = [*(files.texts.values() if texts else ()), *(files.notes.values() if notes else ())]
    return {file.file: file.digest for file in read}


def side_note(files: Iterable[ReleasedFile]) -> tuple[str, ...]:
    """What has to be known of captions and words that come from these, once they were read."""
    others = [file.file for file in files if not file.is_released]
    told = "captions of pictures and words of pairs are others than the released ones"
    return (f"{told}: {first_of(others, 2)}",) if others else ()
