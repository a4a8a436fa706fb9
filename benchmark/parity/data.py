"""Golden numbers of what no method computes: noisy triplets, corrected texts, mean average precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from pydantic import Field

from benchmark.data.noise import SCHEMES, exchange
from benchmark.dataset import CategoryCaptions, Ragged
from benchmark.evaluation.metrics import average_precision_at, metric_values
from benchmark.parity.comparison import Deviation, Difference, compare_count, compare_names, worst
from benchmark.parity.files import Form, GoldenFile
from benchmark.text_rules import CORRECTED, text_rule

_CLOSE = 1e-9


class _Released(Form):
    """What a release's shuffle gave: how many references, texts, targets moved, and the digests of their sources."""

    moved: tuple[int, int, int]
    sha256: tuple[str, str, str]


class _Case(Form):
    dataset: str
    triplets: int
    share: float
    seed: int
    drawn: int
    positions: list[int]
    tme: _Released = Field(alias="TME")
    habit: _Released = Field(alias="HABIT")
    conesep: _Released = Field(alias="ConeSep")


def check_noise(file: GoldenFile) -> Iterator[Deviation]:
    """The positions drawn, and whose parts every triplet bears, under the scheme of each release."""
    for case in file.parse(list[_Case], "cases"):
        name = f"{case.dataset}, {case.share:.0%}"
        found = {scheme: exchange(case.triplets, case.share, case.seed, scheme) for scheme in SCHEMES}
        drawn = found["ntc"].drawn
        yield compare_count(f"{name}: drawn", len(drawn), case.drawn)
        firsts = drawn[: len(case.positions)].tolist()
        yield compare_names(f"{name}: first positions", _numbered(firsts), _numbered(case.positions))
        # TME gives CIRR's parts back from the front of the shuffled list, FashionIQ's from its end as all others.
        of_tme = found["ntc-front" if case.dataset == "CIRR" else "ntc"]
        for release, told, own in (
            ("TME", case.tme, of_tme), ("HABIT", case.habit, found["ntc"]), ("ConeSep", case.conesep, found["ntc"]),
        ):  # fmt: skip
            every = np.arange(case.triplets)
            for part, moved, sha256 in zip(("reference", "text", "target"), told.moved, told.sha256, strict=True):
                source = getattr(own, part)
                yield compare_count(f"{name}, {release}: {part}s moved", int((source != every).sum()), moved)
                digest = hashlib.sha256(",".join(map(str, source.tolist())).encode()).hexdigest()
                yield same_digest(f"{name}, {release}: {part} of each triplet", digest, sha256)


class _Corrected(Form):
    captions: list[str]
    joined: str
    single: list[str]


def check_corrected_text(file: GoldenFile) -> Iterator[Deviation]:
    """The made-up captions; what is listed of the official ones needs the annotations and dictionaries themselves."""
    words = file.parse(dict[str, str], "made_up", "dictionary")
    cases = file.parse(list[_Corrected], "made_up", "cases")
    for place, (name, expected) in enumerate(_corrected_strings(cases)):
        dictionary = SimpleNamespace(words=words)
        captions = CategoryCaptions(tuple(name), dictionary)
        (found,) = text_rule(CORRECTED).queries(captions)
        yield Deviation(f"made up {place + 1}: {' | '.join(name)!r}", float(found != expected), 0.0, note=repr(found))


def _corrected_strings(cases: list[_Corrected]) -> Iterator[tuple[list[str], str]]:
    for case in cases:
        yield case.captions, case.joined
        yield from (([caption], single) for caption, single in zip(case.captions, case.single, strict=True))


class _CircoQuery(Form):
    target_img_id: int
    gt_img_ids: list[int]
    semantic_aspects: list[str]


def check_circo_metrics(file: GoldenFile) -> Iterator[Deviation]:
    """CIRCO's average precisions and its recall of one target, from places in ranked lists."""
    queries, gallery = file.parse(list[_CircoQuery], "queries"), file.parse(list[int], "gallery")
    lists = file.parse(dict[str, list[int]], "rankings")
    # What a list leaves out may stand anywhere behind it: no cut-off reaches that.
    beyond = max(len(gallery), *map(len, lists.values())) + 1
    places = [
        [ranked.index(i) + 1 if i in ranked else beyond for i in query.gt_img_ids]
        for query, ranked in zip(queries, (lists[str(number)] for number in range(len(queries))), strict=True)
    ]
    ranks, expected = Ragged.of(places), file.parse(dict[str, float], "mAP")
    of_query = file.parse(list[dict[str, dict[str, float]]], "per_query")
    for k, mean in expected.items():
        found = average_precision_at(ranks, int(k))
        each = zip(found.tolist(), of_query, strict=True)
        pairs = [Difference(f"query {n}", ap, told["AP"][k], 0.0, _CLOSE) for n, (ap, told) in enumerate(each)]
        yield worst(f"AP@{k} of each query", pairs)
        yield worst(f"mAP@{k}", [Difference("", float(found.mean()), mean, 0.0, _CLOSE)])
    place = np.asarray([min(own) for own in places])
    target = np.asarray([own[q.gt_img_ids.index(q.target_img_id)] for own, q in zip(places, queries, strict=True)])
    recalls = file.parse(dict[str, float], "recall_of_target")
    not_the_release = file.parse(dict[str, float], "not_the_release")
    wanted = {f"R_target@{k}": mean for k, mean in recalls.items()}
    for metric, mean in (wanted | {"R@5": not_the_release["R@5 of any positive"]}).items():
        values = metric_values(metric, place, None, ranks, target)
        assert values is not None
        yield worst(metric, [Difference("", float(values.mean()), mean, 0.0, _CLOSE)])
    at_ten = average_precision_at(ranks, 10)
    for aspect, told in file.parse(dict[str, float | None], "semantic_mAP@10").items():
        has = np.asarray([aspect in query.semantic_aspects for query in queries])
        if told is not None:
            yield worst(f"mAP@10, {aspect}", [Difference("", float(at_ten[has].mean()), told, 0.0, _CLOSE)])


def same_digest(output: str, found: str, expected: str) -> Deviation:
    """0 where all strings or numbers behind the digests are the same, else 1."""
    return Deviation(output, float(found != expected), 0.0, note=f"sha256 {found[:12]}")


def _numbered(numbers: list[int]) -> dict[str, tuple[int, ...]]:
    return {str(place): (number,) for place, number in enumerate(numbers)}
