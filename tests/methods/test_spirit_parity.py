"""`parity` on small SPIRIT files of another prefix, computed by the plain form: errors are found."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.methods.networks.spirit import UNUSED_PARAMETERS, SpiritNetwork, VisualTextualFusion
from plain_spirit import PlainSpirit
from torch import Tensor, nn
from torch.nn import functional

from benchmark.parity.comparison import Deviation
from benchmark.parity.report import check
from benchmark.registry import discover
from benchmark.training import engine
from benchmark.training.batches import Batch

PREFIX, WIDTH, PATCHES, BATCH, SCALE = "other.", 16, 5, 6, 0.7
SIZES = {"clip_dim": WIDTH, "projection_dim": 24, "hidden_dim": 40, "patches": PATCHES}
CONFIG = {**SIZES, "batch": BATCH, "input_scale": SCALE}
STEPS, RATE, DECAY, PERIOD = 4, 1e-3, 5e-4, 20


def g(name: str, *shape: int) -> Tensor:
    rng = np.random.default_rng(zlib.crc32((PREFIX + name).encode()))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    drawn = g(name, *shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * drawn.abs()
    if len(shape) >= 2 and not name.endswith("positional_embedding"):
        return drawn / shape[-1] ** 0.5
    return 1 + 0.1 * drawn if name.endswith(".weight") else 0.1 * drawn


def weights() -> dict[str, Tensor]:
    network = SpiritNetwork(WIDTH, PATCHES, 24, 40)
    drawn = {name: weight(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
    parameters = {name for name, _ in network.named_parameters()}
    return {name: tensor.requires_grad_(name in parameters) for name, tensor in drawn.items()}


def encode(spirit: PlainSpirit, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Query, target and the target's patches."""
    image, text, target = (SCALE * g(f"{name}.{part}", BATCH, WIDTH) for part in ("image", "text", "target"))
    reference, patches = (
        SCALE * g(f"{name}.{part}_patches", BATCH, PATCHES, WIDTH) for part in ("reference", "target")
    )
    return spirit.encode_query(image, text, reference), spirit.encode_target(target, patches), patches


