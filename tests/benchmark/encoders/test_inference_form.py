"""The form of a backbone that encodes pictures in half precision, held against autocast of the backbone and float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark.methods.baselines import Sum
from fake_gpu import GPU
from host_waits import HostWaits
from PIL import Image
from simulated_gpu import program_finds_a_gpu, sent
from small_backbones import FAMILIES, write_backbone
from store_backbone import small_store
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.backbone import Backbone, BackboneChoice
from benchmark.encoders import inference_form as forms
from benchmark.encoders.families import family_of
from benchmark.encoders.frozen_encoder import FrozenEncoder
from benchmark.encoders.inference_form import inference_form
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.features.store import FeatureStore
from benchmark.interop.exported import Model
from benchmark.method import FeatureInputs
from benchmark.settings import EncoderChoice
from benchmark.text_rules import text_rule
from benchmark.weights.checkpoints import WeightsHeader

HALF, CPU = torch.bfloat16, torch.device("cpu")
CHANGED = ("tiny", "tiny-vit", "coca", "mt5")
"""Those with layers whose operations are others; of all others every bit is autocast's."""
SAME_PICTURES = ("siglip2", "nllb")
"""Families with siglip's picture side."""


def loaded(name: str, folder: Path) -> Backbone:
    """Random weights, those of norms and their statistics too."""
    choice = BackboneChoice(str(write_backbone(name, folder)) if name in FAMILIES else name, "random")
    backbone = family_of(choice.name).load(choice)
    draw_norms(backbone)
    return backbone


@torch.no_grad()
def draw_norms(network: nn.Module) -> None:
    rng = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5, generator=rng)
            module.bias.normal_(std=0.5, generator=rng)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.5, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)


def pictures(backbone: Backbone, count: int = 2) -> Tensor:
    side, rng = backbone.preprocessing.size, torch.Generator().manual_seed(3)
    return backbone.preprocessing.normalise(torch.randint(256, (count, side, side, 3), generator=rng, dtype=torch.uint8))


def in_half() -> AbstractContextManager[None]:
    return torch.autocast("cpu", HALF)


