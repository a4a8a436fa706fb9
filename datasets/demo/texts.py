"""Modification texts of the demo data, in many phrasings: `texts.toml` has the words.

A text names every facet in which the target differs from the reference, so that reference and
text together leave one answer. It is phrased as a statement ("is red and has a belt"), as a
command ("make it red and add a belt") or as a comparison ("the same skirt but red, with a belt").
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from .subjects import Garment, S, Shoe, differing, one_of

_WORDS = tomllib.loads((Path(__file__).parent / "texts.toml").read_text(encoding="utf-8"))
_TRIES = 4


def modification_text(reference: Garment, target: Garment, rng: np.random.Generator) -> str:
    """What to change on the reference to get the target; raises ValueError where nothing differs."""
    phrases = [_phrases(reference, target, facet, rng) for facet in _changes(reference, target, rng)]
    form = rng.integers(3)
    if form == 0:
        start: str = one_of(("", "", "it "), rng)
        return start + _joined(phrases, "statements", rng)
    if form == 1:
        return _joined(phrases, "commands", rng)
    opening = one_of(_WORDS["garment"]["openings"], rng).format(noun=target.kind)
    return f"{opening} {_joined(phrases, 'qualities', rng)}"


def relative_captions(reference: Garment, target: Garment, rng: np.random.Generator) -> tuple[str, str]:
    """Two short statements in FashionIQ's manner that together name every change.

    Of several changes each caption names its own, or the first one all; of a single change they are two
    ways to say it, or one where there is only one. Raises ValueError where nothing differs.
    """
    facets = _changes(reference, target, rng)
    if len(facets) == 1:
        shares = [facets, facets]
    else:
        middle = len(facets) if rng.random() < 0.3 else (len(facets) + 1) // 2
        shares = [facets[:middle], facets[middle:] or facets[:1]]

    def stated(share: list[str]) -> str:
        return " and ".join(one_of(_phrases(reference, target, facet, rng)["statements"], rng) for facet in share)

    first, second = stated(shares[0]), stated(shares[1])
    for _ in range(_TRIES):
        if second != first:
            break
        second = stated(shares[1])
    return first, second


def relative_caption(reference: Shoe, target: Shoe, rng: np.random.Generator) -> str:
    """How the target shoe differs from the reference; raises ValueError where it does not."""
    phrases = [_phrases(reference, target, facet, rng) for facet in _changes(reference, target, rng)]
    form = rng.integers(4)
    if form == 0:
        # "is red" of a pair: "are red".
        two = _WORDS["verbs_of_two"]
        for phrase in phrases:
            verbs = (statement.partition(" ") for statement in phrase["statements"])
            phrase["statements"] = [f"{two[verb]} {rest}" for verb, _, rest in verbs]
    if form <= 1:
        return _joined(phrases, "statements", rng)
    # Drawn for commands, too, and before the opening: the texts hang on the order of the draws.
    qualities = _joined(phrases, "qualities", rng)
    if form == 3:
        return _joined(phrases, "commands", rng)
    opening = one_of(_WORDS["shoe"]["openings"], rng).format(noun=shoe_noun(target.kind))
    return f"{opening} {qualities}"


def shoe_noun(kind: str) -> str:
    """One shoe of a type: "high heel"."""
    noun: str = _WORDS["nouns"][kind]
    return noun


def _changes(reference: S, target: S, rng: np.random.Generator) -> list[str]:
    """What a text has to name, in any order."""
    facets = list(differing(reference, target))
    if not facets:
        raise ValueError(f"nothing to say: both are {reference}")
    rng.shuffle(facets)
    return facets


def _joined(phrases: list[dict[str, list[str]]], form: str, rng: np.random.Generator) -> str:
    parts = [one_of(phrase[form], rng) for phrase in phrases]
    joint: str = one_of((" and ", " and ", ", "), rng)
    return joint.join(parts)


def _phrases(reference: Any, target: Any, facet: str, rng: np.random.Generator) -> dict[str, list[str]]:
    """The ways to say that this facet changes: statements, commands and qualities."""
    old, new = getattr(reference, facet), getattr(target, facet)
    cases = _WORDS["garment" if isinstance(target, Garment) else "shoe"][facet]
    if facet == "shaft" and old == "knee":
        case = "from_knee"
    elif str(new) in cases:
        case = str(new)
    elif new in ("", "plain", False):
        case = "removed"
    else:
        case = "added" if old in ("", "plain", False) and "added" in cases else "changed"
    words = _fillings(reference, target, facet, rng)
    return {form: [phrase.format(**words) for phrase in phrases] for form, phrases in cases[case].items()}


def _fillings(reference: Any, target: Any, facet: str, rng: np.random.Generator) -> dict[str, str]:
    """What stands in the gaps of a facet's phrases. The draws' order decides the texts: it must stay."""
    old, new = str(getattr(reference, facet)), str(getattr(target, facet))
    words = {"old": old, "new": new, "an_old": _with_article(old), "an_new": _with_article(new)}
    nouns = _WORDS["pattern_nouns"]
    if facet == "pattern":
        if new != "plain":
            words["new"] = _tint(reference, target, rng) + one_of(nouns[new], rng)
        if old != "plain" and (new == "plain" or isinstance(target, Garment)):
            words["old"] = one_of(nouns[old], rng)
    elif facet == "second":
        words["what"] = what = _carrier(reference, target, rng)
        words["shown"] = new if what.endswith("s") else _with_article(new)
    elif facet == "sleeves" and new != "none" and old != "none" and rng.random() < 0.3:
        words["new"] = f"{new}er"
    elif facet == "neck":
        tint = _with_article(_tint(reference, target, rng))
        words |= {"new": _WORDS["necks"][new].format(tint=tint), "old": _WORDS["necks"][old].format(tint="a ")}
    elif facet in ("print", "place"):
        below = "on the skirt" if target.kind == "dress" else "near the hem"
        words |= {"print": target.print, "where": "on the chest" if target.place == "top" else below}
        if facet == "print" and new:
            words["new"] = _with_article(_tint(reference, target, rng)) + new
    elif facet == "pocket":
        words["what"] = what = "pocket" if target.kind == "t-shirt" else "pockets"
        tint = _tint(reference, target, rng) if target.pocket else ""
        words["new"] = (tint if what == "pockets" else _with_article(tint)) + what
    elif facet == "fastening":
        words["an_old"] = "laces" if old == "laces" else f"a {old}"
        if new:
            tint = _tint(reference, target, rng)
            words["new"] = (tint if new == "laces" else _with_article(tint)) + new
    return words


def _tint(reference: S, target: S, rng: np.random.Generator) -> str:
    """The second colour, which must be said where it is new and may be said elsewhere."""
    if reference.second == target.second and rng.random() < 0.6:
        return ""
    return f"{target.second} "


def _carrier(reference: Garment | Shoe, target: Garment | Shoe, rng: np.random.Generator) -> str:
    """What shows the second colour and is not named anyway; where several do, the one that is seen first."""
    first = target.carriers[0]
    if isinstance(target, Shoe) and not target.pattern == reference.pattern != "plain":
        return target.fastening
    if first == "pattern":
        noun: str = one_of(_WORDS["pattern_nouns"][target.pattern], rng)
        return noun
    assert isinstance(target, Garment)
    if first == "pocket":
        return "pocket" if target.kind == "t-shirt" else "pockets"
    return target.print if first == "print" else "bow"


def _with_article(word: str) -> str:
    """The word after its article; "a " alone where there is no word."""
    return f"an {word}" if word.startswith("o") else f"a {word}"