def loss_of(query: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(100 * query @ target.T, torch.arange(BATCH))


def listed(output: Tensor) -> dict[str, Any]:
    return {"shape": list(output.shape), "norms": output.norm(dim=1).tolist(), "first16": output[:, :16].tolist()}


def head_file() -> dict[str, Any]:
    w = weights()
    with torch.no_grad():
        spirit = PlainSpirit(w, training=False)
        query, target, patches = encode(spirit, "input")
        styles = {f"target_{name}": listed(style) for name, style in spirit.local(patches).items()}
    trained_query, trained_target, _ = encode(PlainSpirit(w, training=True), "input")
    loss = loss_of(trained_query, trained_target)
    loss.backward()
    return {
        "method": "spirit",
        "seed_prefix": PREFIX,
        "config": CONFIG,
        "state_dict": [{"name": name, "shape": list(tensor.shape)} for name, tensor in w.items()],
        "eval": {"query": listed(query), **styles, "logits": listed(100 * query @ target.T)},
        "train_dropout_off": {
            "loss": loss.item(),
            "logits": (100 * trained_query @ trained_target.T).tolist(),
            "grad_norms": {n: float(t.grad.norm()) for n, t in w.items() if t.grad is not None},
            "parameters_without_gradient": list(UNUSED_PARAMETERS),
        },
    }


def training_file() -> dict[str, Any]:
    w = weights()
    parameters = {name: tensor for name, tensor in w.items() if tensor.requires_grad}
    before = {name: tensor.detach().clone() for name, tensor in w.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, PERIOD)
    losses, rates = [], []
    for step in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        query, target, _ = encode(PlainSpirit(w, training=True), f"input.batch{step % 2}")
        loss = loss_of(query, target)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    after = {name: tensor.detach().double() for name, tensor in w.items()}
    recipe = {
        "loss": losses,
        "learning_rate": rates,
        "parameters": {
            n: [float(after[n].norm()), float(after[n].sum()), float((after[n] - before[n].double()).norm())]
            for n in parameters
        },
        "no_gradient": list(UNUSED_PARAMETERS),
        "exact_zero_gradient": [f"combiner.text_mlp.{part}" for part in ("0.weight", "3.weight", "3.bias")],
        "unchanged": list(UNUSED_PARAMETERS),
        # One number in front of a batch norm: no gradient but noise, which Adam makes steps of.
        "rounding_noise": ["visual_attn.visual_gr.attention_filtration.attn_sim_w.bias"],
        "batch_norm_statistics": {
            n: float(t.norm()) for n, t in after.items() if "running" in n or n.endswith("num_batches_tracked")
        },
        "config": {
            **CONFIG,
            "optimiser": "Adam",
            "lr": RATE,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": DECAY,
            "schedule": "CosineAnnealingLR",
            "t_max": PERIOD,
            "eta_min": 0,
        },
    }
    return {"method": "training", "seed_prefix": PREFIX, "steps": STEPS, "recipes": {"spirit_other": recipe}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    contents = {"head": head_file(), "training": training_file()}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in contents}


def too_large(deviations: list[Deviation]) -> set[str]:
    return {deviation.output for deviation in deviations if not deviation.ok}


@pytest.mark.parametrize("kind", ["head", "training"])
def test_a_small_file_of_another_prefix_agrees(kind: str, files: dict[str, Path]) -> None:
    assert not too_large(check(files[kind], discover()))


def _swapped_glu(self: nn.GLU, vectors: Tensor) -> Tensor:
    first, second = vectors.chunk(2, dim=-1)
    return first.sigmoid() * second


def _joint_batch_norm(self: nn.Module, batch: Batch) -> Tensor:
    """Reference and target normalised as one batch, as in a single pass over both."""
    local = self.method.network.visual_attn
    both = local(torch.cat([batch.reference["patches"], batch.target["patches"]])).split(BATCH)
    query = self.method.network.combiner(torch.cat([batch.reference["global"], both[0]], -1), batch.text["global"])
    target = functional.normalize(torch.cat([batch.target["global"], both[1]], -1))
    loss: Tensor = self.method.loss(query, target)
    return loss


def _target_first(self: nn.Module, batch: Batch) -> Tensor:
    targets = self.method.encode_target(batch.target)
    loss: Tensor = self.method.loss(self.method.encode_query(batch.reference, batch.text), targets)
    return loss


_fusion = VisualTextualFusion.__init__
_layer_norm = nn.LayerNorm.__init__


def _unused_trained(self: VisualTextualFusion, *sizes: Any, **options: Any) -> None:
    _fusion(self, *sizes, **options)
    self.image_mlp.requires_grad_(True)


def _other_eps(self: nn.LayerNorm, *shape: Any, **options: Any) -> None:
    _layer_norm(self, *shape, **{**options, "eps": 1e-3})


def _text_mlp_left_out(self: VisualTextualFusion, *sizes: Any, **options: Any) -> None:
    _fusion(self, *sizes, **options)
    self.text_mlp.requires_grad_(False)


BROKEN: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "swapped GLU halves": (
        "head",
        lambda patch: patch.setattr(nn.GLU, "forward", _swapped_glu),
        "eval target_visual_attention",
    ),
    "eps of the layer norm": (
        "head",
        lambda patch: patch.setattr(nn.LayerNorm, "__init__", _other_eps),
        "eval target_style_commonality",
    ),
    "joint batch norm": (
        "training",
        lambda patch: patch.setattr(engine._LossModule, "forward", _joint_batch_norm),
        "spirit_other: losses",
    ),
    "target before reference": (
        "training",
        lambda patch: patch.setattr(engine._LossModule, "forward", _target_first),
        "spirit_other: batch norms",
    ),
    "unused parameters trained": (
        "training",
        lambda patch: patch.setattr(VisualTextualFusion, "__init__", _unused_trained),
        "spirit_other: no gradient: moved or with Adam state",
    ),
    "text mlp left out": (
        "training",
        lambda patch: patch.setattr(VisualTextualFusion, "__init__", _text_mlp_left_out),
        "spirit_other: changes",
    ),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    kind, break_it, output = BROKEN[request.param]
    break_it(monkeypatch)
    yield kind, output


def test_a_slightly_wrong_implementation_is_found(broken: tuple[str, str], files: dict[str, Path]) -> None:
    kind, output = broken
    assert output in too_large(check(files[kind], discover()))
