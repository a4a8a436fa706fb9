"""When training pauses: to save, or to stop when asked to. All processes of a job do so after the same update.

A signal reaches processes at different moments, and clocks differ: so they agree, about once a second
and at most every 50 updates, by one reduction of three numbers.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmark.distributed.process import Process
from benchmark.signals import handled_by

_AGREEMENT_SECONDS = 1.0
_MOST_UPDATES = 50


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    requested = False
    number: int | None = None

    def take(self, number: int) -> None:
        self.requested, self.number = True, number


@dataclass(frozen=True)
class Pause:
    """What all processes do now."""

    stop: bool = False
    save: bool = False


class Pauses:
    """Decides for all processes when to save and when to stop."""

    def __init__(self, process: Process, checkpoint_seconds: float, stop: StopRequest) -> None:
        self._process, self._seconds, self._stop = process, checkpoint_seconds, stop
        self._saved = self._agreed = time.monotonic()
        self._updates, self._until = 0, 1

    def after_update(self) -> Pause:
        """What to do after an update; most of the time nothing, without asking the other processes."""
        self._updates += 1
        if self._process.world_size > 1 and self._updates < self._until:
            return Pause()
        return self.agree()

    def agree(self) -> Pause:
        """What to do now; every process must ask."""
        now = time.monotonic()
        pause = Pause(self._stop.requested, now - self._saved > self._seconds)
        if self._process.world_size > 1:
            pause = self._agreement(pause, now)
        if pause.save:
            self._saved = time.monotonic()
        return pause

    def _agreement(self, own: Pause, now: float) -> Pause:
        """Any process can stop the job; rank 0's clock tells when to save, and when to agree again."""
        # After so many updates the clock is asked again: every update would wait for the slowest rank.
        duration = (now - self._agreed) / max(self._updates, 1)
        until = min(max(int(_AGREEMENT_SECONDS / max(duration, 1e-6)), 1), _MOST_UPDATES)
        main = self._process.is_main
        # The largest: of three numbers that only rank 0 fills in, or any rank sets to 1.
        numbers = [int(own.stop), int(own.save and main), until if main else 0]
        message = torch.tensor(numbers, device=self._process.device)
        torch.distributed.all_reduce(message, op=torch.distributed.ReduceOp.MAX)
        stop, save, self._until = message.tolist()
        self._updates, self._agreed = 0, now
        return Pause(bool(stop), bool(save))


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first signal of each kind into a request; the second one acts as usual.

    A request that came too late for anybody to see it is handed to whoever handled signals before.
    """
    request = StopRequest()
    with handled_by(request.take):
        yield request
    if request.number is not None:
        signal.raise_signal(request.number)
