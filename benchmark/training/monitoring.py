"""DeepSpeed's monitors (TensorBoard, CSV, Weights & Biases, Comet) fed with what training measures.

DeepSpeed's engine would feed them itself at every step, with the learning rate alone; here they are
fed seldom, with values that were brought to the host anyway, so that no step waits for the device.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.records.environment import peak_memory_bytes
from benchmark.training.deepspeed_file import DeepspeedFile
from benchmark.training.engine import StageEngine

MONITOR_NAMES = ("tensorboard", "csv", "wandb")

_SECTIONS = {"tensorboard": "tensorboard", "csv": "csv_monitor", "wandb": "wandb"}
_INTERVAL = 50
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}

Sections = dict[str, dict[str, Any]]
"""The configuration of monitors, by the name of their section in a DeepSpeed configuration."""


def monitor_sections(names: Sequence[str], file: DeepspeedFile | None) -> Sections:
    """The monitors named by `--monitors` and those that the file enables.

    Raises UserError where a monitor's package is not installed.
    """
    sections = file.monitors if file is not None else {}
    for name in names:
        section = sections.setdefault(_SECTIONS[name], {})
        section["enabled"] = True
    enabled = {name: section for name, section in sections.items() if section.get("enabled")}
    missing = [name for name in enabled if name in _PACKAGES and find_spec(_PACKAGES[name]) is None]
    if missing:
        raise UserError.collect(
            f"monitor {name}: the package {_PACKAGES[name]} is not installed; pip install {_PACKAGES[name]}, or "
            "choose another --monitors"
            for name in missing
        )
    return enabled


class Monitors:
    """The monitors of one stage; without sections it does nothing. Rank 0 writes.

    ``folder``: where files go unless the section names an ``output_path``, in a folder of the stage's name.
    """

    def __init__(self, sections: Sections, folder: Path, stage: str) -> None:
        self.enabled = bool(sections)
        self._master: Any = None
        if not sections:
            return
        from deepspeed.monitor.config import get_monitor_config
        from deepspeed.monitor.monitor import MonitorMaster

        placed = {name: dict(section) for name, section in sections.items()}
        for name in placed.keys() & {"tensorboard", "csv_monitor"}:
            placed[name] |= {"output_path": placed[name].get("output_path") or str(folder), "job_name": stage}
        self._master = MonitorMaster(get_monitor_config(placed))

    def write(self, values: Mapping[str, float], update: int) -> None:
        """Values by name, as they stood after so many updates."""
        if self._master is not None:
            self._master.write_events([(name, value, update) for name, value in values.items()])

    def close(self) -> None:
        """End the stage's curves, so that the next stage begins its own."""
        if self._master is None:
            return
        if self._master.tb_monitor is not None and self._master.tb_monitor.summary_writer is not None:
            self._master.tb_monitor.summary_writer.close()
        if self._master.wandb_monitor is not None:
            # DeepSpeed starts a run and never ends it; the next stage's would go on in it.
            import wandb

            wandb.finish()

    def rewind(self, update: int) -> None:
        """A resumed stage goes on after this update: what was written of later ones is taken back."""
        if self._master is None:
            return
        if self._master.csv_monitor is not None:
            for path in Path(self._master.csv_monitor.log_dir).glob("*.csv"):
                _cut(path, update)
                # What is not in this list gets a second head line.
                self._master.csv_monitor.filenames.append(path.stem)
        if self._master.tb_monitor is not None and self._master.tb_monitor.summary_writer is not None:
            _hide_later(self._master.tb_monitor.summary_writer, update)


def _cut(path: Path, update: int) -> None:
    """Keep a CSV file's head and its rows up to an update; a row that a kill cut short goes, too."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == 2]
    kept = [row for row in rows[1:] if row[0].isdigit() and int(row[0]) <= update]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([*rows[:1], *kept])


def _hide_later(writer: Any, update: int) -> None:
    """TensorBoard hides what lies behind the step of a new session's start."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    writer.file_writer.add_event(Event(session_log=start, step=update + 1))


class Measurements:
    """Feeds monitors every 50 updates and at the end of each epoch; all processes call it alike.

    ``update``: how many were done before (a resumed run).
    """

    def __init__(self, monitors: Monitors, process: Process, batch_size: int, update: int) -> None:
        self._monitors, self._process, self._batch = monitors, process, batch_size
        self._written, self._at = update, time.monotonic()

    def due(self, update: int) -> bool:
        return self._monitors.enabled and update % _INTERVAL == 0

    def write(self, update: int, losses: Sequence[float], engine: StageEngine) -> None:
        """Losses of the epoch so far, newest last; of those since the last time the mean is written.

        The last time is reckoned, not remembered, so that a resumed stage writes what an undisturbed one does.
        """
        if not self._monitors.enabled or update == self._written:
            return
        # Every rank must come to the gather of memory below, whichever writes.
        updates, seconds = update - self._written, time.monotonic() - self._at
        before = max(update - len(losses), (update - 1) // _INTERVAL * _INTERVAL)
        recent = losses[before - update :]
        values = {
            "train/loss": sum(recent) / max(len(recent), 1),
            "train/learning_rate": engine.learning_rate(),
            "train/gradient_norm": engine.gradient_norm(),
            "train/samples_per_second": updates * self._batch / max(seconds, 1e-9),
        }
        # Of the update itself, and of one group alone where it has several: they tell the parts' shares.
        values |= {f"train/loss_{name}": part for name, part in engine.loss_parts().items()}
        if engine.loss_scale is not None:
            values["train/loss_scale"] = engine.loss_scale.value
        for rank, gibibytes in enumerate(self._memory()):
            values[f"memory_gib/rank_{rank}"] = gibibytes
        self._monitors.write(values, update)
        self._written, self._at = update, time.monotonic()

    def write_score(self, update: int, criterion: str, score: float) -> None:
        """A validation's result; the time that it took is no training time."""
        name = "".join(c if c.isalnum() or c in "@+" else "_" for c in criterion)
        self._monitors.write({f"validation/{name}": score}, update)
        self._at = time.monotonic()

    def _memory(self) -> list[float]:
        """Peak memory of every process, in GiB: of its device, or of the process itself on a CPU."""
        peaks = peak_memory_bytes()
        own = torch.tensor([peaks.get("device", peaks["process"]) / 2**30], device=self._process.device)
        if self._process.world_size == 1:
            return [float(own)]
        every = [torch.empty_like(own) for _ in range(self._process.world_size)]
        torch.distributed.all_gather(every, own)
        return [float(memory) for memory in every]
