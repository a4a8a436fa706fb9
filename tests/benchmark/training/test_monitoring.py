"""DeepSpeed's monitors get what training measured, once for every update, whatever was killed in between."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_training import Small, Vectors, small_job
from torch import Tensor

from benchmark.distributed.process import this_process
from benchmark.distributed.process_group import quiet_deepspeed, start_process_group
from benchmark.errors import UserError
from benchmark.settings import TrainingSettings
from benchmark.training.deepspeed_file import DeepspeedFile
from benchmark.training.engine import StageEngine
from benchmark.training.job import Trained, TrainingJob
from benchmark.training.monitoring import Monitors, monitor_sections
from benchmark.training.trainer import train

SETTINGS = TrainingSettings(epochs=3, batch_size=8, negative_group=4, learning_rate=0.05, precision="fp16")
NAMES = {
    "train/loss", "train/learning_rate", "train/gradient_norm", "train/samples_per_second", "train/loss_scale",
    "memory_gib/rank_0", "validation/made_up",
}  # fmt: skip


def job(folder: Path, source: Vectors, **changed: Any) -> TrainingJob:
    sections = monitor_sections(("tensorboard", "csv"), None)
    made = small_job(folder / "work", SETTINGS, source, method=Small(norm=False), every=0)
    return replace(made, monitors=sections, monitor_folder=folder / "monitor", **changed)


def rows(folder: Path, name: str) -> list[list[str]]:
    with (folder / "monitor" / "small" / f"{name.replace('/', '_')}.csv").open() as stream:
        return list(csv.reader(stream))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "monitor" / "small"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Trained]]:
    folder = tmp_path_factory.mktemp("watched")
    yield folder, train(job(folder, Vectors(40)), resume=False)


def test_every_value_is_written_at_the_end_of_each_epoch(watched: tuple[Path, Trained]) -> None:
    folder, trained = watched
    found = scalars(folder)
    assert found.keys() == NAMES
    for name in NAMES:
        head, *lines = rows(folder, name)
        assert head[0] == "step" and [int(step) for step, _ in lines] == [5, 10, 15]
        assert [step for step, _ in found[name]] == [5, 10, 15]
        assert [value for _, value in found[name]] == pytest.approx([float(value) for _, value in lines], rel=1e-5)
    assert [value for _, value in found["train/loss"]] == pytest.approx([e.loss for e in trained.log], rel=1e-5)
    assert [value for _, value in found["validation/made_up"]] == pytest.approx([e.score for e in trained.log], rel=1e-5)
    assert all(value > 0 for name in NAMES - {"validation/made_up"} for _, value in found[name])


class OfTwoParts(Small):
    def loss_parts(self, queries: Any, targets: Any) -> dict[str, Tensor]:
        whole = self.loss(queries, targets)
        return {"first": 0.25 * whole, "second": 0.75 * whole}


def test_a_loss_of_several_parts_trains_on_their_sum_and_writes_each(
    watched: tuple[Path, Trained], tmp_path: Path
) -> None:
    parts = train(job(tmp_path, Vectors(40), method=OfTwoParts(norm=False)), resume=False)
    whole = watched[1].log
    assert [epoch.loss for epoch in parts.log] == pytest.approx([epoch.loss for epoch in whole], rel=1e-5)
    first, second = (rows(tmp_path, f"train/loss_{name}")[1:] for name in ("first", "second"))
    assert [int(step) for step, _ in first] == [5, 10, 15]
    assert [3 * float(value) for _, value in first] == pytest.approx([float(value) for _, value in second])


def test_long_epochs_are_written_every_fifty_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the gradient is measured only then."""
    measured, original = [0], StageEngine.measure_gradient

    def counted(engine: StageEngine) -> None:
        measured[0] += 1
        original(engine)

    monkeypatch.setattr(StageEngine, "measure_gradient", counted)
    made = job(tmp_path, Vectors(8 * 120))
    train(replace(made, settings=SETTINGS.model_copy(update={"epochs": 1})), resume=False)
    assert [int(step) for step, _ in rows(tmp_path, "train/loss")[1:]] == [50, 100, 120]
    assert measured == [3]


class Killed(BaseException):
    pass


def test_a_resumed_stage_writes_every_update_once(tmp_path: Path, watched: tuple[Path, Trained]) -> None:
    """Killed with an epoch's values written that the resumable state does not know of."""

    def kill(served: int) -> None:
        if served == 23:
            raise Killed

    with pytest.raises(Killed):
        train(job(tmp_path, Vectors(40, on_batch=kill)), resume=False)
    states = tmp_path / "work"
    for name in ("train/loss", "train/learning_rate"):
        path = tmp_path / "monitor" / "small" / f"{name.replace('/', '_')}.csv"
        path.write_text(path.read_text() + "12,99\r\n15,9")
    assert (states / "resume.json").is_file()
    train(job(tmp_path, Vectors(40)), resume=True)
    for name in ("train/loss", "train/learning_rate", "train/gradient_norm"):
        assert rows(tmp_path, name) == rows(watched[0], name)
    assert scalars(tmp_path)["train/loss"] == scalars(watched[0])["train/loss"]


def test_a_missing_package_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.training.monitoring.find_spec", lambda name: None)
    with pytest.raises(UserError, match="monitor wandb: the package wandb is not installed; pip install wandb"):
        monitor_sections(("wandb", "csv"), None)


def test_a_file_s_monitors_join_those_of_the_option(tmp_path: Path) -> None:
    file = DeepspeedFile(tmp_path, {"csv_monitor": {"enabled": False, "output_path": "a"}, "tensorboard": {"enabled": True}})
    assert monitor_sections((), file).keys() == {"tensorboard"}
    assert monitor_sections(("csv",), file)["csv_monitor"] == {"enabled": True, "output_path": "a"}


def test_each_stage_is_a_run_of_its_own_for_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps begin again with each stage, and it drops those that do not rise."""
    calls: list[tuple[str, Any]] = []
    made = ModuleType("wandb")
    made.init = lambda **named: calls.append(("init", named["project"]))  # type: ignore[attr-defined]
    made.log = lambda values, step, commit: calls.append(("log", (values, step)))  # type: ignore[attr-defined]
    made.finish = lambda: calls.append(("finish", None))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", made)
    start_process_group(this_process("cpu"))
    for stage in ("first", "second"):
        monitors = Monitors({"wandb": {"enabled": True, "project": "p"}}, tmp_path, stage)
        monitors.rewind(0)
        monitors.write({"train/loss": 0.5}, 3)
        monitors.close()
    assert calls == 2 * [("init", "p"), ("log", ({"train/loss": 0.5}, 3)), ("finish", None)]


def test_without_monitors_nothing_is_written(tmp_path: Path) -> None:
    Monitors({}, tmp_path, "small").write({"a": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_deepspeed_speaks_only_when_asked() -> None:
    logger = quiet_deepspeed().utils.logger
    assert not logger.isEnabledFor(logging.WARNING)
    quiet_deepspeed(verbose=True)
    assert logger.isEnabledFor(logging.INFO) and logger.handlers[0].level == logging.INFO
    quiet_deepspeed()
    assert not logger.isEnabledFor(logging.WARNING)
