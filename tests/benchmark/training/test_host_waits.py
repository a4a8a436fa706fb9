"""Waits and copies are seen, and steps of training never make the host wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmark.methods.clip4cir import Clip4Cir, CombinerSettings
from benchmark.methods.spirit import Spirit, SpiritSettings
from fake_gpu import fake_gpu, on_gpu
from host_waits import counted
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


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.sum().item(),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: bool((t > 0).all()),
        lambda t: torch.unique(t),
        lambda t: t.clone().__setitem__(t > 0, 1.0),
    ],
    ids=["item", "nonzero", "mask", "bool", "unique", "write by mask"],
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
    with fake_gpu():
        there = torch.zeros(8, device="cuda")
        found = counted(lambda: there[torch.arange(3)])
    assert dict(found.crossings) == {"cpu to cuda": 1} and found.crossed_bytes == 24


class _Faulty(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.constant = torch.ones(3)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda m: m.weight + m.constant, "same device|different devices"),
        (lambda m: m.weight + torch.arange(3), "same device|different devices"),
        (lambda m: m.weight.sum().item(), "_local_scalar_dense"),
        (lambda m: m.weight[m.weight > 0], "nonzero|index"),
        (lambda m: m.weight + torch.rand(3, generator=torch.Generator(), device="cuda"), "generator"),
    ],
    ids=["a constant", "a tensor made on the way", "item", "mask", "a generator of the host"],
)
def test_what_a_gpu_refuses_or_waits_for_is_refused_by_a_fake_one(fault: Callable[[Any], Any], told: str) -> None:
    module = on_gpu(_Faulty())
    assert (module.weight.device.type, module.constant.device.type) == ("cuda", "cpu")
    with fake_gpu(), pytest.raises(Exception, match=f"(?i){told}"):
        fault(module)
    with fake_gpu(half=True):
        assert torch.nn.functional.linear(module.weight, module.weight[None]).dtype == torch.bfloat16
        assert float(torch.arange(3).sum()) == 3


@pytest.mark.parametrize("name", METHODS)
def test_an_update_never_makes_the_host_wait(name: str) -> None:
    """Two accumulated groups, backward, clipping, optimiser and schedule, as the trainer calls them.

    `test_every_method.py` does the same with every method.
    """
    changed = {"precision": "bf16", "weight_decay": 0.1, "gradient_clip": 1.0}
    settings = TrainingSettings.model_validate({"batch_size": 2 * ROWS, "negative_group": ROWS, **changed})
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
    assert not found.calls["aten::lift_fresh"], "a number made a tensor: on a GPU it is sent there"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_update_never_makes_the_host_wait(name: str) -> None:
    settings = TrainingSettings(batch_size=ROWS, precision="bf16", gradient_clip=1.0)
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
