"""Twenty triplets of drawn pixels and one-word texts, for methods that train their own networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from benchmark.method import Method, Views

TEXTS = tuple(
    f"{colour} {garment}"
    for colour in ("red", "blue", "green", "black", "white")
    for garment in ("dress with sleeves", "shirt", "shorter skirt", "coat")
)


@dataclass(frozen=True)
class Toy:
    """Views of a batch; row i of the targets is the answer to query i."""

    reference: Views
    text: Views
    target: Views

    def rows(self, method: Method, index: list[int]) -> Toy:
        """Some rows, their texts tokenised without the others."""
        return Toy(
            {view: tensor[index] for view, tensor in self.reference.items()},
            method.tokenize([TEXTS[i] for i in index]),
            {view: tensor[index] for view, tensor in self.target.items()},
        )


def toy(method: Method, rows: int = 20, side: int = 64) -> Toy:
    """The method learns the texts' words; pictures are blotches of colour."""
    method.build_extra_state(TEXTS)

    def pictures(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        blotches = torch.randn(rows, 3, 4, 4, generator=generator)
        return torch.nn.functional.interpolate(blotches, size=(side, side))

    return Toy({"pixels": pictures(1)}, method.tokenize(TEXTS[:rows]), {"pixels": pictures(2)})


def built(build: Callable[[], Method], seed: int = 0) -> tuple[Method, Toy]:
    """A method and its triplets, its random start fixed."""
    torch.manual_seed(seed)
    method = build()
    return method, toy(method)


def updates(method: Method, batch: Toy, rate: float = 1e-3) -> Iterator[float]:
    """The loss of one update after the other with Adam on one batch; leaves the method in eval mode after each."""
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=rate)
    while True:
        method.train()
        loss = method.loss(method.encode_query(batch.reference, batch.text), method.encode_target(batch.target))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        method.eval()
        yield loss.item()


def losses(method: Method, batch: Toy, count: int) -> list[float]:
    """Of some updates on one batch."""
    return list(islice(updates(method, batch), count))


def learnt_by_heart(method: Method, batch: Toy, most: int) -> bool:
    """Whether every query finds its own target after so many updates at most."""
    return any(right(method, batch) == len(batch.target["pixels"]) for _ in islice(updates(method, batch), 4, most, 5))


@torch.no_grad()
def scores(method: Method, batch: Toy) -> Tensor:
    """(B, B) in eval mode."""
    return method.score(method.encode_query(batch.reference, batch.text), method.encode_target(batch.target))


def right(method: Method, batch: Toy) -> int:
    """Queries whose own target scores highest."""
    found = scores(method, batch)
    return int((found.argmax(dim=1) == torch.arange(len(found))).sum())


def without_gradient(method: Method, batch: Toy) -> set[str]:
    """Names of the parameters that the loss gives no gradient, or one of exactly zero.

    After one update: timm starts the last batch norm of each residual branch at a gain of zero.
    """
    losses(method, batch, 1)
    method.zero_grad()
    method.train()
    loss = method.loss(method.encode_query(batch.reference, batch.text), method.encode_target(batch.target))
    torch.autograd.backward(loss)
    return {name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()}
