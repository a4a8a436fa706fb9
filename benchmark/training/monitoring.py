"""DeepSpeed's monitors (TensorBoard, CSV, Weights & Biases, Comet) fed with what training measures.

DeepSpeed's engine would feed them itself at every step, with the learning rate alone; here they are
fed seldom, with values that were brought to the host anyway.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.training.deepspeed_file import DeepspeedFile

MONITOR_NAMES = ("tensorboard", "csv", "wandb")

_SECTIONS = {"tensorboard": "tensorboard", "csv": "csv_monitor", "wandb": "wandb"}
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

        placed = {name: _placed(name, section, folder, stage) for name, section in sections.items()}
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
            import wandb

            wandb.finish()

    def rewind(self, update: int) -> None:
        """A resumed stage goes on after this update: what was written of later ones is taken back."""
        if self._master is None:
            return
        if self._master.csv_monitor is not None:
            for path in Path(self._master.csv_monitor.log_dir).glob("*.csv"):
                _cut(path, update)
                self._master.csv_monitor.filenames.append(path.stem)
        if self._master.tb_monitor is not None and self._master.tb_monitor.summary_writer is not None:
            _hide_later(self._master.tb_monitor.summary_writer, update)


def _placed(name: str, section: Mapping[str, Any], folder: Path, stage: str) -> dict[str, Any]:
    if name not in ("tensorboard", "csv_monitor"):
        return dict(section)
    return {**section, "output_path": section.get("output_path") or str(folder), "job_name": stage}


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
