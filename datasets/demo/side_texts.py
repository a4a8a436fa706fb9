"""Captions of the demo data's pictures and words of its pairs, in the form in which DQU-CIR released its own.

The drawer knows its scenes: a caption names what a picture shows first, words name every facet in which the target
differs. Nothing is drawn by chance, so that the modification texts, which are, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.files import atomic_write_json
from benchmark.text_rules import corrected

from .subjects import Garment, S, Shoe, differing
from .texts import shoe_noun

_BY_VALUE = ("colour", "pattern", "second", "print", "fastening")
"""Facets whose values name themselves; of others the facet is said, too."""


def picture_text(subject: Garment | Shoe) -> str:
    """"a red striped dress"."""
    noun = subject.kind if isinstance(subject, Garment) else shoe_noun(subject.kind)
    article = "an" if subject.colour[0] in "aeiou" else "a"
    pattern = "" if subject.pattern == "plain" else f"{subject.pattern} "
    return f"{article} {subject.colour} {pattern}{noun}"


def key_words(reference: S, target: S) -> str:
    """"blue, no belt, long sleeves": what a text of this pair asks for, phrases by comma and blank."""
    return ", ".join(_phrase(getattr(target, facet), facet) for facet in differing(reference, target))


def _phrase(value: object, facet: str) -> str:
    if value is True:
        return facet
    if value in (False, "", "none"):
        return f"no {facet}"
    return str(value) if facet in _BY_VALUE else f"{value} {facet}"


def write_side_texts(
    folder: Path, captions: str, words: str, subjects: Mapping[str, S], pairs: Mapping[str, tuple[str, S, S]],
) -> None:  # fmt: skip
    """The files ``captions``, of pictures by name, and ``words``, of pairs by key: text, reference, target."""
    atomic_write_json(folder / captions, {name: picture_text(subject) for name, subject in subjects.items()})
    listed = {key: [text, key_words(reference, target)] for key, (text, reference, target) in pairs.items()}
    atomic_write_json(folder / words, listed)


def without_typos(captions: Sequence[str]) -> str:
    """Captions as the text rule `corrected` makes them by an empty dictionary."""
    return " and ".join(corrected(caption, {}) for caption in captions)