class WeightsCast(HostWaits):
    """``cast``: shapes of weights that were brought into another type, as they are or in another order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        tensors = (*network.parameters(), *network.buffers())
        self._own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.cast: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function.name() == "aten::_to_copy" and args[0].untyped_storage().data_ptr() in self._own:
            self.cast.append(tuple(args[0].shape))
        return super().__torch_dispatch__(function, types, args, kwargs)


@pytest.mark.parametrize("name", ["tiny", "tiny-vit", "blip-tiny", "blip2-tiny", *(f for f in FAMILIES if f not in SAME_PICTURES)])
@torch.no_grad()
def test_it_is_as_near_to_float32_as_autocast_is(name: str, tmp_path: Path) -> None:
    backbone = loaded(name, tmp_path)
    form, pixels = inference_form(backbone, HALF), pictures(backbone)
    for output in backbone.picture_outputs:
        exact = backbone.encode_picture_outputs(pixels, [output])[output]
        with in_half():
            plain, found = (b.encode_picture_outputs(pixels, [output])[output] for b in (backbone, form))
        assert found.dtype == plain.dtype
        if name not in CHANGED:
            assert torch.equal(found, plain)
        off, plainly_off = (float((part.float() - exact).norm() / exact.norm()) for part in (found, plain))
        assert 0 < plainly_off < 0.02 and off <= 1.5 * plainly_off
        with in_half(), WeightsCast(form) as counted:
            form.encode_picture_outputs(pixels, [output])
        assert not counted.cast
        # A weight repeated for every position; a norm behind a convolution of a ResNet; rows of a ViT in another order.
        assert not counted.calls["aten::bmm"]
        for operation in {"tiny": ("native_batch_norm",), "tiny-vit": ("clone", "sigmoid")}.get(name, ()):
            assert not counted.calls[f"aten::{operation}"]


@torch.no_grad()
def test_folded_norms_and_factors_give_the_same_in_float32(tmp_path: Path) -> None:
    for name in ("tiny", "tiny-vit"):
        backbone = loaded(name, tmp_path)
        form, pixels = copy.deepcopy(backbone), pictures(backbone, 4).contiguous(memory_format=torch.channels_last)
        forms.fold(list(form.modules()), forms._observed(form, HALF), torch.float32)
        expected, found = backbone.encode_image(pixels), form.encode_image(pixels)
        assert float((found - expected).norm() / expected.norm()) < 1e-5
        with HostWaits() as counted:
            form.encode_image(pixels)
        for operation in ("native_batch_norm", "sigmoid"):
            assert not counted.calls[f"aten::{operation}"]


def test_the_given_backbone_stays_as_it_is(tmp_path: Path) -> None:
    """Its weights, their types, its layers and their modes, and every bit that it gives in float32."""
    backbone = loaded("tiny", tmp_path).train()
    shown = np.random.default_rng(0).integers(256, size=(3, 64, 64, 3), dtype=np.uint8)
    plain = FrozenEncoder(backbone, CPU, "fp32")
    before, features = copy.deepcopy(backbone), plain.pictures(shown)
    half = FrozenEncoder(backbone, CPU, "bf16").pictures(shown)
    assert 1e-4 < np.abs(half - features).max() / np.abs(features).max() < 0.03
    assert np.array_equal(plain.pictures(shown), features)
    for (name, kept), (_, tensor) in zip(before.state_dict().items(), backbone.state_dict().items(), strict=True):
        assert kept.dtype == tensor.dtype and torch.equal(kept, tensor), name
    for one, other in zip(before.modules(), backbone.modules(), strict=True):
        assert type(one) is type(other) and one.training == other.training and not other._forward_hooks


@pytest.mark.parametrize("name", ["tiny", "tiny-vit"])
def test_on_a_gpu_it_is_made_and_computes_the_same(name: str, tmp_path: Path) -> None:
    """Under CUDA's autocast, with channels last, and every tensor of the form on the GPU."""
    backbone = loaded(name, tmp_path)
    shown = np.random.default_rng(0).integers(256, size=(3, 64, 64, 3), dtype=np.uint8)
    exact, plain = (FrozenEncoder(backbone, CPU, precision).pictures(shown) for precision in ("fp32", "bf16"))
    with program_finds_a_gpu():
        there = FrozenEncoder(sent(backbone), GPU, "bf16").pictures(shown)
    off, plainly_off = (np.linalg.norm(found - exact) for found in (there, plain))
    assert 0 < off < 1.5 * plainly_off


def test_only_rounded_weights_take_memory(tmp_path: Path) -> None:
    backbone = loaded("tiny-vit", tmp_path)
    form = inference_form(backbone, HALF)
    own = {id(tensor) for tensor in backbone.parameters()}
    added = [tensor for tensor in form.parameters() if id(tensor) not in own]
    assert added and all(tensor.dtype == HALF for tensor in added)
    pictures_side = sum(p.numel() for name, p in backbone.named_parameters() if name.startswith("clip.visual."))
    norms = sum(2 * p.numel() for m in backbone.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters())
    assert sum(tensor.numel() for tensor in added) <= pictures_side + norms
    text = [name for name, _ in backbone.named_parameters() if not name.startswith("clip.visual.")]
    assert all(form.get_parameter(name) is backbone.get_parameter(name) for name in text)


def test_weights_that_change_are_seen(tmp_path: Path) -> None:
    backbone = loaded("tiny-vit", tmp_path)
    encoder, shown = FrozenEncoder(backbone, CPU, "bf16"), np.full((2, 64, 64, 3), 90, dtype=np.uint8)
    before, form = encoder.pictures(shown), encoder._form
    encoder.pictures(shown)
    assert encoder._form is form, "made once"
    with torch.no_grad():
        backbone.get_parameter("clip.visual.proj").mul_(2)
    np.testing.assert_array_equal(encoder.pictures(shown), 2 * before)


