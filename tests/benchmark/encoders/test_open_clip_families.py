"""Every family of open_clip serves as a backbone: small random ones of each, and two of full size."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from benchmark.methods.baselines import Sum
from command_line import Command
from host_waits import HostWaits
from safetensors.torch import save_file
from simulated_gpu import sent, simulated_gpu
from small_backbones import FAMILIES, write_backbone, write_tokenizer
from torch import Tensor

from benchmark.backbone import Backbone, BackboneChoice
from benchmark.encoders import hub_tokenizers
from benchmark.encoders.families import family_of, rebuild
from benchmark.encoders.hub_tokenizers import HubFolder
from benchmark.encoders.open_clip_networks import build_network, open_clip_state
from benchmark.encoders.recognition import recognised
from benchmark.errors import UserError
from benchmark.interop.exported import load
from benchmark.method import FeatureInputs
from benchmark.pipeline.cost import count_cost
from benchmark.settings import BackboneSettings, EncoderChoice

pytest.importorskip("transformers", reason="texts of the hub's towers need it; pip install 'cir-benchmark[hf]'")

CPU = torch.device("cpu")
TEXTS = ["is red", "", "the same dress but blue and " + "long " * 90]


def loaded(family: str, folder: Path, weights: str = "random", seed: int = 0) -> tuple[Backbone, BackboneChoice]:
    choice = BackboneChoice(str(write_backbone(family, folder)), weights, seed=seed)
    return family_of(choice.name).load(choice), choice


@torch.no_grad()
def encoded(backbone: Backbone, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    side = backbone.preprocessing.size
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return backbone.encode_image(pixels.to(device)), backbone.encode_text(backbone.tokenize(TEXTS).to(device))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_encodes_trains_and_is_found_again(family: str, tmp_path: Path) -> None:
    backbone, choice = loaded(family, tmp_path)
    pictures, texts = encoded(backbone)
    assert pictures.shape == (2, backbone.width) and texts.shape == (3, backbone.width)
    assert bool(torch.isfinite(pictures).all() and torch.isfinite(texts).all())
    assert float(pictures.norm(dim=1).max()) != pytest.approx(1, abs=1e-3), "raw, not normalised"
    context = backbone.text_context
    assert context is not None and context.cut(TEXTS) == 1
    tokens = backbone.tokenize(TEXTS)
    assert tokens.shape == (3, context.length)
    short = backbone.shortened(backbone.tokenize(TEXTS[:2]))
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_text(short), texts[:2], atol=1e-5, rtol=1e-5)
    # Every parameter is of one part, or says that nothing moves it; and what is of a part can be trained.
    beginnings = [beginning for part in backbone.parts.values() for beginning in part]
    for name, _ in backbone.named_parameters():
        owners = sum(name.startswith(beginning) for beginning in (*beginnings, *backbone.without_gradient))
        assert owners == 1, name
    side = backbone.preprocessing.size
    loss = backbone.encode_image(torch.rand(2, 3, side, side)).sum() + backbone.encode_text(tokens).square().sum()
    loss.backward()
    for part, names in backbone.parts.items():
        moved = [n for n, p in backbone.named_parameters() if n.startswith(names) and p.grad is not None]
        assert moved, part
    description = asdict(backbone.description)
    again = rebuild(description, "a header")
    again.load_state_dict(backbone.state_dict())
    assert asdict(again.description) == description
    for found, expected in zip(encoded(again), (pictures, texts), strict=True):
        assert torch.equal(found, expected)
    cost = count_cost(Sum(backbone.width, EncoderChoice()), FeatureInputs(), backbone, TEXTS[:1])
    assert cost.gallery.flops > 0 and cost.query.flops > cost.gallery.flops
    outline = family_of(choice.name).outline(choice)
    assert outline.picture_outputs == backbone.picture_outputs and next(outline.parameters()).is_meta
    assert not torch.equal(encoded(loaded(family, tmp_path, seed=1)[0])[0], pictures)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_on_a_gpu(family: str, tmp_path: Path) -> None:
    """On one that computes on the host: what its layers make on the way lies where their input does."""
    backbone, _ = loaded(family, tmp_path)
    here = encoded(backbone)
    with simulated_gpu() as gpu, HostWaits() as found:
        there = encoded(sent(backbone), gpu)
        assert {part.device for part in there} == {gpu}
        for part, expected in zip(there, here, strict=True):
            torch.testing.assert_close(part.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert found.crossings["cuda to cpu"] == 2


@pytest.mark.parametrize("family", ["siglip", "coca"])
def test_weights_of_a_family_come_from_a_file(family: str, tmp_path: Path) -> None:
    first, choice = loaded(family, tmp_path, seed=3)
    path = tmp_path / "weights.safetensors"
    save_file({name: t.contiguous() for name, t in open_clip_state(first.clip).items()}, path)  # type: ignore[arg-type]
    second, _ = loaded(family, tmp_path, str(path))
    assert second.description.digest == first.description.digest
    for found, expected in zip(encoded(second), encoded(first), strict=True):
        assert torch.equal(found, expected)
    other = BackboneChoice(str(write_backbone("eva02", tmp_path)), str(path))
    with pytest.raises(UserError, match="do not fit"):
        family_of(other.name).require_fit(other)


def test_a_plain_clip_s_file_is_told_where_another_family_is_named(tmp_path: Path) -> None:
    tiny = family_of("tiny").load(BackboneChoice("tiny", "random"))
    path = tmp_path / "weights.safetensors"
    save_file({name: t.contiguous() for name, t in tiny.digested_state().items()}, path)
    with pytest.raises(UserError, match="its sizes are those of --backbone tiny"):
        loaded("siglip", tmp_path, str(path))


def test_a_published_architecture_s_weights_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """EVA02-B-16's names and shapes, without their numbers: shapes are all that is held against them."""
    config = open_clip.get_model_config("EVA02-B-16")
    assert config is not None
    with torch.device("meta"):
        network = build_network("EVA02-B-16", config, quick_gelu=False, assets_root=None)
    state = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in network.state_dict().items()}
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-B-32", "coca_ViT-B-32", "ViTamin-B", "EVA02-B-16"])
    assert recognised(state) == "EVA02-B-16"
    assert recognised({name: tensor for name, tensor in state.items() if "blocks.3." not in name}) == ""
    plain = {"token_embedding.weight": torch.empty(7, 3)}
    assert recognised(plain) == ""


