"""Layers over the rows of three forked gloo ranks beside the plain layers on all rows: `group_layer_ranks.py FOLDER`.

Prints the largest differences by name, as JSON; 0 for what must be equal to the last bit and is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from benchmark.training.group_layers import GroupLayers

WORLD, ROWS = 3, 4


def rows(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(WORLD * ROWS, *shape, generator=generator) + shift


def batch_norm(make: Callable[[], nn.Module]) -> nn.Module:
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2))
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "1d": (lambda: nn.BatchNorm1d(5), rows(5)),
    "1d of positions": (lambda: nn.BatchNorm1d(5, momentum=0.3), rows(5, 7)),
    "2d": (lambda: nn.BatchNorm2d(5, eps=1e-3), rows(5, 3, 2)),
    "far from zero": (lambda: nn.BatchNorm1d(5), rows(5, scale=0.1, shift=1000.0)),
    "no affine": (lambda: nn.BatchNorm1d(5, affine=False), rows(5)),
    "timm's with activation": (lambda: BatchNormAct2d(5), rows(5, 3, 2)),
    "called twice": (lambda: nn.Sequential(norm := nn.BatchNorm1d(5), nn.Tanh(), norm), rows(5)),
}


def passed(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and running statistics of a loss that sees every entry otherwise."""
    x = x.clone().requires_grad_()
    output = layer(x)
    weights = torch.linspace(-1, 2, 5).reshape(1, 5, *[1] * (x.ndim - 2))
    (weights * output.sin() * (1 + x.detach())).sum().backward()
    assert x.grad is not None
    gradients = {f"gradient of {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    state = {name: tensor.clone() for name, tensor in layer.named_buffers()}
    return {"output": output.detach(), "gradient of x": x.grad, **gradients, **state}


def compare(rank: int) -> dict[str, float]:
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    found: dict[str, float] = {}
    for name, (make, x) in LAYERS.items():
        whole, shared = batch_norm(make).double(), batch_norm(make)
        names, kinds = list(shared.state_dict()), [type(module) for module in shared.modules()]
        layers = GroupLayers(shared, torch.distributed.group.WORLD)
        expected, given = passed(whole, x.double()), passed(shared, x[own])
        layers.close()
        assert list(shared.state_dict()) == names and [type(module) for module in shared.modules()] == kinds
        for key, tensor in given.items():
            if key.startswith("gradient of ") and key != "gradient of x":
                torch.distributed.all_reduce(tensor)
            of_these = expected[key][own] if key in ("output", "gradient of x") else expected[key]
            scale = float(expected[key].double().abs().max())
            found[f"{name}, {key}"] = float((tensor.double() - of_these.double()).abs().max()) / max(scale, 1e-30)
        alone = shared(x[own])
        found[f"{name}, closed"] = float((alone - make_plain(shared, make)(x[own])).abs().max())
    return found


def make_plain(shared: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    plain = make()
    plain.load_state_dict(shared.state_dict())
    return plain


def compare_dropout(rank: int) -> dict[str, float]:
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    x, layer = rows(5, 7), nn.Dropout(0.3)
    torch.manual_seed(5)
    whole, after = layer(x), torch.rand(1)
    layers = GroupLayers(layer, torch.distributed.group.WORLD)
    torch.manual_seed(5)
    part, then = layer(x[own]), torch.rand(1)
    layers.close()
    return {"dropout": float((whole[own] - part).abs().max()), "the next draw": float((after - then).abs().max())}


def compare_evaluation(rank: int) -> dict[str, float]:
    x, layer = rows(5)[: ROWS + rank], nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.3)).eval()
    expected = layer(x)
    GroupLayers(layer, torch.distributed.group.WORLD)
    return {"evaluation": float((layer(x) - expected).abs().max())}


def work(rank: int, folder: Path) -> None:
    store = torch.distributed.FileStore(str(folder / "store"), WORLD)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    found = {**compare(rank), **compare_dropout(rank), **compare_evaluation(rank)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    children = []
    for number in range(WORLD):
        child = os.fork()
        if child == 0:
            work(number, Path(sys.argv[1]))
            os._exit(0)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