def test_an_export_s_model_encodes_with_it(tmp_path: Path) -> None:
    encoder = FrozenEncoder(loaded("tiny", tmp_path), CPU, "bf16")
    method, header = Sum(encoder.backbone.width, EncoderChoice()), WeightsHeader("", "", "", {}, {}, {}, 0, 0)
    model = Model(header, method, FeatureInputs(), encoder, text_rule("as-is"), CPU)
    picture = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
    found = model.encode_target([picture])
    assert isinstance(found, Tensor) and encoder._form is not encoder.backbone
    stored = torch.from_numpy(encoder.pictures(encoder.backbone.preprocessing.picture(picture)[None]))
    torch.testing.assert_close(found, F.normalize(stored), atol=2e-3, rtol=0)


def test_features_of_an_older_form_are_not_read(tmp_path: Path) -> None:
    """Half precision has another place since; float32's, which is of every version, is where it was."""

    def store(precision: Any) -> FeatureStore:
        backbone = small_store(tmp_path)._encoder.backbone
        return FeatureStore(tmp_path, backbone, encoder_digest="weights", device=CPU, precision=precision)

    half, before = store("bf16"), "small-49a61d59a62e97b4"
    assert store("fp32").folder.name == "small-d74732295d9f56b4"
    assert half.folder.name != before and half._earlier.name == before


class Odd(Backbone):
    """Convolutions with a batch norm that cannot be told from the first one, which can be folded, but for one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing("targetpad", 8)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(7))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(7))
        self.norms[2].register_forward_hook(lambda module, arguments, output: output + 1)
        self.norms[3] = type("Own", (nn.BatchNorm2d,), {})(3)
        self.relu = nn.ReLU(inplace=True)

    @property
    def width(self) -> int:
        return 3

    def encode_image(self, pixels: Tensor) -> Tensor:
        convs, norms = self.convs, self.norms
        found = self.relu(norms[0](convs[0](pixels)))
        seen = convs[1](found)
        found = self.relu(norms[1](seen)) + seen  # looked at once more
        found = norms[2](convs[2](found))  # with a hook
        found = norms[3](convs[3](found))  # of another class
        found = norms[4](norms[4](convs[4](found)))  # norms twice
        found = norms[5](convs[5](found)) + F.conv2d(found, convs[5].weight)  # its weight is used elsewhere
        found = norms[6](F.dropout(convs[6](found), training=False).relu_())  # changed in between
        return found.mean((2, 3))


@torch.no_grad()
def test_what_is_not_sure_stays_as_it_is() -> None:
    backbone = Odd().eval()
    draw_norms(backbone)
    form, pixels = inference_form(backbone, HALF), pictures(backbone)
    assert [type(norm) is nn.Identity for norm in form.get_submodule("norms").children()] == [True] + 6 * [False]
    assert type(form.get_submodule("relu")) is nn.ReLU
    exact = backbone.encode_image(pixels)
    with in_half():
        plain, found = backbone.encode_image(pixels), form.encode_image(pixels)
    off, plainly_off = (float((part - exact).norm()) for part in (found, plain))
    assert off < 2 * plainly_off


@torch.no_grad()
def test_attention_that_is_not_to_itself_goes_torch_s_way() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    own = copy.deepcopy(attention)
    own.__class__ = forms.SelfAttention
    rows, others = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    mask = torch.full((5, 5), -torch.inf).triu(1)
    padding = torch.arange(5)[None] > torch.tensor([[2], [3], [4]])
    calls: list[Callable[[nn.Module], Any]] = [
        lambda layer: layer(rows, rows, rows, need_weights=False),
        lambda layer: layer(rows, rows, rows, need_weights=False, attn_mask=mask),
        lambda layer: layer(rows, rows, rows, need_weights=False, attn_mask=mask < 0),
        lambda layer: layer(rows, rows, rows, need_weights=False, key_padding_mask=padding),
        lambda layer: layer(rows, others, others, need_weights=False),
        lambda layer: layer(rows, rows, rows),
        lambda layer: layer(rows[0], rows[0], rows[0], need_weights=False),
    ]
    for call in calls:
        for found, expected in zip(call(own), call(attention), strict=True):
            assert found is expected is None or torch.allclose(found, expected, atol=1e-6)
