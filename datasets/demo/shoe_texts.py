"""Captions of the demo data's shoes: what the target has that the reference has not, in many phrasings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .shoes import Shoe, differing
from .texts import PATTERN_NOUNS, Phrases, joined, one_of, with_article

_NOUNS = {
    "athletic_shoes": "athletic shoe", "boots": "boot", "clogs": "clog", "flats": "flat", "high_heels": "high heel",
    "pumps": "pump", "rain_boots": "rain boot", "sneakers": "sneaker", "stiletto": "stiletto",
    "wedding_shoes": "wedding shoe",
}  # fmt: skip
_NUMBERED = {"is": "are", "has": "have", "does": "do", "reaches": "reach", "shows": "show"}


def relative_caption(reference: Shoe, target: Shoe, rng: np.random.Generator) -> str:
    """How the target differs from the reference; raises ValueError where it does not."""
    facets = list(differing(reference, target))
    if not facets:
        raise ValueError(f"nothing to say: both shoes are {reference}")
    rng.shuffle(facets)
    phrases = [_FACETS[facet](reference, target, rng) for facet in facets]
    form = rng.integers(4)
    if form == 0:
        return joined([_plural(one_of(p.statements, rng)) for p in phrases], rng)
    if form == 1:
        return joined([one_of(p.statements, rng) for p in phrases], rng)
    qualities = joined([one_of(p.qualities, rng) for p in phrases], rng)
    if form == 2:
        opening = one_of(("same but", "the same {noun} but", "similar but"), rng)
        return f"{opening.format(noun=_NOUNS[target.kind])} {qualities}"
    return joined([one_of(p.commands, rng) for p in phrases], rng)


def _plural(statement: str) -> str:
    """ "is red" of a pair: "are red"."""
    verb, _, rest = statement.partition(" ")
    return f"{_NUMBERED[verb]} {rest}"


def _colour(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    old, new = reference.colour, target.colour
    return Phrases(
        (f"is {new}", f"is {new} instead of {old}", f"is {new}, not {old}"),
        (f"make it {new}", f"change {old} to {new}", f"show me {new}"),
        (new, f"in {new}", f"{new} instead of {old}"),
    )


def _pattern(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    if target.pattern == "plain":
        old = one_of(PATTERN_NOUNS[reference.pattern], rng)
        return Phrases(
            ("is plain", f"has no {old}", f"is plain, without {old}"),
            ("make it plain", f"remove the {old}"), ("plain", f"without the {old}", f"with no {old}"),
        )  # fmt: skip
    new = _tint(reference, target, rng) + one_of(PATTERN_NOUNS[target.pattern], rng)
    return Phrases((f"has {new}", f"is covered with {new}"), (f"add {new}", f"give it {new}"), (f"with {new}",))


def _second(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    """The colour of what carries the second colour and is not named anyway; of two, the pattern, seen first."""
    old, new = reference.second, target.second
    patterned = target.pattern == reference.pattern != "plain"
    what = one_of(PATTERN_NOUNS[target.pattern], rng) if patterned else target.fastening
    shown = f"{new} {what}" if what.endswith("s") else f"{with_article(new)} {what}"
    return Phrases(
        (f"has {shown}", f"has {shown} instead of {old}"),
        (f"make the {what} {new}", f"change the {what} from {old} to {new}"),
        (f"with {shown}", f"with the {what} in {new}"),
    )


def _sole(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    old, new = reference.sole, target.sole
    return Phrases(
        (f"has a {new} sole", f"has a {new} sole instead of {old}"),
        (f"make the sole {new}", f"change the sole from {old} to {new}"),
        (f"with a {new} sole", f"with the sole in {new}"),
    )


def _heel(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    new = "higher" if target.heel == "high" else "lower"
    adjective = "taller" if target.heel == "high" else "flatter"
    return Phrases(
        (f"has a {new} heel", f"has a {target.heel} heel", f"is {adjective}, with a {target.heel} heel"),
        (f"make the heel {new}", f"give it a {new} heel"), (f"with a {new} heel", f"with a {target.heel} heel"),
    )  # fmt: skip


def _shaft(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    if target.shaft == "knee":
        return Phrases(
            ("is taller", "reaches the knee", "has a longer shaft"), ("make it taller", "give it a longer shaft"),
            ("taller", "with a longer shaft", "up to the knee"),
        )  # fmt: skip
    if reference.shaft == "knee":
        return Phrases(
            ("is ankle high", "is shorter", "has a shorter shaft"), ("make it shorter", "give it a shorter shaft"),
            ("shorter", "with a shorter shaft", "ankle high"),
        )  # fmt: skip
    top = "high" if target.shaft == "ankle" else "low"
    return Phrases(
        (f"is {top} cut", f"has a {top} top"), (f"make it {top} cut", f"make the top {top}er"),
        (f"{top} cut", f"with a {top} top"),
    )  # fmt: skip


def _fastening(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    old, article = reference.fastening, "" if reference.fastening == "laces" else "a "
    if not target.fastening:
        return Phrases(
            (f"has no {old}", f"does not have the {old}"), (f"remove the {old}", f"take the {old} off"),
            (f"without the {old}", f"with no {old}"),
        )  # fmt: skip
    tint = _tint(reference, target, rng)
    new = f"{tint}laces" if target.fastening == "laces" else f"{with_article(tint)}{target.fastening}"
    if not old:
        return Phrases((f"has {new}",), (f"add {new}", f"give it {new}"), (f"with {new}",))
    return Phrases(
        (f"has {new}", f"has {new} instead of {article}{old}"), (f"replace the {old} with {new}", f"give it {new}"),
        (f"with {new}", f"with {new} instead of {article}{old}"),
    )  # fmt: skip


def _toe(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    new, old = with_article(target.toe), reference.toe
    return Phrases(
        (f"has {new} toe", f"has {new} toe instead of {with_article(old)} one"),
        (f"make the toe {target.toe}", f"give it {new} toe"), (f"with {new} toe",),
    )  # fmt: skip


def _platform(reference: Shoe, target: Shoe, rng: np.random.Generator) -> Phrases:
    new = "thicker" if target.platform else "thinner"
    return Phrases(
        (f"has a {new} sole",), (f"make the sole {new}", f"give it a {new} sole"), (f"with a {new} sole",)
    )


def _tint(reference: Shoe, target: Shoe, rng: np.random.Generator) -> str:
    """The second colour, which must be said where it is new and may be said elsewhere."""
    if reference.second == target.second and rng.random() < 0.6:
        return ""
    return f"{target.second} "


_FACETS: dict[str, Callable[[Shoe, Shoe, np.random.Generator], Phrases]] = {
    "colour": _colour,
    "second": _second,
    "sole": _sole,
    "pattern": _pattern,
    "heel": _heel,
    "shaft": _shaft,
    "fastening": _fastening,
    "toe": _toe,
    "platform": _platform,
}
