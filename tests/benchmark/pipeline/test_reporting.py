"""From evaluated weights to a run's folder: what is the same is evaluated once, and the end says what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import TOY_PLUGIN, Command

from benchmark.options import make_options
from benchmark.pipeline import run as pipeline
from benchmark.pipeline.planning import make_plan
from benchmark.records.record import read_per_query
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
