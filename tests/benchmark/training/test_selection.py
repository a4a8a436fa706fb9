"""What is held out, what is not trained on then, and the criteria."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.dataset import Triplets
from benchmark.errors import UserError
from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.settings import TrainingSettings
from benchmark.text_rules import text_rule
from benchmark.training.selection import (
    Heldout,
    criterion_score,
    heldout_score,
    heldout_task,
    is_heldout_reference,
    margin_of,
    selection_note,
)

NAMES = tuple(f"train-{i}-0-img0" for i in range(100))
HELDOUT = [3, 28, 64]


def triplets(pairs: list[tuple[int, int]]) -> Triplets:
    array = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    return Triplets(array[:, 0], array[:, 1], tuple(("text",) for _ in pairs))


def test_what_is_held_out_never_changes() -> None:
    assert [i for i, name in enumerate(NAMES) if is_heldout_reference(name)] == HELDOUT


def test_about_a_twentieth_is_held_out() -> None:
    share = np.mean([is_heldout_reference(f"picture {i}") for i in range(20_000)])
    assert 0.045 < share < 0.055


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=200))
def test_no_held_out_picture_is_ever_trained_on(pairs: list[tuple[int, int]]) -> None:
    first = triplets([*pairs, (HELDOUT[0], 98), (97, 96)])
    try:
        heldout = Heldout.of(first, NAMES)
    except UserError:
        return
    shown = set(heldout.triplets.reference_picture.tolist()) | set(heldout.triplets.target_picture.tolist())
    for epoch in (first, triplets([(b, a) for a, b in pairs])):  # a later epoch draws other pairs
        kept = epoch.take(heldout.trained(epoch))
        assert not shown & (set(kept.reference_picture.tolist()) | set(kept.target_picture.tolist()))
    assert all(is_heldout_reference(NAMES[r]) for r in heldout.triplets.reference_picture)


def test_too_little_data_is_told() -> None:
    with pytest.raises(UserError, match="--selection heldout: 1 training triplets are too few"):
        Heldout.of(triplets([(0, 1)]), NAMES)


def test_the_heldout_task_ranks_held_out_triplets_among_their_own_pictures(small_cirr: Path) -> None:
    options = make_options(
        method="clip4cir", dataset="cirr", data_root=str(small_cirr), selection="heldout", set={"combiner.batch_size": 8}
    )
    plan = make_plan(options)
    (task,) = plan.selection_tasks
    trained = plan.triplets(plan.last, frozenset())(0)
    assert task.key.split == "train" and task.key.protocol == "heldout"
    assert not set(task.gallery.tolist()) & (set(trained.reference_picture.tolist()) | set(trained.target_picture.tolist()))
    for i in range(len(task.queries)):
        assert task.gallery[task.queries.reference_in_gallery[i]] == task.queries.reference_picture[i]
    assert set(task.gallery.tolist()) <= set(plan.dataset.split_pictures("train").tolist())


def test_held_out_pictures_of_the_target_s_caption_are_answers_where_captions_are() -> None:
    """Pictures 1 and 2 are of one caption: the query (0 → 1) is answered by either."""
    names = ("a", "b", "c", "d")
    texts = {"a": ("red dress",), "b": ("blue dress",), "c": ("blue dress",), "d": ("blue skirt",)}
    held = Triplets(np.array([0, 2]), np.array([1, 3]), (("replace red with blue",), ("replace dress with skirt",)))
    found = {}
    for equal in (False, True):
        dataset = SimpleNamespace(
            info=SimpleNamespace(equal_captions_answer=equal), label="x", side_texts=lambda: texts,
            pictures=SimpleNamespace(names=names),
        )
        task = heldout_task(dataset, held, text_rule("template"))  # type: ignore[arg-type]
        found[equal] = [task.queries.positives[i].tolist() for i in range(2)]
    assert found == {False: [[1], [3]], True: [[1, 2], [3]]}


def test_the_note_of_a_selection_says_whether_there_was_a_choice() -> None:
    assert selection_note("paper", TrainingSettings(epochs=3).picks_an_epoch).startswith("best epoch")
    assert selection_note("paper", TrainingSettings(epochs=30, validate_every=1000).picks_an_epoch).startswith("last epoch")
    assert selection_note("heldout", False).startswith("best epoch on a held-out part")
    assert selection_note("none", False) == ""


@given(st.lists(st.floats(0, 100), max_size=8))
def test_the_margin_is_the_best_score_s_over_the_next(scores: list[float]) -> None:
    best = sorted(scores, reverse=True)
    assert margin_of(scores) == (best[0] - best[1] if len(scores) > 1 else None)


def test_criteria() -> None:
    metrics = {"": {"R@1": 10.0, "R@5": 40.0, "R_subset@1": 20.0, "mAP@5": 99.0}}
    values = {kind: criterion_score(None, metrics, kind).value for kind in ("arithmetic", "geometric", "harmonic")}  # type: ignore[arg-type]
    assert values["arithmetic"] == pytest.approx(70 / 3)
    assert values["geometric"] == pytest.approx(20.0)
    assert values["harmonic"] == pytest.approx(3 / (1 / 10 + 1 / 40 + 1 / 20))
    none = {"": {"R@1": 0.0, "R@5": 40.0}}
    assert criterion_score(None, none, "geometric").value == 0.0  # type: ignore[arg-type]
    two = {"dress": {"R@10": 20.0, "R@50": 99.0}, "shirt": {"R@10": 50.0, "R@50": 0.0}}
    assert criterion_score(None, two, "R@10").value == 35.0  # type: ignore[arg-type]
    assert heldout_score({"R@1": 1.0, "R@5": 2.0, "R@10": 3.0, "R@50": 6.0}).value == 3.0
