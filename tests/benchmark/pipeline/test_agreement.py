"""What ranks compare of their program, and failures that one line tells."""

from __future__ import annotations

from benchmark.errors import UserError, described
from benchmark.pipeline.preparation import program_digest


def test_the_program_s_digest_is_one_value() -> None:
    assert program_digest() == program_digest() and len(program_digest()) == 12


def test_failures_that_need_no_traceback_have_a_message_and_a_status() -> None:
    assert described(UserError("x")) == ("x", 2)
    assert described(SystemExit(2)) == ("", 2)
    interrupted = described(KeyboardInterrupt())
    assert interrupted is not None and interrupted[1] == 130
    full = described(OSError(28, "No space left on device", "/a/b"))
    assert full is not None and full[1] == 2 and "/a/b" in full[0]
    assert described(ValueError("x")) is None
