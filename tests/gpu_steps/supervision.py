"""Steps one after the other in a worker process, watched by another one.

The worker keeps one CUDA context, so that a step costs no start. Where a step raises or runs out of memory the worker
tells it and goes on; where a step hangs, or takes the worker with it, the watching process ends it and everything that
it started, and a new worker begins at the step behind. The report is written anew whenever a step has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.structured_files import read_json, typed
from gpu_steps.findings import Report, StepFindings, findings_file, last_words

_POLL = 0.1
_START = 60.0
_LEAST = 5.0
"""Seconds that a step has to have left, to be begun."""


@dataclass(frozen=True)
class Step:
    """``share``: the most seconds that it may take in a check of eight minutes, more in a longer one."""

    name: str
    share: float
    module: str
    """Its function has the step's name."""


class Watch:
    """Carries out steps in workers; ``command`` starts one, given the names of the steps that are left."""

    def __init__(
        self, folder: Path, command: Callable[[Sequence[str]], Sequence[str]], report: Report, deadline: float
    ) -> None:
        self._folder, self._command, self._report, self._deadline = folder, command, report, deadline
        self._worker: subprocess.Popen[bytes] | None = None
        self._begun = 0.0

    def carry_out(self, steps: Sequence[Step], factor: float, told: Callable[[StepFindings], None]) -> None:
        """``factor``: of the steps' shares. ``told`` is called with each step's findings."""
        try:
            for number, step in enumerate(steps):
                found = self._made(step, [later.name for later in steps[number:]], factor)
                self._report.steps[number] = found
                self._report.write(self._folder)
                told(found)
        finally:
            self._end()

    def _made(self, step: Step, left: Sequence[str], factor: float) -> StepFindings:
        self._begun = time.monotonic()
        # A worker's start is not the step's time.
        until = min(self._begun + _START + factor * step.share, self._deadline)
        seen = False
        if self._deadline - self._begun < _LEAST:
            self._end()
            return StepFindings(name=step.name, status="no time left", problem="the minutes were over before it")
        if self._worker is not None and self._worker.poll() is not None:
            self._worker = None  # an earlier step's fault took it away
        again = self._worker is not None
        worker = self._worker or self._start(left)
        while True:
            ended = worker.poll()
            found = self._read(step.name)
            if found is not None and found.status not in ("running", "not begun"):
                return found
            if found is not None and not seen:
                seen, self._begun = True, time.monotonic()
                until = min(self._begun + factor * step.share, self._deadline)
            if ended is not None and found is None and again:
                again, worker = False, self._start(left)
            elif ended is not None:
                self._end()
                how = f"by {signal.Signals(-ended).name}" if ended < 0 else f"with exit status {ended}"
                words = last_words(self._folder / "worker.log")
                return self._cut(step, found, "crashed", f"its process ended {how}: {words}")
            if time.monotonic() > until:
                self._end()
                return self._cut(step, found, "out of time", f"ended after {until - self._begun:.0f} s")
            time.sleep(_POLL)

    def _cut(self, step: Step, found: StepFindings | None, status: str, problem: str) -> StepFindings:
        """What a step had found when it was ended."""
        seconds = round(time.monotonic() - self._begun, 2)
        found = found or StepFindings(name=step.name)
        return found.model_copy(update={"status": status, "problem": problem, "seconds": seconds})

    def _read(self, name: str) -> StepFindings | None:
        path = findings_file(self._folder, name)
        with suppress(UserError):
            return typed(StepFindings, read_json(path), str(path), "make it again")
        return None

    def _start(self, left: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self._folder / "worker.log").open("ab") as stream:
            # A session of its own: all that it starts is ended with it.
            self._worker = subprocess.Popen(
                self._command(left), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        return self._worker

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def work(names: Sequence[str], steps: Sequence[Step], folder: Path, surroundings: Mapping[str, object]) -> None:
    """Make these steps, in this process."""
    import importlib

    import torch

    from gpu_steps.bench import Bench, NotHere, failure, forget, require_usable

    device = torch.device(str(surroundings["device"]))
    for step in (step for step in steps if step.name in names):
        bench = Bench(step.name, folder, device, bool(surroundings["tiny"]), float(str(surroundings["seconds"])))
        try:
            getattr(importlib.import_module(step.module), step.name)(bench)
            bench.found.status, bench.found.problem = "done", ""
        except NotHere as error:
            bench.found.status, bench.found.problem = "not here", str(error)
        except Exception as error:
            bench.found.status, bench.found.problem = "failed", failure(error)
        bench.save()
        # Where the device is lost for this process, the next worker begins at the step behind.
        require_usable(device)
        forget(device)


def worker_command(script: Path, folder: Path, surroundings: Mapping[str, object]) -> Callable[[Sequence[str]], list[str]]:
    """Starts the script as a worker."""
    return lambda names: [
        sys.executable, str(script), "--worker", json.dumps([str(folder), list(names), dict(surroundings)]),
    ]  # fmt: skip
