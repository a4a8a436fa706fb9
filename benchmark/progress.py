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
_TELLING_STEPS, _TELLING_SHARE = 20, 0.02
"""So many steps, or such a share of those left, tell how long the others take."""


def say(line: str) -> None:
    """One line on standard error, from the main process only."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def say_from_any_rank(line: str) -> None:
    """One line on standard error from whichever process calls; it names its rank where there are several."""
    rank = f"[rank {os.environ.get('RANK', '0')}] " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"{rank}{line}", file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """Such as "40 s", "25 min", "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Progress:
    """Context manager around ``total`` steps, of which ``done`` were done before (a resumed run)."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done = label, total, done
        self._bar: Any = None
        self._said = time.monotonic()
        self._warm: tuple[float, int] | None = None

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
        # The first steps pay for what is done once (compiling, caches): the time left is reckoned from behind them.
        self._warm = self._warm or (now, self._done)
        if now - self._said > _LINE_SECONDS:
            self._said = now
            say(f"  {self._label}: {self._done:,}/{self._total:,}{self._format_left(now, *self._warm)}")

    def _format_left(self, now: float, since: float, at: int) -> str:
        """Words for the time left; none before enough is done to tell, and none where nothing is left."""
        done, left = self._done - at, self._total - self._done
        if left <= 0 or done < min(_TELLING_STEPS, _TELLING_SHARE * left) or not done:
            return ""
        return f", about {format_seconds((now - since) / done * left)} left"

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
