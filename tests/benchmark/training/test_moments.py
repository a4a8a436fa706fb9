"""An optimiser's moments by name: where they are put, and what has no place in a group of ZeRO's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.training.optimisation import give_moments, groups_by_count, moments_of


def moments(network: nn.Module, **counts: float) -> dict[str, dict[str, torch.Tensor]]:
    """Made-up moments of the parameters named, after so many updates."""
    parameters = dict(network.named_parameters())
    return {
        name: {"step": torch.tensor(count), "exp_avg": torch.ones_like(parameters[name]), "exp_avg_sq": torch.ones_like(parameters[name])}
        for name, count in counts.items()
    }  # fmt: skip


@pytest.mark.parametrize("fused", [False, True])
def test_counts_lie_where_the_optimiser_s_kernels_read_them(fused: bool) -> None:
    """On the device for a fused one, else on the host; "meta" stands for a GPU."""
    network = nn.Linear(3, 2)
    kept = moments(network, weight=4.0)
    network.to("meta")
    optimiser = torch.optim.Adam(network.parameters())
    optimiser.param_groups[0]["fused"] = fused
    give_moments(optimiser, network, kept)
    state = optimiser.state[network.weight]
    assert state["exp_avg"].device.type == "meta"
    assert state["step"].device.type == ("meta" if fused else "cpu")
    assert network.bias not in optimiser.state


def test_given_moments_come_back_as_copies() -> None:
    network = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    kept = moments(network, weight=4.0, bias=4.0)
    give_moments(optimiser, network, kept)
    network.weight.grad, network.bias.grad = torch.ones(2, 3), torch.ones(2)
    optimiser.step()
    assert float(kept["weight"]["step"]) == 4 and torch.equal(kept["weight"]["exp_avg"], torch.ones(2, 3))
    back = moments_of(optimiser, network)
    assert float(back["weight"]["step"]) == 5 and back["weight"]["exp_avg"].shape == (2, 3)
    assert moments_of(optimiser, network, keep=False) == {}


def test_groups_are_cut_where_counts_differ_and_keep_their_options() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    kept = moments(network, **{"0.weight": 4.0, "0.bias": 4.0, "1.weight": 7.0})
    cut = groups_by_count([{"params": list(network.parameters()), "lr": 0.5}], network, kept)
    assert [len(group["params"]) for group in cut] == [2, 1, 1]
    assert all(group["lr"] == 0.5 for group in cut)
    assert groups_by_count([{"params": list(network.parameters())}], network, {})[0]["params"] == list(network.parameters())
