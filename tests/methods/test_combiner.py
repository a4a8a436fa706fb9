"""CLIP4Cir's Combiner and the contrastive loss against their equations; `parity` has the golden numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmark.methods.networks.layers import Combiner, cast_once, contrastive_loss, normalise, with_zero_gradient
from host_waits import HostWaits
from torch import nn

FILE = json.loads((Path(__file__).parents[1] / "golden" / "clip4cir_combiner.json").read_text())


def test_names_shapes_and_count() -> None:
    network = Combiner(640, 2560, 5120)
    expected = {entry["name"]: entry["shape"] for entry in FILE["state_dict"]}
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 59_003_521


@pytest.mark.parametrize("width", [1, 48, 130])
def test_any_width_and_a_batch_of_one(width: int) -> None:
    torch.manual_seed(0)
    network = Combiner(width, 4 * width, 8 * width).eval()
    image, text = torch.randn(5, width), torch.randn(5, width)
    together = network(image, text)
    alone = torch.cat([network(image[row : row + 1], text[row : row + 1]) for row in range(5)])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(together, alone)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network = Combiner(8, 32, 64)
    image, text = torch.randn(4, 8), torch.randn(4, 8)
    assert not torch.equal(network(image, text), network(image, text))
    network.eval()
    assert torch.equal(network(image, text), network(image, text))


def test_the_loss_is_minus_the_log_share_of_the_right_target() -> None:
    torch.manual_seed(0)
    queries, targets = (normalise(torch.randn(6, 5, dtype=torch.float64)) for _ in range(2))
    shares = [
        torch.exp(7 * queries[row] @ targets[row]) / torch.exp(7 * targets @ queries[row]).sum() for row in range(6)
    ]
    expected = -torch.stack(shares).log().mean()
    torch.testing.assert_close(contrastive_loss(queries, targets, scale=7), expected)


def test_a_row_of_zeros_has_a_norm_to_divide_by() -> None:
    zeros = torch.zeros(2, 3, requires_grad=True)
    normalised = normalise(zeros)
    normalised.sum().backward()
    assert torch.equal(normalised, torch.zeros(2, 3))
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()


def test_zero_gradient_reads_no_weight() -> None:
    weight = nn.Parameter(torch.full((3, 2), float("inf")))
    tensor = torch.randn(4, requires_grad=True)
    same = with_zero_gradient(tensor, [weight])
    same.sum().backward()
    assert torch.equal(same, tensor) and same.data_ptr() == tensor.data_ptr(), "unchanged, and no copy"
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(3, 2))


def test_what_several_products_read_is_cast_once_under_autocast_alone() -> None:
    tensor, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4)
    assert cast_once(tensor) is tensor
    with torch.autocast("cpu", dtype=torch.bfloat16), HostWaits() as seen:
        cast = cast_once(tensor)
        products = [cast @ weight, cast @ weight]
    assert cast.dtype == torch.bfloat16 and all(torch.equal(p, tensor.bfloat16() @ weight.bfloat16()) for p in products)
    assert seen.calls["aten::_to_copy"] == 3, "the tensor once, the weight (no parameter) for each product"
