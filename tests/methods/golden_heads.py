"""Reads the golden files of SPIRIT and CLIP4Cir's Combiner for this folder's tests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from benchmark.methods.layers import contrastive_loss
from torch import Tensor, nn

from benchmark.golden_rules import draw, head_weight

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Batch = dict[str, Tensor]
Encode = Callable[[Any, Batch], tuple[Tensor, Tensor]]


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name).read_text())
    return content


def with_golden_weights(network: nn.Module) -> nn.Module:
    """The network with every entry of its state dict drawn by the rule."""
    state = network.state_dict()
    dtypes = {name: tensor.dtype for name, tensor in state.items()}
    drawn = {name: torch.from_numpy(head_weight(name, tensor.shape)) for name, tensor in state.items()}
    network.load_state_dict({name: tensor.to(dtypes[name]) for name, tensor in drawn.items()})
    return network


def golden_batch(config: Mapping[str, Any], name: str = "input") -> Batch:
    """Features of one batch; the Combiner's golden numbers have no patches."""
    wide = (config["batch"], config["clip_dim"])
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("image", "text", "target"), wide)
    if "patches" in config:
        patches = (config["batch"], config["patches"], config["clip_dim"])
        shapes |= dict.fromkeys(("reference_patches", "target_patches"), patches)
    scale = config["input_scale"]
    return {key: scale * torch.from_numpy(draw("", f"{name}.{key}", shape)) for key, shape in shapes.items()}


def deviation(output: Tensor, expected: Mapping[str, Any]) -> float:
    """Largest deviation of the listed row norms and first entries, over the largest entry."""
    if "shape" in expected:
        assert list(output.shape) == expected["shape"]
    first = torch.tensor(expected["first16"])
    norms = torch.tensor(expected["norms"])
    entries = (output[:, :16] - first).abs().max() / first.abs().max()
    return max(float(entries), float(((output.norm(dim=-1) - norms) / norms).abs().max()))


def assert_gradient_norms(network: nn.Module, expected: Mapping[str, float]) -> None:
    """2e-5 relative, with a floor of 1e-8 for the gradients that are rounding noise."""
    found = gradient_norms(network)
    assert found.keys() >= expected.keys()
    wrong = {n: (found[n], e) for n, e in expected.items() if abs(found[n] - e) > 2e-5 * e + 1e-8}
    assert not wrong, wrong
    assert not any(found[name] for name in found.keys() - expected.keys())


def gradient_norms(network: nn.Module) -> dict[str, float]:
    """Per parameter; no gradient counts as one of zeros."""
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: 0.0 if grad is None else float(grad.norm()) for name, grad in gradients.items()}


def assert_ten_steps(network: nn.Module, encode: Encode, recipe: Mapping[str, Any]) -> None:
    """Ten steps of plain torch Adam as ``recipe`` of training.json, compared with its numbers."""
    config = recipe["config"]
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimiser = torch.optim.Adam(
        (parameter for parameter in network.parameters() if parameter.requires_grad),
        lr=config["lr"],
        betas=config["betas"],
        eps=config["eps"],
        weight_decay=config["weight_decay"],
        fused=True,
    )
    factor = 1.0 if config["schedule"] is None else None
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: factor or (1 + math.cos(math.pi * step / config["t_max"])) / 2
    )
    batches = [golden_batch(config, f"input.batch{number}") for number in (0, 1)]
    for step, (loss, rate) in enumerate(zip(recipe["loss"], recipe["learning_rate"], strict=True)):
        assert math.isclose(schedule.get_last_lr()[0], rate, rel_tol=1e-6)
        found = contrastive_loss(*encode(network, batches[step % 2]))
        assert abs(found.item() - loss) <= 1e-5 * loss + 5e-6, f"loss of step {step}"
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
        schedule.step()
    wrong = [
        problem
        for name, parameter in network.named_parameters()
        if name not in recipe["rounding_noise"]
        for problem in _moved_wrongly(name, before[name], parameter.detach(), recipe["parameters"][name])
    ]
    assert not wrong, wrong
    _assert_statistics(network, recipe)


def _moved_wrongly(name: str, before: Tensor, after: Tensor, expected: list[float]) -> list[str]:
    norm, total, change = expected
    found_change = float((after.double() - before.double()).norm())
    problems = []
    if abs(float(after.double().norm()) - norm) > 1e-6 * norm:
        problems.append(f"{name}: norm {after.norm()} for {norm}")
    if abs(found_change - change) > 3e-4 * change:
        problems.append(f"{name}: change {found_change} for {change}")
    if abs(float(after.double().sum()) - total) > 2e-2 * change + 1e-6 * norm:
        problems.append(f"{name}: sum {after.sum()} for {total}")
    return problems


def _assert_statistics(network: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Running means behind a bias that is rounding noise are compared to 1e-3 absolute."""
    buffers = dict(network.named_buffers())
    for name, expected in recipe.get("batch_norm_statistics", {}).items():
        noisy = bool(recipe["rounding_noise"]) and name.endswith("running_mean")
        tolerance = 1e-3 if noisy else 1e-5 * abs(expected) + 1e-6
        assert abs(float(buffers[name].double().norm()) - expected) <= tolerance, name
