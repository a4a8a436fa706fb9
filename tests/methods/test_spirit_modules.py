"""SPIRIT's modules, against the released code's golden numbers and against their plain form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark.methods.networks.layers import contrastive_loss
from benchmark.methods.networks.spirit import (
    UNUSED_PARAMETERS,
    ZERO_GRADIENT_PARAMETERS,
    SpiritDesign,
    SpiritNetwork,
)
from plain_spirit import PlainSpirit
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.parity.comparison import compare_output
from benchmark.parity.files import Rows
from benchmark.parity.golden import HeadSizes, head_batch
from benchmark.parity.rules import draw_weights, head_weight

Batch = dict[str, Tensor]
FILE = json.loads((Path(__file__).parents[1] / "golden" / "spirit.json").read_text())
TOLERANCE = 2e-5
ABLATIONS = [
    SpiritDesign(commonality=False),
    SpiritDesign(difference=False),
    SpiritDesign(fusion=False),
    SpiritDesign(target_patches=False),
    SpiritDesign(commonality=False, difference=False, fusion=False),
]


def released(dropout: float = 0.5) -> SpiritNetwork:
    network = SpiritNetwork(640, dropout=dropout)
    draw_weights(network, head_weight, "")
    return network


def small(width: int, patches: int = 13, dropout: float = 0.0, design: SpiritDesign | None = None) -> SpiritNetwork:
    network = SpiritNetwork(width, patches, 24, 40, design=design, dropout=dropout)
    draw_weights(network, head_weight, "")
    return network


def features(batch: int, width: int, patches: int = 13, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    wide = {name: torch.randn(batch, width, generator=generator) for name in ("image", "text", "target")}
    names = ("reference_patches", "target_patches")
    return wide | {name: torch.randn(batch, patches, width, generator=generator) for name in names}


def encode(network: SpiritNetwork | PlainSpirit, batch: Batch) -> tuple[Tensor, Tensor]:
    query = network.encode_query(batch["image"], batch["text"], batch["reference_patches"])
    return query, network.encode_target(batch["target"], batch["target_patches"])


# The released form


def test_names_shapes_and_counts() -> None:
    network = SpiritNetwork(640)
    expected = {entry["name"]: entry["shape"] for entry in FILE["state_dict"]}
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    assert list(UNUSED_PARAMETERS) == FILE["train_dropout_off"]["parameters_without_gradient"]
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == 115_581_478 + 1_311
    counts = {
        "": 115_581_478,
        "combiner": 101_624_324,
        "visual_attn": 13_957_153,
        "visual_attn.transformer": 4_931_840,
        "visual_attn.visual_sa": 3_690_907,
        "visual_attn.visual_gr": 3_692_805,
        "visual_attn.local_fusion": 1_641_601,
        "simi_loss": 1,
    }
    for name, count in counts.items():
        assert sum(parameter.numel() for parameter in network.get_submodule(name).parameters()) == count, name


@pytest.fixture(scope="module")
def network() -> SpiritNetwork:
    return released().eval()


@pytest.mark.parametrize("copies", [1, 12], ids=["few rows", "many rows"])
def test_golden_evaluation(copies: int, network: SpiritNetwork) -> None:
    """Many rows take the other of the two ways to an edge of the graph."""
    drawn = head_batch(HeadSizes.model_validate(FILE["config"]), "", "input")

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(copies, 0)

    patches = repeated(drawn.target["patches"])
    with torch.no_grad():
        query = network.encode_query(
            repeated(drawn.reference["global"]), repeated(drawn.text["global"]), repeated(drawn.reference["patches"])
        )
        styles = network.local(patches)
    outputs = {f"target_{name}": style[::copies] for name, style in styles.items()} | {"query": query[::copies]}
    found = [compare_output(n, tensor, Rows(**FILE["eval"][n]), TOLERANCE) for n, tensor in outputs.items()]
    assert all(deviation.ok for deviation in found), found


# The plain form: what is left out or folded changes nothing


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    ("width", "patches", "batch"), [(48, 13, 2), (48, 13, 9), (130, 13, 12), (80, 4, 3), (9, 1, 7)]
)
def test_equals_the_plain_form(width: int, patches: int, batch: int, training: bool) -> None:
    network = small(width, patches).double().train(training)
    inputs = {name: tensor.double() for name, tensor in features(batch, width, patches).items()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state[name].requires_grad_(parameter.requires_grad)
    plain = PlainSpirit(state, training)

    close = {"rtol": 0.0, "atol": 1e-7}
    for styles, expected in zip(
        network.eval().local(inputs["target_patches"]).items(),
        PlainSpirit(state, training=False).local(inputs["target_patches"]).items(),
        strict=True,
    ):
        assert styles[0] == expected[0]
        torch.testing.assert_close(styles[1], expected[1], **close)

    found, expected_encodings = encode(network.train(training), inputs), encode(plain, inputs)
    torch.testing.assert_close(found, expected_encodings, **close)
    contrastive_loss(*found, scale=10).backward()
    contrastive_loss(*expected_encodings, scale=10).backward()
    for name, parameter in network.named_parameters():
        zeros = torch.zeros_like(parameter)
        gradient = zeros if parameter.grad is None else parameter.grad
        plain_gradient = zeros if state[name].grad is None else state[name].grad
        torch.testing.assert_close(gradient, plain_gradient, **close, msg=lambda text, n=name: f"{n}: {text}")
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, state[name], msg=lambda text, n=name: f"{n}: {text}")


def test_dropout_has_the_plain_forms_distribution() -> None:
    """Means and second moments of the query over 8,192 draws, by z-test."""
    width, draws = 6, 8192
    network = small(width, dropout=0.5).train()
    one = features(1, width)
    inputs = {name: tensor.expand(draws, *tensor.shape[1:]) for name, tensor in one.items()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(0)
    with torch.no_grad():
        found, _ = encode(network, inputs)
        expected, _ = encode(PlainSpirit(state, training=True, dropout=0.5), inputs)
    moments = [torch.cat([q, (q[:, :, None] * q[:, None, :]).flatten(1)], 1).double() for q in (found, expected)]
    error = ((moments[0].var(0) + moments[1].var(0)) / draws).sqrt()
    z = (moments[0].mean(0) - moments[1].mean(0)) / error
    assert found.std() > 0.05
    assert z.abs().max() < 4.5


def test_the_two_halves_of_a_doubled_text_are_dropped_independently() -> None:
    network = small(width=200, dropout=0.5).train()
    seen: list[Tensor] = []
    network.combiner.combiner_layer2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    encode(network, features(8, 200) | {"text": torch.ones(8, 200)})
    left, right = (seen[0][:, start : start + 200] > 0 for start in (0, 200))
    assert 0.45 < float(left.float().mean()) < 0.55
    assert 0.2 < float((left & right).float().mean()) < 0.3


# Any shape


@pytest.mark.parametrize(("width", "patches"), [(48, 13), (130, 4), (9, 1), (16, 25), (12, 0)])
def test_any_width_and_number_of_patches_a_row_alone_as_in_a_batch(width: int, patches: int) -> None:
    network = SpiritNetwork(width, patches).eval()
    batch = features(6, width, patches)
    query, target = encode(network, batch)
    assert query.shape == target.shape == (6, 2 * width)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(6))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for row in range(6):
        alone = encode(network, {name: tensor[row : row + 1] for name, tensor in batch.items()})
        torch.testing.assert_close(alone, (query[row : row + 1], target[row : row + 1]), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_one_row_cannot_be_trained_on() -> None:
    with pytest.raises(UserError, match="at least 2"):
        encode(small(16).train(), features(1, 16))


def test_missing_patches_are_an_error_and_not_an_ablation() -> None:
    network = small(16).eval()
    with pytest.raises(ValueError, match="none were given"):
        network.encode_target(torch.randn(2, 16))


# Ablations


@pytest.mark.parametrize("design", ABLATIONS, ids=str)
def test_an_ablation_trains_every_weight_it_has(design: SpiritDesign) -> None:
    network = small(16, patches=4, design=design).train()
    query, target = encode(network, features(5, 16, patches=4))
    assert query.shape == target.shape == (5, 32)
    contrastive_loss(query, target, scale=10).backward()
    without_effect = {*UNUSED_PARAMETERS, *ZERO_GRADIENT_PARAMETERS}
    expected = {name for name, _ in network.named_parameters()} & without_effect
    # A graph layer of a narrow network may be dead, and biases that a softmax or batch norm
    # removes are noise: only exact zeros elsewhere would be a weight cut off from the loss.
    found = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert found == expected


def test_what_replaces_a_module_left_out() -> None:
    batch = features(3, 16, patches=4)
    patches = batch["target_patches"]

    def styles(design: SpiritDesign) -> dict[str, Tensor]:
        return small(16, 4, design=design).eval().local(patches)

    torch.testing.assert_close(styles(ABLATIONS[0])["style_commonality"], patches.mean(1))
    without_difference = styles(ABLATIONS[1])
    torch.testing.assert_close(without_difference["style_difference"], without_difference["visual_attention"])
    plain_sum = styles(ABLATIONS[2])
    common, different = plain_sum["style_commonality"], plain_sum["style_difference"]
    both = common / common.norm(dim=1, keepdim=True) + different
    torch.testing.assert_close(plain_sum["style_fusion"], both / both.norm(dim=1, keepdim=True))

    image = batch["target"]
    expected = nn.functional.normalize(torch.cat([image, image / image.norm(dim=1, keepdim=True)], 1))
    for network in (small(16, 4, design=ABLATIONS[3]), small(16, patches=0)):
        torch.testing.assert_close(network.eval().encode_target(image), expected)


def test_the_default_design_is_the_whole_method() -> None:
    whole = SpiritDesign()
    assert whole == replace(whole, commonality=True, difference=True, fusion=True, target_patches=True)
    names = set(small(16).state_dict())
    for design, prefix in zip(ABLATIONS, ("transformer", "visual_gr", "local_fusion"), strict=False):
        left_out = {name for name in names if name.startswith(f"visual_attn.{prefix}.")}
        assert left_out
        assert set(small(16, design=design).state_dict()) == names - left_out


# Weights


def test_start_values() -> None:
    torch.manual_seed(0)
    state = SpiritNetwork(160, projection=64, hidden=64).state_dict()
    local = "visual_attn."
    bounded = [
        f"{local}visual_sa.embedding_local.0",
        f"{local}visual_sa.embedding_global.0",
        f"{local}visual_sa.embedding_common.0",
        f"{local}visual_gr.attention_filtration.attn_sim_w",
        *(f"{local}visual_gr.graph.{n}.{w}_w" for n in range(3) for w in ("graph_query", "graph_key", "sim_graph")),
    ]
    for name in bounded:
        weight = state[name + ".weight"]
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound, name
        assert not state[name + ".bias"].any(), name
    block = f"{local}transformer.resblocks.0."
    for name in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
        assert float(state[f"{block}{name}.weight"].std()) == pytest.approx(0.02, rel=0.05), name
        assert not state[f"{block}{name}.bias"].any(), name
    fused = state[block + "attn.in_proj_weight"]
    assert 0.95 < float(fused.abs().max()) / (6 / (4 * 160)) ** 0.5 <= 1
    assert not state[block + "attn.in_proj_bias"].any()
    assert float(state[f"{local}transformer.positional_embedding"].std()) == pytest.approx(0.02, rel=0.05)
    assert state[f"{local}visual_gr.alpha"].item() == 0
    assert state[f"{local}visual_gr.beta"].item() == 1
    framework = state["combiner.combiner_layer.weight"].abs().max() * 128**0.5
    assert 0.95 < float(framework) <= 1
    assert state["combiner.combiner_layer.bias"].any()


def test_weights_without_effect_move_under_weight_decay_only_where_they_take_part() -> None:
    network = small(16).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    contrastive_loss(*encode(network, features(4, 16))).backward()
    optimiser.step()
    moved = {name for name, p in network.named_parameters() if not torch.equal(before[name], p.detach())}
    assert moved == set(before) - set(UNUSED_PARAMETERS)
    for name in ZERO_GRADIENT_PARAMETERS:
        step = before[name] - network.get_parameter(name).detach()
        torch.testing.assert_close(step, 0.01 * before[name].sign(), rtol=1e-2, atol=1e-4)


def test_half_precision_gives_finite_encodings_and_gradients() -> None:
    network = small(48).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(*encode(network, features(9, 48)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    query, _ = encode(network.bfloat16().eval(), {n: t.bfloat16() for n, t in features(9, 48).items()})
    assert query.dtype == torch.bfloat16
    assert torch.isfinite(query).all()
