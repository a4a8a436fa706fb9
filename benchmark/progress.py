"""Progress of long work: a bar with the time left on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

_LINE_SECONDS = 15.0


def say(line: str) -> None:
    """One line on standard error, from the main process only."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def say_from_any_rank(line: str) -> None:
    """One line on standard error from whichever process calls; it names its rank where there are several."""
    rank = f"[rank {os.environ.get('RANK', '0')}] " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"{rank}{line}", file=sys.stderr, flush=True)


class Progress:
    """Context manager around ``total`` steps, of which ``done`` were done before (a resumed run)."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done, self._first = label, total, done, done
        self._bar: Any = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=self._done, desc=self._label, dynamic_ncols=True, leave=False
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, steps: int = 1, **shown: float) -> None:
        """Count steps; named numbers are shown beside the bar."""
        self._done += steps
        if self._bar is not None:
            self._bar.update(steps)
            if shown:
                self._bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
            return
        now = time.monotonic()
        if now - self._said > _LINE_SECONDS:
            self._said = now
            left = (now - self._started) / max(self._done - self._first, 1) * (self._total - self._done)
            say(f"  {self._label}: {self._done}/{self._total}, about {left:.0f} s left")

    def set_total(self, total: int) -> None:
        if total != self._total:
            self._total = total
            if self._bar is not None:
                self._bar.total = total

    def note(self, line: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is not None:
            self._bar.write(f"  {line}", file=sys.stderr)
        else:
            say(f"  {line}")


@contextmanager
def counting(label: str, total: int = 0) -> Iterator[Callable[..., None]]:
    """Progress as a function (done, total, note), where the work itself counts."""
    with Progress(label, total) as progress:
        counted = 0

        def tell(done: int, of: int, note: str = "") -> None:
            nonlocal counted
            progress.set_total(of)
            progress.advance(done - counted)
            counted = done
            if note:
                progress.note(note)

        yield tell
