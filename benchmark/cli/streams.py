"""Standard output and error that cannot stop a run: what nobody reads any more is written nowhere.

`2>&1 | head -1`, a closed terminal, a full disk behind `> FILE`, a terminal that knows ASCII alone: a run
goes on. What happened to standard output counts once the work is done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from benchmark.files import SHOWN


class _LastingStream:
    """A standard stream whose failure is kept in ``failure`` in place of raised."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except (OSError, ValueError) as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            # Libraries hold the stream or its number, too, and it is flushed once more at the end.
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            # Closed by somebody, or no file: then there is nothing to turn away.
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Streams:
    """What became of the output of a command."""

    def __init__(self, out: _LastingStream) -> None:
        self._out = out

    def problem(self) -> str:
        """Why standard output could not take all that was written; "" where it did, or its reader left."""
        self._out.flush()
        failure = self._out.failure
        # `| head`: a reader who has seen enough is no error of ours.
        if failure is None or isinstance(failure, BrokenPipeError):
            return ""
        return f"standard output: {getattr(failure, 'strerror', None) or failure}; the work itself is done"


@contextmanager
def lasting_streams() -> Iterator[Streams]:
    """Put lasting streams in the place of both; they show every character as far as the terminal can."""
    with ExitStack() as restored:
        out, _ = (_lasting(name, number, restored) for name, number in (("stdout", 1), ("stderr", 2)))
        yield Streams(out)


def _lasting(name: str, number: int, restored: ExitStack) -> _LastingStream:
    before = getattr(sys, name)
    stream = before
    if stream is None:
        # Closed from the start: its number must not become that of a file that a library writes to.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY)
        stream = restored.enter_context(open(os.devnull, "w", encoding="utf-8"))
    elif hasattr(stream, "reconfigure"):
        restored.callback(_restore, stream, stream.errors)
        stream.reconfigure(errors=SHOWN)
    lasting = _LastingStream(stream)
    restored.callback(setattr, sys, name, before)
    setattr(sys, name, lasting)
    return lasting


def _restore(stream: Any, errors: str) -> None:
    with suppress(ValueError):  # somebody's code has closed it meanwhile
        stream.reconfigure(errors=errors)
