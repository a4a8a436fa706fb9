"""The signals that ask a process to stop, alike everywhere: SIGINT, SIGTERM and SIGHUP.

One that was ignored when the process started stays ignored: `nohup` and shells rely on that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Windows has no SIGHUP."""


@contextmanager
def handled_by(handle: Callable[[int], None]) -> Iterator[None]:
    """Give the first signal of each kind to ``handle``; a second one acts as it did before.

    Outside the main thread nothing changes: signals can only be handled there.
    """
    previous: dict[int, Any] = {}
    ends = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        # A second signal must end a process that hangs before it comes to stop.
        signal.signal(number, previous[number])
        if not ends:
            handle(number)

    try:
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.getsignal(number)
                signal.signal(number, on_signal)
    except ValueError:
        pass
    try:
        yield
    finally:
        # What was to be stopped is done: a signal in these lines stops nothing any more.
        ends = True
        for number, handler in previous.items():
            signal.signal(number, handler)
