"""One command that proves the program on a GPU, and turns what is known of it by reasoning into numbers.

    python tests/gpu_check.py
    python tests/gpu_check.py --minutes 8 --output FOLDER
    python tests/gpu_check.py --device cpu --tiny

Steps go in order of worth, each timed and guarded: what fails, hangs or runs out of memory is told, and the rest goes
on. The folder holds report.json, written anew after every step, records for `leaderboard --add`, and logs. The exit
status is 1 where something failed or fell short of its bound. The last form goes through all steps on a CPU.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Before this script's own folder, where a folder of the package's name lies.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gpu_steps.findings import Report, StepFindings, table  # noqa: E402
from gpu_steps.supervision import Step, Watch, work, worker_command  # noqa: E402

from benchmark.errors import UserError  # noqa: E402
from benchmark.records.environment import check_accelerator, code_version, utc_now  # noqa: E402

STEPS = (
    Step("ceilings", 45, "gpu_steps.machine"),
    Step("gpu_tests", 90, "gpu_steps.machine"),
    Step("main_job", 150, "gpu_steps.whole_runs"),
    Step("spirit", 75, "gpu_steps.training"),
    Step("encoding", 120, "gpu_steps.encoding"),
    Step("evaluator", 75, "gpu_steps.ranking"),
    Step("combiner", 45, "gpu_steps.training"),
    Step("encoders", 90, "gpu_steps.training"),
    Step("loader", 30, "gpu_steps.encoding"),
    Step("zero_resumed", 75, "gpu_steps.whole_runs"),
    Step("sprc", 40, "gpu_steps.training"),
    Step("compiled", 180, "gpu_steps.encoding"),
)
_MINUTES = 8.0
_BUSY_CPU = 4.0
_RESERVE = 10.0
"""Seconds kept for the end."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=_MINUTES, metavar="M", help="the most it may take; 8 by default")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu-check", metavar="FOLDER")
    parser.add_argument("--device", default="cuda", help="cuda by default")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU goes through in two minutes")
    parser.add_argument("--step", nargs="+", choices=[step.name for step in STEPS], metavar="NAME", help="these alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        folder, names, surroundings = json.loads(given.worker)
        work(names, STEPS, Path(folder), surroundings)
        return 0
    try:
        return check(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(given: argparse.Namespace) -> int:
    started = time.monotonic()
    # Ended from outside, it still ends its workers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check_accelerator(given.device)
    folder = given.output.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--output {given.output}: is not empty; name a new folder, or remove what is in it")
    folder.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not given.step or step.name in given.step]
    report = Report(
        created=utc_now(), minutes=given.minutes, device=given.device, tiny=given.tiny, code=code_version(),
        steps=[StepFindings(name=step.name) for step in steps],
    )  # fmt: skip

    def told(found: StepFindings) -> None:
        beside = f": {found.problem}" if found.problem else f", {len(found.shortfalls)} short" if found.shortfalls else ""
        print(f"[{time.monotonic() - started:4.0f} s] {found.name}: {found.status} in {found.seconds:.0f} s{beside}", flush=True)

    surroundings = {"device": given.device, "tiny": given.tiny, "seconds": 0.05 if given.tiny else 1.0}
    deadline = started + 60 * given.minutes - _RESERVE
    watch = Watch(folder, worker_command(Path(__file__), folder, surroundings), report, deadline)
    # A CPU's steps are short, but it may be busy: there the minutes alone end them.
    watch.carry_out(steps, _BUSY_CPU if given.tiny else max(given.minutes / _MINUTES, 1.0), told)
    report.is_complete = True
    report.write(folder)
    shown = table(report)
    (folder / "table.md").write_text(shown + "\n", encoding="utf-8")
    print(f"\n{shown}\n\n{folder / 'report.json'}", flush=True)
    return 1 if report.failures or report.shortfalls else 0


if __name__ == "__main__":
    sys.exit(main())
