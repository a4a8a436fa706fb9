"""What one modality alone finds, as a run tells it, is what `image_only` and `text_only` find on its encoder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import Command

from benchmark.cli import main
from benchmark.comparison.composition import compose
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.measurement import ComposedRecall
from benchmark.records.record import Record, read_per_query, read_record

TUNED = "--set method.encoder=finetuned --set encoders.epochs=1 --set encoders.batch_size=24"
RUNS = {
    "sum": TUNED,
    "image_only": TUNED,
    "text_only": TUNED,
    "clip4cir_sum": TUNED.partition("finetuned ")[2],
    "val": "--epochs 0 --limit 8",
}


@pytest.fixture(scope="module")
def runs(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for method, further in RUNS.items():
        line = f"run --method {method} --dataset cirr --data-root {small_cirr} {further} --output {folder / method}"
        assert main(shlex.split(line)) == 0
    return folder


def first(folder: Path) -> tuple[Record, PerQuery]:
    record = read_record(folder)
    return record, read_per_query(folder, record)[0]


@pytest.mark.parametrize("method", ["sum", "clip4cir_sum"])
def test_a_run_tells_what_either_modality_finds_on_its_own_encoder(method: str, runs: Path) -> None:
    _, found = first(runs / method)
    for name in ("picture", "text"):
        _, alone = first(runs / {"picture": "image_only", "text": "text_only"}[name])
        assert np.array_equal(getattr(found, f"{name}_rank"), alone.rank), name
    assert not np.array_equal(found.rank, found.picture_rank)


def test_a_baseline_of_one_modality_has_no_composition(runs: Path) -> None:
    record, found = first(runs / "image_only")
    assert found.picture_rank is None and not any(result.composition for result in record.results)


def test_a_method_on_pictures_gets_a_black_picture_and_no_text(runs: Path) -> None:
    record, found = first(runs / "val")
    assert found.picture_rank is not None and found.text_rank is not None
    assert not np.array_equal(found.picture_rank, found.text_rank)
    # A black picture and a text say the same of every reference: the ranking is the text's alone.
    assert record.results[0].composition["R@10"].picture == pytest.approx(100 * (found.picture_rank <= 10).mean())


def test_compose_finds_the_same_with_and_without_runs_of_one_modality(runs: Path) -> None:
    alone = compose(runs / "sum")
    named = compose(runs / "sum", runs / "image_only", runs / "text_only")
    assert alone.at == named.at and alone.log_ratio == named.log_ratio
    record, _ = first(runs / "sum")
    for at in alone.at:
        kept = record.results[0].composition[at.metric]
        assert (kept.picture, kept.text, kept.gap) == pytest.approx((at.picture, at.text, at.gap), abs=1e-5)
        assert kept.composed - kept.lost == pytest.approx(kept.gap_to_union, abs=1e-5)


def test_an_evaluation_of_the_checkpoint_tells_the_same(runs: Path, small_cirr: Path, command: Command) -> None:
    for method in ("sum", "clip4cir_sum"):
        arguments = ["--method", method, "--data-root", small_cirr, "--output", method]
        assert command("evaluate", "--checkpoint", runs / method, *arguments).status == 0
        (_, told), (_, found) = first(runs / method), first(Path(method))
        assert np.array_equal(told.text_rank, found.text_rank) and np.array_equal(told.picture_rank, found.picture_rank)


def test_the_table_has_a_section_for_it(runs: Path) -> None:
    record, _ = first(runs / "sum")
    (row,) = [line for line in (runs / "sum" / "table.md").read_text().splitlines() if line.startswith("| official")]
    at = record.results[0].composition["R@10"]
    assert [cell.strip() for cell in row.split("|")][2:6] == [
        f"{at.picture:.2f}", f"{at.text:.2f}", f"{record.results[0].metrics['R@10']:.2f}", f"{at.gap:+.2f}"
    ]  # fmt: skip


def test_an_edited_composition_is_no_record(runs: Path, tmp_path: Path, command: Command) -> None:
    raw = json.loads((runs / "sum" / "record.json").read_text())
    raw["results"][0]["composition"]["R@10"]["lost"] += 1
    (tmp_path / "record.json").write_text(json.dumps(raw))
    outcome = command("compose", tmp_path / "record.json")
    assert outcome.status == 2 and "do not add up" in outcome.err
    assert set(ComposedRecall.model_fields) == set(raw["results"][0]["composition"]["R@10"])


def test_a_subset_is_the_listed_queries_against_the_whole_gallery(
    runs: Path, small_cirr: Path, tmp_path: Path, command: Command
) -> None:
    _, whole = first(runs / "sum")
    listed = [whole.ids[5], whole.ids[2], whole.ids[11]]
    (tmp_path / "hard ones.txt").write_text("# found by nobody\n" + "\n".join(listed) + "\n")
    arguments = ["--method", "sum", "--data-root", small_cirr, "--subset", "hard ones.txt"]
    outcome = command("evaluate", "--checkpoint", runs / "sum", *arguments, "--output", "part")
    assert outcome.status == 0 and "3 of 24 queries, those listed in hard-ones" in outcome.out
    record, part = first(Path("part"))
    assert part.ids == tuple(sorted(listed, key=whole.ids.index))
    assert part.rank.tolist() == [whole.rank[whole.ids.index(query)] for query in part.ids]
    assert record.results[0].protocol == "official-subset-hard-ones" and record.results[0].gallery == 24
    assert record.identity.subset is not None and record.identity.subset.queries == 3
    (tmp_path / "other.json").write_text(json.dumps([*listed, "nobody"]))
    outcome = command("evaluate", "--checkpoint", runs / "sum", *arguments[:-1], "other.json", "--output", "other")
    assert outcome.status == 2 and "(nobody)" in outcome.err and not Path("other").exists()
