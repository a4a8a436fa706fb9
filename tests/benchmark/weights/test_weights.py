"""Weights files of every form, read without executing anything."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.weights.reading import read_state_dict, state_digest


class Attention(nn.Module):
    """A module with a tensor that is no buffer, as CLIP's attention mask is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 3).half()
        self.mask = torch.randn(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x + self.mask).half())


class Network(nn.Module):
    """Convolution, batch norm, nested modules, scalars, two precisions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(Attention(), Attention())
        self.scale = nn.Parameter(torch.tensor(2.5))
        for name, size in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(size))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (
            self.bn(self.conv(x)).sum() * self.scale + self.blocks[0](y).sum() + self.blocks[1](y.neg()).sum()
        )


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["trace", "script"])
def test_a_torchscript_archive_gives_its_state_dict_and_no_other_tensor(
    network: Network, tmp_path: Path, form: str
) -> None:
    inputs = torch.randn(1, 3, 8, 8), torch.randn(2, 3)
    module = torch.jit.trace(network, inputs) if form == "trace" else torch.jit.script(network)
    module.save(str(tmp_path / "model.pt"))
    file = read_state_dict(tmp_path / "model.pt")
    assert file.format == "torchscript" and file.from_openai
    assert_same(file.state_dict, network.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_an_archive_without_declarations_gives_every_tensor(network: Network, tmp_path: Path) -> None:
    torch.jit.script(network).save(str(tmp_path / "model.pt"))
    with zipfile.ZipFile(tmp_path / "model.pt") as old, zipfile.ZipFile(tmp_path / "bare.pt", "w") as new:
        for name in old.namelist():
            if "/code/" not in name:
                new.writestr(name, old.read(name))
    extra = {"blocks.0.mask", "blocks.1.mask"}
    assert read_state_dict(tmp_path / "bare.pt").state_dict.keys() == network.state_dict().keys() | extra


def test_a_malicious_archive_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "attacked"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Attack(target), protocol=2))
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/code/__torch__.py", "")
    with pytest.raises(UserError, match=f"execute code: the pickle in it calls {os.name}.system"):
        read_state_dict(tmp_path / "model.pt")
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "attacked"
    content = {"CLIP": {"weight": torch.ones(2)}, "epoch": Attack(target)}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"refused.*execute code: the pickle in it calls {os.name}.system;") as raised:
        read_state_dict(tmp_path / "model.pt")
    assert not target.exists() and "\n" not in str(raised.value)


def test_everything_that_a_refused_pickle_asks_for_is_named(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2), "log": Attack(tmp_path / "attacked")}, tmp_path / "model.pt")
    with pytest.raises(UserError) as raised:
        read_state_dict(tmp_path / "model.pt")
    assert "torch.nn.modules.linear.Linear" in str(raised.value) and f"{os.name}.system" in str(raised.value)
    assert not (tmp_path / "attacked").exists()


def test_one_of_several_state_dicts_can_be_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "CLIP": {"a": torch.ones(1)}, "Combiner": {"b": torch.ones(2)}}, tmp_path / "both.pt")
    assert read_state_dict(tmp_path / "both.pt").entry == "CLIP"
    named = read_state_dict(tmp_path / "both.pt", entry="Combiner")
    assert named.state_dict.keys() == {"b"} and named.entry == "Combiner" and "epoch 3" in named.note


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_refused_by_what_it_would_call(tmp_path: Path, protocol: int) -> None:
    content = {"a": 1, "first": Attack(tmp_path / "attacked"), "again": Attack(tmp_path / "attacked")}
    (tmp_path / "model.pt").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=f"refused.*execute code: the pickle in it calls {os.name}.system;"):
        read_state_dict(tmp_path / "model.pt")
    assert not (tmp_path / "attacked").exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UserError, match="refused"):
        read_state_dict(tmp_path / "model.pt")


def test_plain_forms(network: Network, tmp_path: Path) -> None:
    state = network.conv.state_dict()
    torch.save(state, tmp_path / "plain.pt")
    save_file(state, tmp_path / "plain.safetensors")
    optimiser = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3}]}
    ddp = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(
        {"epoch": 3, "name": "run", "state_dict": ddp, "optimizer": optimiser}, tmp_path / "training.pt"
    )
    torch.save({"epoch": 7, "CLIP": state}, tmp_path / "tuned_clip_best.pt")
    torch.save({"epoch": 7, "Combiner": state}, tmp_path / "combiner.pt")
    expected = {
        "plain.pt": "state_dict",
        "plain.safetensors": "safetensors",
        "training.pt": "open_clip",
        "tuned_clip_best.pt": "clip4cir",
        "combiner.pt": "nested",
    }
    for name, form in expected.items():
        file = read_state_dict(tmp_path / name)
        assert file.format == form
        assert file.from_openai == (form == "clip4cir")
        assert_same(file.state_dict, state)
    assert "epoch 7" in read_state_dict(tmp_path / "tuned_clip_best.pt").note


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "empty"), (b"<html>" * 50, "not a weights file"), (b"version https://git-lfs.github.com", "LFS")],
)
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as raised:
        read_state_dict(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_weights_are_plain_tensors(tmp_path: Path) -> None:
    sparse = {"a": torch.zeros(2), "head.weight": torch.eye(3).to_sparse()}
    torch.save(sparse, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w.pt: 'head.weight' is sparse_coo, .* save it dense"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_truncated_file_is_named(network: Network, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(network.conv.state_dict(), path)
    else:
        save_file(network.conv.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="truncated"):
        read_state_dict(path)


def test_missing_and_ambiguous_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights file"):
        read_state_dict(tmp_path / "absent.pt")
    torch.save({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, tmp_path / "two.pt")
    with pytest.raises(UserError, match="several: model, ema"):
        read_state_dict(tmp_path / "two.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds none"):
        read_state_dict(tmp_path / "list.pt")


def test_the_digest_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    others = [
        {"a": torch.arange(4.0), "c": torch.tensor(1)},
        {"a": torch.arange(4.0).half(), "b": torch.tensor(1)},
        {"a": torch.arange(4.0).view(2, 2), "b": torch.tensor(1)},
        {"a": torch.tensor([0.0, 1.0, 2.0, 4.0]), "b": torch.tensor(1)},
    ]
    assert len({state_digest(state) for state in (base, *others)}) == 5
    assert state_digest({"b": base["b"], "a": base["a"].clone()}) == state_digest(base)
    strided = torch.arange(8.0).view(4, 2).t().contiguous().t()
    assert state_digest({"a": strided}) == state_digest({"a": strided.contiguous()})
