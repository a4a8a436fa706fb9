"""Whole runs of the program, each in a process of its own as a user starts it: the main job, and ZeRO killed and resumed."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import torch

from benchmark.records.record import Record, read_per_query, read_record
from benchmark.weights.checkpoints import read_weights
from gpu_steps.bench import Bench, Program
from gpu_steps.findings import last_words

_POLL = 0.005
_KILLED_RUN = [
    "run", "--method", "clip4cir", "--dataset", "cirr", "--backbone", "tiny", "--limit", 24, "--epochs", 8,
    "--set", "method.encoder=untouched", "--set", "trainer.zero=1", "--set", "trainer.checkpoint_seconds=0",
]  # fmt: skip


def main_job(bench: Bench) -> None:
    """SPIRIT on the demo data: the device's recalls beside the CPU's of the same seed, and the time of each phase."""
    begun: dict[str, Program] = {}
    for place, device in (("the device", bench.device), ("the CPU", "cpu")):
        folder = bench.folder / "main-job" / place.split()[1]
        size = ["--data-root", small_demo(bench.folder), "--limit", 24, "--epochs", 1, "--set", "encoders.epochs=1"]
        begun[place] = bench.program(
            "run", "--method", "spirit", "--dataset", "cirr", "--seed", 0, *(size if bench.tiny else ["--demo"]),
            "--device", device, "--output", folder / "out", "--cache", folder / "cache", log=f"main-job-{folder.name}",
        )  # fmt: skip
        if not bench.tiny:
            begun[place].finish()  # nothing else runs while it is timed
            _told(bench, place, folder / "out")
    if bench.tiny:
        for place, program in begun.items():
            program.finish()
            _told(bench, place, bench.folder / "main-job" / place.split()[1] / "out")
    device_s, cpu_s = (read_record(bench.folder / "main-job" / name / "out") for name in ("device", "CPU"))
    bench.short(*unexplained(device_s, cpu_s, bench.on_gpu))


def _told(bench: Bench, place: str, output: Path) -> None:
    record = read_record(output)
    bench.fact(f"seconds on {place}", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in record.timings.items()))
    bench.fact(f"recalls on {place}", ", ".join(f"{name} {value:.2f}" for name, value in record.results[0].metrics.items()))


def unexplained(device: Record, cpu: Record, other_arithmetic: bool) -> list[str]:
    """Metrics of two runs of one seed that differ: at all on one kind of device, else by more than the 95 % interval
    of the CPU's, since training carries other roundings on."""
    found = []
    for there, here in zip(device.results, cpu.results, strict=True):
        for name, value in here.metrics.items():
            low, high = here.intervals.get(name, (value, value)) if other_arithmetic else (value, value)
            if not low <= there.metrics[name] <= high:
                found.append(f"{name} is {there.metrics[name]:.2f}, on the CPU {value:.2f} ({low:.2f} to {high:.2f})")
    return found


def zero_resumed(bench: Bench) -> None:
    """ZeRO 1 on one device: a run that is killed while its head trains and then resumed, beside an undisturbed one."""
    place = bench.folder / "zero"

    def begun(name: str, *further: str) -> Program:
        folder = place / name
        return bench.program(
            *_KILLED_RUN, "--data-root", small_demo(bench.folder), "--device", bench.device,
            "--cache", folder / "cache", "--output", folder / "out", *further, log=f"zero-{name}",
        )  # fmt: skip

    undisturbed, killed = begun("undisturbed"), begun("killed")
    while not (place / "killed" / "out" / "training" / "resume.json").exists():
        if killed.process.poll() is not None:
            raise RuntimeError(f"the run ended before its head trained: {last_words(killed.log)}")
        time.sleep(_POLL)
    killed.process.kill()
    killed.process.wait()
    if (place / "killed" / "out" / "record.json").exists():
        raise RuntimeError("the run had ended before it was killed")
    resumed = begun("killed", "--resume")
    undisturbed.finish()
    resumed.finish()
    bench.short(*differences(bench, place / "undisturbed" / "out", place / "killed" / "out"))


def differences(bench: Bench, undisturbed: Path, resumed: Path) -> list[str]:
    """What a resumed run has otherwise; on a GPU, whose sums have no order, weights may differ by rounding."""
    one, other = (read_record(folder) for folder in (undisturbed, resumed))
    told = []
    if [result.metrics for result in one.results] != [result.metrics for result in other.results]:
        told.append("the resumed run has other metrics")
    ranks = [
        {i: found.rank.tolist() for i, found in read_per_query(folder, record).items()}
        for folder, record in ((undisturbed, one), (resumed, other))
    ]
    if ranks[0] != ranks[1]:
        told.append("the resumed run has other ranks")
    furthest = max(
        _deviation(read_weights(undisturbed / "weights" / name), read_weights(resumed / "weights" / name))
        for name in ("selected.safetensors", "last.safetensors")
    )
    bench.fact("weights", "the same bits" if furthest == 0 else f"differ by at most {furthest:.1e} of a tensor's largest")
    if furthest and not bench.on_gpu:
        told.append(f"the resumed run's weights differ by {furthest:.1e} of a tensor's largest")
    if not bench.on_gpu:
        return told
    # Differences of a rounding are stated, not judged.
    for line in told:
        bench.fact("results", line)
    return [f"the resumed run's weights differ by {furthest:.1e}"] if furthest > 1e-2 else []


def _deviation(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference, as a share of its tensor's largest entry."""
    shares = [0.0]
    for name, tensor in one.items():
        if tensor.is_floating_point() and tensor.numel():
            apart = float((tensor.double() - other[name].double()).abs().max())
            shares.append(apart / max(float(tensor.double().abs().max()), 1e-12))
    return max(shares)


@cache
def small_demo(folder: Path) -> Path:
    """72 training triplets and 24 queries over 24 pictures, in CIRR's layout."""
    from benchmark.datasets.demo.demo_data import Sizes, write_demo

    place = folder / "small" / "cirr"
    if not place.exists():
        write_demo("cirr", place, Sizes(12, 6, 4, 6, 2, 3), workers=1)
    return place
