"""Parts of speech of plain sentences, by a pipeline of spaCy's on disk: en_core_web_sm, or another English one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import digest_of, file_digest
from benchmark.progress import Progress, say

Tagged = tuple[str, str]
"""A word and its part of speech, by the names of Universal Dependencies."""

# What they say is not read. The parser's relations are: "that" is a determiner or a pronoun by them.
_NOT_READ = ("ner", "lemmatizer")
_SETTING, _REMEDY = "--set method.tagger", "get en_core_web_sm (`list methods --needs` says where)"


def pipeline_folder(meta: Path) -> Path:
    """The folder of a pipeline whose meta.json is named: beside it, or one below, as a package of it is unpacked.

    Raises UserError where there is none.
    """
    found = [path.parent for path in (meta.parent / "config.cfg", *sorted(meta.parent.glob("*/config.cfg")))
             if path.is_file()]  # fmt: skip
    if not found:
        raise UserError(f"{_SETTING}: {meta.parent} holds no pipeline of spaCy's (config.cfg is missing); {_REMEDY}")
    return found[0]


def pipeline_digest(folder: Path) -> str:
    """Of names and contents of all of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])


def parts_of_speech(folder: Path, texts: Sequence[str]) -> Iterator[tuple[Tagged, ...]]:
    """The words of each text with their parts of speech.

    Raises UserError where the pipeline cannot be read, is of another language, or gives no parts of speech; that it was
    made for another version of spaCy is said in a line.
    """
    model = _loaded(folder)
    if model.lang != "en":
        raise UserError(f"{_SETTING}: {folder} is made for the language '{model.lang}', CLIP reads English; {_REMEDY}")
    if not model("a dog").has_annotation("POS"):
        parts = ", ".join(model.pipe_names) or "no component"
        raise UserError(f"{_SETTING}: {folder} gives no parts of speech (it has {parts}); {_REMEDY}")
    with Progress("tagging sentences", len(texts)) as progress:
        for document in model.pipe(texts):
            yield tuple((word.text, word.pos_) for word in document)
            progress.advance()


def _loaded(folder: Path) -> Any:
    import spacy

    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model = spacy.load(folder, exclude=_NOT_READ)
    except Exception as error:  # damaged files make spaCy and what it reads with raise almost anything
        told = " ".join(str(error).split()) or type(error).__name__
        read_by = f"cannot be read by spaCy {version('spacy')}"
        raise UserError(f"{_SETTING}: {folder} {read_by} ({told}); {_REMEDY}") from error
    for warning in warned:
        # Only spaCy's own, which begin with a code: what its libraries deprecate is no matter of the user's.
        if (message := " ".join(str(warning.message).split())).startswith("[W"):
            say(f"{_SETTING}: {message}")
    return model
