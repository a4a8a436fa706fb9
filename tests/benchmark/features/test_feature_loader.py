"""Rows of features on the device: the same by every way, and what crosses to a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fake_gpu import GPU
from host_waits import HostWaits
from simulated_gpu import program_finds_a_gpu
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmark.features.loader import FeatureLoader, ResidentLoader, RowTable, StreamedLoader, feature_loader
from benchmark.prefetching import made_ahead

CPU = torch.device("cpu")
ENTRIES = 50
PLAN = [np.arange(50)[start : start + 8][::-1].copy() for start in range(0, 48, 8)] + [np.array([3, 3, 49])]


def tables() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "global": torch.randn(30, 4, generator=generator),
        "patches": torch.randn(30, 13, 4, generator=generator),
        "text": torch.randn(20, 4, generator=generator),
    }


def columns() -> list[tuple[str, Tensor]]:
    draw = np.random.default_rng(0)
    reference, target = (torch.from_numpy(draw.integers(30, size=ENTRIES)) for _ in range(2))
    text = torch.from_numpy(draw.integers(20, size=ENTRIES))
    return [("global", reference), ("patches", reference), ("global", target), ("text", text)]


def filled(loader: FeatureLoader, device: torch.device = CPU) -> FeatureLoader:
    for name, table in tables().items():
        loader.put(name, table)
    return loader


@pytest.mark.parametrize("kind", [ResidentLoader, StreamedLoader])
def test_batches_hold_the_rows_of_their_entries(kind: Callable[[torch.device], FeatureLoader]) -> None:
    given = tables()
    batches = list(filled(kind(CPU)).batches(columns(), PLAN))
    assert len(batches) == len(PLAN)
    for part, batch in zip(PLAN, batches, strict=True):
        expected = [given[name][rows[torch.from_numpy(part)]] for name, rows in columns()]
        assert [torch.equal(a, b) for a, b in zip(batch, expected, strict=True)] == [True] * 4
    assert list(filled(kind(CPU)).batches(columns(), [])) == []


class ComputingLoader(StreamedLoader):
    """One of its tables is computed for the rows that are asked for."""

    def put(self, name: str, table: RowTable) -> None:
        super().put(name, Computed() if name == "patches" else table)


class Computed:
    def __getitem__(self, rows: Tensor) -> Tensor:
        return tables()["patches"][rows]


@pytest.mark.parametrize("kind", [ResidentLoader, StreamedLoader, ComputingLoader])
def test_a_gpu_that_computes_on_the_host_gets_the_same_rows(kind: Callable[[torch.device], FeatureLoader]) -> None:
    expected = list(filled(kind(CPU)).batches(columns(), PLAN))
    with program_finds_a_gpu():
        batches = list(filled(kind(GPU)).batches(columns(), PLAN))
        assert {part.device for batch in batches for part in batch} == {GPU}
        here = [[part.cpu() for part in batch] for batch in batches]
    for found, batch in zip(here, expected, strict=True):
        assert [torch.equal(a, b) for a, b in zip(found, batch, strict=True)] == [True] * 4


@pytest.mark.parametrize("kind", [ResidentLoader, StreamedLoader])
def test_a_longer_table_takes_the_place_of_a_shorter_one(kind: Callable[[torch.device], FeatureLoader]) -> None:
    loader = filled(kind(CPU))
    longer = torch.arange(100.0).reshape(25, 4)
    loader.put("text", longer)
    ((rows,),) = loader.batches([("text", torch.tensor([24]))], [np.array([0])])
    assert torch.equal(rows, longer[24:])


def test_a_cpu_reads_rows_where_they_lie_mapped() -> None:
    assert isinstance(feature_loader(tables(), CPU), StreamedLoader)


def test_resident_features_cross_once_and_an_epoch_sends_row_numbers_only() -> None:
    """On tensors that only claim to be on a GPU: what would cross is seen, nothing is computed."""
    device = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        loader = filled(ResidentLoader(device))
        with HostWaits() as epoch:
            batches = loader.batches(columns(), PLAN)
            first = next(batches)
        with HostWaits() as step:
            second = next(batches)
    assert {part.device.type for part in (*first, *second)} == {"cuda"}
    assert dict(epoch.crossings) == {"cpu to cuda": 1}
    assert epoch.crossed_bytes == 8 * len(columns()) * sum(map(len, PLAN))
    assert not step.crossings and not step.waits and not epoch.waits
    assert step.calls["aten::index_select"] == len(columns())


def test_what_is_made_ahead_comes_in_order_and_no_further_than_asked() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        return number * number

    made = made_ahead(make, range(10), "squares", ahead=2)
    assert next(made) == 0
    made.close()
    assert len(begun) <= 4
    assert list(made_ahead(make, range(5), "squares")) == [0, 1, 4, 9, 16]


def test_a_failure_ahead_is_raised_where_its_batch_is_asked_for() -> None:
    made = made_ahead(lambda number: 1 // number, [1, 0], "quotients")
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("kind", [ResidentLoader, StreamedLoader])
def test_a_gpu_gets_the_same_rows_and_nobody_waits(kind: Callable[[torch.device], FeatureLoader]) -> None:
    loader, given = filled(kind(torch.device("cuda"))), tables()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader.batches(columns(), PLAN))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for part, batch in zip(PLAN, batches, strict=True):
        for (name, rows), found in zip(columns(), batch, strict=True):
            assert torch.equal(found.cpu(), given[name][rows[torch.from_numpy(part)]])
