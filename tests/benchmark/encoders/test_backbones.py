"""Backbones against OpenAI's own numbers, and what decides their weights and activation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmark.backbone import BackboneIdentity
from benchmark.encoders.architectures import (
    OWN,
    Activation,
    architecture_named,
    openai_architecture,
    split_name,
)
from benchmark.encoders.backbone_table import BACKBONES, all_architectures
from benchmark.encoders.backbones import OPEN_CLIP, ClipBackbone, build_clip, load_backbone
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.encoders.pretrained import find_weights, published
from benchmark.errors import UserError
from benchmark.parity.rules import clip_images, clip_weight, names_sha256
from benchmark.weights.fit import load_into

CLIPS = {name: info for name, info in BACKBONES.items() if info.family == "open_clip"}
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "clip_encoder.json").read_text())
PREFIX = GOLDEN["seed_prefix"]
ROUNDING_NOISE = "visual.attnpool.k_proj.bias"


def golden_backbone(name: str, activation: Activation = "quickgelu") -> ClipBackbone:
    sizes = GOLDEN["models"][name]["config"]
    clip = build_clip(openai_architecture(sizes), activation)
    preprocessing = Preprocessing("targetpad", sizes["image_resolution"])
    backbone = ClipBackbone(clip, preprocessing, BackboneIdentity(OPEN_CLIP, name, "golden", activation)).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.openai_state_dict().items()}
    drawn = {name: torch.from_numpy(clip_weight(name, shape, PREFIX)) for name, shape in shapes.items()}
    load_into(clip, drawn, "golden rule")
    return backbone


def golden_inputs(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Reference images, target images, tokens padded with 0."""
    model = GOLDEN["models"][name]
    sizes = model["config"]
    images = [
        clip_images(
            f"{name}.input.{side}", sizes["batch"], sizes["image_resolution"], sizes["coarse"], PREFIX
        )
        for side in ("reference", "target")
    ]
    tokens = torch.zeros(len(model["token_ids"]), sizes["context_length"], dtype=torch.int64)
    for row, numbers in enumerate(model["token_ids"]):
        tokens[row, : len(numbers)] = torch.tensor(numbers)
    return torch.from_numpy(images[0]), torch.from_numpy(images[1]), tokens


def deviation(found: Tensor, expected: dict[str, Any]) -> float:
    """The larger of the entries' and the norms' deviation, relative to the largest."""
    first, norms = np.array(expected["first16"]), np.array(expected["norms"])
    entries = np.abs(found[:, :16].numpy() - first).max() / np.abs(first).max()
    return float(max(entries, np.abs(found.norm(dim=1).numpy() - norms).max() / norms.max()))


@pytest.mark.parametrize("name", ["small", "small_vit", "RN50x4"])
@pytest.mark.slow
def test_the_encoders_are_openais(name: str) -> None:
    model = GOLDEN["models"][name]
    backbone = golden_backbone(name)
    shapes = {name: list(tensor.shape) for name, tensor in backbone.openai_state_dict().items()}
    assert names_sha256(shapes) == model["names_sha256"] and len(shapes) == model["entries"]
    assert backbone.description.parameters == model["parameters"]
    assert {**shapes, **model.get("state_dict", {}), **model.get("state_dict_visual", {})} == shapes
    reference, _, tokens = golden_inputs(name)
    with torch.inference_mode():
        images, texts = backbone.encode_image(reference), backbone.encode_text(tokens)
    assert deviation(images, model["eval"]["encode_image"]) < 1e-5
    assert deviation(texts, model["eval"]["encode_text"]) < 1e-5
    assert deviation(texts, model["not_openai"]["encode_text"]) > 1e-3
    if "cosine_image_text" in model["eval"]:
        cosines = functional.normalize(images) @ functional.normalize(texts).T
        np.testing.assert_allclose(cosines, model["eval"]["cosine_image_text"], atol=1e-5)


@pytest.mark.parametrize("name", ["small", "small_vit"])
def test_gelu_is_told_apart(name: str) -> None:
    model = GOLDEN["models"][name]
    reference, _, tokens = golden_inputs(name)
    backbone = golden_backbone(name, "gelu")
    with torch.inference_mode():
        found = {
            "encode_text": backbone.encode_text(tokens),
            "encode_image": backbone.encode_image(reference),
        }
    for output, expected in model["not_openai"].items():
        assert deviation(found[output], expected) < 1e-5
        assert deviation(found[output], model["eval"][output]) > 1e-3


