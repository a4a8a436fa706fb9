"""Weights that do not fit: what is listed, and the cause that is derived from names and sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from benchmark.methods.clip4cir import Clip4Cir, CombinerSettings
from benchmark.methods.networks.recurrent_texts import BiGruText
from benchmark.methods.spirit import Spirit, SpiritSettings
from torch import Tensor, nn

from benchmark.encoders.architectures import TINY
from benchmark.encoders.backbones import build_clip
from benchmark.errors import UserError
from benchmark.weights.fit import load_into


class Network(nn.Module):
    """Twelve tensors: six layers of one shape."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(6)))
        self.scale = nn.Parameter(torch.tensor(2.5))


@pytest.fixture(autouse=True)
def without_memory() -> Iterator[None]:
    """Shapes are all that counts here."""
    with torch.device("meta"):
        yield


def refused(module: nn.Module, state: dict[str, Tensor]) -> str:
    with pytest.raises(UserError) as raised:
        load_into(module, state, "file.pt")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_extra_and_misshapen_tensors_are_listed() -> None:
    told = refused(nn.Linear(2, 3), {"weight": torch.zeros(3, 5), "extra": torch.zeros(1)})
    assert told.startswith("file.pt: 3 tensors do not fit: ")
    for part in ("bias is missing", "extra is not expected", "weight is (3, 5) where (3, 2) is expected"):
        assert part in told


def test_the_first_ten_and_their_number() -> None:
    told = refused(Network(), {})
    assert told.count("is missing") == 10 and "13 tensors do not fit" in told and ", and 3 more. " in told
    assert "1 tensor does not fit: scale is missing. " in refused(
        Network(), {name: t for name, t in Network().state_dict().items() if name != "scale"}
    )


def test_a_scalar_fits_a_vector_of_one_and_nothing_is_copied_where_one_tensor_is_wrong() -> None:
    with torch.device("cpu"):
        module = Network()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        other = {name: tensor + 1 for name, tensor in before.items()}
        load_into(module, {**other, "scale": other["scale"].reshape(1).double()}, "file.pt")
        assert torch.equal(module.scale, before["scale"] + 1) and module.scale.dtype == torch.float32
        refused(module, {**before, "scale": torch.zeros(2)})
        assert torch.equal(module.layers[0].weight, other["layers.0.weight"])


def test_another_width() -> None:
    assert "another width: the sizes that differ are 2 times those here" in refused(Network(4), Network(8).state_dict())
    narrow, wide = (Spirit(width, SpiritSettings()) for width in (64, 640))
    assert "another width: the sizes that differ are 10 times" in refused(narrow, wide.state_dict())
    half, whole = (Clip4Cir(width, CombinerSettings()) for width in (512, 1024))
    assert "are 0.5 times those here" in refused(whole, half.state_dict())


def test_another_method() -> None:
    spirit, combiner = Spirit(64, SpiritSettings()), Clip4Cir(64, CombinerSettings())
    assert "another method's: the names are those of BLIP4CIR+Bi or CLIP4Cir" in refused(spirit, combiner.state_dict())
    assert "the names are those of SPIRIT" in refused(combiner, spirit.state_dict())
    # As official files have them: the part alone, with the released names.
    assert "the names are those of BLIP4CIR+Bi or CLIP4Cir" in refused(spirit, combiner.combiner.state_dict())
    assert "the names are those of SPIRIT" in refused(combiner, spirit.network.state_dict())
    assert "the names are those of CLIP's encoders" in refused(spirit, build_clip(TINY, "quickgelu").state_dict())


def test_another_dataset() -> None:
    here, there = BiGruText(1000, 8, 4), BiGruText(1234, 8, 4)
    assert "another dataset: its vocabulary has 1,234 words, and the one here 1,000" in refused(here, there.state_dict())


def test_a_part_and_more_than_the_whole() -> None:
    state = Network().state_dict()
    assert "one part of the model only" in refused(Network(), dict(list(state.items())[:8]))
    assert "more than this model" in refused(Network(), {**state, "optimiser": torch.zeros(1)})
    assert "another kind of model" in refused(Network(), {f"{name}.other": t for name, t in state.items()})
    assert "Hugging Face" in refused(Network(), {"vision_model.a": torch.zeros(1)})


def test_another_depth() -> None:
    wide = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": [2, 1, 1, 1]}}
    told = refused(build_clip(TINY, "quickgelu"), build_clip(wide, "quickgelu").state_dict())
    assert "visual.layer1.1.conv1.weight is not expected" in told and "more than this model" in told


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.complex64])
def test_numbers_that_would_be_cut_are_refused_and_nothing_is_copied(dtype: torch.dtype) -> None:
    module = nn.BatchNorm1d(3, device="cpu")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=f"^w.pt: 1 tensor is of another kind of number: weight is {name} where float32"):
        load_into(module, {**before, "weight": torch.ones(3, dtype=dtype, device="cpu")}, "w.pt")
    with pytest.raises(UserError, match="num_batches_tracked is float32 where int64 is expected"):
        load_into(module, {**before, "num_batches_tracked": torch.tensor(1.5, device="cpu")}, "w.pt")
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_point_number_is_taken(dtype: torch.dtype) -> None:
    with torch.device("cpu"):
        module = nn.Linear(2, 2)
        load_into(module, {"weight": torch.full((2, 2), 0.5, dtype=dtype), "bias": torch.zeros(2, dtype=dtype)}, "w.pt")
    assert module.weight.dtype == torch.float32 and float(module.weight.sum().detach()) == 2.0


def test_names_behind_a_prefix_are_told_as_such() -> None:
    state = {f"model.head.{name}": tensor for name, tensor in nn.Linear(2, 2).state_dict().items()}
    with pytest.raises(UserError, match="The names stand behind 'model.head.'; save these tensors alone, without it"):
        load_into(nn.Linear(2, 2), {**state, "model.other": torch.zeros(1)}, "w.pt")
