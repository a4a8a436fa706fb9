"""How a command ends: signals, streams that break, code from outside that exits, failures that nobody foresaw.

Whatever happens, status 0 stands for a record, and everything else is one line and another status.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from command_line import TOY_PLUGIN, Command

from benchmark.cli import main
from benchmark.pipeline import reporting, run, stage_sources
from benchmark.records.record import read_record
from benchmark.training.resumable_state import ResumableState
from benchmark.training.trainer import _StageTraining

PLACES: dict[str, tuple[Any, str]] = {
    "before the data": (run, "check_pictures"),
    "before the backbone": (run, "backbone_of"),
    "before training": (run, "train"),
    "in the middle of training": (_StageTraining, "pause"),
    "while a state is written": (ResumableState, "save"),
    "after the last update": (_StageTraining, "finish"),
    "while weights are written": (run, "save_run_weights"),
    "before evaluation": (stage_sources.StageSources, "evaluation"),
    "in the middle of evaluation": (run, "score_beside_modalities"),
    "before the record": (reporting, "write_record"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def toy(small_cirr: Path, tmp_path: Path) -> tuple[Any, ...]:
    return (
        "run", "--method", "toy", "--plugin", TOY_PLUGIN, "--dataset", "cirr", "--data-root", small_cirr, "--limit", 40,
        "--epochs", 2, "--output", tmp_path / "out",
    )  # fmt: skip


def at(monkeypatch: pytest.MonkeyPatch, place: str, happens: Callable[[], None]) -> None:
    """The first time that a run comes to the place."""
    owner, name = PLACES[place]
    original, times = getattr(owner, name), [0]

    def reached(*arguments: Any, **named: Any) -> Any:
        times[0] += 1
        if times[0] == 1:
            happens()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, reached)


@pytest.mark.parametrize(("place", "number"), zip(PLACES, cycle(SIGNALS)))
def test_a_signal_ends_a_run_in_one_line_wherever_it_comes(
    command: Command, toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str,
    number: signal.Signals,
) -> None:  # fmt: skip
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at(patch, place, lambda: os.kill(os.getpid(), number))
        outcome = command(*toy)
    assert outcome.status == 130, outcome.err
    assert outcome.errors == ["error: interrupted; the same command with --resume goes on from the last saved state"]
    assert "Traceback" not in outcome.err and signal.getsignal(number) is before
    assert not (tmp_path / "out" / "record.json").exists()
    assert command(*toy, "--resume").status == 0
    assert read_record(tmp_path / "out").results


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    command: Command, toy: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        for place in ("before the data", "in the middle of training", "before the record"):
            at(monkeypatch, place, lambda: os.kill(os.getpid(), number))
        outcome = command(*toy)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert outcome.status == 0, outcome.err


def test_a_command_that_cannot_be_resumed_does_not_say_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark import registry

    monkeypatch.setattr(registry, "discover", lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = command("list")
    assert outcome.status == 130 and outcome.errors == ["error: interrupted"]


class Broken(io.StringIO):
    """A stream that fails after so many writes."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__()
        self._error, self._left = error, after

    def write(self, text: str) -> int:
        if self._left == 0:
            raise self._error
        self._left -= 1
        return super().write(text)

    def flush(self) -> None:
        if self._left == 0:
            raise self._error


GONE = BrokenPipeError(errno.EPIPE, "Broken pipe")
FULL = OSError(errno.ENOSPC, "No space left on device")
CLOSED = ValueError("I/O operation on closed file.")


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("error", [GONE, FULL, CLOSED, None])
def test_a_run_goes_on_without_standard_error(
    toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, after: int
) -> None:
    monkeypatch.setattr(sys, "stderr", None if error is None else Broken(error, after))
    assert main([str(argument) for argument in toy]) == 0
    assert read_record(tmp_path / "out").results


