"""The shoes of the demo data: their attributes, what each type can have, and how two differ.

As a garment is, a shoe is a vector of named attributes; an attribute that a type lacks is the empty
string (or False).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

COLOURS = ("black", "white", "red", "pink", "orange", "yellow", "green", "blue", "purple", "brown")
PATTERNS = ("plain", "striped", "dotted", "checked")
SOLES = ("black", "white", "brown", "red")


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


@dataclass(frozen=True)
class Make:
    """What one type can have; an attribute without a choice is fixed."""

    colours: tuple[str, ...] = COLOURS
    sole: tuple[str, ...] = ("",)
    pattern: tuple[str, ...] = PATTERNS
    heel: tuple[str, ...] = ("",)
    shaft: tuple[str, ...] = ("",)
    fastening: tuple[str, ...] = ("",)
    toe: tuple[str, ...] = ("",)
    platform: tuple[bool, ...] = (False,)


EITHER = (False, True)
SHOES: dict[str, Make] = {
    "athletic_shoes": Make(sole=SOLES, fastening=("laces", "strap"), platform=EITHER),
    "boots": Make(
        heel=("low", "high"), shaft=("ankle", "knee"), fastening=("", "laces", "buckle"), toe=("round", "pointed")
    ),
    "clogs": Make(sole=SOLES, heel=("low", "high"), fastening=("", "strap", "buckle")),
    "flats": Make(fastening=("", "strap", "bow", "buckle"), toe=("round", "pointed", "open")),
    "high_heels": Make(fastening=("strap", "bow", "buckle"), toe=("round", "open"), platform=EITHER),
    "pumps": Make(heel=("low", "high"), fastening=("", "bow", "buckle"), toe=("round", "pointed")),
    "rain_boots": Make(sole=SOLES, shaft=("ankle", "knee"), fastening=("", "bow", "buckle"), platform=EITHER),
    "sneakers": Make(sole=SOLES, shaft=("low", "ankle"), fastening=("laces", "strap")),
    "stiletto": Make(fastening=("", "strap", "bow"), toe=("pointed", "open")),
    "wedding_shoes": Make(
        colours=("white", "pink", "yellow", "blue", "purple", "red"), pattern=("plain", "dotted"),
        heel=("low", "high"), fastening=("strap", "bow", "buckle"), toe=("round", "open"),
    ),
}  # fmt: skip

FACETS = tuple(f.name for f in fields(Shoe) if f.name != "kind")


def options(shoe: Shoe, facet: str) -> tuple[str | bool, ...]:
    """The other values that a facet of this shoe could have, none where it is fixed."""
    make = SHOES[shoe.kind]
    if facet == "colour":
        values: tuple[str | bool, ...] = tuple(c for c in make.colours if c not in (shoe.second, shoe.sole))
    elif facet == "second":
        values = tuple(c for c in COLOURS if c != shoe.colour) if carriers(shoe) else ()
    elif facet == "sole":
        values = tuple(c for c in make.sole if c != shoe.colour)
    else:
        values = getattr(make, facet)
    return tuple(v for v in values if v != getattr(shoe, facet))


def settle(shoe: Shoe, rng: np.random.Generator) -> Shoe:
    """Make a shoe valid after a change: a second colour where one is shown, none elsewhere."""
    if not carriers(shoe):
        return replace(shoe, second="")
    if not shoe.second or shoe.second == shoe.colour:
        return replace(shoe, second=str(_one_of(options(replace(shoe, second=""), "second"), rng)))
    return shoe


def random_shoe(kind: str, rng: np.random.Generator) -> Shoe:
    """A valid shoe of a type; half of them plain."""
    make = SHOES[kind]
    drawn: dict[str, Any] = {
        facet: _one_of(getattr(make, facet), rng) for facet in ("heel", "shaft", "fastening", "toe", "platform")
    }
    colour = str(_one_of(make.colours, rng))
    sole = str(_one_of(tuple(c for c in make.sole if c != colour), rng))
    pattern = "plain" if rng.random() < 0.5 else str(_one_of(make.pattern[1:], rng))
    return settle(Shoe(kind=kind, colour=colour, sole=sole, pattern=pattern, **drawn), rng)


def differing(reference: Shoe, target: Shoe) -> tuple[str, ...]:
    """The facets that a text must name to lead from one shoe to the other.

    A second colour whose every carrier is named anyway is no change of its own.
    """
    changed = [facet for facet in FACETS if getattr(reference, facet) != getattr(target, facet)]
    said_anyway = not reference.second or set(carriers(target)) <= set(changed)
    return tuple(facet for facet in changed if facet != "second" or not said_anyway)


def carriers(shoe: Shoe) -> tuple[str, ...]:
    """The facets that show the second colour."""
    shown = {"pattern": shoe.pattern != "plain", "fastening": bool(shoe.fastening)}
    return tuple(facet for facet, present in shown.items() if present)


def is_held_out(shoe: Shoe) -> bool:
    """True for the third of all (type, colour, pattern) that training never shows."""
    kind = tuple(SHOES).index(shoe.kind)
    return (COLOURS.index(shoe.colour) + 2 * PATTERNS.index(shoe.pattern) + kind) % 3 == 0


def _one_of(values: tuple[str | bool, ...], rng: np.random.Generator) -> str | bool:
    return values[int(rng.integers(len(values)))]
