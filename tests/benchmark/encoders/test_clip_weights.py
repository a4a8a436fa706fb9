"""A CLIP is read whatever its file calls it, with the normalisation it was trained with, and nothing is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Command
from torch import Tensor

from benchmark.encoders.architectures import architecture_named
from benchmark.encoders.backbones import ClipBackbone, load_backbone, rebuild_backbone, require_weights_fit
from benchmark.encoders.preprocessing import CLIP_MEAN
from benchmark.encoders.pretrained import activation_of, normalisation_of, with_normalisation
from benchmark.errors import UserError
from benchmark.interop.imported_encoder import read_encoder
from benchmark.records.record import read_record
from benchmark.settings import BackboneSettings
from benchmark.weights.reading import WeightsFile

HALF = (0.5, 0.5, 0.5)
VIT: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 20, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 3},
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small ViT of open_clip's form."""
    file = tmp_path_factory.mktemp("architecture") / "small-vit.json"
    file.write_text(json.dumps(VIT))
    return str(file)


@pytest.fixture(scope="module")
def vit(own: str) -> ClipBackbone:
    return load_backbone(own, "random", seed=3)


def hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names to those of transformers' CLIPModel, written apart from what is tested."""
    theirs: dict[str, Tensor] = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(len(state["positional_embedding"]))[None],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for kind in ("weight", "bias"):
        theirs[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        theirs[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        theirs[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        for side, own, layers in (("text", "", 3), ("vision", "visual.", 2)):
            for n in range(layers):
                at, block = f"{side}_model.encoder.layers.{n}", f"{own}transformer.resblocks.{n}"
                joined = state[f"{block}.attn.in_proj_{kind}"]
                for part, rows in zip(("q", "k", "v"), joined.chunk(3), strict=True):
                    theirs[f"{at}.self_attn.{part}_proj.{kind}"] = rows
                theirs[f"{at}.self_attn.out_proj.{kind}"] = state[f"{block}.attn.out_proj.{kind}"]
                theirs[f"{at}.layer_norm1.{kind}"] = state[f"{block}.ln_1.{kind}"]
                theirs[f"{at}.layer_norm2.{kind}"] = state[f"{block}.ln_2.{kind}"]
                theirs[f"{at}.mlp.fc1.{kind}"] = state[f"{block}.mlp.c_fc.{kind}"]
                theirs[f"{at}.mlp.fc2.{kind}"] = state[f"{block}.mlp.c_proj.{kind}"]
    return {name: tensor.clone() for name, tensor in theirs.items()}


def behind(prefix: str, **others: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()} | others


FORMS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a lightning module": (behind("model.clip."), "'model.clip.' removed"),
    "of several processes": (behind("module."), "'module.' removed"),
    "compiled and of several processes": (behind("_orig_mod.module."), "removed"),
    "within a larger model": (
        lambda state: {"state_dict": behind("model.clip.", **{"model.head.weight": torch.zeros(2, 2)})(state)},
        "'model.clip.' removed from every name, 1 other tensors left out",
    ),
    "transformers": (hugging_face, "Hugging Face's names"),
    "transformers within a model": (
        lambda state: behind("clip_model.", bias=torch.zeros(1))(hugging_face(state)), "'clip_model.' removed"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("form", "note"), FORMS.values(), ids=FORMS)
def test_the_same_weights_are_read_from_any_form(
    form: Callable[[dict[str, Tensor]], Any], note: str, own: str, vit: ClipBackbone, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "weights.pt"
    torch.save(form(vit.openai_state_dict()), file)
    loaded = load_backbone(own, str(file))
    assert loaded.description.digest == vit.description.digest
    told = capsys.readouterr().err
    assert note in told and "mean 0.4815, 0.4578, 0.4082; std 0.2686" in told and len(told.splitlines()) == 1
    assert read_encoder(file, own, BackboneSettings()).backbone.width == 48
    require_weights_fit(own, str(file))
    pixels, tokens = torch.randn(2, 3, 32, 32), vit.tokenize(["red", "longer sleeves"])
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(pixels), vit.encode_image(pixels))
        assert torch.equal(loaded.encode_text(tokens), vit.encode_text(tokens))


def test_transformers_own_model_gives_the_same_features(own: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_attention_heads": 2, "hidden_act": "gelu", "projection_dim": 48}
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 1000,
                     "max_position_embeddings": 20, "eos_token_id": 999, **sizes},
        vision_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "image_size": 32,
                       "patch_size": 8, **sizes},
        projection_dim=48,
    )  # fmt: skip
    theirs = transformers.CLIPModel(config).eval()
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    ours, pixels = load_backbone(own, str(tmp_path / "clip.pt")), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = theirs.get_image_features(pixels)
        expected = getattr(found, "pooler_output", found)  # of transformers 5, and of those before
        torch.testing.assert_close(ours.encode_image(pixels), expected, atol=1e-5, rtol=1e-4)


def test_several_clips_in_a_file_are_not_chosen_from(own: str, vit: ClipBackbone, tmp_path: Path) -> None:
    state = vit.openai_state_dict()
    torch.save(behind("student.")(state) | behind("teacher.")(state), tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"two.pt: holds several CLIPs, behind 'student\.' and 'teacher\.'"):
        load_backbone(own, str(tmp_path / "two.pt"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_whole_and_complex_weights_are_refused(dtype: torch.dtype, own: str, vit: ClipBackbone, tmp_path: Path) -> None:
    state = vit.openai_state_dict() | {"visual.conv1.weight": vit.clip.visual.conv1.weight.detach().to(dtype)}
    torch.save(state, tmp_path / "cut.pt")
    name = str(dtype).removeprefix("torch.")
    told = f"cut.pt as small-vit-.*: 1 tensor is of another kind of number: visual.conv1.weight is {name} where float32"
    for read in (load_backbone, require_weights_fit):
        with pytest.raises(UserError, match=told):
            read(own, str(tmp_path / "cut.pt"))
    with pytest.raises(UserError, match=told):
        read_encoder(tmp_path / "cut.pt", own, BackboneSettings())


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("ViT-L-14-laion2b_s32b_b82k.pt", HALF),
        ("vit-l-14_LAION2B-s32B-b82K.safetensors", HALF),
        ("models--laion--CLIP-ViT-L-14-laion2B-s32B-b82K/snapshots/1a2b/open_clip_model.safetensors", HALF),
        ("ViT-L-14.pt", CLIP_MEAN),
        ("laion2b_s32b_b82kk.pt", CLIP_MEAN),
        ("ViT-L-14-laion400m_e32.pt", CLIP_MEAN),
    ],
)
def test_a_known_file_has_the_normalisation_of_its_tag(name: str, mean: tuple[float, ...], tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    found = normalisation_of("ViT-L-14", str(file), file)
    assert found.mean == mean and (found.std == HALF) == (mean == HALF)
    settings = with_normalisation(BackboneSettings(), "ViT-L-14-gelu", str(file), None)
    assert settings.mean == (HALF if mean == HALF else ())
    # What the settings tell is recorded, and comes back as what is known.
    assert normalisation_of("ViT-L-14", str(file), file, settings) == found
    own = normalisation_of("ViT-L-14", str(file), file, BackboneSettings(mean=(0.1, 0.2, 0.3), std=(1, 1, 1)))
    assert own.mean == (0.1, 0.2, 0.3) and "--set backbone.mean" in str(own)


@pytest.mark.parametrize(
    ("name", "activation"),
    [("ViT-B-32-laion400m_e32.pt", "quickgelu"), ("ViT-B-32-laion2b_s34b_b79k.pt", "gelu"), ("mine.pt", None)],
)
def test_a_known_file_has_the_activation_of_its_tag(name: str, activation: str | None) -> None:
    if activation is None:
        with pytest.raises(UserError, match="nothing in it tells the activation"):
            activation_of(architecture_named("ViT-B-32"), name, WeightsFile({}, "state_dict"), {})
        return
    assert activation_of(architecture_named("ViT-B-32"), name, WeightsFile({}, "state_dict"), {}) == activation


def test_a_tag_and_its_file_are_normalised_alike(tmp_path: Path) -> None:
    (tmp_path / "ViT-L-14-laion2b_s32b_b82k.pt").touch()
    by_tag = with_normalisation(BackboneSettings(), "ViT-L-14", "laion2b_s32b_b82k", tmp_path)
    assert by_tag.mean == by_tag.std == HALF
    assert with_normalisation(BackboneSettings(), "ViT-L-14", "random", None).mean == ()


@pytest.mark.parametrize(
    ("beside", "content", "mean"),
    [
        ("open_clip_config.json", {"preprocess_cfg": {"mean": HALF, "std": HALF}}, HALF),
        ("preprocessor_config.json", {"image_mean": HALF, "image_std": HALF, "size": 224}, HALF),
    ],
)
def test_what_a_hub_says_beside_its_weights_is_used(
    beside: str, content: Any, mean: tuple[float, ...], tmp_path: Path
) -> None:
    (tmp_path / beside).write_text(json.dumps(content))
    for name, expected in (("model.safetensors", mean), ("mine.safetensors", CLIP_MEAN)):
        assert normalisation_of("ViT-B-32", str(tmp_path / name), tmp_path / name).mean == expected
    (tmp_path / beside).write_text("{}")
    with pytest.raises(UserError, match=f"{beside}: entry 'mean'"):
        normalisation_of("ViT-B-32", "", tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "values", [{"mean": [0.5]}, {"mean": HALF}, {"mean": HALF, "std": (0, 1, 1)}, {"mean": ("nan", 0, 0), "std": HALF}]
)
def test_half_a_normalisation_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mean"):
        BackboneSettings(**values)


def test_settings_that_leave_it_to_the_weights_are_written_as_before() -> None:
    assert BackboneSettings().model_dump(mode="json").keys() == {"preprocessing", "rgb_first", "precision", "compile"}
    told = BackboneSettings(mean=HALF, std=HALF).model_dump(mode="json")
    assert told["mean"] == [0.5, 0.5, 0.5] and BackboneSettings(**told).std == HALF


def test_an_architecture_of_ones_own_is_built_again_without_its_file(own: str, vit: ClipBackbone) -> None:
    description = vit.description
    assert description.name.startswith("small-vit-") and description.width == 48 and description.image_size == 32
    assert description.activation == "gelu" and description.context_length == 20
    again = rebuild_backbone(json.loads(json.dumps(asdict(description))))
    again.load_state_dict(vit.state_dict())
    assert again.description == description


def test_what_the_file_holds_is_part_of_the_name(own: str, tmp_path: Path) -> None:
    # Other heads have the same tensors and give other features.
    other = tmp_path / "small-vit.json"
    other.write_text(json.dumps({**VIT, "text_cfg": {**VIT["text_cfg"], "heads": 4}, "quick_gelu": True}))
    mine, theirs = architecture_named(own), architecture_named(str(other))
    assert mine.label != theirs.label and theirs.label.startswith("small-vit-")
    assert (mine.activation, theirs.activation) == (None, "quickgelu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"embed_dim": 0}, "entry 'embed_dim'"),
        ({"embed_dim": "x"}, "entry 'embed_dim'"),
        ({"vision_cfg": {**VIT["vision_cfg"], "width": 10**9}}, "entry 'vision_cfg.width'"),
        ({"vision_cfg": {**VIT["vision_cfg"], "image_size": 10**6}}, "entry 'vision_cfg.image_size'"),
        ({"vision_cfg": {**VIT["vision_cfg"], "layers": [1, 2]}}, "entry 'vision_cfg.layers"),
        ({"vision_cfg": {**VIT["vision_cfg"], "colour": 1}}, "no network can be built"),
        ({"text_cfg": {**VIT["text_cfg"], "heads": 5}}, "no network can be built"),
        ({"text_cfg": {**VIT["text_cfg"], "vocab_size": 2**21}}, "entry 'text_cfg.vocab_size'"),
        ({"custom_text": True, "text_cfg": {**VIT["text_cfg"], "heads": 5}}, "no network can be built"),
        ({"text_cfg": None}, "entry 'text_cfg'"),
    ],
)
def test_a_file_that_is_no_architecture_is_told_in_one_line(change: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(VIT | change))
    with pytest.raises(UserError, match=f"^--backbone .*a.json: .*{told}") as caught:
        load_backbone(str(tmp_path / "a.json"), "random")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json: no such file"):
        load_backbone(str(tmp_path / "none.json"), "random")


DAMAGED: tuple[tuple[tuple[str, ...], Any], ...] = tuple(
    (path, value)
    for path in (("name",), ("weights",), ("activation",), ("digest",), ("configuration",), ("preprocessing",),
                 ("preprocessing", "pad"), ("preprocessing", "size"), ("preprocessing", "mean"), ("preprocessing", "std"))
    for value in (None, 5, "x", [], {}, [1, 2, "a"], -1)
)  # fmt: skip


@pytest.mark.parametrize(("path", "value"), DAMAGED)
def test_a_damaged_description_is_a_backbone_or_one_line(path: tuple[str, ...], value: Any) -> None:
    description: dict[str, Any] = asdict(load_backbone("tiny", "random").description)
    within = description
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = value
    try:
        rebuild_backbone(description, "weights.safetensors")
    except UserError as error:
        assert len(str(error).splitlines()) == 1


def test_a_run_on_an_architecture_and_a_normalisation_of_ones_own(
    own: str, vit: ClipBackbone, command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    torch.save(behind("model.")(vit.openai_state_dict()), tmp_path / "mine.pt")
    run = ("run", "--method", "sum", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--backbone", own,
           "--weights", tmp_path / "mine.pt", "--set", "method.encoder=untouched")  # fmt: skip
    half = ("--set", "backbone.mean=[0.5,0.5,0.5]", "--set", "backbone.std=[0.5,0.5,0.5]")
    told = command(*run, *half, "--dry-run")
    assert told.status == 0 and "pixels     mean 0.5, 0.5, 0.5; std 0.5, 0.5, 0.5 (--set backbone.mean" in told.out, told.err
    for folder, further, mean in (("plain", (), CLIP_MEAN), ("half", half, HALF)):
        outcome = command(*run, *further, "--output", tmp_path / folder)
        assert outcome.status == 0, outcome.err
        encoder = read_record(tmp_path / folder).identity.encoder
        assert encoder is not None and encoder.name == vit.description.name and encoder.mean == mean
        assert f"mean {', '.join(f'{value:.4g}' for value in mean)}" in outcome.err
    scores = [read_record(tmp_path / folder).results[0].metrics for folder in ("plain", "half")]
    again = command("evaluate", "--method", "sum", "--checkpoint", tmp_path / "half", "--data-root", small_cirr,
                    "--output", tmp_path / "again")  # fmt: skip
    assert again.status == 0, again.err
    assert read_record(tmp_path / "again").results[0].metrics == scores[1]


def test_a_dry_run_refuses_weights_of_another_architecture(
    own: str, vit: ClipBackbone, command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    torch.save(vit.openai_state_dict(), tmp_path / "mine.pt")
    run = ("run", "--method", "sum", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--dry-run")
    told = command(*run, "--backbone", "tiny", "--weights", tmp_path / "mine.pt")
    assert told.status == 2 and "mine.pt as tiny: " in told.err and "tensors do not fit" in told.err
    evaluated = command("evaluate", "--method", "clip4cir_sum", "--checkpoint", tmp_path / "mine.pt", "--dataset", "cirr",
                        "--data-root", small_cirr)  # fmt: skip
    assert evaluated.status == 2 and len(evaluated.errors) == 1 and "`import --method NAME FILE`" in evaluated.err
