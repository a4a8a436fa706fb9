"""What a step is given, and how it tells what it finds: every finding is on the disk before the next is looked for."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmark.distributed.process import Process, this_process
from benchmark.errors import described
from benchmark.files import atomic_write_json
from benchmark.records.environment import load_note
from benchmark.records.identity import Identity
from benchmark.records.measurement import Measurement
from benchmark.throughput.timing import Setting
from gpu_steps.findings import LONGEST_LINE, StepFindings, findings_file, last_words

ROOT = Path(__file__).resolve().parents[2]
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


class NotHere(Exception):
    """A step, or a part of one, that this machine cannot make; the message says why."""


@dataclass
class Bench:
    """A step's surroundings. ``tiny``: sizes that a CPU goes through in seconds. ``seconds``: per measurement."""

    name: str
    folder: Path
    device: torch.device
    tiny: bool
    seconds: float
    found: StepFindings = field(init=False)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.found = StepFindings(name=self.name, status="running", problem="did not end")
        self.save()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def process(self) -> Process:
        return this_process(str(self.device))

    def setting(self, precision: str) -> Setting:
        return Setting(self.device, precision, self.seconds)  # type: ignore[arg-type]

    def save(self) -> None:
        self.found.seconds = round(time.monotonic() - self.started, 2)
        atomic_write_json(findings_file(self.folder, self.name), self.found.model_dump(mode="json"))

    def measured(self, name: str, measurement: Measurement, *shortfalls: str) -> None:
        self.found.measured[name] = measurement
        self.short(*shortfalls)

    def fact(self, name: str, told: str) -> None:
        self.found.facts[name] = told
        self.save()

    def short(self, *told: str) -> None:
        self.found.shortfalls += told
        self.save()

    def judged(self, told: Sequence[str]) -> Sequence[str]:
        """Shortfalls of speed, which only a GPU can have: a CPU's say nothing of it."""
        return told if self.on_gpu else ()

    def record(self, name: str, title: str, identity: Identity, speeds: Mapping[str, Measurement]) -> None:
        """Keep speeds as `throughput` does, for `leaderboard --add`."""
        from benchmark.throughput.measure import speed_record, write_throughput

        record = speed_record(name, title, identity, speeds, self.process, load_note(), self.started)
        write_throughput(record, self.folder / "records")

    def attempt(self, what: str, part: Callable[[], None]) -> None:
        """A part of a step: where it fails it is told, and the step goes on with the next one."""
        try:
            part()
        except NotHere as error:
            self.fact(what, f"not here: {error}")
        except Exception as error:
            self.short(f"{what}: {failure(error)}")
            require_usable(self.device)
        finally:
            forget(self.device)

    def program(self, *arguments: object, log: str) -> Program:
        """Begin `python -m benchmark` with these arguments, or python itself where the first is "-m"."""
        given = [str(argument) for argument in arguments]
        command = [sys.executable, *(given if given[0] == "-m" else ["-m", "benchmark", *given])]
        surroundings = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        file = self.folder / f"{log}.log"
        with file.open("ab") as stream:
            begun = subprocess.Popen(
                command, cwd=ROOT, env={**surroundings, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return Program(begun, file)


@dataclass(frozen=True)
class Program:
    """A process of its own, and where its output goes."""

    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> None:
        """Wait for its end. Raises RuntimeError with its last words where it fails."""
        status = self.process.wait()
        if status:
            raise RuntimeError(f"{self.log.name} ended with {status}: {last_words(self.log)}")


def failure(error: BaseException) -> str:
    """An exception in a line, with the place where it came up."""
    told = described(error)
    words = told[0] if told else f"{type(error).__name__}: {error}"
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return " ".join(words.split())[:LONGEST_LINE] + place


def forget(device: torch.device) -> None:
    """Give back what a part held, and begin the peak of the next one at what is left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def require_usable(device: torch.device) -> None:
    """Raises where the device answers no more: after some faults every later call of the process fails, too."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        (torch.ones(1, device=device) + 1).item()
