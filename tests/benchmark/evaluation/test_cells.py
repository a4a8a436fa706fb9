"""Tiles against loops over single cells, at sizes where rows share a tile and where a row needs several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from simulated_gpu import simulated_gpu
from test_ranking import check_everywhere, random_task, unit

from benchmark.evaluation import cells
from benchmark.evaluation.cells import Sieve, tiles


@pytest.fixture(params=[1, 5 * 1024, 2**18])
def cells_of_a_tile(request, monkeypatch):
    monkeypatch.setitem(cells._TILE, "cpu", request.param)
    return request.param


def sifted(block, first, live, low, high):
    """Counts above every band (L,), and the cells within one as (band, column, score), sorted."""
    above, within = np.zeros(len(low) + 1, dtype=np.int64), []
    sieve = Sieve(block.shape[1], block.device)
    for tile in tiles(first, live, low, high, block.shape[1]):
        found = sieve.sift(block, tile)
        above[tile.entry.cpu().numpy()] += found.above.cpu().numpy()
        within += zip(*(part.cpu().tolist() for part in (found.entry, found.column, found.score)), strict=True)
    return above[:-1].tolist(), sorted(within)


@pytest.mark.parametrize("columns", [1, 39, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cell_is_held_against_every_band_of_its_row(cells_of_a_tile, columns, dtype):
    if cells_of_a_tile == 1 and columns > 100:
        pytest.skip("a tile of one band and row, thousands of times")
    generator = np.random.default_rng(0)
    block = torch.from_numpy(generator.integers(-3, 4, (6, columns + 5))).to(dtype)[:, :columns]
    block[2, 0] = -torch.inf
    live = np.array([30, 7, 7, 2, 1, 1])
    first = np.array([18, 0, 7, 14, 16, 17])
    middle = torch.from_numpy(generator.integers(-3, 4, live.sum())).to(dtype)
    wide = torch.from_numpy(generator.integers(0, 2, live.sum())).to(dtype)
    low, high = middle - wide, middle + wide
    above, within = [0] * len(low), []
    lows, highs = low.tolist(), high.tolist()
    for row in range(6):
        for entry in range(first[row], first[row] + live[row]):
            scores = block[row].tolist()
            above[entry] = sum(score > highs[entry] for score in scores)
            within += [(entry, g, s) for g, s in enumerate(scores) if lows[entry] <= s <= highs[entry]]
    assert sifted(block, first, live, low, high) == (above, sorted(within))


def test_counts_do_not_overflow_where_everything_is_above():
    block = torch.ones(2, 5000)
    low = high = torch.zeros(3)
    assert sifted(block, np.array([0, 2]), np.array([2, 1]), low, high) == ([5000] * 3, [])


@pytest.mark.parametrize("cells_of_a_device_tile", [1, 5 * 1024, 2**18])
def test_other_devices_count_the_same(monkeypatch, cells_of_a_device_tile):
    monkeypatch.setattr(cells, "_DEVICE_TILE", cells_of_a_device_tile)
    generator = np.random.default_rng(1)
    block = torch.from_numpy(generator.integers(-3, 4, (4, 50)).astype(np.float32))
    low = torch.from_numpy(generator.integers(-3, 4, 12).astype(np.float32))
    bands = np.array([0, 6, 9, 11]), np.array([6, 3, 2, 1])
    here = sifted(block, *bands, low, low + 1)
    with simulated_gpu() as gpu:
        assert sifted(block.to(gpu), *bands, low.to(gpu), (low + 1).to(gpu)) == here


@pytest.mark.parametrize("settled_at_once", [0, 50])
def test_ranks_do_not_depend_on_tiles(cells_of_a_tile, settled_at_once, monkeypatch):
    monkeypatch.setattr("benchmark.evaluation.ranking._SETTLED_AT_ONCE", settled_at_once)
    generator = np.random.default_rng(2)
    task = random_task(generator, 12, 30, True, several=True)
    queries, gallery = unit(generator, 12).float(), unit(generator, 30).float()
    gallery[::4] = gallery[1].clone()
    check_everywhere(queries, gallery, task)
