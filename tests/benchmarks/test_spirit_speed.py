"""SPIRIT's step at width 640: its arithmetic and time beside the plain form's and bare matrix products.

Forward and backward of query, target and loss. The bare products are those of our own step, same
shapes and layouts, and nothing else; both do the same arithmetic, so that the ratio of the times is
that of the FLOP/s. Fewer triplets come off worse: the gradients of 110 million weights are new memory in
each step, whose page faults take 0.2 s whatever the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from benchmark.methods.networks.layers import contrastive_loss
from benchmark.methods.networks.spirit import SpiritNetwork
from comparing import Compared, at_least, at_most, compared, played_back
from plain_spirit import PlainSpirit
from torch import Tensor

from benchmark.throughput.limits import Products

WIDTH, ROWS, ROUNDS = 640, 128, 3
RELEASED_GROUP = 1024
CALLS = ("step", "plain step", "bare products")


def features(rows: int, device: str = "cpu") -> list[Tensor]:
    """I, T and P of the reference, I and P of the target."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shapes = [(WIDTH,), (WIDTH,), (13, WIDTH), (WIDTH,), (13, WIDTH)]
        return [torch.randn(rows, *shape, device=device) for shape in shapes]


def step(model: SpiritNetwork | PlainSpirit, parameters: Iterable[Tensor], inputs: list[Tensor]) -> Callable[[], None]:
    image, text, patches, target, target_patches = inputs
    trained = [p for p in parameters if p.requires_grad]

    def run() -> None:
        for parameter in trained:
            parameter.grad = None
        query = model.encode_query(image, text, patches)
        contrastive_loss(query, model.encode_target(target, target_patches)).backward()

    return run


def both(rows: int, device: str = "cpu") -> tuple[Callable[[], None], Callable[[], None]]:
    """Our step and the plain one, of the same weights."""
    with torch.device(device):
        network = SpiritNetwork(WIDTH).train()
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state[name].requires_grad_(parameter.requires_grad)
    inputs = features(rows, device)
    return step(network, network.parameters(), inputs), step(PlainSpirit(state, True, 0.5), state.values(), inputs)


@pytest.fixture(scope="module")
def rounds(one_thread: None) -> Compared:
    ours, plain = both(ROWS)
    products = Products.recorded(ours).replay()
    path = f"SPIRIT's step, width {WIDTH}, {ROWS} triplets"
    return compared(path, dict(zip(CALLS, (ours, plain, products), strict=True)), ROUNDS)


@played_back
@pytest.mark.parametrize("row", CALLS)
def test_step(benchmark, ratio, rounds: Compared, row: str) -> None:
    if row == "step":
        ratio(rounds, row, "plain step", at_most(0.86))
        ratio(rounds, row, "bare products", at_least(0.8), inverse=True)
    rounds.play(benchmark, row)


@pytest.mark.parametrize("rows", [ROWS, RELEASED_GROUP])
def test_arithmetic(benchmark, number, rows: int) -> None:
    """Counted without being computed."""
    ours, plain = both(rows, "meta")
    count, plain_count = benchmark.pedantic(lambda: [Products.recorded(call).flops for call in (ours, plain)], rounds=1)
    share = number(f"SPIRIT's step, width {WIDTH}, {rows:,} triplets", "FLOPs: step / plain step", count / plain_count, at_most(0.78))
    benchmark.extra_info["GFLOP"] = {"step": count / 1e9, "plain step": plain_count / 1e9}
    assert share <= 0.78
