"""Schedules by hand, the moving average, and what a parameter group overrides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmark.settings import TrainingSettings
from benchmark.training.optimisation import MovingAverage, standard_momentum, standard_optimiser, standard_schedule


def factors(updates: list[int], per_epoch: int = 10, **settings: Any) -> list[float]:
    factor = standard_schedule(TrainingSettings.model_validate(settings), per_epoch)
    return [factor(n) for n in updates]


def test_cosine_ends_at_zero_after_its_warm_up() -> None:
    found = factors([0, 1, 2, 11, 20], epochs=2, schedule="cosine", warmup=0.1)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])


def test_cosine_rising_is_never_clamped() -> None:
    found = factors([0, 25, 50, 100, 75], epochs=30, schedule="cosine-rising", schedule_epochs=5)
    assert found == pytest.approx([1.0, 0.5, 0.0, 1.0, 0.5])
    assert factors([7], epochs=300, schedule="cosine-rising", schedule_epochs=100) == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * 7 / 1000))]
    )


def test_step_multiplies_at_the_start_of_an_epoch() -> None:
    found = factors([0, 39, 40, 79, 80], epochs=8, schedule="step", schedule_epochs=4, schedule_factor=0.5)
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25]


ONE_CYCLES = {
    # SPRC's FashionIQ and CIRR recipes: settings, updates per epoch, then update: (rate, β₁) as published with them.
    "fashioniq": (
        {"epochs": 30, "learning_rate": 2e-5, "warmup": 0.05, "cycle_start": 100.0},
        140,
        {0: (2e-07, 0.95), 100: (9.43085527e-06, 0.903379519), 209: (2e-05, 0.85), 4199: (2e-11, 0.95)},
    ),
    "cirr": (
        {"epochs": 50, "schedule_epochs": 80, "learning_rate": 1e-5, "warmup": 0.02},
        220,
        {1: (4.00192262e-07, 0.949997997), 352: (9.99999992e-06, 0.850000001), 10999: (3.19821561e-06, 0.918018116)},
    ),
}


def test_milestones_are_epochs_before_which_the_rate_falls_and_the_last_one_ends_it() -> None:
    found = factors([0, 39, 40, 89, 90, 990], epochs=100, schedule="step", milestones=(5, 10))
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    for wrong in ({"milestones": (5, 5)}, {"milestones": (1,)}, {"milestones": (2,), "schedule_epochs": 3}):
        with pytest.raises(ValueError, match="milestones"):
            TrainingSettings.model_validate(wrong)


@pytest.mark.parametrize("recipe", ONE_CYCLES)
def test_one_cycle_is_the_released_recipes_and_torchs(recipe: str) -> None:
    given, per_epoch, golden = ONE_CYCLES[recipe]
    settings = TrainingSettings.model_validate({"optimiser": "adamw", "schedule": "one-cycle", **given})
    factor, momentum = standard_schedule(settings, per_epoch), standard_momentum(settings, per_epoch)
    assert momentum is not None
    for update, (rate, beta) in golden.items():
        assert settings.learning_rate * factor(update) == pytest.approx(rate, rel=1e-8)
        assert momentum(update) == pytest.approx(beta, rel=1e-8)
    optimiser = standard_optimiser([{"params": [nn.Parameter(torch.ones(1))]}], settings)
    total = (settings.schedule_epochs or settings.epochs) * per_epoch
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total, pct_start=settings.warmup, div_factor=settings.cycle_start
    )
    optimiser.step()
    for update in range(500):
        group = optimiser.param_groups[0]
        assert settings.learning_rate * factor(update) == pytest.approx(group["lr"], rel=1e-9)
        assert momentum(update) == pytest.approx(group["betas"][0], rel=1e-12)
        torchs.step()


def test_only_one_cycle_moves_the_momentum() -> None:
    assert standard_momentum(TrainingSettings(schedule="cosine"), 5) is None


def test_constant() -> None:
    assert factors([0, 5, 99], epochs=10) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_a_groups_own_keys_win(name: str, kind: str) -> None:
    layer = nn.Linear(2, 2)
    settings = TrainingSettings.model_validate(
        {"optimiser": name, "learning_rate": 0.1, "weight_decay": 0.2, "momentum": 0.3, "eps": 1e-7, "betas": (0.8, 0.9)}
    )
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0, "lr": 0.05}]
    optimiser = standard_optimiser(groups, settings)
    assert type(optimiser).__name__ == kind
    first, second = optimiser.param_groups
    assert (first["lr"], first["weight_decay"], second["lr"], second["weight_decay"]) == (0.1, 0.2, 0.05, 0.0)
    if name == "sgd":
        assert first["momentum"] == 0.3
    else:
        assert (first["betas"], first["eps"]) == ((0.8, 0.9), 1e-7)


def test_the_moving_average_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    layer.register_parameter("frozen", frozen)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average = MovingAverage(layer, 0.75)
    for value in (3.0, 5.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update(layer)
    # 1 -> 0.75·1 + 0.25·3 = 1.5 -> 0.75·1.5 + 0.25·5 = 2.375
    assert list(average.shadow) == ["weight"]
    with average.in_place_of_weights(layer):
        assert layer.weight.item() == pytest.approx(2.375)
    assert layer.weight.item() == 5.0
    with pytest.raises(RuntimeError), average.in_place_of_weights(layer):
        raise RuntimeError
    assert layer.weight.item() == 5.0


def test_the_moving_average_is_that_of_torch_and_of_plain_lerp_to_the_bit() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(37, 19), nn.Linear(19, 3))
    average = MovingAverage(layer, 0.9)
    model = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    plain = {name: p.detach().clone() for name, p in layer.named_parameters()}
    for _ in range(7):
        average.update(layer)
        model.update_parameters(layer)
        for name, parameter in layer.named_parameters():
            plain[name].lerp_(parameter.detach(), 1 - 0.9)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
    found = dict(model.module.named_parameters())
    assert all(torch.equal(average.shadow[name], kept) and torch.equal(found[name], kept) for name, kept in plain.items())
