"""The check of a GPU without one: every step on a CPU, and what happens where a step goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from gpu_check import STEPS
from gpu_steps.findings import (
    Report,
    StepFindings,
    read_report,
    table,
    too_long,
    too_many_waits,
    too_slow,
)
from gpu_steps.kernels import kernels_of
from gpu_steps.supervision import Step, Watch
from gpu_steps.whole_runs import unexplained

from benchmark.errors import UserError
from benchmark.records.identity import Code
from benchmark.records.measurement import Measurement
from benchmark.records.record import read_record

TESTS = Path(__file__).parent

STEPS_THAT_GO_WRONG = '''
import os, signal, subprocess, sys, time
from pathlib import Path
import torch
from benchmark.records.measurement import Measurement
from gpu_steps.bench import NotHere

def fine(bench):
    bench.measured("speed", Measurement(value=1.0, unit="s"))
def raises(bench):
    bench.fact("before", "kept")
    raise KeyError("a typo")
def no_memory(bench):
    def part(): raise torch.OutOfMemoryError("CUDA out of memory")
    bench.attempt("first part", part)
    bench.attempt("second part", lambda: bench.fact("second part", "made"))
def not_here(bench):
    raise NotHere("no such method")
def dies(bench):
    bench.fact("before", "kept")
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
def hangs(bench):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(bench.folder / "child").write_text(str(child.pid))
    bench.fact("before", "kept")
    time.sleep(600)
def last(bench):
    bench.short("less than it should be")
'''

WORKER = """
import json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from gpu_steps.kernels import kernels_of
from gpu_steps.supervision import Step, work
folder, names, surroundings = json.loads(sys.argv[-1])
work(names, [Step(name, 1, "go_wrong") for name in {names!r}], Path(folder), surroundings)
"""


def measurement(ratio: float | None, limit_of: str = "bare products") -> Measurement:
    limit = {} if ratio is None else {"ratio": ratio, "limit": 1.0, "limit_of": limit_of}
    return Measurement(value=2.0, unit="pictures/s", **limit)


def report(*steps: StepFindings, **further: object) -> Report:
    given = {"created": "2030-01-31T12:00:00Z", "minutes": 8, "device": "cuda", "tiny": False, "code": Code(version="1")}
    return Report(**{**given, "steps": list(steps), **further})


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_step_that_goes_wrong_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    names = ["fine", "raises", "no_memory", "not_here", "dies", "last", "hangs"]
    (tmp_path / "go_wrong.py").write_text(STEPS_THAT_GO_WRONG, encoding="utf-8")
    path = [str(tmp_path), str(TESTS.parent), str(TESTS)]
    (tmp_path / "worker.py").write_text(WORKER.format(path=path, names=names), encoding="utf-8")
    surroundings = {"device": "cpu", "tiny": True, "seconds": 0}

    def command(left: object) -> list[str]:
        return [sys.executable, str(tmp_path / "worker.py"), json.dumps([str(tmp_path), left, surroundings])]

    # Only what hangs has a time that it can use up.
    steps = [Step(name, 1 if name == "hangs" else 100, "go_wrong") for name in names]
    made = report(*(StepFindings(name=name) for name in names))
    on_disk: list[int] = []

    def told(found: StepFindings) -> None:
        on_disk.append(sum(step.status != "not begun" for step in read_report(tmp_path).steps))

    Watch(tmp_path, command, made, time.monotonic() + 110).carry_out(steps, 1.0, told)
    found = {step.name: step for step in made.steps}
    statuses = {name: step.status for name, step in found.items()}
    assert statuses == {
        "fine": "done", "raises": "failed", "no_memory": "done", "not_here": "not here", "dies": "crashed",
        "last": "done", "hangs": "out of time",
    }  # fmt: skip
    assert on_disk == list(range(1, len(names) + 1)), "the report is on the disk after every step"
    assert found["fine"].measured["speed"].value == 1
    assert "KeyError: 'a typo'" in found["raises"].problem and "go_wrong.py, line" in found["raises"].problem
    assert found["no_memory"].facts == {"second part": "made"} and "out of memory" in found["no_memory"].shortfalls[0]
    assert found["not_here"].problem == "no such method"
    assert "SIGKILL: last words" in found["dies"].problem
    for name in ("raises", "dies", "hangs"):
        assert found[name].facts == {"before": "kept"}, "what a step had found before it went wrong is kept"
    assert not is_running(int((tmp_path / "child").read_text())), "what it started is ended with a step that hangs"
    assert len(made.failures) == 3 and len(made.shortfalls) == 2


def test_without_time_left_no_step_is_begun(tmp_path: Path) -> None:
    made = report(StepFindings(name="fine"))

    def command(left: object) -> list[str]:
        raise AssertionError("a worker was started")

    Watch(tmp_path, command, made, time.monotonic() + 1).carry_out([Step("fine", 10, "go_wrong")], 1.0, lambda found: None)
    assert read_report(tmp_path).steps[0].status == "no time left"


def test_what_falls_short_is_named() -> None:
    assert too_slow("encoding", measurement(0.39)) == ["encoding reaches 39% of bare products, not 40%"]
    assert too_slow("encoding", measurement(0.4)) == [] == too_slow("encoding", measurement(None))
    assert too_long("the evaluator", measurement(0.5, "product")) == ["the evaluator takes 2.00 times the product, not 1.5"]
    assert too_long("the evaluator", measurement(0.67)) == []
    assert too_many_waits("a step", "fp16", 1) == [] != too_many_waits("a step", "fp16", 1.25)
    assert too_many_waits("a step", "bf16", 0) == [] != too_many_waits("a step", "bf16", 0.25)


def test_recalls_of_two_devices_may_differ_by_what_chance_explains_and_of_one_not_at_all() -> None:
    def run(recall: float) -> object:
        result = type("R", (), {"metrics": {"R@1": recall}, "intervals": {"R@1": (28.0, 36.0)}})()
        return type("R", (), {"results": [result]})()

    assert unexplained(run(35.0), run(32.0), other_arithmetic=True) == []
    assert unexplained(run(37.0), run(32.0), other_arithmetic=True) == ["R@1 is 37.00, on the CPU 32.00 (28.00 to 36.00)"]
    assert unexplained(run(32.5), run(32.0), other_arithmetic=False) and not unexplained(run(32.0), run(32.0), False)


def test_what_a_call_is_made_of_is_counted_by_the_call_and_the_longest_stands_first() -> None:
    left, right = torch.randn(300, 300), torch.randn(300, 300)
    found = kernels_of(lambda: [left @ right, left @ right, left[:1] + 1], torch.device("cpu"))
    launches = {name: count for name, _, count in found.longest}
    assert launches["aten::mm"] == 2 and launches["aten::add"] == 1
    assert found.longest[0][0] == "aten::mm" and found.seconds >= found.longest[0][1] > 0
    told = found.told(whole=0.5)
    assert "of 500.00 ms" in told and "aten::mm (2)" in told and told.index("aten::mm") < told.index("aten::add")


def test_a_report_is_read_as_it_was_written_and_shows_what_fell_short(tmp_path: Path) -> None:
    product = Measurement(value=800_000, unit="GFLOP/s", flops=8e14)
    step = Measurement(value=40_000, unit="triplets/s", flops=2e14, ratio=0.3, limit=1.0, limit_of="products", peak_bytes=10**9)
    made = report(
        StepFindings(name="ceilings", status="done", measured={"matrix product bf16": product}),
        StepFindings(name="spirit", status="done", measured={"bf16 triplets": step}, shortfalls=["too slow"]),
        StepFindings(name="sprc", status="not here", problem="there is no method sprc"),
        StepFindings(name="encoding", status="crashed", problem="its process ended"),
    )
    made.write(tmp_path)
    assert read_report(tmp_path) == made
    shown = table(made)
    row = next(line for line in shown.splitlines() if "bf16 triplets" in line)
    assert "0.30 of products" in row and "25%" in row and "1,000" in row
    assert "SHORT spirit: too slow" in shown and "FAILED encoding: crashed" in shown
    assert "sprc: not here" in shown and "FAILED sprc" not in shown
    (tmp_path / "report.json").write_text((tmp_path / "report.json").read_text().replace('"tiny"', '"small"'))
    with pytest.raises(UserError, match=r"report\.json"):
        read_report(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_cuda_tells_what_synchronises() -> None:
    from gpu_steps.training import synchronisations

    value = torch.ones(1, device="cuda")
    with synchronisations(value.device) as none:
        value + 1
    with synchronisations(value.device) as two:
        value.item()
        value.cpu()
    assert (sum(none.values()), sum(two.values())) == (0, 2)


@pytest.mark.slow(seconds=120)
def test_every_step_is_made_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, TESTS / "gpu_check.py", "--device", "cpu", "--tiny", "--minutes", "6", "--output", tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_report(tmp_path / "out")
    assert found.is_complete and not found.failures and not found.shortfalls
    assert [step.name for step in found.steps] == [step.name for step in STEPS]
    left_out = {step.name for step in found.steps if step.status == "not here"}
    assert left_out <= {"compiled", "sprc"} and all(step.status in ("done", "not here") for step in found.steps)
    steps = {step.name: step for step in found.steps}
    assert steps["zero_resumed"].facts["weights"] == "the same bits"
    assert steps["spirit"].facts["bf16: host waits a step"] == "none"
    assert not steps["gpu_tests"].facts["outcome"].startswith("0 tests")
    for name in ("spirit", "encoding", "evaluator", "combiner", "encoders", "loader"):
        assert steps[name].measured, name
    methods = Counter(read_record(path.parent).method for path in (tmp_path / "out" / "records").rglob("record.json"))
    assert methods.keys() >= {"features", "spirit", "clip4cir", "clip4cir_sum"}
    assert "spirit (done" in done.stdout and str(tmp_path / "out" / "report.json") in done.stdout
    again = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert again.returncode == 2 and "is not empty" in again.stderr
