"""Waits and copies are seen, and steps of training never make the host wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmark.methods.clip4cir import Clip4Cir, CombinerSettings
from benchmark.methods.spirit import Spirit, SpiritSettings
from host_waits import HostWaits, counted
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmark.distributed.process import this_process
from benchmark.method import Method
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch, GroupLayout
from benchmark.training.engine import StageEngine
from benchmark.training.optimisation import standard_optimiser, standard_schedule

WIDTH, ROWS = 16, 6
METHODS: dict[str, Callable[[], Method]] = {
    "spirit": lambda: Spirit(WIDTH, SpiritSettings(projection=8, hidden=8)),
    "clip4cir": lambda: Clip4Cir(WIDTH, CombinerSettings(projection=8, hidden=8)),
}


def batch(device: str = "cpu") -> Batch:
    def picture() -> dict[str, Tensor]:
        return {"global": torch.randn(ROWS, WIDTH, device=device), "patches": torch.randn(ROWS, 13, WIDTH, device=device)}

    return Batch(picture(), picture(), {"global": torch.randn(ROWS, WIDTH, device=device)})


class _Losses(torch.nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Batch) -> Tensor:
        queries = self.method.encode_query(views.reference, views.text)
        return self.method.loss(queries, self.method.encode_target(views.target))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.sum().item(),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: bool((t > 0).all()),
        lambda t: torch.unique(t),
    ],
    ids=["item", "nonzero", "mask", "bool", "unique"],
)
def test_what_makes_the_host_wait_is_seen(call: Callable[[Tensor], Any]) -> None:
    values = torch.randn(5)
    assert sum(counted(lambda: call(values)).waits.values()) >= 1


def test_copies_between_devices_are_seen() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        values = torch.randn(8)
        found = counted(lambda: values.to("cuda").cpu())
    assert dict(found.crossings) == {"cpu to cuda": 1, "cuda to cpu": 1}
    assert found.crossed_bytes == 64
    assert sum(found.waits.values()) == 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("precision", "clip"), [("fp32", 0.0), ("bf16", 1.0)])
def test_an_update_never_makes_the_host_wait(name: str, precision: str, clip: float) -> None:
    """Two accumulated groups, backward, optimiser and schedule, as the trainer calls them."""
    settings = TrainingSettings.model_validate(
        {"batch_size": 2 * ROWS, "negative_group": ROWS, "precision": precision, "weight_decay": 0.1, "gradient_clip": clip}
    )
    method = METHODS[name]()
    optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
    layout, schedule = GroupLayout.of(settings, 1), standard_schedule(settings, 10)
    engine = StageEngine(method, optimiser, schedule, settings, layout, this_process("cpu"))

    def update() -> None:
        for part in range(layout.groups_per_rank):
            engine.accumulate(batch(), part)
        engine.update()

    try:
        engine.training_mode()
        update()
        found = counted(update)
    finally:
        engine.close()
    assert found.calls["aten::mm"] and not found.waits


@pytest.mark.parametrize("name", METHODS)
def test_a_forward_pass_sends_nothing_between_host_and_gpu(name: str) -> None:
    """With weights and features that claim to be on a GPU; whatever needs a value raises there."""
    losses = _Losses(METHODS[name]()).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = {key: torch.empty(t.shape, dtype=t.dtype, device="cuda") for key, t in losses.state_dict().items()}
        there |= {key: torch.nn.Parameter(there[key]) for key, _ in losses.named_parameters()}
        views = batch("cuda")
        with HostWaits() as found:
            loss = torch.func.functional_call(losses, there, (views,))
    assert loss.device.type == "cuda"
    assert not found.crossings and not found.waits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_update_never_makes_the_host_wait(name: str) -> None:
    settings = TrainingSettings(batch_size=ROWS, precision="bf16")
    process = this_process("cuda")
    method = METHODS[name]().to(process.device)
    optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
    layout = GroupLayout.of(settings, 1)
    engine = StageEngine(method, optimiser, standard_schedule(settings, 10), settings, layout, process)
    views = batch("cuda")
    try:
        engine.training_mode()
        engine.accumulate(views, 0)
        engine.update()
        torch.cuda.set_sync_debug_mode("error")
        engine.accumulate(views, 0)
        engine.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        engine.close()