@pytest.mark.parametrize("name", ["small", "small_vit"])
def test_stage_one_loss_and_gradients(name: str) -> None:
    expected = GOLDEN["models"][name]["stage1_loss"]
    backbone = golden_backbone(name)
    reference, target, tokens = golden_inputs(name)
    query = functional.normalize(backbone.encode_image(reference) + backbone.encode_text(tokens))
    logits = 100 * query @ functional.normalize(backbone.encode_image(target)).T
    loss = functional.cross_entropy(logits, torch.arange(len(logits)))
    loss.backward()
    largest = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits.detach(), expected["logits"], atol=1e-5 * largest)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    gradients = {
        n: None if p.grad is None else p.grad.norm().item() for n, p in backbone.clip.named_parameters()
    }
    assert [n for n, norm in gradients.items() if norm is None] == expected["no_gradient"]
    assert gradients.keys() - expected["no_gradient"] == expected["grad_norms"].keys()
    for parameter, norm in expected["grad_norms"].items():
        tolerance = 1e-5 if parameter == ROUNDING_NOISE else 1e-8
        assert gradients[parameter] == pytest.approx(norm, rel=2e-5, abs=tolerance), parameter


@pytest.fixture(scope="module")
def tiny() -> ClipBackbone:
    return load_backbone("tiny")


def test_tiny_encodes_into_its_width(tiny: ClipBackbone) -> None:
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    tokens = tiny.tokenize(["a red shirt with a collar", ""])
    assert tokens.shape == (2, 32) and tokens.dtype == torch.int64
    assert tiny.encode_image(tiny.preprocessing.normalise(pixels)).shape == (2, 64)
    assert tiny.encode_text(tokens).shape == (2, 64)
    info, description = BACKBONES["tiny"], tiny.description
    assert (description.width, description.image_size) == (info.width, info.image_size)
    assert description.weights == "random" and description.context_length == 32
    assert not tiny.training and tiny.clip.logit_scale.shape == (1,)


