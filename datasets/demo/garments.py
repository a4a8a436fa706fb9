"""The garments of the demo data: their attributes, what each kind can have, and how two differ.

A garment is a vector of named attributes; nothing else about a picture of it matters, so two
pictures show the same garment if and only if their vectors are equal. An attribute that a kind
lacks is the empty string (or False), never a value of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

COLOURS = ("black", "white", "red", "pink", "orange", "yellow", "green", "blue", "purple", "brown")
PATTERNS = ("plain", "striped", "dotted", "checked")
PRINTS = ("", "heart", "star")
PLACES = ("top", "bottom")


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
    def uses_second(self) -> bool:
        return bool(carriers(self))

    @property
    def look(self) -> tuple[str, str, str]:
        """The combination that validation holds out: kind, colour, pattern."""
        return (self.kind, self.colour, self.pattern)


@dataclass(frozen=True)
class Wardrobe:
    """What one kind can have; an attribute without a choice is fixed."""

    sleeves: tuple[str, ...] = ("",)
    neck: tuple[str, ...] = ("",)
    length: tuple[str, ...] = ("",)
    print: tuple[str, ...] = ("",)
    buttons: tuple[bool, ...] = (False,)
    pocket: tuple[bool, ...] = (False,)
    belt: tuple[bool, ...] = (False,)


EITHER = (False, True)
KINDS: dict[str, Wardrobe] = {
    "dress": Wardrobe(
        sleeves=("none", "short", "long"), neck=("round", "v"), length=("short", "long"),
        print=PRINTS, belt=EITHER,
    ),
    "t-shirt": Wardrobe(
        sleeves=("none", "short", "long"), neck=("round", "v", "high"), length=("short", "long"),
        print=PRINTS, pocket=EITHER,
    ),
    "shirt": Wardrobe(sleeves=("short", "long"), neck=("collar", "bow"), buttons=EITHER, pocket=EITHER),
    "jacket": Wardrobe(
        sleeves=("long",), neck=("lapels", "hood"), length=("short", "long"),
        buttons=EITHER, pocket=EITHER, belt=EITHER,
    ),
    "skirt": Wardrobe(length=("short", "long"), buttons=EITHER, pocket=EITHER, belt=EITHER),
    "trousers": Wardrobe(length=("short", "long"), pocket=EITHER, belt=EITHER),
}

FACETS = tuple(f.name for f in fields(Garment) if f.name != "kind")


def options(garment: Garment, facet: str) -> tuple[str | bool, ...]:
    """The other values that a facet of this garment could have, none where it is fixed."""
    if facet == "colour":
        values: tuple[str | bool, ...] = tuple(c for c in COLOURS if c != garment.second)
    elif facet == "second":
        values = tuple(c for c in COLOURS if c != garment.colour) if garment.uses_second else ()
    elif facet == "pattern":
        values = PATTERNS
    elif facet == "place":
        values = PLACES if garment.print else ()
    else:
        values = getattr(KINDS[garment.kind], facet)
    return tuple(v for v in values if v != getattr(garment, facet))


def settle(garment: Garment, rng: np.random.Generator) -> Garment:
    """Make a garment valid after a change: draw what it now needs, drop what it no longer has.

    Prints stand on plain cloth without a pocket only, so that they can be seen.
    """
    if garment.pattern != "plain" or garment.pocket:
        garment = replace(garment, print="")
    if garment.print and not garment.place:
        garment = replace(garment, place=PLACES[rng.integers(len(PLACES))])
    if not garment.print:
        garment = replace(garment, place="")
    if not garment.uses_second:
        return replace(garment, second="")
    if not garment.second or garment.second == garment.colour:
        choices = options(replace(garment, second=""), "second")
        return replace(garment, second=str(choices[rng.integers(len(choices))]))
    return garment


def random_garment(kind: str, rng: np.random.Generator) -> Garment:
    """A valid garment of a kind; half of them plain, so that prints and pockets find room."""
    wardrobe = KINDS[kind]
    drawn: dict[str, Any] = {f.name: _one_of(getattr(wardrobe, f.name), rng) for f in fields(wardrobe)}
    pattern = "plain" if rng.random() < 0.5 else str(_one_of(PATTERNS[1:], rng))
    if drawn["print"]:
        drawn["pocket"] = False
    return settle(Garment(kind=kind, colour=str(_one_of(COLOURS, rng)), pattern=pattern, **drawn), rng)


def differing(reference: Garment, target: Garment) -> tuple[str, ...]:
    """The facets that a text must name to lead from one garment to the other.

    A second colour that comes or goes, or whose every carrier is named anyway, is no change of
    its own; nor is the place of a print that comes or goes.
    """
    changed = [f for f in FACETS if getattr(reference, f) != getattr(target, f)]
    if not (reference.place and target.place):
        changed = [f for f in changed if f != "place"]
    said_anyway = not reference.second or set(carriers(target)) <= set(changed)
    return tuple(f for f in changed if f != "second" or not said_anyway)


def carriers(garment: Garment) -> tuple[str, ...]:
    """The facets that show the second colour."""
    shown = {
        "pattern": garment.pattern != "plain",
        "print": bool(garment.print),
        "pocket": garment.pocket,
        "neck": garment.neck == "bow",
    }
    return tuple(facet for facet, present in shown.items() if present)


def _one_of(values: tuple[str | bool, ...], rng: np.random.Generator) -> str | bool:
    return values[int(rng.integers(len(values)))]
