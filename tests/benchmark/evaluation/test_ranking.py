"""Ranks against a plain implementation: loops, exact arithmetic, one score at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from host_waits import HostWaits
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_gpu import simulated_gpu

from benchmark import arithmetic
from benchmark.arithmetic import (
    _keys_on_host,
    first_twins,
    fixed_order_sum,
    full_precision,
    keys_on_device,
    torch_threads,
)
from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.products import DotScorer
from benchmark.evaluation.ranking import dot_product, rank_queries
from benchmark.evaluation.top_lists import top_pictures

CHUNKS = (1, 7, 256, 10_000)
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")]


def make_task(gallery, positives, reference=None, exclude=False, subset=None):
    count = len(positives)
    numbers = np.arange(count)
    queries = Queries(
        ids=tuple(f"q{i}" for i in numbers),
        reference_picture=numbers,
        reference_in_gallery=np.full(count, -1) if reference is None else np.asarray(reference),
        texts=("",) * count,
        positives=Ragged.of(positives),
        group=numbers,
        subset=None if subset is None else np.asarray(subset),
    )
    key = TaskKey("toy", "val", "official", "single")
    return Task(key, queries, np.arange(gallery), exclude, (1, 5), (1, 2, 3))


def exact(row, column):
    """The dot product of two rows, correctly rounded once: no order of summation at all."""
    return math.fsum(float(a) * float(b) for a, b in zip(row, column, strict=True))


class Plain:
    """The definition, read out of a full matrix of scores by loops and a sort."""

    def __init__(self, scores, task):
        self.scores, self.task = scores, task

    def ranking(self, query):
        """Gallery indices best first; positives last among ties."""
        queries = self.task.queries
        positives = set(queries.positives[query].tolist())
        left_out = queries.reference_in_gallery[query] if self.task.exclude_reference else -1
        order = [g for g in range(len(self.task.gallery)) if g != left_out]
        return sorted(order, key=lambda g: (-self.scores[query][g], g in positives, g))

    def place(self, query, picture):
        order = self.ranking(query)
        return order.index(picture) + 1 if picture in order else len(self.task.gallery)

    def rank(self, query):
        return min((self.place(query, p) for p in self.task.queries.positives[query]), default=0)

    def ties(self, query):
        order = self.ranking(query)
        positives = set(self.task.queries.positives[query].tolist())
        best = max((self.scores[query][p] for p in positives if p in order), default=None)
        return sum(self.scores[query][g] == best for g in order if g not in positives)

    def subset_rank(self, query):
        queries = self.task.queries
        positives = set(queries.positives[query].tolist())
        if not positives:
            return 0
        members = [m for m in queries.subset[query] if m >= 0 and m != queries.reference_in_gallery[query]]
        order = sorted(members, key=lambda g: (-self.scores[query][g], g in positives))
        found = [i for i, g in enumerate(order) if g in positives]
        return found[0] + 1 if found else len(members) + 1


def assert_equal(ranks, plain):
    queries = plain.task.queries
    every = range(len(queries))
    assert ranks.rank.tolist() == [plain.rank(q) for q in every]
    assert ranks.ties.tolist() == [plain.ties(q) for q in every]
    if queries.subset is None:
        assert ranks.subset_rank is None
    else:
        assert ranks.subset_rank.tolist() == [plain.subset_rank(q) for q in every]
    for q in every:
        assert ranks.positive_ranks[q].tolist() == [plain.place(q, p) for p in queries.positives[q]]


def assert_same_top(queries, gallery, plain, k, **options):
    names = top_pictures(queries, gallery, plain.task, k, **options)
    for q in range(len(names)):
        order = plain.ranking(q)[:k]
        assert names[q].tolist() == order + [-1] * (k - len(order))


def check_everywhere(queries, gallery, task, plain=None, **options):
    """Every size of chunk gives the plain implementation's ranks and lists."""
    if plain is None:
        plain = Plain([[exact(q, g) for g in gallery.tolist()] for q in queries.tolist()], task)
    for query_chunk, gallery_chunk in zip(CHUNKS, reversed(CHUNKS), strict=True):
        chunks = {"query_chunk": query_chunk, "gallery_chunk": gallery_chunk}
        assert_equal(rank_queries(queries, gallery, task, **chunks, **options), plain)
    for gallery_chunk in (5, 10_000):
        for k in (1, 6):
            assert_same_top(queries, gallery, plain, k, gallery_chunk=gallery_chunk, query_chunk=9, **options)


