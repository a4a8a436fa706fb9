"""Fashion200k at its full size: reading made-up labels, drawing pairs, ranking random features.

Run with ``pytest tests/benchmarks/test_fashion200k_size.py --benchmark-only``, or as a script
with an empty folder and optionally a number of threads: it prints what it measured as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.datasets import fashion200k
from benchmark.datasets.readers.fashion200k import CATEGORIES
from benchmark.datasets.readers.fashion200k_pairs import PAIR_SAMPLINGS
from comparing import Stopwatch, at_most

from benchmark.evaluation.ranking import QUERY_CHUNK, rank_queries

TRAIN, GALLERY, QUERIES, CAPTIONS, WIDTH = 172_049, 29_789, 33_480, 53_099, 1_280
GIB = 2**30
COLOURS = "red blue green black white grey multicolor pink yellow beige purple orange brown gold silver".split()


def made_up_captions(rng: np.random.Generator, count: int) -> list[str]:
    """Different descriptions: a colour, one to four of 900 words of very different frequency, a garment."""
    found: dict[str, None] = {}
    while len(found) < count:
        words = (rng.zipf(1.4, int(rng.integers(1, 5))) - 1) % 900
        middle = " ".join(f"style{word}" for word in words)
        garment = CATEGORIES[rng.integers(len(CATEGORIES))]
        found.setdefault(f"{COLOURS[rng.integers(len(COLOURS))]} {middle} {garment}")
    return list(found)


def write_labels(root: Path) -> Path:
    """Label files and queries with the published numbers of lines and of training captions."""
    rng = np.random.default_rng(0)
    (root / "labels").mkdir(parents=True)
    for split, count, different in (("train", TRAIN, CAPTIONS), ("test", GALLERY, GALLERY // 3)):
        captions = made_up_captions(rng, different)
        # Every caption has a picture, the first ones many more: some queries have hundreds of right answers.
        further = (rng.random(count - different) ** 2 * different).astype(np.int64)
        numbers = np.concatenate([np.arange(different), further])
        lines: dict[str, list[str]] = {category: [] for category in CATEGORIES}
        paths, seen = [], np.zeros(different, dtype=int)
        for number in numbers.tolist():
            category = captions[number].rsplit(" ", 1)[1]
            path = f"women/{category}/{category}_of_a_kind/{split}{number}/{split}{number}_{seen[number]}.jpeg"
            seen[number] += 1
            paths.append(path)
            lines[category].append(f"{path}\t{rng.random():.6f}\t{captions[number]}\n")
        for category, text in lines.items():
            (root / f"labels/{category}_{split}_detect_all.txt").write_text("".join(text), encoding="utf-8")
    first, second = rng.integers(GALLERY, size=(2, 2 * QUERIES))
    pairs = [f"{paths[a]} {paths[b]}\n" for a, b in zip(first, second, strict=True) if numbers[a] != numbers[b]]
    (root / "test_queries.txt").write_text("".join(pairs[:QUERIES]), encoding="utf-8")
    return root


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    outcome = call()
    return round(time.perf_counter() - start, 2), outcome


def peak_gib() -> float:
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / GIB, 3)


def bare_product(queries: torch.Tensor, gallery: torch.Tensor) -> None:
    """All products, one block of queries after another, and nothing done with them."""
    buffer = torch.empty(QUERY_CHUNK, len(gallery))
    for start in range(0, len(queries), QUERY_CHUNK):
        part = queries[start : start + QUERY_CHUNK]
        torch.mm(part, gallery.T, out=buffer[: len(part)])


def measure(root: Path) -> dict[str, Any]:
    """Seconds of each part and the peak memory after the ranking, which includes the encodings."""
    seconds: dict[str, float] = {}
    seconds["load both splits"], dataset = timed(lambda: fashion200k.load(root, splits=("train", "test")))
    seconds["index captions, count"], counts = timed(dataset.counts)
    seconds["task"], (task,) = timed(lambda: dataset.tasks("test", "tirg", "template"))
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        torch.randn(rows, WIDTH, generator=generator) for rows in (len(task.queries), len(task.gallery))
    )
    for encoding in (queries, gallery):
        encoding /= torch.linalg.vector_norm(encoding, dim=1, keepdim=True)
    before = peak_gib()
    # Half of the bare product before the ranking and half of it behind: both meet the same machine.
    stopwatch, half = Stopwatch(), len(queries) // 2
    stopwatch.time("first half of the bare product", lambda: bare_product(queries[:half], gallery))
    stopwatch.start()
    ranks = rank_queries(queries, gallery, task)
    stopwatch.stop("rank")
    peak = peak_gib()
    stopwatch.time("second half of the bare product", lambda: bare_product(queries[half:], gallery))
    both = stopwatch.compared("")
    for kind, found in (("", both.wall), (" (processor)", both.processor)):
        parts = {name: float(times.sum()) for name, times in found.seconds.items()}
        seconds[f"rank{kind}"] = parts.pop("rank")
        seconds[f"bare product{kind}"] = sum(parts.values())
    pairs = {}
    for name in PAIR_SAMPLINGS:
        seconds[f"draw {name}"], triplets = timed(lambda name=name: dataset.train_triplets(0, 0, name))
        pairs[name] = len(triplets)
    return {
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ranking / bare product": seconds["rank"] / seconds["bare product"],
        "ranking / bare product (processor)": seconds["rank (processor)"] / seconds["bare product (processor)"],
        "peak GiB before ranking": before,
        "peak GiB": peak,
        "counts": {f"{c.split} {c.what}": c.found for c in counts},
        "positives": len(task.queries.positives.values),
        "largest set of positives": int(task.queries.positives.sizes().max()),
        "R@50": round(float((ranks.rank <= 50).mean() * 100), 3),
        "pairs": pairs,
    }


def test_full_size_fits_in_two_gigabytes(benchmark: Any, number: Any, tmp_path: Path) -> None:
    """In a process of its own, so that the peak is that of this work."""
    root = write_labels(tmp_path)
    command = [sys.executable, __file__, str(root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    found = json.loads(benchmark.pedantic(run, rounds=1))
    benchmark.extra_info.update(found)
    path = f"evaluator {QUERIES:,} x {GALLERY:,} x {WIDTH:,}, threads: {found['threads']}"
    name = "ranking / bare product"
    number(path, name, found[name], at_most(1.3), found[f"{name} (processor)"])
    number(path, "peak memory of the process in GB", found["peak GiB"] * GIB / 1e9, at_most(2))
    assert found["counts"]["train pictures"] == TRAIN
    assert found["counts"]["train captions"] == CAPTIONS
    assert found["counts"]["test gallery"] == GALLERY
    assert found["counts"]["test queries"] == QUERIES
    assert found["peak GiB"] * GIB < 2e9


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> fashion200k.Fashion200k:
    return fashion200k.load(write_labels(tmp_path_factory.mktemp("full")), splits=("train", "test"))


@pytest.mark.parametrize("pair_sampling", PAIR_SAMPLINGS)
def test_drawing_pairs(benchmark: Any, full_size: fashion200k.Fashion200k, pair_sampling: str) -> None:
    triplets = benchmark.pedantic(lambda: full_size.train_triplets(0, 0, pair_sampling), rounds=3, warmup_rounds=1)
    assert len(triplets) > 0


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not (folder / "labels").exists():
        write_labels(folder)
    if len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(measure(folder), indent=1))
