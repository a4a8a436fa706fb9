"""Modification texts of the demo data, in many phrasings, and plain labels of single garments.

A text names every facet in which the target differs from the reference, so that reference and
text together leave one answer. It is phrased as a statement ("is red and has a belt"), as a
command ("make it red and add a belt") or as a comparison ("the same skirt but red, with a belt").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .garments import Garment, carriers, differing

PATTERN_NOUNS = {"striped": ("stripes",), "dotted": ("dots", "polka dots"), "checked": ("checks", "squares")}
_NECKS = {
    "round": "a round neck", "v": "a v-neck", "high": "a high neck", "collar": "a pointed collar",
    "bow": "{a_tint}bow", "lapels": "lapels", "hood": "a hood",
}  # fmt: skip

_TRIES = 4


@dataclass(frozen=True)
class Phrases:
    """The ways to say one change: after "it", as a command, and after "the same but"."""

    statements: tuple[str, ...]
    commands: tuple[str, ...]
    qualities: tuple[str, ...]


def modification_text(reference: Garment, target: Garment, rng: np.random.Generator) -> str:
    """What to change on the reference to get the target; raises ValueError where nothing differs."""
    facets = list(differing(reference, target))
    if not facets:
        raise ValueError(f"nothing to say: both garments are {reference}")
    rng.shuffle(facets)
    phrases = [_FACETS[facet](reference, target, rng) for facet in facets]
    form = rng.integers(3)
    if form == 0:
        return one_of(("", "", "it "), rng) + joined([one_of(p.statements, rng) for p in phrases], rng)
    if form == 1:
        return joined([one_of(p.commands, rng) for p in phrases], rng)
    opening = one_of(("same but", "the same {noun} but", "similar {noun} but", "like this but"), rng)
    qualities = joined([one_of(p.qualities, rng) for p in phrases], rng)
    return f"{opening.format(noun=target.kind)} {qualities}"


def relative_captions(reference: Garment, target: Garment, rng: np.random.Generator) -> tuple[str, str]:
    """Two short statements in FashionIQ's manner that together name every change.

    Of several changes each caption names its own, or the first one all; of a single change they are two
    ways to say it, or one where there is only one. Raises ValueError where nothing differs.
    """
    facets = list(differing(reference, target))
    if not facets:
        raise ValueError(f"nothing to say: both garments are {reference}")
    rng.shuffle(facets)
    if len(facets) == 1:
        shares = [facets, facets]
    else:
        middle = len(facets) if rng.random() < 0.3 else (len(facets) + 1) // 2
        shares = [facets[:middle], facets[middle:] or facets[:1]]
    first, second = (_stated(share, reference, target, rng) for share in shares)
    for _ in range(_TRIES):
        if second != first:
            break
        second = _stated(shares[1], reference, target, rng)
    return first, second


def _stated(facets: list[str], reference: Garment, target: Garment, rng: np.random.Generator) -> str:
    return " and ".join(one_of(_FACETS[facet](reference, target, rng).statements, rng) for facet in facets)


def label(garment: Garment) -> str:
    """A shop's short description; always the same words in the same order for the same garment."""
    sleeves = {"none": "sleeveless", "": ""}.get(garment.sleeves, f"{garment.sleeves}-sleeved")
    pattern = garment.pattern if garment.pattern != "plain" else ""
    neck = {"v": "v-neck", "high": "high-neck"}.get(garment.neck, garment.neck)
    printed = f"{garment.print}-print" if garment.print else ""
    parts = (garment.length, garment.colour, garment.second, pattern, printed, sleeves, neck,
             "belted" * garment.belt, "buttoned" * garment.buttons, "pocket" * garment.pocket)  # fmt: skip
    return " ".join([part for part in parts if part] + [garment.kind])


