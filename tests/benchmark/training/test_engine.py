"""The engine's step against plain PyTorch: accumulation, batch norms, clipping, frozen weights, precision."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_training import Small, Vectors
from torch import Tensor

from benchmark.distributed.process import Process, this_process
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.settings import TrainingSettings
from benchmark.training import engine as engine_module
from benchmark.training.batches import GroupLayout
from benchmark.training.engine import StageEngine
from benchmark.training.execution import Execution, LossScale, LossScaling, deepspeed_configuration
from benchmark.training.optimisation import standard_optimiser, standard_schedule

SOURCE = Vectors(64)


def stepped(method: Method, settings: TrainingSettings, parts: Sequence[Sequence[int]], updates: int = 1) -> list[Tensor]:
    """Updates through the engine, each with these groups; the losses of the last update."""
    layout = GroupLayout.of(settings, 1)
    optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
    schedule = standard_schedule(settings, updates)
    engine = StageEngine(method, optimiser, schedule, settings, layout, this_process("cpu"))
    losses: list[Tensor] = []
    try:
        engine.training_mode()
        for _ in range(updates):
            losses = [engine.accumulate(SOURCE.batch(np.asarray(rows)), i) for i, rows in enumerate(parts)]
            engine.update()
    finally:
        engine.close()
    return losses


def plain(method: Method, settings: TrainingSettings, parts: Sequence[Sequence[int]], updates: int = 1) -> None:
    """The same by hand: the mean of the groups' own losses, one step of SGD."""
    trained = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    method.train()
    for _ in range(updates):
        losses = []
        for rows in parts:
            batch = SOURCE.batch(np.asarray(rows))
            losses.append(
                method.loss(method.encode_query(batch.reference, batch.text), method.encode_target(batch.target))
            )
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()


def largest_difference(a: Method, b: Method) -> float:
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for (_, p), (_, q) in pairs)


def sgd(**changed: object) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {"optimiser": "sgd", "learning_rate": 0.1, "batch_size": 16, "negative_group": 4, **changed}
    )


def test_groups_are_accumulated_each_with_its_own_negatives() -> None:
    parts = [range(i, i + 4) for i in range(0, 16, 4)]
    ours, reference = Small(), Small()
    stepped(ours, sgd(), parts, updates=3)
    plain(reference, sgd(), parts, updates=3)
    assert largest_difference(ours, reference) < 1e-6
    whole = Small()
    plain(whole, sgd(), [range(16)], updates=3)
    assert largest_difference(ours, whole) > 1e-3


def test_running_statistics_follow_the_first_group_only() -> None:
    parts = [range(i, i + 4) for i in range(0, 16, 4)]
    ours, first_only = Small(), Small()
    stepped(ours, sgd(), parts)
    first_only.train()
    batch = SOURCE.batch(np.arange(4))
    first_only.encode_query(batch.reference, batch.text)
    assert torch.equal(ours.norm.running_mean, first_only.norm.running_mean)
    assert torch.equal(ours.norm.running_var, first_only.norm.running_var)
    assert int(ours.norm.num_batches_tracked) == 1


def test_batch_norm_in_eval_mode_keeps_its_statistics_and_trains_its_scale() -> None:
    method = Small()
    with torch.no_grad():
        method.norm.running_mean.fill_(0.25)
    before = copy.deepcopy(method.state_dict())
    stepped(method, sgd(batch_norm="eval", negative_group=0), [range(16)])
    after = method.state_dict()
    assert torch.equal(after["norm.running_mean"], before["norm.running_mean"])
    assert int(after["norm.num_batches_tracked"]) == 0
    assert not torch.equal(after["norm.weight"], before["norm.weight"])


def test_a_large_gradient_is_not_clipped_unless_asked_for() -> None:
    settings = sgd(negative_group=0, learning_rate=1e-4)
    large = Vectors(64, scale=100.0)
    method, reference, clipped = Small(norm=False), Small(norm=False), Small(norm=False)
    global SOURCE
    kept, SOURCE = SOURCE, large
    try:
        stepped(method, settings, [range(16)])
        plain(reference, settings, [range(16)])
        stepped(clipped, sgd(negative_group=0, learning_rate=1e-4, gradient_clip=1.0), [range(16)])
    finally:
        SOURCE = kept
    assert largest_difference(method, reference) < 1e-6 * 100
    assert largest_difference(method, Small(norm=False)) > 1e-2
    assert largest_difference(clipped, Small(norm=False)) <= 1.01e-4


def test_frozen_weights_never_decay() -> None:
    method = Small()
    stepped(method, sgd(negative_group=0, weight_decay=0.5), [range(16)], updates=2)
    assert torch.equal(method.frozen, torch.ones(3))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_and_keeps_the_weights_in_float32(precision: str) -> None:
    method = Small()
    losses = stepped(method, sgd(precision=precision, negative_group=0), [range(16)], updates=2)
    assert torch.isfinite(torch.stack(losses)).all()
    assert all(p.dtype == torch.float32 for p in method.parameters())
    assert largest_difference(method, Small()) > 1e-4
    exact = Small()
    stepped(exact, sgd(negative_group=0), [range(16)], updates=2)
    # Loss scaling starts too high on purpose: an update whose scaled gradient overflows is left out.
    assert 0 < largest_difference(method, exact) < (0.05 if precision == "bf16" else 0.2)


def test_configuration_says_what_deepspeed_would_decide_otherwise() -> None:
    settings = sgd()
    configuration = deepspeed_configuration(settings, GroupLayout.of(settings, 2), 2)
    assert configuration["gradient_clipping"] == 0.0
    assert "optimizer" not in configuration
    assert (
        configuration["train_batch_size"]
        == configuration["train_micro_batch_size_per_gpu"] * configuration["gradient_accumulation_steps"] * 2
    )


