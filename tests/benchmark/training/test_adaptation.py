"""What a stage moves by its settings: frozen parts, rates by name, low-rank changes that are merged in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_training import WIDTH, Vectors, small_job
from torch import Tensor, nn

from benchmark.backbone import Backbone
from benchmark.errors import UserError
from benchmark.method import Method, Views, all_parameters
from benchmark.settings import TrainingSettings
from benchmark.training.adaptation import adapt, merge, with_rates
from benchmark.training.job import Trained
from benchmark.training.trainer import train


class Attending(Backbone):
    """One attention layer and one linear layer on a vector of WIDTH numbers, and on itself backwards as a second row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def encode_image(self, pixels: Tensor) -> Tensor:
        rows = torch.stack([pixels, pixels.flip(1)][: self._rows], dim=1)
        return self.mlp(self.attn(rows, rows, rows, need_weights=False)[0])[:, 0]


class OnAttending(Method):
    """A head on a backbone that the stage trains."""

    def __init__(self, rows: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone, self.head = Attending(rows), nn.Linear(WIDTH, WIDTH)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        mixed: Tensor = self.head(self.backbone.encode_image(reference["global"] + text["global"]))
        return mixed

    def encode_target(self, target: Views) -> Tensor:
        return self.backbone.encode_image(target["global"])

    def loss(self, queries: Any, targets: Any) -> Tensor:
        return F.cross_entropy(queries.float() @ targets.float().T, torch.arange(len(queries)))


def settings(**given: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"epochs": 2, "batch_size": 4, "learning_rate": 0.05, **given})


def moved(method: Method, before: dict[str, Tensor], state: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}


def trained_with(method: Method, folder: Path, **given: Any) -> Trained:
    return train(small_job(folder, settings(**given), Vectors(8), method=method), resume=False)


def clones(method: Method) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}


def test_frozen_parts_do_not_move(tmp_path: Path) -> None:
    method = OnAttending()
    before = clones(method)
    trained = trained_with(method, tmp_path, frozen=("backbone.attn.", "head.bias"))
    found = moved(method, before, trained.last)
    assert found == {"backbone.mlp.weight", "backbone.mlp.bias", "head.weight"}


def test_low_rank_changes_train_and_are_merged(tmp_path: Path) -> None:
    method = OnAttending()
    before = clones(method)
    trained = trained_with(method, tmp_path, lora=2, lora_alpha=4.0)
    assert trained.last.keys() == before.keys() == method.state_dict().keys()
    found = moved(method, before, trained.last)
    assert found == {"backbone.attn.in_proj_weight", "backbone.attn.out_proj.weight", "head.weight", "head.bias"}
    for name in ("backbone.attn.in_proj_weight", "backbone.attn.out_proj.weight"):
        assert torch.linalg.matrix_rank(trained.last[name] - before[name], atol=1e-5) <= 2


def test_merged_weights_compute_what_the_changes_did() -> None:
    method, views = OnAttending().eval(), {"global": torch.randn(3, WIDTH)}
    as_built = method.encode_target(views)
    adapt(method, settings(lora=2), "head", seed=3)
    assert torch.equal(method.encode_target(views), as_built), "B starts at zero"
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    changed = method.encode_target(views)
    (state,) = merge(method, [clones(method)])
    fresh = OnAttending().eval()
    fresh.load_state_dict(state)
    assert not torch.allclose(changed, as_built)
    for merged in (method, fresh):
        assert torch.allclose(merged.encode_target(views), changed, atol=1e-6)


def test_the_longest_name_gives_the_rate() -> None:
    method = OnAttending()
    rates = {"backbone.": 1e-6, "backbone.mlp.": 1e-4}
    groups = with_rates(all_parameters(method, settings()), method, rates)
    names = {parameter: name for name, parameter in method.named_parameters()}
    found = {names[p]: group.get("lr") for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    for name, rate in found.items():
        expected = 1e-4 if ".mlp." in name else 1e-6 if name.startswith("backbone.") else None
        assert rate == expected, name


def test_rates_take_part_in_training(tmp_path: Path) -> None:
    steps = {}
    for rates in ({}, {"head.": 5e-4}):
        method = OnAttending()
        before = clones(method)
        trained = trained_with(method, tmp_path / str(len(rates)), epochs=1, rates=rates)
        steps[len(rates)] = float((trained.last["head.weight"] - before["head.weight"]).abs().max())
    assert steps[1] < steps[0] / 20


@pytest.mark.parametrize("given", [{"frozen": ("bckbone.",)}, {"rates": {"bckbone.": 1e-3}}])
def test_a_name_that_no_parameter_has_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"part of stage small 'bckbone\.': did you mean backbone"):
        adapt(OnAttending(), settings(**given), "small", 0)


def test_low_rank_changes_need_an_attention_that_trains() -> None:
    method = OnAttending()
    method.backbone.requires_grad_(False)
    with pytest.raises(UserError, match="lora: the stage trains no attention"):
        adapt(method, settings(lora=2), "small", 0)


def test_settings_that_are_not_used_leave_the_identity_as_it_was() -> None:
    assert not {"rates", "frozen", "lora", "cycle_start"} & set(TrainingSettings().model_dump(mode="json"))
    used = settings(lora=4, rates={"a.": 1.0}).model_dump(mode="json")
    assert used["lora"] == 4 and TrainingSettings.model_validate(used).rates == {"a.": 1.0}