def random_task(generator, count, size, exclude, several=False, members=5):
    """References in and out of the gallery, some their own target; subsets padded; some labels hidden."""
    positives = []
    for _ in range(count):
        many = int(generator.integers(0, 5)) if several else 1
        positives.append(generator.choice(size, size=min(many, size), replace=False).tolist())
    reference = generator.integers(-1, size, size=count)
    for q in range(0, count, 5):
        if positives[q]:
            reference[q] = positives[q][0]
    subset = np.stack([generator.permutation(max(size, members))[:members] for _ in range(count)])
    subset[subset >= size] = -1
    subset[::4, -1] = -1
    for q in range(1, count, 2):
        if positives[q] and positives[q][0] not in subset[q]:
            subset[q, 0] = positives[q][0]
    return make_task(size, positives, reference, exclude, subset)


def test_a_hand_made_matrix():
    """Scores are read off one-hot queries: row q of the matrix is what query q says of the gallery."""
    matrix = torch.tensor(
        [
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],  # target 2 behind two others
            [0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1],  # target 1 tied with two: third
            [0.9, 0.2, 0.8, 0.1, 0.1, 0.1, 0.1, 0.8],  # best positive 2 tied with 7; 0 is the reference
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],  # the reference is the target
        ]
    )
    task = make_task(
        8,
        [[2], [1], [2, 4], [7]],
        reference=[-1, 5, 0, 7],
        exclude=True,
        subset=[[2, 3, 4, 5, 6, 1], [1, 5, 4, 2, -1, -1], [0, 2, 7, 3, 4, 5], [7, 1, 2, 3, 4, 5]],
    )
    ranks = rank_queries(torch.eye(4), matrix.T.contiguous(), task)
    assert ranks.rank.tolist() == [3, 3, 2, 8]
    assert ranks.ties.tolist() == [0, 2, 1, 0]
    assert ranks.subset_rank.tolist() == [2, 2, 2, 6]
    # Query 2: 7, then 2; 1; then 3, 5 and 6 tie with the positive 4, which stands last.
    assert [ranks.positive_ranks[q].tolist() for q in range(4)] == [[3], [3], [2, 7], [8]]
    names = top_pictures(torch.eye(4), matrix.T.contiguous(), task, 7)
    assert names[1].tolist() == [0, 2, 1, 3, 4, 6, 7]
    assert names[2].tolist() == [7, 2, 1, 3, 5, 6, 4]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 30),
    width=st.sampled_from([1, 2, 3, 17]),
    levels=st.sampled_from([1, 2, 50]),
    exclude=st.booleans(),
    several=st.booleans(),
    chunks=st.tuples(st.sampled_from(CHUNKS), st.sampled_from(CHUNKS)),
)
def test_integers_full_of_ties(seed, size, width, levels, exclude, several, chunks):
    generator = np.random.default_rng(seed)
    task = random_task(generator, 9, size, exclude, several)
    queries = torch.from_numpy(generator.integers(-levels, levels + 1, (9, width)).astype(np.float32))
    gallery = torch.from_numpy(generator.integers(-levels, levels + 1, (size, width)).astype(np.float32))
    plain = Plain((queries.double() @ gallery.double().T).tolist(), task)
    assert_equal(rank_queries(queries, gallery, task, query_chunk=chunks[0], gallery_chunk=chunks[1]), plain)
    assert_same_top(queries, gallery, plain, 4, query_chunk=chunks[0], gallery_chunk=chunks[1])


def unit(generator, count, width=48):
    return torch.nn.functional.normalize(torch.from_numpy(generator.standard_normal((count, width))), dim=1)


