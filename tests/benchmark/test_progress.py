"""Progress in a log: lines at most every quarter of a minute, and an estimate only where it can be one."""

from __future__ import annotations

import pytest

from benchmark import progress
from benchmark.progress import Progress, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().err.splitlines()]


def test_what_is_done_once_is_no_part_of_the_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A first step of sixteen seconds among 201,838 says nothing of the others."""
    with Progress("checking", 201_838) as shown:
        clock.now += 16
        shown.advance()
        assert lines(capsys) == ["checking: 1/201,838"]
        for _ in range(2000):
            clock.now += 0.01
            shown.advance()
    (line,) = lines(capsys)
    assert line.startswith("checking: 1,5") and line.endswith("about 33 min left")


def test_a_few_long_steps_are_estimated_from_the_second_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("growth", 6, done=2) as shown:
        for _ in range(4):
            clock.now += 100
            shown.advance()
    assert lines(capsys) == [
        "growth: 3/6", "growth: 4/6, about 3 min left", "growth: 5/6, about 100 s left", "growth: 6/6",
    ]  # fmt: skip


def test_lines_keep_their_distance(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("x", 1000) as shown:
        for _ in range(60):
            clock.now += 1
            shown.advance()
    assert len(lines(capsys)) == 3


@pytest.mark.parametrize(("seconds", "words"), [(1, "1 s"), (119, "119 s"), (1500, "25 min"), (12600, "3.5 h")])
def test_seconds_are_words_of_their_size(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words
