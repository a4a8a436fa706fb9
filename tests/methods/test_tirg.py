"""TIRG, TIRG (last conv) and Concat + MLP: golden numbers, losses by slow loops, implementations and recipes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from benchmark.methods.networks.artemis_encoders import cnn_encoders
from benchmark.methods.networks.cnn import TRUNKS, build_trunk, generalised_mean, trunk_start
from benchmark.methods.networks.cnn_pictures import ShortSide
from benchmark.methods.networks.recurrent_texts import LastStateText, text_views, tirg_vocabulary
from benchmark.methods.networks.tirg import classification_loss, draw_triplets, soft_triplet_loss
from benchmark.methods.networks.tirg_implementations import (
    Kind,
    OriginalTirg,
    TirgSettings,
    artemis_tirg,
    original_tirg,
)
from benchmark.methods.networks.vocabulary import plain_words
from benchmark.methods.tirg import METHODS, TirgTrainingSettings
from PIL import Image
from toy_triplets import built, learnt_by_heart, losses, scores, without_gradient

from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.registry import discover
from benchmark.settings import fill

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS: tuple[Kind, ...] = get_args(Kind)
SMALL: dict[str, Any] = {"cnn": "tiny", "width": 32, "word_width": 16}


def original(kind: Kind, **changed: Any) -> OriginalTirg:
    settings = TirgSettings(**{**SMALL, "dropout": 0.0, **changed})
    return original_tirg(kind, settings, build_trunk("tiny", "random"), TRUNKS["tiny"].channels)


def in_artemis(kind: Kind, frozen: bool = False) -> Method:
    settings = TirgSettings(**SMALL, dropout=0.0)
    return artemis_tirg(kind, settings, cnn_encoders(settings, None), TRUNKS["tiny"].channels, frozen)


def test_golden_numbers() -> None:
    assert main(["parity", str(GOLDEN / "tirg.json")]) == 0


def test_batch_based_classification_is_a_softmax_over_the_batch_s_targets() -> None:
    queries, targets = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    expected = 0.0
    for i in range(5):
        weights = [math.exp(float(queries[i] @ targets[j])) for j in range(5)]
        expected -= math.log(weights[i] / sum(weights)) / 5
    assert classification_loss(queries, targets).item() == pytest.approx(expected)


def test_soft_triplet_by_a_slow_loop_and_half_its_gradient() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    triplets = draw_triplets(4)
    rows = [*vectors[0], *vectors[1]]
    expected = torch.stack(
        [
            torch.log1p(torch.exp((rows[i] - rows[j]).square().sum() - (rows[i] - rows[k]).square().sum()))
            for i, j, k in triplets.tolist()
        ]
    ).mean()
    (true_gradient,) = torch.autograd.grad(expected, vectors)
    loss = soft_triplet_loss(vectors[0], vectors[1], triplets)
    (gradient,) = torch.autograd.grad(loss, vectors)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, 0.5 * true_gradient)


def test_soft_triplet_does_not_overflow() -> None:
    far = 50 * torch.eye(2)
    assert torch.isfinite(soft_triplet_loss(far, far.flip(0), draw_triplets(2)))


@pytest.mark.parametrize("pairs", [2, 3, 17])
def test_triplets_are_drawn_without_replacement_and_never_of_the_own_pair(pairs: int) -> None:
    triplets = draw_triplets(pairs).reshape(2 * pairs, -1, 3)
    assert triplets.shape[1] == min(3, 2 * pairs - 2)
    for anchor, drawn in enumerate(triplets.tolist()):
        assert all(row[:2] == [anchor, (anchor + pairs) % (2 * pairs)] for row in drawn)
        negatives = [row[2] for row in drawn]
        assert len(set(negatives)) == len(negatives)
        assert all(negative % pairs != anchor % pairs for negative in negatives)


@pytest.mark.slow
def test_twenty_triplets_can_be_overfitted_with_soft_triplets_and_in_artemis_s_implementation() -> None:
    for build in (lambda: original("tirg", loss="soft_triplet"), lambda: in_artemis("tirg")):
        method, batch = built(build)
        assert learnt_by_heart(method, batch, 80)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [original, in_artemis])
def test_evaluation_depends_on_neither_batch_nor_padding_and_changes_nothing(kind: Kind, build: Any) -> None:
    method, batch = built(lambda: build(kind))
    losses(method, batch, 2)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    together = method.encode_query(batch.reference, batch.text)
    alone = [batch.rows(method, [row]) for row in range(3)]
    queries = torch.cat([method.encode_query(one.reference, one.text) for one in alone])
    torch.testing.assert_close(queries, together[:3], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in method.state_dict().items())


def test_a_training_batch_of_one_is_refused() -> None:
    for build in (original, in_artemis):
        method, batch = built(lambda build=build: build("tirg_lastconv"))
        one = batch.rows(method, [0])
        with pytest.raises(UserError, match="at least two triplets"):
            method.train().encode_query(one.reference, one.text)
        assert method.eval().encode_query(one.reference, one.text).shape == (1, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: Kind) -> None:
    assert without_gradient(*built(lambda: original(kind))) == set()
    frozen = without_gradient(*built(lambda: in_artemis(kind, frozen=True)))
    whole, _ = built(lambda: in_artemis(kind))
    cnn = {name for name, _ in whole.named_parameters() if name.startswith("encoders.img_enc.cnn.")}
    assert frozen == cnn | {"encoders.txt_enc.embed.weight"}
    assert without_gradient(*built(lambda: in_artemis(kind))) == set()


def test_the_last_two_shares_have_a_gradient_of_zero() -> None:
    method, batch = built(lambda: original("tirg"))
    a = dict(method.named_parameters())["composition.a"]
    assert a.tolist() == [1, 10, 1, 1]
    without_gradient(method, batch)
    assert a.grad is not None and a.grad[2:].tolist() == [0, 0] and a.grad[:2].all()


def test_a_left_out_word_is_the_unknown_one_as_released_on_fashion200k() -> None:
    method, _ = built(lambda: original("tirg", left_out=("shirt",)))
    assert method.vocabulary is not None and "shirt" not in method.vocabulary.words
    assert method.tokenize(["shirt red"])["tokens"][0, 0] == 0 < method.tokenize(["red"])["tokens"][0, 0]
    recipe = discover().recipe("tirg", "fashion200k", "paper", "pretrained")
    assert TirgSettings(**recipe.method).left_out == ("replace",)


def test_each_implementation_has_its_own_cnn_unless_one_is_named() -> None:
    assert [TirgSettings(implementation=chosen).cnn for chosen in ("original", "artemis")] == ["resnet18", "resnet50"]
    assert TirgSettings(implementation="artemis", cnn="tiny").cnn == "tiny"


def test_texts_without_a_word_are_one_unknown_word() -> None:
    vocabulary = tirg_vocabulary(["Red dress"])
    views = text_views(vocabulary, [plain_words(text) for text in ("", "?!", "red")])
    assert views["tokens"].tolist() == [[0], [0], [2]] and views["lengths"].tolist() == [1, 1, 1]
    assert torch.isfinite(LastStateText(3, 4, 4)(views)).all()


def test_the_cnn_has_a_tenth_of_the_rate_and_its_projection_has_not() -> None:
    method, _ = built(lambda: original("tirg"))
    (stage,) = METHODS["tirg"].stages(TirgSettings(**SMALL), "random")
    settings = TirgTrainingSettings(learning_rate=1e-2, decay_updates=50_000)
    rest, cnn = stage.parameter_groups(method, settings)
    assert cnn["lr"] == pytest.approx(1e-3) and "lr" not in rest
    names = {parameter: name for name, parameter in method.named_parameters()}
    assert {"img_model.fc.0.weight", "composition.a", "normalization_layer.norm_s"} <= {names[p] for p in rest["params"]}
    assert len(rest["params"]) + len(cnn["params"]) == len(names)
    assert stage.schedule is not None
    factor = stage.schedule(settings, 5376)
    assert [factor(n) for n in (0, 49_999, 50_000, 150_000)] == pytest.approx([1, 1, 0.1, 0.001])


def test_the_former_name_of_the_implementation_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    """As `--set` and the headers of older checkpoints have it."""
    found = fill(TirgSettings, [("the file's header", {"frame": "released", "cnn": "tiny"})], "method")
    assert (found.implementation, found.cnn) == ("original", "tiny")
    assert fill(TirgSettings, [("--set", {"frame": "artemis"})], "method").cnn == "resnet50"
    assert "--set: method.frame is called method.implementation now" in capsys.readouterr().err


def test_fashion200k_has_the_authors_implementation_and_the_others_the_variant(small_cirr: Path) -> None:
    plan = make_plan(make_options(method="tirg", dataset="cirr", data_root=small_cirr, set={"method.cnn": "resnet50"}))
    assert [planned.stage.name for planned in plan.stages] == ["tirg-frozen", "tirg-whole"]
    settings = plan.method_settings
    assert isinstance(settings, TirgSettings) and settings.implementation == "artemis" and settings.cnn == "resnet50"
    demo = make_plan(make_options(method="tirg", dataset="cirr", data_root=small_cirr))
    assert isinstance(demo.method_settings, TirgSettings) and demo.method_settings.cnn == "tiny"
    assert [planned.recipe.name for planned in demo.stages if planned.recipe] == ["from-scratch"]


def test_missing_weights_are_named_with_size_source_and_licence(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        build_trunk("resnet18", "pretrained", tmp_path)
    told = str(raised.value)
    for part in ("resnet18.tv_in1k.safetensors", "47 MB", "BSD-3", "huggingface.co/timm/resnet18.tv_in1k", "\n"):
        assert (part in told) == (part != "\n")
    assert trunk_start("tiny", "pretrained") == "random" and trunk_start("resnet18", "pretrained") == "pretrained"


def test_weights_are_read_and_others_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = build_trunk("resnet18", "random")
    assert sum(p.numel() for p in network.parameters()) == 11_176_512
    state = {**network.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    save_file(state, tmp_path / "resnet18.tv_in1k.safetensors")
    again = build_trunk("resnet18", "pretrained", tmp_path)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in again.state_dict().items())
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet18.tv_in1k.safetensors")
    with pytest.raises(UserError, match="120 tensors do not fit"):
        build_trunk("resnet18", "pretrained", tmp_path)


def test_the_tiny_cnn_is_small_and_has_maps_at_three_strides() -> None:
    network = build_trunk("tiny", "random")
    assert sum(p.numel() for p in network.parameters()) == 694_164
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 192, 2, 2)


def test_generalised_mean_by_a_slow_loop() -> None:
    last = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    for b in range(2):
        for c in range(3):
            cubes = [max(value, 1e-6) ** 3 for value in last[b, c].flatten().tolist()]
            assert generalised_mean(last)[b, c].item() == pytest.approx((sum(cubes) / 4) ** (1 / 3))


@pytest.mark.parametrize("size", [(300, 101), (101, 300), (64, 64), (7, 9)])
def test_the_short_side_is_resized_and_the_centre_cut(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    pixels = ShortSide(64).picture(image, np.random.default_rng(0))
    assert pixels.shape == (64, 64, 3) and (pixels == (10, 20, 30)).all()
    assert ShortSide(64).normalise(torch.from_numpy(pixels)[None]).shape == (1, 3, 64, 64)


def test_scores_are_cosines() -> None:
    method, batch = built(lambda: original("tirg"))
    found = scores(method.eval(), batch)
    assert found.abs().max() <= 1 + 1e-6 and method.scores_by_dot_product
