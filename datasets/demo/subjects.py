"""What the demo data's pictures show, garments and shoes: their attributes, and how two of them differ.

A subject is a vector of named attributes, its facets; nothing else about a picture of it matters, so two
pictures show the same one if and only if their vectors are equal. An attribute that a kind lacks is the
empty string (or False), never a value of its own. `subjects.toml` says what each kind can have.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

_FACTS = tomllib.loads((Path(__file__).parent / "subjects.toml").read_text(encoding="utf-8"))
COLOURS: tuple[str, ...] = tuple(_FACTS["colours"])
PATTERNS: tuple[str, ...] = tuple(_FACTS["patterns"])
GARMENTS: tuple[str, ...] = tuple(_FACTS["garment"])
SHOES: tuple[str, ...] = tuple(_FACTS["shoe"])


@dataclass(frozen=True)
class Garment:
    """``second`` is the colour of pattern, print, pocket and bow, empty where none of them is there."""

    kind: str
    colour: str
    second: str = ""
    pattern: str = "plain"
    sleeves: str = ""
    neck: str = ""
    length: str = ""
    print: str = ""
    place: str = ""
    buttons: bool = False
    pocket: bool = False
    belt: bool = False

    @property
    def carriers(self) -> tuple[str, ...]:
        """The facets that show the second colour, the one first that is seen first."""
        patterned, bow = self.pattern != "plain", self.neck == "bow"
        shown = {"pattern": patterned, "print": self.print, "pocket": self.pocket, "neck": bow}
        return tuple(facet for facet, is_there in shown.items() if is_there)


@dataclass(frozen=True)
class Shoe:
    """``second`` is the colour of pattern and fastening, empty where neither is there.

    ``sole`` is empty where the sole is too thin to be seen; ``fastening`` is what closes or adorns
    the shoe; ``platform`` a thick sole where the type has it thin as well.
    """

    kind: str
    colour: str
    second: str = ""
    sole: str = ""
    pattern: str = "plain"
    heel: str = ""
    shaft: str = ""
    fastening: str = ""
    toe: str = ""
    platform: bool = False

    @property
    def carriers(self) -> tuple[str, ...]:
        """The facets that show the second colour."""
        return ("pattern",) * (self.pattern != "plain") + ("fastening",) * bool(self.fastening)


S = TypeVar("S", Garment, Shoe)


def facets(subject: Garment | Shoe | type[Garment] | type[Shoe]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(subject) if field.name != "kind")


def values(kind: str, facet: str) -> tuple[Any, ...]:
    """All that a facet of this kind can be; a single value where it is fixed."""
    sort, kinds = (Garment, _FACTS["garment"]) if kind in GARMENTS else (Shoe, _FACTS["shoe"])
    chosen = kinds[kind].get(facet)
    if chosen is None:
        chosen = {"colour": COLOURS, "pattern": PATTERNS}.get(facet) or [getattr(sort(kind, ""), facet)]
    return tuple(chosen)


def options(subject: Garment | Shoe, facet: str) -> tuple[Any, ...]:
    """The other values that a facet of this subject could have, none where it is fixed."""
    if facet == "second":
        possible = COLOURS if subject.carriers else ()
    elif facet == "place":
        possible = tuple(_FACTS["places"]) if isinstance(subject, Garment) and subject.print else ()
    else:
        possible = values(subject.kind, facet)
    # What lies side by side has different colours.
    beside = (subject.second, getattr(subject, "sole", ""))
    taken = {"colour": beside, "second": (subject.colour,), "sole": (subject.colour,)}
    return tuple(v for v in possible if v != getattr(subject, facet) and v not in taken.get(facet, ()))


def settle(subject: S, rng: np.random.Generator) -> S:
    """Make a subject valid after a change: draw what it now needs, drop what it no longer has.

    Prints stand on plain cloth without a pocket only, so that they can be seen.
    """
    if isinstance(subject, Garment):
        printed = subject.print if subject.pattern == "plain" and not subject.pocket else ""
        place = (subject.place or one_of(_FACTS["places"], rng)) if printed else ""
        settled: dict[str, Any] = {"print": printed, "place": place}
        subject = replace(subject, **settled)
    if not subject.carriers:
        return replace(subject, second="")
    if not subject.second or subject.second == subject.colour:
        return replace(subject, second=one_of(options(replace(subject, second=""), "second"), rng))
    return subject


def random_subject(kind: str, rng: np.random.Generator) -> Garment | Shoe:
    """A valid garment or shoe; half of them plain, so that prints and pockets find room."""
    if kind in SHOES:
        drawn = {f: one_of(values(kind, f), rng) for f in ("heel", "shaft", "fastening", "toe", "platform", "colour")}
        sole = one_of(tuple(c for c in values(kind, "sole") if c != drawn["colour"]), rng)
        return settle(Shoe(kind, sole=sole, pattern=_pattern(kind, rng), **drawn), rng)
    free = ("sleeves", "neck", "length", "print", "buttons", "pocket", "belt")
    drawn = {facet: one_of(values(kind, facet), rng) for facet in free}
    drawn["pocket"] = drawn["pocket"] and not drawn["print"]
    pattern = _pattern(kind, rng)
    return settle(Garment(kind, one_of(COLOURS, rng), pattern=pattern, **drawn), rng)


def _pattern(kind: str, rng: np.random.Generator) -> Any:
    return "plain" if rng.random() < 0.5 else one_of(values(kind, "pattern")[1:], rng)


def differing(reference: S, target: S) -> tuple[str, ...]:
    """The facets that a text must name to lead from one subject to the other.

    A second colour that comes or goes, or whose every carrier is named anyway, is no change of
    its own; nor is the place of a print that comes or goes.
    """
    changed = [f for f in facets(reference) if getattr(reference, f) != getattr(target, f)]
    if isinstance(reference, Garment) and isinstance(target, Garment) and not (reference.place and target.place):
        changed = [f for f in changed if f != "place"]
    said_anyway = not reference.second or set(target.carriers) <= set(changed)
    return tuple(f for f in changed if f != "second" or not said_anyway)


def is_held_out(subject: Garment | Shoe) -> bool:
    """True for the third of all (kind, colour, pattern) that training never shows.

    Every kind is trained in every colour and pattern, every colour in every pattern.
    """
    kind = (GARMENTS if isinstance(subject, Garment) else SHOES).index(subject.kind)
    return (COLOURS.index(subject.colour) + 2 * PATTERNS.index(subject.pattern) + kind) % 3 == 0


def one_of(choices: Any, rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]
