"""The evaluator at the datasets' sizes and beyond: its time beside the bare product, its ranks beside the CPU's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmark.evaluation.ranking import Ranks, rank_queries
from benchmark.evaluation.scoring import chunks_on
from benchmark.throughput.limits import computing_in
from benchmark.throughput.made_up import CIRR_VALIDATION, made_up_task
from gpu_steps.bench import Bench
from gpu_steps.findings import too_long

WIDTH = 640
SIZES = {"CIRR": CIRR_VALIDATION, "Fashion200k": (33_480, 29_789), "a million pictures": (4_096, 1_000_000)}
TINY = {"CIRR": (64, 128), "Fashion200k": (96, 300), "a million pictures": (32, 2_000)}
_CHECKED = 256
"""Queries whose ranks are computed on the CPU, too."""


def evaluator(bench: Bench) -> None:
    for name, (queries, gallery) in (TINY if bench.tiny else SIZES).items():
        bench.attempt(name, lambda n=name, q=queries, g=gallery: _ranked(bench, n, q, g))


def _ranked(bench: Bench, name: str, asked: int, pictures: int) -> None:
    device, task = bench.device, made_up_task(asked, pictures)
    if name != "CIRR":  # which alone ranks subsets
        task = replace(task, queries=replace(task.queries, subset=None), subset_cutoffs=())
    generator = torch.Generator(device).manual_seed(0)
    queries, gallery = (
        torch.nn.functional.normalize(torch.randn(n, WIDTH, device=device, generator=generator)) for n in (asked, pictures)
    )
    # Equal pictures, whose ties are settled exactly.
    gallery[1::97] = gallery[0]
    host = [queries.cpu(), gallery.cpu()]
    rows, columns = chunks_on(device)

    def product() -> None:
        """In the evaluator's blocks, which are thrown away: a million pictures' scores would be 16 GB."""
        for start in range(0, pictures, columns):
            for first in range(0, asked, rows):
                torch.mm(queries[first : first + rows], gallery[start : start + columns].T)

    with computing_in("fp32", device), torch.no_grad():
        rounds = bench.setting("fp32").rounds(
            {
                "evaluator": lambda: rank_queries(queries, gallery, task, device=device),
                "from the host": lambda: rank_queries(*host, task, device=device),
                "bare matrix product": product,
            }
        )
    work, flops = f"{asked:,} x {pictures:,}, d {WIDTH}", 2 * asked * pictures * WIDTH
    setting = bench.setting("fp32")
    there = setting.rate(rounds, "evaluator", asked, "queries", work, "bare matrix product", flops)
    bench.measured(f"{name} fp32", there, *bench.judged(too_long(f"{name}: the evaluator", there)))
    moved = setting.rate(rounds, "from the host", asked, "queries", work, "bare matrix product", flops)
    bench.measured(f"{name} fp32, encodings in the host's memory", moved)
    some = np.unique(np.linspace(0, asked - 1, _CHECKED).astype(np.int64))
    cut = replace(task, queries=task.queries.take(some))
    here = rank_queries(host[0][torch.from_numpy(some)], host[1], cut, device=torch.device("cpu"))
    on_device = rank_queries(queries[torch.from_numpy(some).to(device)], gallery, cut, device=device)
    bench.fact(f"{name}: ranks", f"{len(some)} queries held against the CPU's")
    if not same_ranks(here, on_device):
        bench.short(f"{name}: ranks differ from the CPU's")


def same_ranks(one: Ranks, other: Ranks) -> bool:
    pairs: list[tuple[object, object]] = [(getattr(one, part), getattr(other, part)) for part in ("rank", "ties", "subset_rank")]
    pairs.append((one.positive_ranks.values, other.positive_ranks.values))
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


