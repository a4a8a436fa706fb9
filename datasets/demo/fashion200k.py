"""The demo data in Fashion200k's layout: descriptions of one word a quality, and queries that change one word.

A description names all but some details (neckline, buttons, the second colour), so that products of one
description look alike but not the same; it is in turn one word away from others, of another colour,
pattern, length, sleeves or sort.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import atomic_write_text

from .studio import SEED, Layout
from .subjects import COLOURS, GARMENTS, PATTERNS, Garment, is_held_out, one_of, settle, values


@dataclass(frozen=True)
class LabelSizes:
    """Looks (kind, colour, pattern) per split, each with all its descriptions, and the queries of `test`."""

    train_looks: int = 160
    test_looks: int = 40
    queries: int = 600


SIZES = LabelSizes()


@dataclass(frozen=True)
class _Line:
    """A line of a label file: where its picture is, its words, and what the picture shows."""

    path: str
    description: tuple[str, ...]
    garment: Garment


_SORTS = tomllib.loads((Path(__file__).parent / "fashion200k.toml").read_text(encoding="utf-8"))
_WORDS = _SORTS.pop("words")
_PRODUCTS, _PICTURES = 2, 3
_COLOUR_WEIGHT = 2.0
_FIRST_PRODUCT, _PRODUCT_STEP = 51_727_804, 7_919


def write_fashion200k_layout(root: Path, sizes: LabelSizes) -> Layout:
    """Fashion200k's label files and the queries of `test`; pictures below `women/`."""
    rng = np.random.default_rng([SEED, 3])
    numbers = itertools.count(_FIRST_PRODUCT, _PRODUCT_STEP)
    layout = Layout()
    for split, count in (("train", sizes.train_looks), ("test", sizes.test_looks)):
        lines = _lines(split, count, numbers, rng)
        _write_labels(root / "labels", split, lines, rng)
        layout.add(f"labels {split}", [x.path for x in lines], [x.garment for x in lines])
        if split == "train":
            captions = len({line.description for line in lines})
            layout.counts[split] = {"pictures": len(lines), "captions": captions, "modifiable": len(lines)}
        else:
            queries = _queries(lines, sizes.queries, rng)
            atomic_write_text(root / "test_queries.txt", "".join(f"{a.path} {b.path}\n" for a, b in queries))
            layout.counts[split] = {"queries": len(queries), "gallery": len(lines)}
    return layout


def description(garment: Garment) -> tuple[str, ...]:
    """The words of a garment's description, in a shop's order; one for each named quality, and the noun."""
    sort = _SORTS[garment.kind]
    words, noun = [garment.colour, garment.pattern], garment.kind
    for facet in sort["named"]:
        if facet == "length":
            words.append(sort["lengths"][garment.length])
        elif facet == "sleeves":
            words.append(_WORDS[garment.sleeves])
        elif facet == "neck":
            noun = sort["nouns"][garment.neck]
        else:
            words.append(_WORDS[next(name for name in sort["details"] if getattr(garment, name))])
    return (*words, noun)


def described(kind: str, colour: str, pattern: str) -> Iterator[Garment]:
    """A garment for every description of this look; what goes unsaid is left out or as the kind has it first."""
    sleeves, neck, length = (values(kind, facet)[0] for facet in ("sleeves", "neck", "length"))
    plain = Garment(kind, colour, "", pattern, sleeves, neck, length)
    choices: list[list[dict[str, Any]]] = [
        [{name: True} for name in _SORTS[kind]["details"]]
        if facet == "detail"
        else [{facet: value} for value in values(kind, facet)]
        for facet in _SORTS[kind]["named"]
    ]
    for first, second in itertools.product(*choices):
        yield replace(plain, **first, **second)


def _looks(held_out: bool, count: int, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Looks of one side of the divide; the kinds take turns, so that few looks have all of them."""
    by_kind = []
    for kind in GARMENTS:
        own = [(kind, c, p) for c in COLOURS for p in PATTERNS if is_held_out(Garment(kind, c, pattern=p)) == held_out]
        by_kind.append([own[i] for i in rng.permutation(len(own))])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_kind))
    return sorted([look for look in turns if look is not None][:count])


def _lines(split: str, count: int, numbers: Iterator[int], rng: np.random.Generator) -> list[_Line]:
    """The label lines of a split: its looks, their descriptions, one or two products each, of some pictures."""
    lines = []
    for look in _looks(split == "test", count, rng):
        for garment in described(*look):
            for _ in range(int(rng.integers(1, _PRODUCTS + 1))):
                finished, number = garment, next(numbers)
                if unsaid := _SORTS[garment.kind].get("unsaid"):
                    drawn: dict[str, Any] = {unsaid: one_of(values(garment.kind, unsaid), rng)}
                    finished = replace(garment, **drawn)
                finished = settle(finished, rng)
                folder = f"women/{_SORTS[garment.kind]['folder']}"
                for picture in range(int(rng.integers(1, _PICTURES + 1))):
                    path = f"{folder}/{number}/{number}_{picture}.jpeg"
                    lines.append(_Line(path, description(garment), finished))
    return lines


def _write_labels(folder: Path, split: str, lines: list[_Line], rng: np.random.Generator) -> None:
    """A file for each category: path, detection score, description, separated by tabs."""
    rows: dict[str, list[str]] = {sort["category"]: [] for sort in _SORTS.values()}
    for line in lines:
        score = f"{rng.uniform(0.6, 1.0):.6f}"
        rows[_SORTS[line.garment.kind]["category"]].append(f"{line.path}\t{score}\t{' '.join(line.description)}\n")
    for category, written in rows.items():
        atomic_write_text(folder / f"{category}_{split}_detect_all.txt", "".join(written))


def _queries(lines: list[_Line], count: int, rng: np.random.Generator) -> list[tuple[_Line, _Line]]:
    """Pairs of pictures whose descriptions differ by one word, colours more often than other words."""
    of: dict[tuple[str, ...], list[_Line]] = {}
    for line in lines:
        of.setdefault(line.description, []).append(line)
    pairs, weights = [], []
    for reference in lines:
        for slot, words in _siblings(reference.description, of):
            pairs.append((reference, of[words][int(rng.integers(len(of[words])))]))
            weights.append(_COLOUR_WEIGHT if slot == 0 else 1.0)
    share = np.asarray(weights) / sum(weights)
    chosen = rng.choice(len(pairs), min(count, len(pairs)), replace=False, p=share)
    return [pairs[i] for i in chosen.tolist()]


def _siblings(words: tuple[str, ...], of: dict[tuple[str, ...], list[_Line]]) -> list[tuple[int, tuple[str, ...]]]:
    """The descriptions that differ from this one in one word, with that word's place."""
    found = []
    for other in of:
        if len(other) == len(words):
            places = [i for i, (a, b) in enumerate(zip(words, other, strict=True)) if a != b]
            if len(places) == 1:
                found.append((places[0], other))
    return found
