"""Fashion200k's texts and training pairs beside plain, slow readings of the rule."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from benchmark.datasets.readers.fashion200k_pairs import (
    PAIR_SAMPLINGS,
    PairSampling,
    PairSource,
    Siblings,
    modification_texts,
    new_pairs,
    pair_sampling_named,
    parent_of,
    word_sets,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import UserError

# Parents of two, three and four captions; "red" is deleted inside of "tailored" as well, which makes
# "red tailored dress" a child of "tailo dress"; one caption has the words of another in another order.
CAPTIONS = (
    "red dress",
    "blue dress",
    "green dress",
    "red long dress",
    "blue long dress",
    "red tailored dress",
    "tailo dress blue",
    "blue tailo dress",
    "dress red",
    "lonely woollen winter coat",
    "skirt",
    "coat",
)
CAPTION = np.asarray([0, 0, 1, 2, 3, 9, 4, 5, 6, 7, 8, 3, 10, 11, 1, 9])


def texts(reference: str, target: str) -> str:
    (text,) = modification_texts((reference, target), np.asarray([0]), np.asarray([1]))
    return text


@pytest.mark.parametrize(
    ("reference", "target", "text"),
    [
        ("red dress", "blue dress", "replace red with blue"),
        ("red cotton dress", "red silk dress", "replace cotton with silk"),
        ("red dress", "red long dress", "replace dress with long"),
        ("red long dress", "red dress", "replace long with dress"),
        ("long red dress", "red dress long", "replace dress with long"),
        # Whole words are compared: "red" stands in "tailored" but is not among its words.
        ("red dress", "tailored dress", "replace red with tailored"),
        ("a b c d", "d e a f", "replace b with e"),
        ("dress", "coat", "replace dress with coat"),
        ("red  red dress", "red dress", "replace dress with dress"),
    ],
)
def test_the_text_names_the_first_lacking_word_or_the_last_one(reference: str, target: str, text: str) -> None:
    assert texts(reference, target) == text


@pytest.mark.parametrize(
    ("caption", "word", "two", "four"),
    [
        ("red cotton dress", "cotton", "red dress", "red  dress"),
        ("red cotton dress", "red", "cotton dress", "cotton dress"),
        ("red cotton dress", "dress", "red cotton", "red cotton"),
        ("red tailored dress", "red", "tailo dress", "tailo dress"),
        ("blue a a dress", "a", "blue  dress", "blue   dress"),
        ("blue a a a dress", "a", "blue  dress", "blue dress"),
        ("dress", "dress", "", ""),
    ],
)
def test_a_parent_loses_the_letters_and_collapses_once(caption: str, word: str, two: str, four: str) -> None:
    assert parent_of(caption, word) == two
    assert parent_of(caption, word, 4) == four


def plain_parents(captions: Sequence[str], blanks: int = 2) -> dict[str, list[str]]:
    """Each parent and its captions, word by word as the rule reads; only those of two captions or more."""
    children: dict[str, list[str]] = {}
    for caption in captions:
        for word in caption.split():
            parent = re.sub(f" {{{blanks}}}", " ", re.sub(re.escape(word), "", caption)).strip()
            if caption not in children.setdefault(parent, []):
                children[parent].append(caption)
    return {parent: found for parent, found in children.items() if len(found) > 1}


def plain_chances(captions: Sequence[str], own: str, blanks: int = 2) -> dict[str, Fraction]:
    """Exact chance of every caption for a picture with caption ``own``: rejected draws start again."""
    parents = [found for found in plain_parents(captions, blanks).values() if own in found]
    chances: Counter[str] = Counter()
    for found in parents:
        for caption in found:
            if caption != own:
                chances[caption] += Fraction(1, len(parents) * len(found))
    total = sum(chances.values())
    return {caption: chance / total for caption, chance in chances.items()}


def plain_picture_chances(captions: Sequence[str], caption: Sequence[int], blanks: int) -> dict[int, dict[int, float]]:
    """Chance of every target picture for every picture that can be changed."""
    chances: dict[int, dict[int, float]] = {}
    for picture, own in enumerate(caption):
        by_caption = plain_chances(captions, captions[own], blanks)
        chances[picture] = {
            other: float(by_caption[captions[c]]) / list(caption).count(c)
            for other, c in enumerate(caption)
            if captions[c] in by_caption
        }
    return {picture: found for picture, found in chances.items() if found}


def as_captions(siblings: Siblings, captions: Sequence[str]) -> set[tuple[str, ...]]:
    children = siblings.children
    return {tuple(sorted(captions[c] for c in children[i].tolist())) for i in range(len(children))}


captions_of_few_words = st.lists(
    st.lists(st.sampled_from(["red", "tailored", "tailo", "a", "b", "aa", "ab", "aabb"]), min_size=1, max_size=4).map(
        " ".join
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=100, deadline=None)
@given(captions_of_few_words, st.sampled_from([2, 4]))
def test_siblings_are_those_of_the_plain_reading(captions: list[str], blanks: int) -> None:
    siblings = Siblings.of(captions, blanks)
    plain = plain_parents(captions, blanks)
    assert as_captions(siblings, captions) == {tuple(sorted(found)) for found in plain.values()}
    assert len(siblings.children) == len(plain)
    for i, caption in enumerate(captions):
        assert len(siblings.parents[i]) == sum(caption in found for found in plain.values())
        for parent in siblings.parents[i].tolist():
            assert i in siblings.children[parent]


def test_two_words_that_leave_the_same_parent_are_one_link() -> None:
    assert parent_of("aabb ab", "aabb") == parent_of("aabb ab", "ab") == "ab"
    assert not len(Siblings.of(("aabb ab", "x y"), 2).children)
    assert as_captions(Siblings.of(("aabb ab", "cd ab"), 2), ("aabb ab", "cd ab")) == {("aabb ab", "cd ab")}


def chi_square(observed: Counter[int], chances: dict[int, float]) -> tuple[float, int]:
    total = sum(observed.values())
    assert set(observed) <= set(chances)
    terms = [(observed[k] - total * chance) ** 2 / (total * chance) for k, chance in chances.items()]
    return sum(terms), len(terms) - 1


@pytest.mark.parametrize("blanks", [2, 4])
def test_targets_follow_the_exact_chances_of_the_plain_rule(blanks: int) -> None:
    source = PairSource.of(CAPTIONS, CAPTION, blanks)
    chances = plain_picture_chances(CAPTIONS, CAPTION.tolist(), blanks)
    assert source.modifiable.tolist() == sorted(chances)
    assert blanks == 4 or len(chances) == 14
    draws = 3_000
    raw = PairSampling(draws, every_picture=True, once=False, blanks=blanks)
    reference, target = source.draw(raw, seed=3, epoch=0)
    assert len(reference) == draws * len(CAPTION)
    statistic, freedom = 0.0, 0
    for picture, wanted in chances.items():
        value, df = chi_square(Counter(target[reference == picture].tolist()), wanted)
        statistic, freedom = statistic + value, freedom + df
    # Beyond four standard deviations of its distribution in one case of 30,000.
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom), (statistic, freedom)
    assert len({round(c, 6) for wanted in chances.values() for c in wanted.values()}) > 6


def test_the_chances_are_not_those_of_a_uniform_sibling() -> None:
    """The check above would see it: a sibling through two parents is drawn more often."""
    chances = plain_chances(("a x", "a y", "x y", "x z", "x"), "x y")
    assert len(set(chances.values())) > 1


def test_pictures_that_cannot_be_changed_give_their_draw_to_a_random_other() -> None:
    source = PairSource.of(CAPTIONS, CAPTION)
    modifiable = set(source.modifiable.tolist())
    assert modifiable == set(range(16)) - {5, 15}
    counts: Counter[int] = Counter()
    for epoch in range(3_000):
        reference, target = source.draw(PAIR_SAMPLINGS["one-per-image"], seed=1, epoch=epoch)
        assert len(reference) == len(CAPTION)
        assert all(reference[i] == i for i in modifiable)
        assert set(target.tolist()) <= modifiable
        counts.update(reference[[5, 15]].tolist())
    statistic, freedom = chi_square(counts, dict.fromkeys(modifiable, 1 / 14))
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def plain_new_pairs(reference: list[int], target: list[int], words: list[set[str]]) -> list[int]:
    seen: set[tuple[int, int]] = set()
    kept = []
    for i, (r, t) in enumerate(zip(reference, target, strict=True)):
        if words[r] == words[t] or (r, t) in seen or (t, r) in seen:
            continue
        seen.add((r, t))
        kept.append(i)
    return kept


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=60))
def test_dropped_pairs_are_those_of_a_plain_loop(pairs: list[tuple[int, int]]) -> None:
    reference, target = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    words = [set(CAPTIONS[c].split()) for c in CAPTION.tolist()]
    kept = new_pairs(reference, target, word_sets(CAPTIONS)[CAPTION])
    assert kept.tolist() == plain_new_pairs(reference.tolist(), target.tolist(), words)


def pairs_of(name: str, seed: int, epoch: int, source: PairSource | None = None) -> list[tuple[int, int]]:
    reference, target = (source or PairSource.of(CAPTIONS, CAPTION)).draw(PAIR_SAMPLINGS[name], seed, epoch)
    return list(zip(reference.tolist(), target.tolist(), strict=True))


@pytest.mark.parametrize("name", PAIR_SAMPLINGS)
def test_a_pair_sampling_is_a_function_of_seed_and_epoch(name: str) -> None:
    assert pairs_of(name, 1, 2) == pairs_of(name, 1, 2)
    assert pairs_of(name, 1, 2) != pairs_of(name, 2, 2)
    assert (pairs_of(name, 1, 0) == pairs_of(name, 1, 7)) == name.startswith("five")


@pytest.mark.parametrize("name", [name for name in PAIR_SAMPLINGS if name != "one-per-image"])
def test_schemes_of_modifiable_pictures_drop_equal_words_and_repeats(name: str) -> None:
    scheme = PAIR_SAMPLINGS[name]
    source = PairSource.of(CAPTIONS, CAPTION, scheme.blanks)
    pairs = pairs_of(name, 0, 0, source)
    raw = PairSampling(scheme.per_picture, every_picture=False, once=False, blanks=scheme.blanks)
    assert len(pairs) < scheme.per_picture * len(source.modifiable)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    for r, t in pairs:
        assert set(CAPTIONS[CAPTION[r]].split()) != set(CAPTIONS[CAPTION[t]].split())
    assert [r for r, _ in pairs] == sorted(r for r, _ in pairs)
    assert max(Counter(r for r, _ in pairs).values()) <= raw.per_picture


def test_four_blanks_keep_siblings_apart_that_differ_at_other_places() -> None:
    captions = ("red long dress", "red dress silk", "red cotton dress")
    two, four = (as_captions(Siblings.of(captions, blanks), captions) for blanks in (2, 4))
    assert two == {("red cotton dress", "red dress silk", "red long dress")}
    assert four == {("red cotton dress", "red long dress")}


def test_labels_without_siblings_are_one_line() -> None:
    source = PairSource.of(("red cotton dress", "blue coat"), np.asarray([0, 1, 1]))
    with pytest.raises(UserError, match="no two captions of the training labels differ by one word"):
        source.draw(PAIR_SAMPLINGS["one-per-image"], 0, 0)


def test_unknown_pair_samplings_name_the_nearest() -> None:
    assert pair_sampling_named("") is PAIR_SAMPLINGS["one-per-image"]
    with pytest.raises(UserError, match="did you mean five-per-image"):
        pair_sampling_named("five-per-imag")
