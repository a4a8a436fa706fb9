"""A few hostile inputs of every kind against the real command line; `python tests/hostile_inputs.py` tries more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hostile_kinds import KINDS

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("hostile_inputs.py")


@pytest.mark.parametrize("kinds", [list(KINDS)[:5], list(KINDS)[5:]], ids=" ".join)
def test_a_few_hostile_inputs_are_accepted_or_refused_in_words(kinds: list[str]) -> None:
    words = [sys.executable, "-W", "ignore", str(SCRIPT), "--inputs", "2", "--minutes", "5", "--kind", *kinds]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line.split()[0]: [int(n) for n in line.split()[1:]] for line in done.stdout.splitlines()[1:]}
    assert set(counts) == set(kinds)
    for tried, one_line, several, accepted, failures in counts.values():
        assert tried == one_line + several + accepted == 2 and failures == 0