@pytest.mark.parametrize(("error", "status"), [(GONE, 0), (FULL, 2), (None, 0)])
def test_a_broken_standard_output_counts_after_the_record_alone(
    toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: Exception | None, status: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", None if error is None else Broken(error))
    assert main([str(argument) for argument in toy]) == status
    assert read_record(tmp_path / "out").results
    assert ("error: standard output: No space left" in capsys.readouterr().err) == bool(status)


def test_a_terminal_that_knows_ascii_alone(
    toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main([str(argument) for argument in toy]) == 0
    assert out.errors == "strict"
    out.flush()
    shown = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "| method" in shown and "?" in shown and "record:" in shown
    assert "±" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


EXITS = {
    "when it is read": "import sys\nsys.exit(0)\n",
    "when it is built": "def _sharpness(context):\n    raise SystemExit\n",
    "when it encodes": "    def encode_target(self, target):\n        import sys; sys.exit(0)\n",
}


@pytest.mark.parametrize("when", EXITS)
def test_a_plug_in_that_exits_has_not_done_the_work(
    command: Command, toy: tuple[Any, ...], tmp_path: Path, when: str
) -> None:
    source = TOY_PLUGIN.read_text(encoding="utf-8")
    if when == "when it encodes":
        source = source.replace("    def encode_target(self", EXITS[when] + "\n    def unused(self", 1)
    else:
        source += f"\n\n{EXITS[when]}"
    plugin = tmp_path / "method.py"
    plugin.write_text(source)
    outcome = command(*[plugin if argument == TOY_PLUGIN else argument for argument in toy])
    assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err
    assert "method.py" in outcome.err
    assert not (tmp_path / "out" / "record.json").exists()


def test_whoever_exits_in_the_middle_of_the_work_is_named(
    command: Command, toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "score_beside_modalities", lambda *_: sys.exit(0))
    outcome = command(*toy)
    assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err
    assert "test_endings.py, line" in outcome.err and "called exit(0) before the work was done" in outcome.err
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_run_that_comes_to_its_end_without_a_record_is_no_success(
    command: Command, toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.write_run

    def removed(*arguments: Any) -> Any:
        written = original(*arguments)
        monkeypatch.setattr(run, "_tidied", lambda plan: (plan.folder / "record.json").unlink() or written)
        return written

    monkeypatch.setattr(run, "write_run", removed)
    outcome = command(*toy)
    assert outcome.status == 2 and "its record is not there" in outcome.err


FORESEEN: dict[str, BaseException] = {
    "memory": MemoryError("Unable to allocate 16.0 GiB for an array with shape (1, 2)"),
    "memory without a word": MemoryError(),
    "recursion": RecursionError("maximum recursion depth exceeded"),
    "file size": OSError(errno.EFBIG, "File too large"),
    "open files": OSError(errno.EMFILE, "Too many open files", "a/b.png"),
    "rights": PermissionError(errno.EACCES, "Permission denied", "/data/x"),
    "bytes as a name": OSError(errno.EIO, "Input/output error", b"/disk/x"),
    "words alone": OSError("cannot identify"),
    "several lines": OSError(errno.EIO, "first\nsecond"),
}
UNFORESEEN = [ValueError("what\n  is this"), KeyError("x"), AssertionError(), ZeroDivisionError("division by zero")]


@pytest.mark.parametrize("name", FORESEEN)
def test_what_the_system_refuses_is_one_line(
    command: Command, toy: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: Any) -> None:
        raise FORESEEN[name]

    monkeypatch.setattr(run, "check_pictures", fail)
    outcome = command(*toy)
    assert outcome.status == 2 and "Traceback" not in outcome.err, outcome.err
    assert len([line for line in outcome.err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
@pytest.mark.parametrize("asked", [False, True])
def test_what_nobody_foresaw_is_one_line_and_its_traceback_on_demand(
    command: Command, toy: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, error: Exception, asked: bool
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(run, "check_pictures", fail)
    outcome = command(*toy, *(["--traceback"] if asked else []))
    assert outcome.status == 1 and ("Traceback" in outcome.err) == asked
    (line,) = outcome.errors
    assert line.startswith(f"error: {type(error).__name__}: ") and "again with --traceback" in line


def test_what_is_made_of_a_record_never_decides(
    command: Command, toy: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no picture today")

    for name in ("run_table", "draw_examples", "format_summary"):
        monkeypatch.setattr(reporting, name, fail)
    outcome = command(*toy)
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("is left out, the record stands: RuntimeError: no picture today") == 3
    assert read_record(tmp_path / "out").results and not (tmp_path / "out" / "table.md").exists()
    assert not (tmp_path / "out" / "training").exists()
