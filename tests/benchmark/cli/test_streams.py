"""Standard output and error that outlast what is done to them."""

from __future__ import annotations

import io
import sys

import pytest

from benchmark.cli.streams import lasting_streams


def test_a_stream_that_somebody_s_code_closed_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    before = sys.stdout
    with lasting_streams():
        before.close()
    assert sys.stdout is before
