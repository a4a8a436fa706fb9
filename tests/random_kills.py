"""Runs killed at random moments and resumed: how many end with the numbers of an undisturbed one.

    python tests/random_kills.py 50                  every other run on two processes, one of which is killed
    python tests/random_kills.py 50 --processes 1

Each run begins with an empty cache, so that every phase can be hit: drawing the demo data, training the
encoders, features, training the head, evaluation, the record. Resumable states are written after every
update. The exit status is 1 where a run ends otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import killed_run

PHASES = {
    "end of the process": "out/record.json",
    "record": "out/per_query.npz",
    "evaluation": "out/weights/last.safetensors",
    "head training": "out/training/resume.json",
    "features": "cache/features/*",
    "after the encoders": "cache/encoders/*/weights.safetensors",
    "encoder training": "cache/encoders/*/training/resume.json",
    "start of training": "cache/demo/cirr*",
}


@dataclass(frozen=True)
class Outcome:
    """One kill: when, in which phase, on how many processes; what differs afterwards, "" for nothing."""

    processes: int
    seconds: float
    phase: str
    problem: str


def forkserver() -> ForkServerContext:
    """Starts processes that have the libraries loaded."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Before this script's folder, where a folder of the package's name lies; the processes take the path over.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run", "benchmark.pipeline.run", "benchmark.datasets.demo.demo_data"])
    return context


def kill_at_random(
    context: ForkServerContext, folder: Path, kills: int, processes: int, seed: int
) -> Iterator[Outcome]:
    """One outcome per kill; ``processes`` 0 takes one and two in turn."""
    draw = random.Random(seed)
    references: dict[int, tuple[Path, float]] = {}
    for number in range(kills):
        count = processes or 1 + number % 2
        if count not in references:
            references[count] = _undisturbed(context, folder / f"undisturbed-{count}", count)
        outcome = None
        while outcome is None:
            # A run that had ended before it was killed says nothing; the next one is killed earlier.
            reference, longest = references[count]
            seconds = draw.uniform(0, longest)
            own = folder / f"kill-{number}"
            own.mkdir()
            outcome = _killed(context, own, reference, count, seconds, draw.randrange(count))
            references[count] = (reference, seconds) if outcome is None else (reference, longest)
            shutil.rmtree(own)
        yield outcome


def _undisturbed(context: ForkServerContext, folder: Path, processes: int) -> tuple[Path, float]:
    folder.mkdir()
    started = time.monotonic()
    killed_run.finish(context, folder, processes=processes)
    return folder, time.monotonic() - started


def _killed(
    context: ForkServerContext, folder: Path, reference: Path, processes: int, seconds: float, rank: int
) -> Outcome | None:
    """None where the run ended before it could be killed."""
    job = killed_run.start(context, folder, processes=processes)
    if killed_run.ended(job, seconds):
        return None
    phase = _phase(folder)
    try:
        killed_run.kill(job, rank)
        killed_run.finish(context, folder, "--resume", processes=processes)
        found, expected = killed_run.numbers(folder), killed_run.numbers(reference)
        differing = [name for name in expected if found[name] != expected[name]] + killed_run.left_over(folder)
        problem = ", ".join(differing)
    except AssertionError as error:
        problem = str(error)
    return Outcome(processes, seconds, phase, problem)


def _phase(folder: Path) -> str:
    return next((phase for phase, pattern in PHASES.items() if any(folder.glob(pattern))), "demo data")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--processes", type=int, default=0, help="of each run; by default one and two in turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    same, phases = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = kill_at_random(forkserver(), Path(folder), options.kills, options.processes, options.seed)
        for number, outcome in enumerate(outcomes, 1):
            same += not outcome.problem
            phases[outcome.phase] += 1
            print(
                f"{number:3}: {outcome.processes} process(es), killed after {outcome.seconds:.1f} s ({outcome.phase}): "
                f"{outcome.problem or 'identical'}", flush=True,
            )  # fmt: skip
    print(f"{same} of {options.kills} killed runs ended with identical numbers")
    print(", ".join(f"{phase} {count}" for phase, count in phases.most_common()))
    return int(same < options.kills)


if __name__ == "__main__":
    sys.exit(main())
