"""Costs against numbers worked out by hand: encoders layer by layer, heads, the 14 views of SPIRIT."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from benchmark.backbone import BackboneChoice
from benchmark.encoders.backbones import ClipBackbone, load_backbone
from benchmark.encoders.families import family_of
from benchmark.encoding import Encoding
from benchmark.method import BuildContext, FeatureInputs, Method, PixelInputs, Views
from benchmark.pipeline.cost import count_cost, flops_of, median_text
from benchmark.records.measurement import Cost
from benchmark.registry import discover
from benchmark.settings import TrainingSettings

TEXTS = ("red", "is red and shorter", "is red")
D = 64
"""Width of the backbone `tiny`."""


def conv(into: int, out: int, kernel: int, side: int) -> int:
    """FLOPs of a convolution whose map has ``side`` × ``side`` positions."""
    return 2 * into * out * kernel * kernel * side * side


def linear(into: int, out: int, rows: int = 1) -> int:
    return 2 * into * out * rows


def bottleneck(into: int, planes: int, before: int, after: int) -> int:
    """CLIP's: the second convolution works before the pooling, the third and the shortcut after it."""
    return (
        conv(into, planes, 1, before)
        + conv(planes, planes, 3, before)
        + conv(planes, 4 * planes, 1, after)
        + conv(into, 4 * planes, 1, after)
    )


def attention(width: int, tokens: int) -> int:
    """Scores and weighted sums; the number of heads does not matter."""
    return 2 * (2 * tokens * tokens * width)


STEM = conv(3, 8, 3, 32) + conv(8, 8, 3, 32) + conv(8, 16, 3, 32)
STAGES = bottleneck(16, 16, 16, 16) + bottleneck(64, 32, 16, 8) + bottleneck(128, 64, 8, 4) + bottleneck(256, 128, 4, 2)
POOLING = 3 * linear(512, 512, 5) + attention(512, 5) + linear(512, D, 5)
PICTURE = STEM + STAGES + POOLING
TEXT = 2 * (linear(128, 3 * 128, 32) + attention(128, 32) + linear(128, 128, 32) + 2 * linear(128, 512, 32)) + linear(128, D)
COMBINER = 2 * linear(D, 4 * D) + linear(8 * D, 8 * D) + linear(8 * D, D) + linear(8 * D, 8 * D) + linear(8 * D, 1)


@pytest.fixture(scope="module")
def tiny() -> ClipBackbone:
    return load_backbone("tiny", "random")


def cost_of(name: str, tiny: ClipBackbone) -> Cost:
    specification = discover().specification(name)
    settings = specification.settings.model_validate({"encoder": "untouched"})
    stage = specification.stages(settings, "pretrained")[-1]
    context = BuildContext(tiny, settings, TrainingSettings())
    return count_cost(stage.build(context), stage.inputs(context), tiny, TEXTS)


def test_the_plain_sum_costs_one_pass_of_each_encoder(tiny: ClipBackbone) -> None:
    cost = cost_of("sum", tiny)
    assert cost.trainable_parameters == 0
    assert (cost.gallery.picture_passes, cost.gallery.text_passes, cost.gallery.flops) == (1, 0, PICTURE)
    assert (cost.query.picture_passes, cost.query.text_passes, cost.query.flops) == (1, 1, PICTURE + TEXT)
    assert (cost.pair_flops, cost.stored_bytes) == (2 * D, 4 * D)


def test_what_a_method_does_not_look_at_costs_nothing(tiny: ClipBackbone) -> None:
    picture, text = cost_of("image_only", tiny), cost_of("text_only", tiny)
    assert (picture.query.picture_passes, picture.query.text_passes, picture.query.flops) == (1, 0, PICTURE)
    assert (text.query.picture_passes, text.query.text_passes, text.query.flops) == (0, 1, TEXT)


def test_the_combiner_is_counted_layer_by_layer(tiny: ClipBackbone) -> None:
    cost = cost_of("clip4cir", tiny)
    weights = 2 * (D + 1) * 4 * D + 2 * (8 * D + 1) * 8 * D + (8 * D + 1) * D + (8 * D + 1)
    assert cost.trainable_parameters == weights
    assert cost.query.flops == PICTURE + TEXT + COMBINER
    assert cost.gallery.flops == PICTURE
    # The encoder, which the method does not hold, is passed through as well.
    assert cost.parameters == weights + sum(parameter.numel() for parameter in tiny.parameters())


