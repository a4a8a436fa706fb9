"""VAL: golden numbers, mining against a slow loop, the released optimiser, pictures, and its contract."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from benchmark.methods.networks.cnn_pictures import Squeezed, resize_bilinear
from benchmark.methods.networks.val import ValNetwork, ValSizes
from benchmark.methods.networks.val_cnns import VAL_TRUNKS, CnnName, build_taps, levels_of
from benchmark.methods.networks.val_training import (
    Mining,
    ReleasedAdam,
    hierarchical_loss,
    matching_loss,
    penalised,
    penalty_groups,
)
from benchmark.methods.val import METHOD, STAGE, Val, ValSettings, ValTraining
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import BuildContext, Views
from benchmark.parity.report import check
from benchmark.registry import discover

GOLDEN = Path(__file__).parent.parent / "golden" / "val.json"
SMALL: dict[str, Any] = {"cnn": "tiny", "word_width": 16, "lstm_width": 24, "text_width": 32}
TEXTS = ["is red and longer", "blue", "has a longer sleeve", "no pattern at all on it"]


def build(optimisation: str = "plain", **changed: Any) -> Val:
    settings = ValSettings(**{**SMALL, "evaluation_count": 1, **changed})
    torch.manual_seed(0)
    method = STAGE.build(BuildContext(None, settings, ValTraining(optimisation=optimisation)))
    assert isinstance(method, Val)
    method.build_extra_state(TEXTS)
    return method


def pictures(rows: int, side: int = 64, seed: int = 0) -> Views:
    return {"pixels": torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(seed))}


def test_golden_numbers_of_the_release() -> None:
    wrong = [d for d in check(GOLDEN, discover()) if not d.ok]
    assert not wrong


def test_a_wrong_padding_of_the_spatial_gate_is_noticed(tmp_path: Path) -> None:
    content = json.loads(GOLDEN.read_text())
    del content["variants"]["resnet"]
    listed = content["variants"]["mobilenet"]["eval"]["composed_map_low_row0"]
    listed["0,0"][0] += 0.01
    changed = tmp_path / "val.json"
    changed.write_text(json.dumps(content))
    wrong = [d.output for d in check(changed, discover()) if not d.ok]
    assert wrong == ["mobilenet eval composed_map_low_row0"]


def slow_direction(distance: list[list[float]], margin: float, mining: Mining) -> float:
    rows, total = range(len(distance)), 0.0
    for i in rows:
        nearest = 1e8
        for j in rows:
            bound = {"column": distance[j][j], "row": distance[i][i], "none": -1.0}[mining]
            if j != i and distance[i][j] >= bound:
                nearest = min(nearest, distance[i][j])
        total += max(0.0, distance[i][i] - nearest + margin)
    return total / len(distance)


@pytest.mark.parametrize("mining", get_args(Mining))
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_mining_is_the_slow_loop_s(mining: Mining, rows: int) -> None:
    q, t = (nn.functional.normalize(pictures(rows, 2, seed)["pixels"].flatten(1), dim=1) for seed in (1, 2))
    table = [[float((a.double() - b.double()).square().sum()) for b in t] for a in q]
    swapped = [list(column) for column in zip(*table, strict=True)]
    expected = slow_direction(table, 0.2, mining) + slow_direction(swapped, 0.2, mining)
    assert matching_loss(q, t, 0.2, mining).item() == pytest.approx(expected, abs=1e-5)
    both = hierarchical_loss(torch.cat([q, q], 1), torch.cat([t, t], 1), (12, 12), 0.2, mining)
    assert both.item() == pytest.approx(2 * expected, abs=1e-5)


def test_ranking_by_dot_product_is_ranking_by_distance() -> None:
    method = build().eval()
    with torch.no_grad():
        query = method.encode_query(pictures(4), method.tokenize(TEXTS))
        target = method.encode_target(pictures(6, seed=1))
        score = method.score(query, target)
    assert query.shape == (4, 48 + 96 + 192)
    assert torch.allclose(6 - 2 * score, torch.cdist(query, target).square(), atol=1e-4)


def test_evaluation_changes_no_state_and_does_not_depend_on_the_batch() -> None:
    method = build().eval()
    method.network.compositions[0].self_weight.data.fill_(0.7)
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        together = method.encode_query(pictures(4), method.tokenize(TEXTS))
        alone = [
            method.encode_query({"pixels": pictures(4)["pixels"][i : i + 1]}, method.tokenize([text]))
            for i, text in enumerate(TEXTS)
        ]
        method.encode_target(pictures(3))
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in method.state_dict().items())


def test_padding_counts_in_training_as_released_and_never_in_evaluation() -> None:
    method = build()
    text = method.tokenize(TEXTS)
    encoder = method.network.text
    zero = encoder.pooled(text["tokens"], text["lengths"], zero_padding=True)
    masked = encoder.pooled(text["tokens"], text["lengths"], zero_padding=False)
    longest = int(text["lengths"].argmax())
    assert torch.equal(zero[longest], masked[longest])
    assert torch.equal(zero[1], masked[1].clamp(min=0)) and bool((masked[1] < 0).any())


def test_rare_words_are_known_in_training_only() -> None:
    method = build(evaluation_count=2, left_out=("longer",))
    assert "longer" not in method.vocabulary.words
    assert method.train().tokenize(["blue"])["tokens"].item() > 0
    assert method.eval().tokenize(["blue"])["tokens"].item() == 0
    assert method.tokenize(["has. a"])["tokens"].tolist() == [[0, 0]]  # "hasdotmark", and "a" is seen once


@pytest.mark.parametrize("side", [33, 65, 72])
def test_odd_sizes(side: int) -> None:
    method = build(image_side=side)
    maps = method.cnn(pictures(2, side)["pixels"])
    composed = method.network.compose(maps, torch.randn(2, 32))
    assert [x.shape for x in composed] == [x.shape for x in maps]


def step(method: Val, rows: int = 4) -> Tensor:
    torch.manual_seed(1)
    method.train()
    query = method.encode_query(pictures(rows), method.tokenize(TEXTS[:rows]))
    return method.loss(query, method.encode_target(pictures(rows, seed=1)))


@pytest.mark.parametrize("optimisation", ["release", "plain"])
def test_gradient_reaches_all_but_what_is_named(optimisation: str) -> None:
    method = build(optimisation)
    with torch.no_grad():  # some factors start at 0 (the attention's, residual branches'), and nothing passes them
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.autograd.backward(step(method))
    without = {name for name, p in method.named_parameters() if p.grad is None}
    frozen = {"network.text.lstm.bias_hh_l0"}
    if optimisation == "release":
        frozen |= {"network.text.cell", "network.text.hidden"}
    assert without == frozen == {name for name, p in method.named_parameters() if not p.requires_grad}
    gradients = {name: p.grad.abs().sum().item() for name, p in method.named_parameters() if p.grad is not None}
    assert all(math.isfinite(value) for value in gradients.values())
    assert not [name for name, value in gradients.items() if value == 0]


def test_the_released_adam_is_tensorflow_s_with_its_counter_stuck_at_one() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}]
    optimiser = ReleasedAdam(groups, 2e-4, (0.9, 0.999), 1e-8, 0.1)
    theta, m, v = np.array([1.0, -2.0, 3.0]), np.zeros(3), np.zeros(3)
    decay = np.array([0.1, 0.1, 0.0])
    for n in range(5):
        gradient = np.array([0.3, -0.1 * n, 0.02 + n])
        weights[0].grad, weights[1].grad = (torch.tensor(g, dtype=torch.float32) for g in np.split(gradient, [2]))
        optimiser.step()
        g = gradient + decay * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - 2e-4 * math.sqrt(1 - 0.999) / (1 - 0.9) * m / (np.sqrt(v) + 1e-8)
        if n == 0:
            assert abs(theta[0] - 1.0) == pytest.approx(2e-4, rel=1e-4)
    assert torch.cat(weights).detach().numpy() == pytest.approx(theta, abs=1e-6)


def test_the_penalty_covers_convolutions_but_depthwise_ones() -> None:
    cnn = build_taps("mobilenetv1_100", "random", None)
    names = {id(p): name for name, p in cnn.named_parameters()}
    chosen = {names[id(weight)] for weight in penalised(cnn)}
    assert len(chosen) == 14 and not any("conv_dw" in name for name in chosen)
    method = build("release")
    decayed, others = penalty_groups(method)
    assert "weight_decay" not in decayed and others["weight_decay"] == 0.0
    assert {id(p) for g in (decayed, others) for p in g["params"]} == {
        id(p) for p in method.parameters() if p.requires_grad
    }


def test_the_rate_drops_half_way_or_follows_the_schedule() -> None:
    assert STAGE.schedule is not None
    dropping = STAGE.schedule(ValTraining(epochs=4, drop_at=0.5), 10)
    assert [dropping(n) for n in (0, 19, 20, 39)] == [1.0, 1.0, 0.1, 0.1]
    assert STAGE.schedule(ValTraining(epochs=4), 10)(39) == 1.0


@pytest.mark.parametrize(
    ("name", "shapes", "millions"),
    [
        ("resnetv2_50", [(512, 16), (1024, 8), (2048, 8)], 23.5),
        ("mobilenetv1_100", [(512, 14), (512, 14), (1024, 7)], 3.2),
        ("tiny", [(48, 8), (96, 4), (192, 2)], 0.7),
    ],
)
def test_taps_have_the_release_s_shapes(name: CnnName, shapes: list[tuple[int, int]], millions: float) -> None:
    taps = build_taps(name, "random", None)
    statistics = {n: b.clone() for n, b in taps.named_buffers()}
    levels = levels_of(taps, VAL_TRUNKS[name].trunk.size)
    assert [(level.channels, level.side) for level in levels] == shapes
    assert taps.training and all(torch.equal(statistics[n], b) for n, b in taps.named_buffers())
    assert sum(p.numel() for p in taps.parameters()) == pytest.approx(millions * 1e6, rel=0.02)
    networks = ValNetwork(levels[:1], ValSizes(), VAL_TRUNKS[name].style)
    if name == "resnetv2_50":
        counts = [sum(p.numel() for p in part.parameters() if p.requires_grad) for part in networks.compositions]
        assert counts == [pytest.approx(1.45e6, rel=0.01)]


def test_missing_weights_are_an_error_that_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        build_taps("mobilenetv1_100", "pretrained", str(tmp_path))
    message = str(caught.value)
    for part in ("mobilenetv1_100.ra4_e3600_r224_in1k.safetensors", "17 MB", "huggingface.co/timm", "Apache-2.0"):
        assert part in message


def test_weights_are_read_by_timm_s_file_name(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    published = timm.create_model("mobilenetv1_100", pretrained=False)
    save_file(published.state_dict(), tmp_path / "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors")
    taps = build_taps("mobilenetv1_100", "pretrained", str(tmp_path))
    own = dict(taps.named_parameters())
    assert torch.equal(own["trunk.conv_stem.weight"], published.conv_stem.weight)
    assert {m.momentum for m in taps.modules() if isinstance(m, nn.BatchNorm2d)} == {0.0003}


def test_word_vectors_start_the_embedding(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    file.write_text("other 9 9 9\nred 1 2 3\nblue 4 5 6\n")
    method = build(word_vectors=str(file), word_width=3)
    table, numbers = method.network.text.words.weight, method.vocabulary.numbers
    assert table[numbers["red"]].tolist() == [1, 2, 3] and table[numbers["blue"]].tolist() == [4, 5, 6]
    assert 0 < table[numbers["pattern"]].abs().max() < 1
    with pytest.raises(UserError, match="method.word_width"):
        build(word_vectors=str(file), word_width=4)
    with pytest.raises(UserError, match=r"glove\.42B"):
        build(word_vectors=str(tmp_path / "none.txt"), word_width=3)


def test_tensorflow_1_s_resize() -> None:
    column = np.arange(4, dtype=np.uint8)[:, None, None] * np.full((1, 4, 3), 60, dtype=np.uint8)
    assert resize_bilinear(column, 8)[:, 0, 0].tolist() == [0, 30, 60, 90, 120, 150, 180, 180]
    assert resize_bilinear(column, 2)[:, 1, 2].tolist() == [0, 120]  # no antialiasing: every second row
    assert np.array_equal(resize_bilinear(column, 4), column)
    assert resize_bilinear(column, 3)[:, 0, 0].tolist() == [0, 80, 160]


def test_augmentation_draws_from_its_generator_alone() -> None:
    grid = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(grid)
    plain, crop = Squeezed(16), Squeezed(16, flip=True, enlarged=20)
    assert not plain.random and crop.random and plain.key() != crop.key()
    drawn = [crop.picture(image, np.random.default_rng(seed)) for seed in range(8)]
    assert all(pixels.shape == (16, 16, 3) for pixels in drawn)
    assert len({pixels.tobytes() for pixels in drawn}) > 5
    assert np.array_equal(drawn[0], crop.picture(image, np.random.default_rng(0)))
    flips = {Squeezed(16, flip=True).picture(image, np.random.default_rng(s)).tobytes() for s in range(8)}
    mirrored = Image.fromarray(np.ascontiguousarray(grid[:, ::-1]))
    assert flips == {plain.picture(i, np.random.default_rng(0)).tobytes() for i in (image, mirrored)}
    normal = plain.normalise(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3))
    assert normal[0, 0, 0].tolist() == [-1.0, 1.0]


def test_attention_can_be_drawn() -> None:
    method = build().eval()
    maps = method.explain(pictures(2), method.tokenize(TEXTS[:2]))
    assert [tuple(x.shape) for x in maps.values()] == [(2, 8, 8), (2, 4, 4), (2, 2, 2)]
    assert all(bool(((x >= 0.25) & (x <= 1)).all()) for x in maps.values())


def test_every_recipe_fills_the_settings() -> None:
    own = [recipe for recipe in discover().recipes() if recipe.stage == "val"]
    assert {(r.dataset, r.name) for r in own} == {
        ("fashioniq", "paper"), ("shoes", "paper"), ("fashion200k", "paper"), ("cirr", "adapted"), ("*", "from-scratch"),
    }  # fmt: skip
    for recipe in own:
        ValTraining(**recipe.settings)
        settings = ValSettings(**recipe.method)
        assert METHOD.own_networks is not None
        assert METHOD.own_networks(settings) == recipe.initialisation
