"""The machine itself: versions, what it can do at most, and the tests that only a GPU can make."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree

import torch

from benchmark.records.environment import driver_version, environment
from benchmark.throughput.encoder_speed import machine_speeds
from gpu_steps.bench import ROOT, Bench, NotHere
from gpu_steps.findings import last_words

MARK = "@pytest.mark.gpu"


def ceilings(bench: Bench) -> None:
    """One large product in each precision, one large copy."""
    for name, version in environment(str(bench.device), 1).model_dump().items():
        bench.fact(name, str(version))
    bench.fact("cores", str(len(os.sched_getaffinity(0))))
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(bench.device)
        bench.fact("GPU memory", f"{properties.total_memory / 2**30:.1f} GiB")
        bench.fact("driver", driver_version())
        bench.fact("CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    for precision in ("bf16", "fp16", "tf32", "fp32"):

        def part(precision: str = precision) -> None:
            if precision == "tf32" and not bench.on_gpu:
                raise NotHere("a CPU has no TF32")
            speeds = machine_speeds(bench.setting(precision))
            bench.measured(f"matrix product {precision}", speeds["matrix product"])
            # The copy has no precision: the first one stands.
            if "memory copy" not in bench.found.measured:
                bench.measured("memory copy", speeds["memory copy"])

        bench.attempt(f"matrix product {precision}", part)


def gpu_tests(bench: Bench) -> None:
    """`pytest -m gpu` in one process; on a CPU all are skipped, after being collected."""
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text(encoding="utf-8"))
    outcome = bench.folder / "gpu-tests.xml"
    # Without pytest-xdist and pytest-benchmark as well: their options stand in the project's own addopts.
    given = ["-m", "pytest", "-m", "gpu", "-q", "-o", "addopts=--strict-markers", "-p", "no:cacheprovider"]
    pytest = bench.program(*given, f"--junitxml={outcome}", *files, log="gpu-tests")
    status = pytest.process.wait()
    if not outcome.exists():  # it died on the way
        raise RuntimeError(f"pytest ended with {status}, without results: {last_words(pytest.log)}")
    (suite,) = ElementTree.parse(outcome).iter("testsuite")
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    bench.fact("outcome", ", ".join(f"{count} {name}" for name, count in counts.items()))
    if not counts["tests"]:
        bench.short("no test is marked gpu")
    if status or counts["failures"] or counts["errors"]:
        cases = [(case.get("name", ""), {part.tag for part in case}) for case in suite.iter("testcase")]
        bad = [name for name, parts in cases if parts & {"failure", "error"}]
        bench.short(f"pytest ended with {status}: {', '.join(bad) or 'see gpu-tests.log'}")
    if bench.on_gpu and counts["skipped"]:
        bench.short(f"{counts['skipped']} tests were skipped with a GPU there")
    if not bench.on_gpu:
        bench.fact("here", f"not on a CPU: all {counts['skipped']} were collected, and skipped")