def test_spirit_passes_fourteen_views_of_every_picture(tiny: ClipBackbone) -> None:
    cost = cost_of("spirit", tiny)
    assert cost.gallery.picture_passes == cost.query.picture_passes == 1 + 2 * 2 + 3 * 3
    assert cost.query.text_passes == 1
    assert cost.stored_bytes == 4 * 2 * D
    head = cost.gallery.flops - 14 * PICTURE
    assert 0 < head < PICTURE


def test_artemis_scores_a_pair_by_four_products(tiny: ClipBackbone) -> None:
    assert cost_of("artemis_clip", tiny).pair_flops == 4 * 2 * D


def test_a_sequence_of_tokens_is_kept_whole() -> None:
    backbone = family_of("blip2-tiny").load(BackboneChoice("blip2-tiny", "random"))
    specification = discover().specification("sprc")
    settings = specification.settings.model_validate({**specification.demo_settings, "picture_encoder": "frozen"})
    (stage,) = specification.stages(settings, "random")
    context = BuildContext(backbone, settings, stage.settings())
    cost = count_cost(stage.build(context), stage.inputs(context), backbone, TEXTS)
    queries, embedding = 8, 32
    assert cost.stored_bytes == queries * 4 * embedding and cost.pair_flops == queries * 2 * embedding
    assert cost.gallery.picture_passes == 1 and cost.parameters is not None
    assert cost.parameters - cost.trainable_parameters == sum(parameter.numel() for parameter in backbone.parameters())


class Reader(Method):
    """Reads pixels (B, 3, 8, 8) by one convolution and tokens by a GRU; targets are a dict of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten())
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.frozen = nn.Linear(64, 2).requires_grad_(False)

    def tokenize(self, texts: Any) -> Views:
        return {"tokens": torch.ones(len(texts), len(texts[0].split()), 5)}

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        states, _ = self.gru(text["tokens"])
        return torch.cat([self.cnn(reference["pixels"]), states[:, -1]], dim=1)

    def encode_target(self, target: Views) -> dict[str, Tensor]:
        vector = self.cnn(target["pixels"])
        return {"vector": vector, "short": self.frozen(vector)}

    def score(self, queries: Encoding, targets: Encoding) -> Tensor:
        return cast(Tensor, queries)[:, :64] @ cast(dict[str, Tensor], targets)["vector"].T


class Eight:
    random = False

    def key(self) -> dict[str, Any]:
        return {}

    def picture(self, image: Any, rng: Any) -> Any:
        import numpy as np

        return np.asarray(image.resize((8, 8)))

    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float()


def test_networks_of_their_own_are_counted_from_pixels_and_words() -> None:
    method = Reader().train()
    cost = count_cost(method, PixelInputs(Eight(), Eight()), None, TEXTS)
    picture, words = conv(3, 4, 2, 4), 2
    recurrent = words * (linear(5, 3 * 6) + linear(6, 3 * 6))
    assert (cost.gallery.picture_passes, cost.gallery.flops) == (1, picture + linear(64, 2))
    assert (cost.query.text_passes, cost.query.flops) == (1, picture + recurrent)
    assert (cost.stored_bytes, cost.pair_flops) == (4 * 66, 2 * 64)
    assert cost.trainable_parameters == 3 * 4 * 4 + 4 + 3 * 6 * (5 + 6 + 2)
    assert method.training and not method.frozen.weight.requires_grad and method.gru.weight_ih_l0.requires_grad


def test_fused_attention_and_recurrence_are_seen_and_the_switches_put_back() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert flops_of(lambda: layer(torch.zeros(1, 3, 8))) == (
        linear(8, 24, 3) + attention(8, 3) + linear(8, 8, 3) + 2 * linear(8, 16, 3)
    )
    lstm = nn.LSTM(4, 5, batch_first=True)
    assert flops_of(lambda: lstm(torch.zeros(1, 7, 4))) == 7 * (linear(4, 20) + linear(5, 20))
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.mkldnn.enabled


def test_stored_features_need_their_encoder() -> None:
    with pytest.raises(TypeError, match="encoder"):
        count_cost(Reader(), FeatureInputs(), None, TEXTS)


def test_the_counted_text_is_of_median_length() -> None:
    assert median_text(TEXTS) == "is red"
    assert median_text(("b", "a")) == "b"