def some_duplicates(generator, queries, gallery, task):
    copies = generator.choice(len(gallery), len(gallery) // 5, replace=False)
    gallery[copies[::2]] = gallery[copies[1::2]]


def all_identical(generator, queries, gallery, task):
    gallery[:] = gallery[0].clone()


def target_like_its_reference(generator, queries, gallery, task):
    for q in range(len(queries)):
        if task.queries.reference_in_gallery[q] >= 0:
            gallery[task.queries.positives[q]] = gallery[task.queries.reference_in_gallery[q]].clone()


def last_digit_apart(generator, queries, gallery, task):
    """Rows that float32 products cannot tell apart, and float64 can; few digits, so that it sums exactly."""
    queries[:] = torch.round(queries * 64) / 64
    gallery[:] = torch.round(gallery[0].clone() * 64) / 64
    columns = generator.integers(0, gallery.shape[1], len(gallery))
    steps = torch.from_numpy(generator.integers(-3, 4, len(gallery)).astype(np.float32))
    gallery[np.arange(len(gallery)), columns] += steps * 2.0**-22


def huge_and_tiny(generator, queries, gallery, task):
    queries *= torch.from_numpy(10.0 ** generator.integers(-36, 37, (len(queries), 1)))
    gallery *= torch.from_numpy(10.0 ** generator.integers(-36, 37, (len(gallery), 1)))


def tiny(generator, queries, gallery, task):
    queries *= 1e-37
    gallery *= 1e-37


def zeros(generator, queries, gallery, task):
    queries[::2] = 0
    gallery[::3] = 0


def from_half(generator, queries, gallery, task):
    queries[:] = queries.half().float()
    gallery[:] = gallery.half().float()


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize(
    "twist",
    [
        some_duplicates,
        all_identical,
        target_like_its_reference,
        last_digit_apart,
        huge_and_tiny,
        tiny,
        zeros,
        from_half,
    ],
)
def test_adversarial_inputs(twist, several, exclude):
    generator = np.random.default_rng(3)
    task = random_task(generator, 25, 60, exclude, several)
    queries, gallery = unit(generator, 25).float(), unit(generator, 60).float()
    twist(generator, queries, gallery, task)
    check_everywhere(queries, gallery, task)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_encodings_of_other_types_are_ranked_as_they_are(dtype):
    generator = np.random.default_rng(4)
    task = random_task(generator, 20, 40, True)
    queries, gallery = unit(generator, 20).to(dtype), unit(generator, 40).to(dtype)
    gallery[::7] = gallery[1]
    if dtype == torch.float64:  # apart by less than float32 holds
        gallery[2:20] = gallery[0] * (1 + torch.arange(18, dtype=dtype)[:, None] * 1e-10)
    check_everywhere(queries, gallery, task)


@pytest.mark.parametrize("width", [3, 640])
def test_ranks_do_not_depend_on_threads_or_chunks(width):
    """Duplicated columns, where computed products differ with the shape of the block."""
    generator = np.random.default_rng(5)
    queries, gallery = unit(generator, 30, width).float(), unit(generator, 150, width).float()
    gallery[generator.choice(150, 15)] = gallery[7].clone()
    targets = generator.integers(0, 150, 30)
    targets[::3] = 7
    task = make_task(150, targets[:, None].tolist(), generator.integers(0, 150, 30), True)
    before = torch.get_num_threads()
    seen = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for query_chunk, gallery_chunk in zip(CHUNKS, reversed(CHUNKS), strict=True):
                chunks = {"query_chunk": query_chunk, "gallery_chunk": gallery_chunk}
                ranks = rank_queries(queries, gallery, task, **chunks)
                top = top_pictures(queries, gallery, task, 20, **chunks)
                seen.append((ranks.rank, ranks.ties, top))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        for mine, theirs in zip(seen[0], other, strict=True):
            assert np.array_equal(mine, theirs)
    scores = [[exact(q, g) for g in gallery.tolist()] for q in queries.tolist()]
    plain = Plain(scores, task)
    assert seen[0][0].tolist() == [plain.rank(q) for q in range(30)]
    assert seen[0][1].max() >= 13


@pytest.mark.parametrize("width", [5, 65, 640, 1280, 4096])
@pytest.mark.parametrize("first", [0.0, 1.0])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_stated_bounds_on_float32_sums_hold(width, first, device):
    """Where every rounding points the same way: equal terms, and small ones that vanish beside a large one."""
    generator = np.random.default_rng(0)
    values = generator.uniform(0.5, 1.0, 40) if first == 0 else generator.uniform(0.99, 1.0, 40) * 2**-12
    worst, by_halves = 0.0, 0.0
    for value in values.astype(np.float32).tolist():
        left, right = torch.full((40, width), value), torch.full((50, width), value)
        left[:, 0] = right[:, 0] = first or value
        truth = float(Fraction(first or value) ** 2 + Fraction(value) ** 2 * (width - 1))
        here, there = left.to(device), right.to(device)
        with full_precision():
            products = (here @ there.T, here[:1] @ there.T, here @ there[:1].T)
        worst = max(worst, *(float((product.double() - truth).abs().max()) / truth for product in products))
        in_a_row = np.add.accumulate((left * right[:40]).numpy(), axis=1, dtype=np.float32)[0, -1]  # as a GPU adds
        worst = max(worst, abs(float(in_a_row) - truth) / truth)
        by_halves = max(by_halves, abs(float(fixed_order_sum(left[:1] * right[:1])) - truth) / truth)
    assert worst < width * 2.0**-24
    assert by_halves < (math.ceil(math.log2(width)) + 1) * 2.0**-24
    if first == 1 and width >= 640:
        assert worst > 4 * width**0.5 * 2.0**-23, "a bound that grows with the root does not hold"


@pytest.mark.parametrize("scale", [1.0, 2.0**-70])
@pytest.mark.parametrize("last", [2.0**-12.01, -1.0])
def test_small_terms_that_vanish_beside_a_large_one(scale, last):
    """What the products of half of the pictures lose is far more than sums lose of the terms of other vectors; with a
    last term that takes the first away, of a score near zero."""
    width, small = 640, float(np.float32(2.0**-12.01))
    queries, gallery = torch.full((2, 60, width), small)
    queries[:, 0] = 1
    queries[:, -1] = abs(last)
    gallery[:, 0] = 1 + torch.arange(60) * 2.0**-22
    gallery[::2, 0] += (width - 1) * small**2
    gallery[::2, 1:] = 0
    gallery[:, -1] = last
    task = make_task(60, [[q] for q in range(60)])
    check_everywhere(queries, gallery * scale, task)


def ratio_score(queries, targets):
    """Two products, divided: a score that is no dot product, on encodings of several tensors."""
    gated = queries["gate"] @ (targets["picture"] * targets["picture"]).T
    return (queries["text"] @ targets["picture"].T) / (0.1 + gated).sqrt()


@pytest.mark.parametrize("exclude", [True, False])
def test_a_score_of_the_methods_own(exclude):
    generator = np.random.default_rng(6)
    task = random_task(generator, 30, 50, exclude, several=True)
    queries = {"text": unit(generator, 30).float(), "gate": unit(generator, 30).float().abs()}
    gallery = {"picture": unit(generator, 50).float()}
    gallery["picture"][10:20] = gallery["picture"][3].clone()
    scores = []
    for q in range(30):
        text, gate = queries["text"][q].tolist(), queries["gate"][q].tolist()
        scores.append(
            [exact(text, p) / math.sqrt(0.1 + exact(gate, [x * x for x in p])) for p in gallery["picture"].tolist()]
        )
    check_everywhere(queries, gallery, task, Plain(scores, task), score=ratio_score)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_product_as_own_score_gives_the_same_ranks(scale):
    generator = np.random.default_rng(7)
    task = random_task(generator, 40, 60, True, several=True)
    queries, gallery = unit(generator, 40).float(), unit(generator, 60).float() * scale
    gallery[::4] = gallery[1].clone()
    own = rank_queries(queries, gallery, task, score=lambda q, t: q @ t.T, query_chunk=7, gallery_chunk=11)
    default = rank_queries(queries, gallery, task)
    for name in ("rank", "ties", "subset_rank"):
        assert np.array_equal(getattr(own, name), getattr(default, name))
    assert np.array_equal(own.positive_ranks.values, default.positive_ranks.values)


def test_hidden_labels_have_no_rank_but_a_list():
    task = make_task(3, [[], [1]], reference=[0, 2], exclude=True, subset=[[0, 1, 2], [0, 1, 2]])
    queries, gallery = torch.eye(2, 3), torch.eye(3)
    ranks = rank_queries(queries, gallery, task)
    assert ranks.rank.tolist() == [0, 1] and ranks.subset_rank.tolist() == [0, 1]
    assert len(ranks.positive_ranks[0]) == 0
    names = top_pictures(queries, gallery, task, 3)
    assert names.tolist() == [[1, 2, -1], [0, 1, -1]] or names.tolist() == [[1, 2, -1], [1, 0, -1]]


def test_a_task_of_hidden_labels_only():
    task = make_task(3, [[], []], reference=[0, 2], exclude=True)
    assert rank_queries(torch.eye(2, 3), torch.eye(3), task).rank.tolist() == [0, 0]


def test_one_positive_ranks_as_the_query_does():
    generator = np.random.default_rng(8)
    task = random_task(generator, 30, 40, True)
    ranks = rank_queries(unit(generator, 30).float(), unit(generator, 40).float(), task)
    assert np.array_equal(ranks.positive_ranks.values, ranks.rank)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("score", [dot_product, lambda q, t: q @ t.T])
def test_what_is_not_finite_is_named(value, score):
    task = make_task(4, [[0], [1], [2]])
    queries, gallery = torch.ones(3, 5), torch.ones(4, 5)
    queries[1, 2] = value
    with pytest.raises(UserError, match=r"query 1 \(q1\) is not finite"):
        rank_queries(queries, gallery, task, score=score)
    gallery[3, 0] = value
    with pytest.raises(UserError, match="gallery row 3 is not finite"):
        rank_queries(torch.ones(3, 5), gallery, task, score=score)
    with pytest.raises(UserError, match="gallery row 3 is not finite"):
        top_pictures(torch.ones(3, 5), gallery, task, 2, score=score)


def test_a_score_that_divides_by_zero_is_an_error():
    task = make_task(4, [[0], [1]])
    with pytest.raises(UserError, match="score of query row 0 is not finite"):
        rank_queries(torch.zeros(2, 3), torch.zeros(4, 3), task, score=lambda q, t: (q @ t.T) / (q @ t.T))


def test_what_does_not_fit_together_is_refused():
    task = make_task(4, [[0], [1]])
    with pytest.raises(ValueError, match="3 encoded queries, the task has 2"):
        rank_queries(torch.ones(3, 5), torch.ones(4, 5), task)
    with pytest.raises(ValueError, match="outside of the gallery"):
        rank_queries(torch.ones(2, 5), torch.ones(4, 5), make_task(4, [[0], [4]]))
    with pytest.raises(ValueError, match="same positive twice"):
        rank_queries(torch.ones(2, 5), torch.ones(4, 5), make_task(4, [[0], [1, 1]]))
    with pytest.raises(TypeError, match="its own score"):
        rank_queries({"a": torch.ones(2, 5)}, torch.ones(4, 5), task)


def precision():
    """What decides how a float32 product is computed."""
    backends = torch.backends.cuda, torch.backends.mkldnn
    return torch.is_autocast_enabled("cpu"), *(backend.matmul.fp32_precision for backend in backends)


@pytest.fixture
def reduced_precision():
    """Float32 products may be computed as bfloat16 or TF32, under autocast too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield precision()
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("search", [rank_queries, lambda *given, **more: top_pictures(*given, 5, **more)])
@pytest.mark.parametrize("own_score", [True, False])
def test_reduced_precision_is_off_inside_and_restored(reduced_precision, monkeypatch, own_score, search):
    """Wherever a block is scored, by our product or by a method that computes in float32."""
    generator = np.random.default_rng(9)
    task = random_task(generator, 30, 60, True)
    queries, gallery = unit(generator, 30).float(), unit(generator, 60).float()
    plain_product, seen = torch.mm, []

    def watched(*given, **more):
        seen.append(precision())
        return plain_product(*given, **more)

    monkeypatch.setattr(torch, "mm", watched)
    score = (lambda q, t: torch.mm(q.float(), t.float().T)) if own_score else dot_product
    search(queries, gallery, task, score=score)
    assert seen and set(seen) == {(False, "ieee", "ieee")}
    assert precision() == reduced_precision and reduced_precision[0]


def test_ranks_are_the_same_under_reduced_precision(reduced_precision):
    generator = np.random.default_rng(9)
    task = random_task(generator, 30, 60, True)
    queries, gallery = unit(generator, 30).float(), unit(generator, 60).float()
    for score in (dot_product, lambda q, t: q.float() @ t.float().T):
        inside = rank_queries(queries, gallery, task, score=score)
        with torch.autocast("cpu", enabled=False):
            torch.set_float32_matmul_precision("highest")
            outside = rank_queries(queries, gallery, task, score=score)
        torch.set_float32_matmul_precision("medium")
        assert np.array_equal(inside.rank, outside.rank)
    assert (queries @ gallery.T).dtype == torch.bfloat16


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_no_product_of_a_gpu_meets_settings_that_contradict_each_other(before):
    """Its first act is to ask for the older setting, which refuses where the newer one says otherwise."""
    try:
        torch.set_float32_matmul_precision(before)
        with full_precision():
            assert torch.backends.cuda.matmul.allow_tf32 is False
        assert torch.get_float32_matmul_precision() == before
        assert torch.backends.cuda.matmul.allow_tf32 is (before != "highest")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("keys", [_keys_on_host, keys_on_device])
def test_equal_rows_are_found_on_host_and_device_alike(monkeypatch, keys, dtype):
    gallery = unit(np.random.default_rng(12), 60, 7).to(dtype)
    gallery[[9, 31, 59]] = gallery[4].clone()
    gallery[20] = gallery[19].clone()
    gallery[40], gallery[41] = 0.0, -0.0
    expected = np.arange(60)
    expected[[9, 31, 59]], expected[20] = 4, 19
    monkeypatch.setattr(arithmetic, "_KEYED_CELLS", 40)
    monkeypatch.setattr(arithmetic, "_keys_on_host", keys)
    assert np.array_equal(first_twins(gallery), expected)
    monkeypatch.setattr(arithmetic, "_keys_on_host", lambda rows: torch.zeros(len(rows), dtype=torch.int64))
    found = first_twins(gallery)
    assert all((gallery[i] == gallery[j]).all() for i, j in enumerate(found.tolist())), "equal keys are no proof"


def test_queries_that_were_scaled_beforehand_give_the_same_blocks():
    generator = np.random.default_rng(13)
    queries, gallery = unit(generator, 9).float(), unit(generator, 20).float()
    queries[3] *= 2.0**60
    scorer = DotScorer(queries, gallery, random_task(generator, 9, 20, True), torch.device("cpu"))
    targets = scorer.targets(0, 20)
    for index in (np.arange(2, 7), np.array([8, 3, 0])):
        expected = scorer.block(index, targets).clone()
        scorer._ready = scorer._scaled(queries, scorer._query_exponent)
        assert torch.equal(scorer.block(index, targets), expected)
        scorer._ready = None


def test_blocks_are_scored_on_the_callers_threads_and_errors_restore_everything():
    """Small operations between the products run on one thread; nobody outside may notice."""
    task = make_task(4, [[0], [1]])
    before, seen = torch.get_num_threads(), []

    def score(queries, targets):
        seen.append(torch.get_num_threads())
        if len(seen) > 3:
            raise RuntimeError("a method's own")
        return queries @ targets.T

    try:
        torch.set_num_threads(3)
        outside = precision()
        with pytest.raises(RuntimeError, match="a method's own"):
            rank_queries(torch.eye(2, 4), torch.eye(4), task, score=score, gallery_chunk=1)
        assert seen == [3, 3, 3, 3] and torch.get_num_threads() == 3
        assert precision() == outside
        with torch_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_cut_of_a_task_ranks_as_in_the_whole():
    generator = np.random.default_rng(10)
    task = random_task(generator, 30, 40, True, several=True)
    queries, gallery = unit(generator, 30).float(), unit(generator, 40).float()
    index = np.array([3, 17, 4])
    cut = replace(task, queries=task.queries.take(index))
    whole, part = rank_queries(queries, gallery, task), rank_queries(queries[index], gallery, cut)
    assert np.array_equal(part.rank, whole.rank[index])
    assert np.array_equal(part.subset_rank, whole.subset_rank[index])


@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("own_score", [False, True])
def test_a_gpu_ranks_alike_and_sends_no_scores_to_the_host(place, own_score):
    """On one that computes on the host; encodings of any place are ranked on it."""
    generator = np.random.default_rng(11)
    task = random_task(generator, 100, 2000, True, several=True)
    queries, gallery = unit(generator, 100, 8).float(), unit(generator, 2000, 8).float()
    gallery[::50] = gallery[1].clone()
    score = (lambda q, t: q @ t.T) if own_score else dot_product
    expected, best = rank_queries(queries, gallery, task, score), top_pictures(queries, gallery, task, 10, score)
    with simulated_gpu() as gpu:
        given = queries.to(place), gallery.to(place), task
        with HostWaits() as ranking:
            found = rank_queries(*given, score=score, device=gpu)
        with HostWaits() as listing:
            lists = top_pictures(*given, 10, score=score, device=gpu)
    for name in ("rank", "ties", "subset_rank"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert np.array_equal(found.positive_ranks.values, expected.positive_ranks.values)
    assert np.array_equal(lists, best)
    every_score = 4 * len(queries) * len(gallery)
    assert 0 < max(ranking.crossed_bytes, listing.crossed_bytes) < every_score / 4


@pytest.mark.parametrize("fits", [True, False])
def test_a_gpu_sends_its_counts_once_however_many_blocks_there_are(fits, monkeypatch):
    """What is too near to tell is found, settled and counted there; encodings that do not fit are sent in parts."""
    monkeypatch.setattr("benchmark.evaluation.products._RESIDENT_SHARE", float(fits))
    generator = np.random.default_rng(14)
    task = random_task(generator, 100, 500, True, several=True)
    queries, gallery = unit(generator, 100, 8).float(), unit(generator, 500, 8).float()
    gallery[::10] = gallery[1].clone()
    expected, sent = rank_queries(queries, gallery, task), set()
    with simulated_gpu() as gpu:
        for chunk in (1000, 30):
            with HostWaits() as found:
                ranks = rank_queries(queries, gallery, task, query_chunk=chunk, gallery_chunk=chunk, device=gpu)
            sent.add(found.crossings["cuda to cpu"])
            assert np.array_equal(ranks.positive_ranks.values, expected.positive_ranks.values)
            assert found.crossings["cuda to cpu"] == found.waits["aten::_to_copy, cuda to cpu"] < 20
    assert len(sent) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_device_gives_the_same_ranks():
    generator = np.random.default_rng(11)
    task = random_task(generator, 200, 400, True, several=True)
    queries, gallery = unit(generator, 200, 640).float(), unit(generator, 400, 640).float()
    gallery[::5] = gallery[1].clone()
    expected = rank_queries(queries, gallery, task)
    for place in ("cpu", "cuda"):
        found = rank_queries(queries.to(place), gallery.to(place), task, device=torch.device("cuda"))
        assert np.array_equal(found.rank, expected.rank)
        assert np.array_equal(found.positive_ranks.values, expected.positive_ranks.values)
    lists = top_pictures(queries.cuda(), gallery.cuda(), task, 10)
    assert np.array_equal(top_pictures(queries, gallery, task, 10), lists)


@pytest.mark.parametrize("scale", [1.0, 2.0**-90])
def test_a_picture_of_several_tokens_is_ranked_by_the_best_of_them(scale):
    generator = np.random.default_rng(5)
    queries = torch.from_numpy(unit(generator, 17).numpy()).float()
    gallery = torch.stack([unit(generator, 40).float() for _ in range(3)], dim=1) * scale
    # Ties within float32's rounding and exact ones; a token that only its order among others tells apart.
    gallery[7], gallery[9] = gallery[6], gallery[8].flip(0)
    gallery[11] = torch.nextafter(gallery[10], torch.ones(()))
    task = random_task(generator, 17, 40, True, several=True)
    scores = [[max(exact(q, token) for token in g) for g in gallery.tolist()] for q in queries.tolist()]
    check_everywhere(queries, gallery, task, Plain(scores, task))


def test_blocks_of_many_pictures_of_several_tokens():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(6, 8, generator=generator)
    gallery = torch.randn(2100, 4, 8, generator=generator)
    task = make_task(2100, [[0], [1023], [1024], [2047], [2048], [2099]])
    own = rank_queries(queries, gallery, task, score=lambda q, t: torch.einsum("bd,gtd->bgt", q, t).amax(dim=2))
    assert rank_queries(queries, gallery, task).rank.tolist() == own.rank.tolist()
    gallery[75, 3, 0] = math.nan
    with pytest.raises(UserError, match="gallery token 303 is not finite"):
        rank_queries(queries, gallery, task)
