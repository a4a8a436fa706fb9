"""CLIP4Cir's Combiner and the contrastive loss, against golden numbers and against their equations."""

from __future__ import annotations

import pytest
import torch
from benchmark.methods.layers import Combiner, contrastive_loss, normalise, with_zero_gradient
from golden_heads import (
    Batch,
    assert_gradient_norms,
    assert_ten_steps,
    golden,
    golden_batch,
    with_golden_weights,
)
from torch import Tensor, nn

FILE = golden("clip4cir_combiner.json")


def released(dropout: float = 0.5) -> Combiner:
    config = FILE["config"]
    network = Combiner(config["clip_dim"], config["projection_dim"], config["hidden_dim"], dropout)
    with_golden_weights(network)
    return network


def encode(network: Combiner, batch: Batch) -> tuple[Tensor, Tensor]:
    return network(batch["image"], batch["text"]), normalise(batch["target"])


def test_names_shapes_and_count() -> None:
    network = Combiner(640, 2560, 5120)
    expected = {entry["name"]: entry["shape"] for entry in FILE["state_dict"]}
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 59_003_521


def test_golden_evaluation() -> None:
    query, target = encode(released().eval(), golden_batch(FILE["config"]))
    first = torch.tensor(FILE["eval"]["query"]["first16"])
    assert (query[:, :16] - first).abs().max() <= 2e-5 * first.abs().max()
    torch.testing.assert_close(query.norm(dim=1), torch.tensor(FILE["eval"]["query"]["norms"]), rtol=2e-5, atol=0)
    logits = torch.tensor(FILE["eval"]["logits"])
    assert (100 * query @ target.T - logits).abs().max() <= 2e-5 * logits.abs().max()


def test_golden_loss_and_gradients() -> None:
    network = released(dropout=0.0).train()
    loss = contrastive_loss(*encode(network, golden_batch(FILE["config"])))
    loss.backward()
    assert loss.item() == pytest.approx(FILE["train_dropout_off"]["loss"], rel=2e-5)
    assert_gradient_norms(network, FILE["train_dropout_off"]["grad_norms"])


def test_ten_training_steps() -> None:
    recipe = golden("training.json")["recipes"]["clip4cir_combiner"]
    assert_ten_steps(released(dropout=0.0).train(), encode, recipe)


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
    assert torch.equal(same, tensor)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(3, 2))
