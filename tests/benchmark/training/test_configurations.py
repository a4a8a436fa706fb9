"""The configurations that come with the program: each is read, makes a plan, and is accepted by DeepSpeed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import Command
from small_training import Small, Vectors

from benchmark.configurations import FOLDER, ready_names
from benchmark.distributed.process import this_process
from benchmark.options import make_options, read_config
from benchmark.pipeline.planning import make_plan
from benchmark.settings import TrainerSettings, TrainingSettings
from benchmark.training.batches import GroupLayout
from benchmark.training.deepspeed_file import read_deepspeed_file
from benchmark.training.engine import StageEngine
from benchmark.training.execution import Execution
from benchmark.training.optimisation import standard_optimiser, standard_schedule


@pytest.mark.parametrize("name", [*ready_names(".toml"), *ready_names(".json")])
def test_it_opens_with_the_command_that_uses_it(name: str) -> None:
    toml = FOLDER / f"{name}.toml"
    if toml.is_file():
        command = toml.read_text().splitlines()[0].removeprefix("# ")
    else:
        command = json.loads((FOLDER / f"{name}.json").read_text())["_command"]
    words = shlex.split(command)
    assert words[: words.index("run")] in (
        ["python", "-m", "benchmark"], ["deepspeed", "--num_gpus", "8", "--module", "benchmark"],
    )  # fmt: skip
    assert words[words.index("--config" if toml.is_file() else "--deepspeed-config") + 1] == name


@pytest.mark.parametrize("name", ready_names(".toml"))
@pytest.mark.parametrize("method", ["clip4cir", "spirit"])
def test_a_run_s_configuration_makes_a_plan(name: str, method: str, small_cirr: Path) -> None:
    values = {"method": method, "dataset": "cirr", "data_root": small_cirr, "backbone": "RN50x4", "weights": "openai", **read_config(Path(name))}
    plan = make_plan(make_options(**values))
    stage = plan.stages[0].settings
    # The recipe of pretrained weights: nothing of it changes but the precision where the file names one.
    assert (stage.batch_size, stage.batch_norm) == (128, "eval")
    assert plan.execution.micro_batch or plan.execution.zero
    processes = 8 if name.startswith("eight") else 1
    for planned in plan.trained:
        layout = GroupLayout.of(planned.settings, processes)
        assert layout.rows_per_rank * layout.groups_per_rank * processes == planned.settings.batch_size
    if "precision" in values:
        assert stage.precision == values["precision"]


@pytest.mark.parametrize("name", ready_names(".json"))
def test_deepspeed_accepts_it_and_takes_a_step(name: str) -> None:
    file = read_deepspeed_file(name)
    precision = "fp16" if file.values.get("fp16", {}).get("enabled") else "fp32"
    settings = TrainingSettings(batch_size=8, negative_group=4, precision=precision)
    layout = GroupLayout.of(settings, 1)
    assert file.contradictions("small", settings, layout) == []
    execution = Execution.of(TrainerSettings(), file)
    method = Small()
    optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
    engine = StageEngine(
        method, optimiser, standard_schedule(settings, 1), settings, layout, this_process("cpu"), execution
    )
    try:
        engine.training_mode()
        before = method.layer.weight.detach().clone()
        for _ in range(20):  # the scale falls until no gradient overflows
            for part in range(2):
                engine.accumulate(Vectors(8).batch(np.arange(4) + 4 * part), part)
            engine.update()
    finally:
        engine.close()
    assert execution.zero > 0 and not np.array_equal(before, method.layer.weight.detach())


def test_a_contradiction_stops_the_run_before_any_work(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"train_batch_size": 7, "zero_optimization": {"stage": 1}}')
    outcome = command(
        "run", "--method", "spirit", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", "tiny",
        "--deepspeed-config", tmp_path / "ds.json", "--limit", 24, "--output", tmp_path / "out",
    )  # fmt: skip
    assert outcome.status == 2 and not (tmp_path / "out" / "record.json").exists()
    assert len(outcome.errors) == 2 and all("train_batch_size is 7, but stage" in line for line in outcome.errors)
