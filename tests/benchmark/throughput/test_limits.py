"""The limits do the work that they stand for: equal pixels, one update, the precision asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import Small, Vectors, small_job, small_stage

from benchmark.data.pictures import open_picture
from benchmark.encoders.preprocessing import GRIDS, PADS, Preprocessing
from benchmark.settings import TrainingSettings
from benchmark.throughput import limits
from benchmark.throughput.limits import (
    BareStep,
    bare_patches,
    bare_picture,
    computing_in,
    large_product,
    memory_copy,
    with_bytes_moved,
)
from benchmark.training.batches import GroupLayout, rank_shares, update_plan
from benchmark.training.trainer import endless_updates

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(40, 64), (97, 31), (50, 50), (33, 200)])
@pytest.mark.parametrize("pad", PADS)
def test_the_plain_loop_gives_the_pipeline_s_pixels(tmp_path: Path, size: tuple[int, int], pad: str):
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    pipeline = Preprocessing(pad, 24)
    np.testing.assert_array_equal(bare_picture(path, pipeline), pipeline.picture(open_picture(path)))
    np.testing.assert_array_equal(bare_patches(path, pipeline, GRIDS), pipeline.patches(open_picture(path), GRIDS))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_plain_step_is_the_trainer_s(tmp_path: Path, groups: int):
    """After one update of either the next loss on the same batch is the same, so the weights are."""
    rows = 8
    settings = TrainingSettings(batch_size=rows, negative_group=rows // groups, learning_rate=0.1, optimiser="sgd")
    source = Vectors(rows)
    job = small_job(tmp_path, settings, source, method=Small(dropout=0))
    (order,) = update_plan(rows, settings, job.seed, 0)
    batches = list(source.batches(rank_shares(order, settings, GroupLayout.of(settings, 1), 0)))
    before = {name: tensor.clone() for name, tensor in job.method.state_dict().items()}
    step = BareStep(job.method, small_stage(), settings, batches)
    first, second = step(), step()
    assert second < first
    assert all(torch.equal(before[name], tensor) for name, tensor in job.method.state_dict().items())
    updates = endless_updates(job)
    next(updates)
    updates.close()
    last = batches[-1]
    queries = job.method.train().encode_query(last.reference, last.text)
    loss = job.method.loss(queries, job.method.encode_target(last.target)) / groups
    torch.testing.assert_close(loss.detach(), second)


def test_an_optimiser_s_bytes_are_those_of_weights_gradients_and_moments():
    method = Small(norm=False)
    weights, moved = (sum(p.nbytes for p in part.parameters()) for part in (method, method.layer))
    weights -= method.frozen.nbytes
    for optimiser, moments in (("sgd", 0), ("adamw", 2)):
        settings = TrainingSettings(batch_size=8, learning_rate=0.1, optimiser=optimiser)
        step = BareStep(method, small_stage(), settings, [Vectors(8).batch(np.arange(8))])
        step()
        counters = 2 * 4 * 2 if moments else 0  # AdamW counts the updates of weight and bias
        assert step.moved_bytes == 3 * weights + 2 * moments * moved + counters


def test_bytes_are_moved_behind_a_call(monkeypatch: pytest.MonkeyPatch):
    done: list[object] = []
    monkeypatch.setattr(limits, "memory_copy", lambda device, size: lambda: done.append(size))
    with_bytes_moved(lambda: done.append("products"), 4096, CPU)()
    assert done == ["products", 2048]


def test_the_precision_is_set_and_put_back():
    before = torch.backends.cuda.matmul.allow_tf32
    with computing_in("tf32", CPU):
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    with computing_in("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_machine_limits_do_what_they_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(limits._PRODUCT_SIDE, "cpu", 64)
    copied = memory_copy(CPU, 4096)()
    assert copied.nbytes == 4096 and bool((copied == 1).all())
    multiply, flops = large_product(CPU, "bf16")
    product = multiply()
    assert product.dtype == torch.bfloat16 and flops == 2 * product.shape[0] ** 3