def _colour(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    old, new = reference.colour, target.colour
    return Phrases(
        (f"is {new}", f"is {new} instead of {old}", f"is {new}, not {old}", f"has {new} as its colour"),
        (f"make it {new}", f"change the colour to {new}", f"change {old} to {new}", f"show it in {new}"),
        (new, f"in {new}", f"{new} instead of {old}", f"in {new}, not {old}"),
    )


def _pattern(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    if target.pattern == "plain":
        old = one_of(PATTERN_NOUNS[reference.pattern], rng)
        return Phrases(
            ("is plain", f"has no {old}", f"is plain, without {old}"),
            ("make it plain", f"remove the {old}", f"take the {old} away"),
            ("plain", f"without the {old}", f"with no {old}"),
        )
    new = _tint(reference, target, rng) + one_of(PATTERN_NOUNS[target.pattern], rng)
    swap = (f"put {new} on it",)
    if reference.pattern != "plain":
        swap = (f"replace the {one_of(PATTERN_NOUNS[reference.pattern], rng)} with {new}",)
    return Phrases(
        (f"has {new}", f"is covered with {new}"), (f"add {new}", f"give it {new}", *swap), (f"with {new}",)
    )


def _second(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    """The colour of whatever carries the second colour."""
    old, new = reference.second, target.second
    what = _carrier(target, rng)
    shown = new if what.endswith("s") else with_article(new)
    return Phrases(
        (f"has {shown} {what}", f"has {shown} {what} instead of {old}"),
        (f"make the {what} {new}", f"change the {what} from {old} to {new}"),
        (f"with the {what} in {new}", f"with {new} instead of {old} for the {what}"),
    )


def _sleeves(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    if target.sleeves == "none":
        return Phrases(
            ("is sleeveless", "has no sleeves"),
            ("make it sleeveless", "remove the sleeves", "cut the sleeves off"),
            ("sleeveless", "without sleeves", "with no sleeves"),
        )
    new = target.sleeves
    if reference.sleeves != "none" and rng.random() < 0.3:
        new = f"{new}er"
    return Phrases(
        (f"has {new} sleeves",),
        (f"give it {new} sleeves", f"make the sleeves {new}"),
        (f"with {new} sleeves", f"with the sleeves {new}"),
    )


def _neck(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    new = _NECKS[target.neck].format(a_tint=with_article(_tint(reference, target, rng)))
    old = _NECKS[reference.neck].format(a_tint="a ")
    return Phrases(
        (f"has {new}", f"has {new} instead of {old}"),
        (f"give it {new}", f"add {new} in place of {old}"),
        (f"with {new}", f"with {new} instead of {old}"),
    )


def _length(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    if target.length == "long":
        return Phrases(
            ("is longer", "is long", "has a longer cut"),
            ("make it longer", "lengthen it"),
            ("longer", "with a longer cut"),
        )
    return Phrases(
        ("is shorter", "is short", "has a shorter cut"),
        ("make it shorter", "shorten it"),
        ("shorter", "with a shorter cut"),
    )


def _print(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    if not target.print:
        old = reference.print
        return Phrases(
            (f"has no {old}", f"does not have the {old}"), (f"remove the {old}", f"take the {old} off"),
            (f"without the {old}", f"with no {old}"),
        )
    new = f"{with_article(_tint(reference, target, rng))}{target.print}"
    if reference.print:
        return Phrases(
            (f"has {new} instead of the {reference.print}", f"shows {new}"),
            (f"replace the {reference.print} with {new}", f"turn the {reference.print} into {new}"),
            (f"with {new} instead of the {reference.print}",),
        )
    where = _where(target)
    return Phrases(
        (f"has {new} {where}", f"shows {new} {where}"), (f"add {new} {where}", f"put {new} {where}"),
        (f"with {new} {where}",),
    )


def _place(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    moved = f"the {target.print} {_where(target)}"
    return Phrases(
        (f"has {moved}",), (f"put {moved}", f"move the {target.print}, {_where(target)}"), (f"with {moved}",)
    )


def _buttons(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    return _added_or_removed("buttons", target.buttons, ("is buttoned",))


def _pocket(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    tint = _tint(reference, target, rng) if target.pocket else ""
    if target.kind == "t-shirt":
        return _added_or_removed("pocket", target.pocket, (), with_article(tint))
    return _added_or_removed("pockets", target.pocket, (), tint)


def _belt(reference: Garment, target: Garment, rng: np.random.Generator) -> Phrases:
    return _added_or_removed("belt", target.belt, ("is belted", "wears a belt"), "a ")


def _added_or_removed(what: str, added: bool, statements: tuple[str, ...], article: str = "") -> Phrases:
    if added:
        return Phrases(
            (f"has {article}{what}", *statements), (f"add {article}{what}", f"give it {article}{what}"),
            (f"with {article}{what}",),
        )
    return Phrases(
        (f"has no {what}", f"does not have the {what}"), (f"remove the {what}", f"take the {what} off"),
        (f"without the {what}", f"with no {what}"),
    )


def _tint(reference: Garment, target: Garment, rng: np.random.Generator) -> str:
    """The second colour, which must be said where it is new and may be said elsewhere."""
    if reference.second == target.second and rng.random() < 0.6:
        return ""
    return f"{target.second} "


def with_article(word: str) -> str:
    """The word after its article; "a " alone where there is no word."""
    return f"an {word}" if word.startswith("o") else f"a {word}"


def _carrier(garment: Garment, rng: np.random.Generator) -> str:
    """What shows the second colour; where several do, the one that is seen first."""
    first = carriers(garment)[0]
    if first == "pattern":
        return one_of(PATTERN_NOUNS[garment.pattern], rng)
    if first == "pocket":
        return "pocket" if garment.kind == "t-shirt" else "pockets"
    return garment.print if first == "print" else "bow"


def _where(garment: Garment) -> str:
    if garment.place == "top":
        return "on the chest"
    return "on the skirt" if garment.kind == "dress" else "near the hem"


def joined(parts: Sequence[str], rng: np.random.Generator) -> str:
    return one_of((" and ", " and ", ", "), rng).join(parts)


def one_of(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


_FACETS: dict[str, Callable[[Garment, Garment, np.random.Generator], Phrases]] = {
    "colour": _colour,
    "second": _second,
    "pattern": _pattern,
    "sleeves": _sleeves,
    "neck": _neck,
    "length": _length,
    "print": _print,
    "place": _place,
    "buttons": _buttons,
    "pocket": _pocket,
    "belt": _belt,
}