def test_random_weights_depend_on_the_seed_alone(tiny: ClipBackbone) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, other = load_backbone("tiny", seed=0), load_backbone("tiny", "random", seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert again.description == tiny.description
    assert other.description.digest != tiny.description.digest


def test_relabel_takes_a_new_digest() -> None:
    backbone = load_backbone("tiny")
    before = backbone.description
    with torch.no_grad():
        backbone.clip.logit_scale.add_(1)
    assert backbone.description.digest == before.digest
    backbone.relabel("stage1")
    assert backbone.description.weights == "stage1" and backbone.description.digest != before.digest


@pytest.mark.parametrize("context", ["tiny", "full"])
def test_long_texts_are_cut_and_keep_the_end_token(tiny: ClipBackbone, context: str) -> None:
    backbone = tiny if context == "tiny" else golden_backbone("small")
    length, last = (32, 4095) if context == "tiny" else (77, 49407)
    long, short, empty = backbone.tokenize(["striped " * 200, "striped", ""])
    assert len(long) == length and long[-1] == last and (long[:-1] < last).all()
    assert short[0] == last - 1 and (short == last).sum() == 1
    assert empty[:3].tolist() == [last - 1, last, 0]


def test_short_vocabulary_covers_every_text(tiny: ClipBackbone) -> None:
    words = ["burgundy", "Ärmel", "日本", "x@#1", "is navy blue and has no collar"]
    tokens = tiny.tokenize(words)
    assert int(tokens.max()) == 4095 and (tokens.max(dim=1).values == 4095).all()
    assert len({tuple(row.tolist()) for row in tokens}) == len(words)


def test_clips_tokens_are_openais() -> None:
    tokens = golden_backbone("small").tokenize(["a photo of a cat"])
    assert tokens[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]


def test_a_fine_tuned_file_is_loaded_whatever_its_precision(tiny: ClipBackbone, tmp_path: Path) -> None:
    changed = load_backbone("tiny", seed=9).clip.half()
    torch.save({"epoch": 1, "CLIP": changed.state_dict()}, tmp_path / "tuned_clip_best.pt")
    loaded = load_backbone("tiny", str(tmp_path / "tuned_clip_best.pt"))
    description = loaded.description
    assert description.weights == "tuned_clip_best"
    assert {tensor.dtype for tensor in loaded.clip.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.clip.text_projection, changed.text_projection.float())
    torch.save(loaded.openai_state_dict(), tmp_path / "scalar.pt")
    assert load_backbone("tiny", str(tmp_path / "scalar.pt")).description.digest == description.digest


@pytest.fixture(scope="module")
def vit_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A ViT-B-32 as a plain file, as CLIP4Cir's and as one with OpenAI's sizes in it."""
    folder = tmp_path_factory.mktemp("weights")
    state = load_backbone("ViT-B-32-gelu", "random").openai_state_dict()
    state = {name: tensor.half() for name, tensor in state.items()}
    sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    marked = {**state, **{name: torch.tensor(size) for name, size in sizes.items()}}
    contents = {"plain": state, "tuned": {"epoch": 0, "CLIP": state}, "ViT-B-32": marked}
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")
    return {name: str(folder / f"{name}.pt") for name in contents}


def test_openais_weights_get_quickgelu_and_contradictions_are_errors(vit_files: dict[str, str]) -> None:
    for name in ("tuned", "ViT-B-32"):
        assert load_backbone("ViT-B-32", vit_files[name]).description.activation == "quickgelu"
        with pytest.raises(UserError, match="were trained with quickgelu"):
            load_backbone("ViT-B-32-gelu", vit_files[name])
    with pytest.raises(UserError, match="say --backbone ViT-B-32-quickgelu"):
        load_backbone("ViT-B-32", vit_files["plain"])
    assert load_backbone("ViT-B-32-gelu", vit_files["plain"]).description.activation == "gelu"
    with pytest.raises(UserError, match="as RN50: .* tensors do not fit"):
        load_backbone("RN50", vit_files["plain"])


def test_a_tag_is_looked_for_on_disk(vit_files: dict[str, str], tmp_path: Path) -> None:
    folder = Path(vit_files["ViT-B-32"]).parent
    backbone = load_backbone("ViT-B-32", "openai", assets_root=folder)
    description = backbone.description
    assert (description.name, description.weights, description.activation) == (
        "ViT-B-32",
        "openai",
        "quickgelu",
    )
    (tmp_path / "ViT-B-32-laion2b_s34b_b79k.pt").symlink_to(vit_files["ViT-B-32"])
    with pytest.raises(UserError, match="published with GELU, but the file found is one of OpenAI's"):
        load_backbone("ViT-B-32", "laion2b_s34b_b79k", assets_root=tmp_path)


def test_missing_weights_say_what_was_looked_for_and_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(UserError) as raised:
        load_backbone("RN50x4")
    message = str(raised.value)
    source = BACKBONES["RN50x4"].sources[0]
    for part in (source.file, str(tmp_path / ".cache" / "clip"), source.url, source.mirror, "--weights FILE"):
        assert part in message
    assert "\n" not in message
    with pytest.raises(UserError, match="unknown weights of RN50x4 'opena': did you mean openai"):
        find_weights("RN50x4", "opena", None)


def test_unknown_and_unsupported_names() -> None:
    for name, near in (("RN50x5", "RN50x4, RN50 or RN50x64"), ("quite other", "")):
        with pytest.raises(UserError, match=f"unknown backbone '{name}': did you mean {near}") as told:
            load_backbone(name, "random")
        assert str(told.value).endswith("? `list backbones` lists all") and len(str(told.value)) < 150
    with pytest.raises(UserError, match=r"config\.json of roberta-base is not on this machine"):
        load_backbone("roberta-ViT-B-32", "random")
    with pytest.raises(UserError, match="no default weights"):
        load_backbone("ViT-B-16-plus-240")
    with pytest.raises(UserError, match="unknown preprocessing"):
        load_backbone("tiny", preprocessing="centre")


def test_every_architecture_is_listed_by_its_file_alone() -> None:
    listed = all_architectures()
    assert {split_name(name)[0] for name in CLIPS.keys() - OWN.keys()} <= set(listed) and not any(name.endswith("quickgelu") for name in listed)
    known = {split_name(name)[0] for name in open_clip.list_models()}
    assert set(listed) == known and len(listed) > 100
    for name in known:
        assert architecture_named(name).image_size >= 112


def test_the_table_agrees_with_open_clip() -> None:
    for info in CLIPS.values():
        for source in info.sources:
            entry = published(split_name(info.name)[0])[source.tag]
            assert source.mirror.endswith(hub := entry["hf_hub"].rstrip("/"))
            if entry["url"]:
                assert source.url == entry["url"] and source.url.endswith(source.file)
            else:
                assert source.url.endswith(hub) and source.tag in source.file
    import open_clip

    for info in CLIPS.values():
        if info.sources:
            config = open_clip.get_model_config(split_name(info.name)[0])
            assert config["embed_dim"] == info.width
            assert config["vision_cfg"]["image_size"] == info.image_size
