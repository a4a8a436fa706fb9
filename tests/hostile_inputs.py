"""Hostile inputs against the real command line: what is refused in one line, what is accepted, what fails.

    python tests/hostile_inputs.py                                   five minutes, every kind in turn
    python tests/hostile_inputs.py --minutes 1 --kind pictures records
    python tests/hostile_inputs.py --kind weights --first 17 --inputs 1 --keep FOLDER    one input again, kept

An input is made of a small valid one by one change that its number decides (`hostile_mutations.py`), and the command
runs on it in a process and a folder of its own. A failure is a traceback, an exit status other than 0 and 2, a signal,
no line of error or too many, a run over its time, or something half-written left behind. Several lines are right where
one change makes several problems, and are counted apart. The exit status is 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from hostile_kinds import KINDS, prepare

SECONDS = 60
LETTERS, LINES = 2000, 11
"""Who sees more of an error sees none of it."""
SHOWN = 20


@dataclass
class Tally:
    """What became of the inputs of one kind; ``failures``: number of the input and what went wrong."""

    tried: int = 0
    one_line: int = 0
    several_lines: int = 0
    accepted: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


def in_process(work: Callable[[], int], folder: Path, seconds: float) -> int | None:
    """Exit status of the work in a process, a folder and with outputs of its own; -signal, or None over its time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        for name, number in (("out.txt", 1), ("err.txt", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        status = 70
        try:
            status = work()
        except SystemExit as stop:  # of argparse
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(ValueError, OSError):
                    stream.flush()
            os._exit(status)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def error_lines(told: str) -> list[str]:
    return [line for line in told.splitlines() if re.match(r"error\b|.*: error: ", line)]


def fault(status: int | None, folder: Path, seconds: float) -> str:
    """What is wrong with the way in which a command ended, in words; "" for nothing."""
    told = (folder / "err.txt").read_text(encoding="utf-8", errors="replace")
    if status is None:
        return f"over {seconds:.0f} s"
    if "Traceback (most recent call last)" in told:
        return f"traceback: {told.rstrip().splitlines()[-1][:150]}"
    errors = error_lines(told)
    findings = (folder / "out.txt").read_text(encoding="utf-8", errors="replace")
    if status == 1 and re.search("NOT OK; |outputs? deviates? too much", findings):
        return ""  # `data verify` or `parity` has found what is wrong, and says it among its findings
    if status not in (0, 2):
        return f"status {status}: {(errors or told.splitlines()[-1:] or [''])[-1][:150]}"
    if status == 2 and not 1 <= len(errors) <= LINES:
        return f"{len(errors)} lines of error: {' / '.join(line[:80] for line in errors[:2])}"
    if longest := next((line for line in errors if len(line) > LETTERS), ""):
        return f"an error of {len(longest):,} letters: {longest[:80]}"
    if (folder / "pwned").exists():
        return "code of the input was run"
    left = [path for path in folder.rglob("*") if ".partial" in path.name]
    # A standard output that broke is told when the record stands.
    if status == 2 and "the work itself is done" not in told and (folder / "o" / "record.json").exists():
        left.append(folder / "o" / "record.json")
    return f"left behind: {left[0].relative_to(folder)}" if left else ""


def try_input(kind: str, number: int, base: Path, folder: Path, tally: Tally) -> None:
    """Make one input, run the command on it, and count how it ended."""
    from benchmark.cli import main

    folder.mkdir()
    words = [os.fspath(word) for word in KINDS[kind](base, folder, random.Random(f"{kind} {number}"))]
    (folder / "command.txt").write_text(json.dumps(words))
    status = in_process(lambda: main(words), folder, SECONDS)
    wrong = fault(status, folder, SECONDS)
    tally.tried += 1
    if wrong:
        tally.failures.append((number, wrong))
    elif not status:
        tally.accepted += 1
    elif len(error_lines((folder / "err.txt").read_text(encoding="utf-8", errors="replace"))) > 1:
        tally.several_lines += 1
    else:
        tally.one_line += 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all kinds together")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input of each kind")
    parser.add_argument("--inputs", type=int, metavar="N", help="of each kind, at most")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep inputs and outputs in this new folder")
    chosen = parser.parse_args(arguments)
    ends = time.monotonic() + 60 * chosen.minutes
    torch.set_num_threads(1)
    tallies = {kind: Tally() for kind in chosen.kind}
    with tempfile.TemporaryDirectory(prefix="hostile-") as made:
        folder = chosen.keep or Path(made)
        base = folder / "valid"
        base.mkdir(parents=True)
        os.environ |= {"CIR_BENCHMARK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        # Before this script's folder, where a folder of the package's name lies.
        sys.path.insert(0, str(Path(__file__).parents[1]))
        import benchmark.pipeline.run  # noqa: F401 - here, so that every process has it

        if in_process(lambda: prepare(base) or 0, base, 300) != 0:
            print((base / "err.txt").read_text(), file=sys.stderr)
            return 1
        for number in count(chosen.first):
            if time.monotonic() > ends or number - chosen.first == chosen.inputs:
                break
            for kind, tally in tallies.items():
                place = folder / f"{kind}-{number}"
                try_input(kind, number, base, place, tally)
                if not chosen.keep:
                    shutil.rmtree(place)
    print(f"{'kind':<12} {'tried':>6} {'refused in one line':>20} {'in several':>11} {'accepted':>9} {'failures':>9}")
    for kind, tally in tallies.items():
        refused = f"{tally.one_line:>20} {tally.several_lines:>11}"
        print(f"{kind:<12} {tally.tried:>6} {refused} {tally.accepted:>9} {len(tally.failures):>9}")
    for kind, tally in tallies.items():
        for number, wrong in tally.failures[:SHOWN]:
            print(f"{kind} {number}: {wrong}")
        if len(tally.failures) > SHOWN:
            print(f"{kind}: and {len(tally.failures) - SHOWN} more failures")
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