def test_what_the_hub_holds_is_a_required_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    choice = BackboneChoice("nllb-clip-base-siglip", "random", assets_root=tmp_path)
    tokenizer, tower = family_of(choice.name).files(choice)
    assert tokenizer.path is None and tower.path is None
    for file in (tokenizer, tower):
        assert "https://huggingface.co/facebook/nllb-200-distilled-600M" in file.missing
        assert str(tmp_path) in file.missing and "--assets-root" in file.missing
    with pytest.raises(UserError, match=r"sizes of the text tower .* config\.json .* is not on this machine"):
        family_of(choice.name).load(choice)
    write_tokenizer(tmp_path / "timm" / "ViT-B-16-SigLIP")
    siglip = BackboneChoice("ViT-B-16-SigLIP", "random", assets_root=tmp_path)
    (found,) = family_of(siglip.name).files(siglip)
    assert found.path == tmp_path / "timm" / "ViT-B-16-SigLIP"


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.encoders.hub_tokenizers.find_spec", lambda name: None)
    choice = BackboneChoice(str(write_backbone("siglip", tmp_path)), "random")
    with pytest.raises(UserError, match=r"transformers, which is not installed; pip install 'cir-benchmark\[hf\]'"):
        family_of(choice.name).files(choice)


def test_a_family_s_own_pixels_are_recorded(tmp_path: Path) -> None:
    weights = tmp_path / "vit-b-16-siglip-webli.safetensors"
    weights.touch()
    choice = BackboneChoice("ViT-B-16-SigLIP", str(weights))
    assert family_of(choice.name).settled(choice).mean == (0.5, 0.5, 0.5)
    weights = tmp_path / "mobileclip-s1-datacompdr.pt"
    weights.touch()
    choice = BackboneChoice("MobileCLIP-S1", str(weights))
    settled = family_of(choice.name).settled(choice)
    assert (settled.mean, settled.std, settled.interpolation) == ((0.0,) * 3, (1.0,) * 3, "bilinear")
    assert "resized bilinear" in family_of(choice.name).pixels(choice)
    assert BackboneSettings().model_dump().keys() == {"preprocessing", "rgb_first", "precision", "compile"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("open_clip_config.json", {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}}),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}),
    ],
)
def test_what_stands_beside_an_untagged_file_is_read_whole(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    weights = tmp_path / "open_clip_model.safetensors"
    weights.touch()
    choice = BackboneChoice("ViT-B-16-SigLIP", str(weights))
    bilinear = json.dumps(content)
    for text, expected in ((bilinear, "bilinear"), (bilinear.replace("bilinear", "bicubic").replace("2}", "3}"), "")):
        (tmp_path / name).write_text(text)
        settled = family_of(choice.name).settled(choice)
        assert (settled.mean, settled.interpolation) == ((0.5, 0.5, 0.5), expected)


def test_a_tokenizer_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, _ = loaded("siglip", tmp_path)
    looked: list[str] = []
    require = HubFolder.require
    monkeypatch.setattr(HubFolder, "require", lambda folder, root: looked.append(folder.name) or require(folder, root))
    first = backbone.tokenize(["a red dress"])
    for _ in range(3):
        assert torch.equal(backbone.tokenize(["a red dress"]), first)
    assert len(looked) == 1


def test_an_export_brings_the_tokenizer_along(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    backbone = write_backbone("siglip", tmp_path / "here")
    made = command("run", "--method", "sum", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", backbone,
                   "--weights", "random", "--set", "method.encoder=untouched", "--limit", 8, "--output", tmp_path / "run")  # fmt: skip
    assert made.status == 0, made.err
    exported = command("export", tmp_path / "run", "--output", tmp_path / "there" / "sum.safetensors")
    assert exported.status == 0, exported.err
    picture = next(small_cirr.rglob("*.png"))
    expected = load(tmp_path / "there" / "sum.safetensors").encode_query([picture], ["a red dress"])
    # Elsewhere: neither the architecture's file nor the tokenizer's folder is there.
    shutil.rmtree(tmp_path / "here")
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    hub_tokenizers._found.cache_clear()
    found = load(tmp_path / "elsewhere" / "sum.safetensors").encode_query([picture], ["a red dress"])
    assert isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor) and torch.equal(found, expected)
    card = (tmp_path / "elsewhere" / "sum.md").read_text()
    assert "files that stay beside it: words/tokenizer.json" in card and "Files in words: copied from" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EVA02-B-16", "coca_ViT-B-32"])
def test_a_family_of_full_size(name: str) -> None:
    choice = BackboneChoice(name, "random")
    backbone = family_of(name).load(choice)
    pictures, texts = encoded(backbone)
    assert pictures.shape == (2, 512) and texts.shape == (3, 512)
    assert bool(torch.isfinite(pictures).all() and torch.isfinite(texts).all())
