"""The whole program on a GPU that computes on the host: what a checkpoint and a folder of pictures give is the CPU's."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from command_line import Command
from fake_gpu import GPU
from host_waits import HostWaits
from simulated_gpu import program_finds_a_gpu

from benchmark.method import Method, PixelInputs
from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import backbone_of, build_planned
from benchmark.pipeline.run import join_job
from benchmark.pipeline.stage_sources import StageSources
from benchmark.prefetching import handed_over
from benchmark.registry import discover
from benchmark.training.batches import Batch, GroupLayout, rank_shares, update_plan
from benchmark.training.memory import encode_in_micro_batches

_ROWS = 12
_OWN_NETWORKS = ("artemis", "val")


def trained(command: Command, method: str, data: Path, folder: Path) -> Path:
    """The weights of a run of one epoch on the CPU."""
    start = ["--set", "method.start=random"] if method in _OWN_NETWORKS else ["--weights", "random"]
    sizes = ["--epochs", 1, "--batch-size", 24, "--negative-group", 0]
    if method in ("spirit", "searle"):
        start += ["--set", "encoders.epochs=1", "--set", "encoders.batch_size=24"]
    outcome = command(
        "run", "--method", method, "--dataset", "cirr", "--data-root", data, "--output", folder, "--device", "cpu",
        *sizes, *start,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    return folder / "weights" / "selected.safetensors"


def found_with_selected(folder: Path) -> dict[str, float]:
    record = json.loads((folder / "record.json").read_text())
    metrics: dict[str, float] = record["results"][0]["metrics"]
    return metrics


def test_rows_that_are_one_in_memory_are_sent() -> None:
    """A sentence for all rows, as Pic2Word has it, and pixels whose order in memory stays as it is."""
    same, pixels = torch.arange(5).expand(4, -1), torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with program_finds_a_gpu():
        for tensor in (same, pixels):
            there = handed_over(tensor, GPU)
            assert there.device == GPU and torch.equal(there.cpu(), tensor)
        assert there.stride() == pixels.stride()


@pytest.mark.slow
@pytest.mark.parametrize("method", discover().methods())
def test_every_stage_is_fed_on_the_gpu(method: str, small_cirr: Path, tmp_path: Path) -> None:
    """Batches as the trainer gets them, of stored features, pixels or rows, and their loss."""
    if _fed(method, small_cirr, tmp_path, micro_batch=0):
        _fed(method, small_cirr, tmp_path, micro_batch=4)


def _fed(method: str, data: Path, cache: Path, micro_batch: int) -> bool:
    """Whether a stage reads pixels, which alone know micro-batches."""
    chosen = {"device": "cuda", "cache": str(cache), "batch_size": _ROWS, "negative_group": 0}
    execution = {"set": {"trainer.micro_batch": micro_batch}}
    plan = make_plan(make_options(method=method, dataset="cirr", data_root=data, **chosen, **execution), discover())
    earlier: dict[str, Method] = {}
    reads_pixels = False
    with program_finds_a_gpu(), ExitStack() as stack:
        job = join_job("cuda", plan.options.cache_root)
        sources = stack.enter_context(StageSources(plan, job, backbone_of(plan), frozenset()))
        for planned in plan.stages:
            built = build_planned(plan, planned, sources.backbone, earlier)
            earlier[planned.stage.name] = built.method.to(GPU)
            if not planned.stage.trains:
                continue
            reads_pixels |= isinstance(built.inputs, PixelInputs)
            settings = planned.settings.model_copy(update={"batch_size": _ROWS, "negative_group": 0})
            source = sources.training(planned, built.method, built.inputs)
            updates = update_plan(source.start_epoch(0), settings, 0, 0)[:3]
            layout = GroupLayout.of(settings, 1)
            shares = [share for rows in updates for share in rank_shares(rows, settings, layout, 0)]
            for batch in source.batches(shares):
                loss = _loss_of(built.method, batch)
                assert loss.device == GPU and bool(loss.isfinite())
    return reads_pixels


@torch.no_grad()
def _loss_of(method: Method, batch: Batch) -> torch.Tensor:
    asked, how = {"reference": batch.reference, "text": batch.text}, method.train().encode_query
    if method.encodes_triplets:
        asked, how = {**asked, "target": batch.target}, method.encode_triplet
    queries = encode_in_micro_batches(how, 0, GPU, **asked)
    targets = encode_in_micro_batches(method.encode_target, 0, GPU, target=batch.target)
    return reduce(add, method.loss_parts(queries, targets).values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spirit", "artemis", "encoder", "sprc", "searle", "val"])
def test_a_checkpoint_is_evaluated_and_searched_with(
    method: str, command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    """Features of stored views, pixels, tokens and words; an own score; and what one modality alone finds."""
    here, there, data = tmp_path / "here", tmp_path / "there", ("--data-root", small_cirr)
    weights = trained(command, method, small_cirr, here)
    evaluation = ("evaluate", "--method", method, "--checkpoint", weights, "--dataset", "cirr", *data)
    with program_finds_a_gpu(), HostWaits() as found:
        outcome = command(*evaluation, "--output", there, "--cache", tmp_path / "empty", "--device", "cuda")
    assert outcome.status == 0, outcome.err
    assert found.crossings["cpu to cuda"] and found.crossings["cuda to cpu"]
    assert found_with_selected(there) == found_with_selected(here)
    picture = next(path for path in small_cirr.rglob("*.png"))
    asked = ("search", "--run", here, "--image", picture, "--text", "is red", *data, "--output", tmp_path / "found.png")
    expected = command(*asked, "--device", "cpu")
    with program_finds_a_gpu():
        outcome = command(*asked, "--device", "cuda")
    assert (outcome.status, outcome.out) == (0, expected.out)
