"""From evaluated weights to a run's folder: what is the same is evaluated once, and the end says what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TOY_PLUGIN, Command

from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.evaluation.evaluator import TaskResult
from benchmark.evaluation.ranking import Ranks
from benchmark.leaderboards.composition import composition_faults
from benchmark.options import make_options
from benchmark.pipeline import run as pipeline
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.reporting import results_of
from benchmark.records.proof import prove
from benchmark.records.record import Record, read_per_query
from benchmark.registry import discover


def test_a_selected_epoch_that_is_the_last_one_is_evaluated_once(
    small_cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, calls = discover(), []
    registry.add_plugin(TOY_PLUGIN)
    encode = pipeline.encode_tasks

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(pipeline, "encode_tasks", counted)
    options = {"method": "toy_features", "dataset": "cirr", "data_root": small_cirr, "limit": 24, "epochs": 1}
    record = pipeline.execute(make_plan(make_options(output=str(tmp_path / "run"), **options), registry))
    assert len(calls) == 1
    selected, last = record.results
    assert (selected.weights_from, last.weights_from) == ("selected", "last")
    assert selected.metrics == last.metrics and selected.intervals == last.intervals
    assert sorted(read_per_query(tmp_path / "run", record)) == [0, 1]
    lines = (tmp_path / "run" / "table.md").read_text(encoding="utf-8").splitlines()
    assert sum("last epoch" in line for line in lines if line.startswith("|")) == 1


def test_a_run_ends_with_its_table_in_a_hundred_columns_and_says_last_that_it_was_demo(
    command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    run = ("run", "--plugin", TOY_PLUGIN, "--method", "toy_features", "--dataset", "cirr", "--limit", 24, "--epochs", 1)
    outcome = command(*run, "--data-root", small_cirr, "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    table = (tmp_path / "run" / "table.md").read_text(encoding="utf-8").rstrip("\n")
    assert table in outcome.out and max(map(len, table.splitlines())) <= 100
    assert outcome.out.rstrip("\n").splitlines()[-1].startswith("Demo, synthetic pictures: these numbers say nothing about ")
    assert table.splitlines()[0].endswith(": demo, synthetic pictures, ranks no methods")


@pytest.mark.parametrize("name", ["cirr", "fashioniq", "shoes", "fashion200k"])
def test_what_a_run_writes_proves_its_numbers(name: str, tmp_path: Path) -> None:
    """Every layout: subsets, means over categories, several right answers of a query."""
    from benchmark.datasets.demo.demo_data import write_demo
    from benchmark.datasets.demo.fashion200k import LabelSizes
    from benchmark.datasets.demo.groups import Sizes

    sizes = {"shoes": Sizes(12, 6, 0, 0, 4, 6), "fashion200k": LabelSizes(12, 6, 25)}
    write_demo(name, tmp_path / "data", sizes.get(name, Sizes(12, 6, 4, 6, 2, 3)), workers=1)
    chosen = make_options(
        method="sum", dataset=name, data_root=tmp_path / "data", backbone="tiny", weights="random",
        output=str(tmp_path / "run"), cache=str(tmp_path / "cache"), set={"method.encoder": "untouched"},
    )  # fmt: skip
    record = pipeline.execute(make_plan(chosen, discover()))
    proof = prove(tmp_path / "run", record)
    assert proof.faults == () and proof.without_ranks == () and not list(composition_faults(record, proof.ranks))
    assert all(prove(tmp_path / "run", edited(record, metric)).faults for metric in record.results[0].metrics)
    metrics = {metric for result in record.results for metric in result.metrics}
    assert (name == "fashion200k") == any(metric.startswith("mAP@") for metric in metrics)


def test_an_average_s_composition_is_of_its_categories(tmp_path: Path) -> None:
    """Categories of unequal recalls: what is composed is held against the average, not against the first of them."""
    hits = {"dress": (4, 2, 1), "shirt": (10, 5, 4)}  # of ten queries, by the method, the picture, the text
    tasks = [ranked_task(category, *numbers) for category, numbers in hits.items()]
    dress, shirt, average = results_of({"selected": tasks})
    assert (average.category, average.metrics["R@10"]) == ("average", 70.0)
    assert [result.composition["R@10"].gap for result in (dress, shirt, average)] == pytest.approx([20, 50, 35])
    assert average.composition["R@10"].picture == pytest.approx(35)


def ranked_task(category: str, *hits: int) -> TaskResult:
    count, gallery = 10, 30
    every = np.arange(count)
    places = (np.where(every < found, 1, 20) for found in hits)
    method, picture, text = (Ranks(place, 0 * every, None, Ragged.single(place)) for place in places)
    queries = Queries(
        ids=tuple(f"{category}/{n}" for n in every), reference_picture=every, reference_in_gallery=every,
        texts=("",) * count, positives=Ragged.single(every), group=every,
    )  # fmt: skip
    key = TaskKey("fashioniq", "val", "original", "joined", category)
    task = Task(key, queries, np.arange(gallery), False, (10, 50), average="mean(R@10,R@50)")
    return TaskResult(task, method, None, picture, text)


def edited(record: Record, metric: str) -> Record:
    """With one metric of the first result moved by half a query."""
    first, *others = record.results
    moved = first.metrics[metric] + (-1 if first.metrics[metric] > 50 else 1) * 50 / first.queries
    changed = first.model_copy(update={"metrics": {**first.metrics, metric: moved}})
    return record.model_copy(update={"results": (changed, *others)})


def test_columns_that_a_record_would_have_twice_are_found_in_the_plan() -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from benchmark.dataset import TaskKey
    from benchmark.pipeline.readiness import doubled_columns

    def found(*keys: TaskKey) -> list[str]:
        plan: Any = SimpleNamespace(tasks=[SimpleNamespace(key=key) for key in keys], dataset=SimpleNamespace(label="mine"))
        return list(doubled_columns(cast(Any, plan)))

    dress, shirt = (TaskKey("mine", "val", "official", "joined", name) for name in ("dress", "shirt"))
    assert found(dress, shirt) == []
    (problem,) = found(dress, shirt, dress)
    assert problem.startswith("mine: gives 2 tasks for the column") and str(dress) in problem
    # The mean over categories is a column, too.
    (problem,) = found(dress, TaskKey("mine", "val", "official", "joined", "average"))
    assert "gives 2 tasks" in problem
