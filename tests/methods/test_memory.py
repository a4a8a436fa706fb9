"""Gradient cache and checkpointing give every method that reads pictures the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmark.methods.networks.clip_finetuning import ClipSum, FinetuningSettings
from test_artemis import artemis
from test_tirg import in_artemis, original
from test_val import build as val
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from toy_triplets import Toy, built

from benchmark.encoders.backbones import load_backbone
from benchmark.method import Method
from benchmark.training import memory
from benchmark.training.memory import CheckpointedBlocks, blocks_of, encode_in_micro_batches

TOLERANCE = 1e-6


def clip(**changed: Any) -> Method:
    return ClipSum(load_backbone("tiny", "random"), FinetuningSettings(learn_scale=True, **changed))


METHODS: dict[str, Callable[[], Method]] = {
    "clip": clip,
    "val": val,
    "tirg": lambda: original("tirg"),
    "tirg_lastconv": lambda: original("tirg_lastconv", loss="soft_triplet"),
    "concat in ARTEMIS's implementation": lambda: in_artemis("concat"),
    "artemis": artemis,
}


def without_chance(method: Method, norms: str) -> None:
    method.train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and norms == "eval":
            module.eval()


def gradients(method: Method, batch: Toy, rows: int, seed: int = 7) -> tuple[Tensor, dict[str, Tensor]]:
    for parameter in method.parameters():
        parameter.grad = None
    torch.manual_seed(seed)
    queries = encode_in_micro_batches(method.encode_query, rows, reference=batch.reference, text=batch.text)
    targets = encode_in_micro_batches(method.encode_target, rows, target=batch.target)
    loss = method.loss(queries, targets)
    torch.autograd.backward(loss)
    return loss.detach(), {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative to each tensor's largest entry, or to the whole gradient's where a tensor has none to speak of."""
    assert found.keys() == expected.keys()
    floor = 1e-3 * max(float(tensor.abs().max()) for tensor in expected.values())
    return max(
        float((found[name] - tensor).abs().max()) / max(float(tensor.abs().max()), floor)
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_of_any_size_have_the_gradient_of_the_whole(name: str) -> None:
    """In float64, where rounding hides nothing; micro-batches of seven, and of two, the least that methods take."""
    method, batch = built(METHODS[name])
    method.double()
    batch = Toy(*({k: v.double() if v.is_floating_point() else v for k, v in views.items()} for views in vars(batch).values()))
    without_chance(method, "eval")
    loss, expected = gradients(method, batch, 0)
    for rows in (1, 7):
        again, found = gradients(method, batch, rows)
        assert abs(float(again - loss)) < 1e-9
        assert largest_difference(found, expected) < TOLERANCE


def test_only_one_micro_batch_s_activations_are_kept() -> None:
    """Bytes that autograd holds when the loss stands, before the backward pass."""
    method, batch = built(clip)
    without_chance(method, "eval")

    def held(rows: int) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            encode_in_micro_batches(method.encode_target, rows, target=batch.target)
        return sum(kept.values())

    assert held(5) < held(0) / 10


def test_dropout_is_drawn_again_as_it_was() -> None:
    method, batch = built(lambda: original("tirg", dropout=0.5))
    method.train()
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    _, found = gradients(method, batch, 5)

    def kept(encode: Callable[..., Any], views: tuple[Any, ...]) -> Tensor:
        parts = [[{k: t[i : i + 5] for k, t in view.items()} for view in views] for i in range(0, 20, 5)]
        return torch.cat([encode(*part) for part in parts])

    for parameter in method.parameters():
        parameter.grad = None
    torch.manual_seed(7)
    queries = kept(method.encode_query, (batch.reference, batch.text))
    torch.autograd.backward(method.loss(queries, kept(method.encode_target, (batch.target,))))
    expected = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert largest_difference(found, expected) < 1e-5
    other = gradients(method, batch, 5, seed=8)[1]
    assert largest_difference(found, other) > 1e-2


def test_the_generator_of_the_device_is_put_back_where_the_pictures_wait_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps the generators of its arguments' devices: one must lie on the device, whatever the views do."""
    asked: list[Any] = []

    def recorded(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        asked.append([value for value in given if isinstance(value, Tensor)])
        return torch.zeros(5, 3)

    monkeypatch.setattr(memory, "checkpoint", recorded)
    views = {"pixels": torch.zeros(20, 2)}
    encode_in_micro_batches(lambda target: target["pixels"], 5, torch.device("meta"), target=views)
    assert len(asked) == 4 and all([tensor.device.type for tensor in tensors] == ["meta"] for tensors in asked)


def test_half_precision_sums_micro_batches_in_float32() -> None:
    """The mean of the micro-batches' gradients, each in bfloat16, is not itself rounded to bfloat16."""
    method, batch = built(clip)
    without_chance(method, "eval")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(method, batch, 5)[1]
    convolutions = [tensor for name, tensor in found.items() if "visual" in name and tensor.ndim == 4 and tensor.any()]
    assert convolutions and not any(torch.equal(tensor, tensor.bfloat16().float()) for tensor in convolutions)


@pytest.mark.parametrize("name", METHODS)
def test_checkpointed_blocks_change_neither_gradients_nor_running_statistics(name: str) -> None:
    """With batch norms in train mode; bit for bit."""
    plain, batch = built(METHODS[name])
    method, _ = built(METHODS[name])
    method.load_state_dict(plain.state_dict())
    without_chance(plain, "train")
    without_chance(method, "train")
    loss, expected = gradients(plain, batch, 0)
    checkpointed = CheckpointedBlocks(method)
    again, found = gradients(method, batch, 0)
    assert torch.equal(loss, again) and largest_difference(found, expected) == 0
    state, own = plain.state_dict(), method.state_dict()
    assert all(torch.equal(state[key], own[key]) for key in state)
    checkpointed.restore()
    assert not any("forward" in module.__dict__ for module in method.modules())


def test_blocks_are_bottlenecks_and_layers_of_transformers() -> None:
    found = {type(block).__name__ for block in blocks_of(clip())}
    assert {"Bottleneck", "ResidualAttentionBlock"} <= found
