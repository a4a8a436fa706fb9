"""What the trainer adds to a method's passes: on tensors that claim to be on a GPU, and what is sent there."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from benchmark.methods.clip4cir import Clip4Cir, CombinerSettings
from fake_gpu import GPU, fake_gpu, on_gpu
from host_waits import HostWaits
from torch import Tensor, nn

from benchmark.method import ComingEpoch
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch, Share, with_row_values
from benchmark.training.group_layers import GroupLayers
from benchmark.training.memory import CheckpointedBlocks, encode_in_micro_batches
from benchmark.training.optimisation import MovingAverage
from benchmark.training.trainer import _StageTraining

ROWS, WIDTH = 6, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.layers(rows)
        return rows + out


@pytest.fixture
def network() -> nn.Module:
    return on_gpu(nn.Sequential(Block(), Block()))


def rows_on_gpu() -> Tensor:
    with fake_gpu():
        return torch.randn(ROWS, WIDTH, device="cuda")


def test_views_that_wait_on_the_host_are_sent_with_their_micro_batch() -> None:
    method = on_gpu(Clip4Cir(WIDTH, CombinerSettings(projection=8, hidden=8)))
    reference, text = ({"global": torch.randn(ROWS, WIDTH)} for _ in range(2))
    with fake_gpu(half=True), HostWaits() as found:
        queries = encode_in_micro_batches(method.encode_query, 2, GPU, reference=reference, text=text)
    assert isinstance(queries, Tensor) and queries.device == GPU and len(queries) == ROWS
    assert found.crossings == {"cpu to cuda": 3 * 2} and not found.waits
    assert found.crossed_bytes == 2 * 4 * ROWS * WIDTH


def test_blocks_that_are_computed_twice_stay_on_the_gpu(network: nn.Module) -> None:
    checkpointed = CheckpointedBlocks(network)
    rows = rows_on_gpu()
    with fake_gpu(half=True), HostWaits() as found:
        assert network(rows).device == GPU
    checkpointed.restore()
    assert not found.crossings and not found.waits


@pytest.mark.parametrize("half", [False, True])
def test_layers_over_a_group_of_ranks_stay_on_the_gpu(network: nn.Module, half: bool) -> None:
    """Batch norm and dropout of two ranks, whose messages are left out."""
    rows = rows_on_gpu()
    with ExitStack() as stack:
        for name, said in {"get_world_size": 2, "get_rank": 1, "all_gather": None}.items():
            stack.enter_context(patch.object(torch.distributed, name, lambda *_, said=said, **__: said))
        layers = GroupLayers(network, None)
        stack.enter_context(fake_gpu(half))
        found = stack.enter_context(HostWaits())
        assert network(rows).device == GPU
    layers.close()
    assert found.calls["aten::var_mean.correction"] == 2 and found.calls["aten::bernoulli_.float"] == 2
    assert not found.crossings and not found.waits


def test_a_moving_average_stays_on_the_gpu(network: nn.Module) -> None:
    with fake_gpu(), HostWaits() as found:
        average = MovingAverage(network, 0.9)
        average.update(network)
        with average.in_place_of_weights(network):
            pass
    assert {tensor.device for tensor in average.shadow.values()} == {GPU}
    assert found.calls["aten::_foreach_lerp_.Scalar"] == 1
    assert not found.crossings and not found.waits


def test_what_is_known_of_an_epochs_rows_is_sent_with_its_batch() -> None:
    views = {"global": rows_on_gpu()}
    shares = [Share(np.array([3, 1, 0, 2, 5, 4]))]
    with fake_gpu(), HostWaits() as found:
        (batch,) = with_row_values([Batch(views, views, views)], shares, {"clean": torch.ones(ROWS)})
    assert batch.text["clean"].device == GPU and found.crossings == {"cpu to cuda": 1}


def test_what_looks_at_an_epoch_beforehand_finds_it_on_the_gpu() -> None:
    """With micro-batches, a stage on pixels has its batches on the host."""
    views = {"pixels": torch.rand(ROWS, 3, 4, 4)}
    seen: list[Tensor] = []

    def look(method: object, settings: object, epoch: ComingEpoch) -> dict[str, Tensor]:
        seen.extend(tensor for _, *all_views in epoch.groups() for part in all_views for tensor in part.values())
        return {}

    stage: Any = object.__new__(_StageTraining)
    stage.settings, stage.rows = TrainingSettings(batch_size=ROWS), {}
    stage.epoch = stage.position = stage.update = 0
    stage.job = SimpleNamespace(
        stage=SimpleNamespace(before_epoch=look), source=SimpleNamespace(batches=lambda _: [Batch(views, views, views)]),
        process=SimpleNamespace(device=GPU), seed=0, method=None,
    )  # fmt: skip
    with fake_gpu():
        stage._before_epoch(ROWS, [np.arange(ROWS)])
    assert [tensor.device for tensor in seen] == [GPU] * 3