def test_dict_encodings_and_a_score_of_ones_own_pass_through() -> None:
    class Pair(Small):
        def encode_query(self, reference, text):  # type: ignore[no-untyped-def, override]
            return {"a": super().encode_query(reference, text), "b": text["global"]}

        def encode_target(self, target):  # type: ignore[no-untyped-def, override]
            return {"c": target["global"]}

        def loss(self, queries, targets):  # type: ignore[no-untyped-def, override]
            return super().loss(queries["a"] + queries["b"], targets["c"])

    ours, reference = Pair(), Pair()
    stepped(ours, sgd(negative_group=0), [range(16)])
    plain(reference, sgd(negative_group=0), [range(16)])
    assert largest_difference(ours, reference) < 1e-6


def engine_of(method: Method, settings: TrainingSettings, execution: Execution) -> StageEngine:
    optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
    layout, schedule = GroupLayout.of(settings, 1), standard_schedule(settings, 1)
    return StageEngine(method, optimiser, schedule, settings, layout, this_process("cpu"), execution)


def test_micro_batches_are_refused_where_batch_norms_see_the_group() -> None:
    for settings, execution, refused in (
        (sgd(), Execution(micro_batch=2), True),
        (sgd(), Execution(micro_batch=4), False),
        (sgd(batch_norm="eval"), Execution(micro_batch=2), False),
        (sgd(), Execution(gradient_checkpointing=True), False),
    ):
        engine = engine_of(Small(), settings, execution)
        try:
            if not refused:
                engine.training_mode()
                continue
            with pytest.raises(UserError, match=r"trainer.micro_batch is 2, but batch norms train \(norm\) on the 4 rows") as error:
                engine.training_mode()
            assert len(str(error.value).splitlines()) == 1
        finally:
            engine.close()


def test_an_overflow_skips_the_update_and_lowers_the_scale() -> None:
    """A scale at which every gradient overflows is halved until one does not."""
    method, settings = Small(norm=False), sgd(precision="fp16", negative_group=0)
    engine = engine_of(method, settings, Execution(loss_scaling=LossScaling(initial=2.0**40)))
    try:
        engine.training_mode()
        scales, moved = [], []
        for _ in range(40):
            before = method.layer.weight.detach().clone()
            engine.accumulate(SOURCE.batch(np.arange(16)), 0)
            engine.update()
            assert engine.loss_scale is not None
            scales.append(engine.loss_scale.value)
            moved.append(not torch.equal(before, method.layer.weight))
    finally:
        engine.close()
    first = moved.index(True)
    assert first > 10 and all(moved[first:])
    assert scales[:first] == [2.0 ** (39 - i) for i in range(first)] and len(set(scales[first - 1 :])) == 1
    assert torch.isfinite(method.layer.weight).all()


def test_the_scale_bears_as_many_overflows_and_rises_after_a_window() -> None:
    scale = LossScale(LossScaling(initial=16, window=2, hysteresis=2, smallest=4))
    values = []
    for overflowed in (False, False, True, True, True, True, False, False):
        scale.count(overflowed)
        values.append(scale.value)
    assert values == [16, 32, 32, 16, 8, 4, 4, 8]
    other = LossScale(LossScaling())
    other.load_state(scale.state())
    assert other.state() == scale.state()
    fixed = LossScale(LossScaling(initial=8, dynamic=False))
    fixed.count(True)
    assert fixed.value == 8


def test_the_scale_follows_the_rule_of_torch_s_grad_scaler() -> None:
    ours, weight = LossScale(LossScaling(initial=256, window=3)), torch.nn.Parameter(torch.ones(1))
    torch_s, optimiser = torch.amp.GradScaler("cpu", init_scale=256, growth_interval=3), torch.optim.SGD([weight])
    for overflowed in np.random.default_rng(0).random(60) < 0.2:
        torch_s.scale(weight.sum()).backward()
        assert weight.grad is not None
        weight.grad.fill_(float("inf") if overflowed else 1.0)
        torch_s.step(optimiser)
        torch_s.update()
        ours.count(bool(overflowed))
        assert ours.value == torch_s.get_scale() > ours._scaling.smallest


def test_what_deepspeed_refuses_is_told_in_one_line() -> None:
    """Scaling before the sum does not go with ZeRO 2's scattered reduction."""
    passed = {"prescale_gradients": True, "zero_optimization": {"reduce_scatter": True}}
    with pytest.raises(UserError, match="DeepSpeed refuses the configuration: .*; change --deepspeed-config") as error:
        engine_of(Small(), sgd(), Execution(zero=2, deepspeed=passed))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("device", "number"), [("cuda:1", 1), ("cuda:0", 0), ("cpu", 0)])
def test_deepspeed_takes_the_device_of_this_process(monkeypatch: pytest.MonkeyPatch, device: str, number: int) -> None:
    """Not the one of LOCAL_RANK's number: `--device cuda:1` alone has 0, a rank that srun shows one GPU may have 3."""
    given: list[Any] = []

    class Asked(Exception):
        pass

    def initialize(**arguments: Any) -> None:
        given.append(arguments["args"].device_rank)
        raise Asked

    monkeypatch.setattr(engine_module, "start_process_group", lambda process: None)
    monkeypatch.setattr(engine_module, "quiet_deepspeed", lambda verbose: SimpleNamespace(initialize=initialize))
    settings = TrainingSettings(batch_size=4)
    method = Small()
    optimiser = standard_optimiser([{"params": [method.layer.weight]}], settings)
    process = Process(rank=0, world_size=1, local_rank=3, device=torch.device(device))
    with pytest.raises(Asked):
        StageEngine(method, optimiser, standard_schedule(settings, 1), settings, GroupLayout.of(settings, 1), process)
    assert given == [number]
