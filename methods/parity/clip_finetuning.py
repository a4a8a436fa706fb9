"""What checks stage 1: CLIP's encoders, its loss and gradients, ten of its steps.

Its official file is a CLIP alone, which `import` reads as such: there is no release to declare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.backbone import BackboneIdentity
from benchmark.encoders.architectures import Activation, openai_architecture
from benchmark.encoders.backbones import OPEN_CLIP, ClipBackbone, build_clip
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.parity.comparison import Deviation, GradientTolerance, compare_count, compare_names, compare_output
from benchmark.parity.files import ExpectedTraining, Form, GoldenFile, Listed, Matrix, Rows, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import (
    clip_images,
    clip_weight,
    draw_weights,
    names_sha256,
    padded_tokens,
    renamed,
    without_dropout,
)
from benchmark.parity.training import BATCHES, GoldenRecipe, RecipeConfig, TrainingCase, recipe_settings
from benchmark.progress import say
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

from ..networks.clip_finetuning import FINETUNING, ClipSum, FinetuningSettings

TOLERANCE = 1e-5
GRADIENTS = GradientTolerance(2e-5, is_noise=lambda name: name.endswith("k_proj.bias"), noise_share=1e-6)
"""A key's bias shifts a softmax's row: its gradient is rounding noise."""
CHANGES = 1e-3
"""Relative tolerance of a parameter's change after ten steps."""


class EncoderSizes(Form):
    """OpenAI's sizes of a model, and of the images that are drawn for it."""

    embed_dim: PositiveInt
    image_resolution: PositiveInt
    vision_layers: PositiveInt | list[PositiveInt]
    vision_width: PositiveInt
    vision_patch_size: PositiveInt | None
    vision_heads: PositiveInt
    context_length: PositiveInt
    vocab_size: PositiveInt
    transformer_width: PositiveInt
    transformer_heads: PositiveInt
    transformer_layers: PositiveInt
    batch: PositiveInt
    coarse: PositiveInt

    @model_validator(mode="after")
    def _blotches_fit(self) -> EncoderSizes:
        if self.image_resolution % self.coarse:
            raise ValueError(f"coarse {self.coarse} must divide the side {self.image_resolution}")
        return self


SMALL: Mapping[str, Any] = {
    "embed_dim": 64, "image_resolution": 64, "vision_layers": [1, 1, 1, 1], "vision_width": 16,
    "vision_patch_size": None, "vision_heads": 8, "context_length": 77, "vocab_size": 49408,
    "transformer_width": 128, "transformer_heads": 2, "transformer_layers": 2,
}  # fmt: skip
"""The model "small", which training files name without its sizes."""


def golden_backbone(name: str, sizes: EncoderSizes, prefix: str, activation: Activation) -> ClipBackbone:
    """A backbone in evaluation mode with weights by CLIP's rule."""
    clip = build_clip(openai_architecture(sizes.model_dump()), activation)
    draw_weights(clip, clip_weight, prefix)
    preprocessing = Preprocessing("targetpad", sizes.image_resolution)
    return ClipBackbone(clip, preprocessing, BackboneIdentity(OPEN_CLIP, name, "golden", activation)).eval()


def golden_tokens(file: GoldenFile, rows: list[list[int]], sizes: EncoderSizes) -> Tensor:
    """(B, L) token numbers as listed, padded. Raises UserError for what does not fit the model."""
    try:
        tokens = padded_tokens(rows, sizes.context_length)
    except ValueError as error:
        raise file.error(f"entry 'token_ids': {error}") from None
    if int(tokens.max()) >= sizes.vocab_size or int(tokens.min()) < 0:
        raise file.error(f"entry 'token_ids': a token is not below {sizes.vocab_size}")
    return tokens


def golden_pixels(prefix: str, name: str, sizes: EncoderSizes) -> Tensor:
    """(B, 3, S, S) of that name."""
    return torch.from_numpy(clip_images(name, sizes.batch, sizes.image_resolution, sizes.coarse, prefix))


class _Stage1(ExpectedTraining):
    logits: Matrix


class _Model(Form):
    config: EncoderSizes
    entries: int
    parameters: int
    names_sha256: str
    state_dict: StateDict | None = None
    state_dict_visual: StateDict | None = None
    token_ids: list[list[int]] = Field(min_length=1)
    eval: Listed
    stage1_loss: _Stage1 | None = None
    not_openai: dict[str, Rows] = {}


def _check(file: GoldenFile) -> Iterator[Deviation]:
    for name, model in file.parse(dict[str, _Model], "models").items():
        say(f"  {name}: {model.parameters:,} parameters")
        yield from _check_model(file, name, model)


def _check_model(file: GoldenFile, name: str, model: _Model) -> Iterator[Deviation]:
    sizes = model.config
    inputs = {side: golden_pixels(file.prefix, f"{name}.input.{side}", sizes) for side in ("reference", "target")}
    inputs["tokens"] = golden_tokens(file, model.token_ids, sizes)

    def golden(activation: Activation) -> Golden:
        method = ClipSum(golden_backbone(name, sizes, file.prefix, activation), FinetuningSettings())
        return Golden(
            file, f"{name} ", method.eval(), inputs, _outputs, TOLERANCE, GRADIENTS,
            renamed(lambda entry: entry.removeprefix("backbone.clip.")),
            loss_floor=5e-6, trains_in_evaluation_mode=True,
        )  # fmt: skip

    encoders = golden("quickgelu")
    yield from _check_names(name, encoders.network.get_submodule("backbone"), model)
    found, exact = encoders.evaluated(), golden("gelu").evaluated()
    for deviation, output in zip(encoders.compare("", found, model.eval.outputs), model.eval.outputs, strict=True):
        yield _tell_gelu_apart(deviation, found[output], model.not_openai.get(output))
    for deviation in encoders.compare("", exact, model.not_openai):
        yield Deviation(f"{deviation.output}, exact GELU", deviation.value, deviation.tolerance, deviation.at)
    if model.stage1_loss is not None:
        passes = encoders.passes("loss")
        logits = {"logits": model.stage1_loss.logits}
        yield from encoders.compare("stage 1", passes(torch.float32).outputs, logits)
        yield from encoders.check_training("stage 1", passes, model.stage1_loss)


def _outputs(method: ClipSum, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone, tokens = method.backbone, inputs["tokens"]
    if not torch.is_grad_enabled():
        images, texts = backbone.encode_image(inputs["reference"]), backbone.encode_text(tokens)
        cosines = normalize(images) @ normalize(texts).T
        return {"encode_image": images, "encode_text": texts, "cosine_image_text": cosines}
    queries = method.encode_query({"pixels": inputs["reference"]}, {"tokens": tokens})
    targets = method.encode_target({"pixels": inputs["target"]})
    return {"logits": 100 * method.score(queries, targets), "loss": method.loss(queries, targets)}


def _check_names(name: str, backbone: Any, model: _Model) -> Iterator[Deviation]:
    shapes = shapes_of(backbone.openai_state_dict())
    yield compare_count(f"{name} entries", len(shapes), model.entries)
    yield compare_count(f"{name} parameters", sum(p.numel() for p in backbone.parameters()), model.parameters)
    same = names_sha256(shapes) == model.names_sha256
    yield Deviation(f"{name} sha256 of names", float(not same), 0.0, note="" if same else "the digest differs")
    if model.state_dict is not None:
        yield compare_names(f"{name} state dict", shapes, model.state_dict.root)
    if model.state_dict_visual is not None:
        visual = {entry: shape for entry, shape in shapes.items() if entry.startswith("visual.")}
        yield compare_names(f"{name} state dict, image side", visual, model.state_dict_visual.root)


def _tell_gelu_apart(deviation: Deviation, found: Tensor, not_openai: Rows | None) -> Deviation:
    """Say how far the numbers are from those of the other activation."""
    if not_openai is None:
        return deviation
    distance = compare_output("", found, not_openai, TOLERANCE)
    if distance.ok:
        return deviation.with_note("computed with the exact GELU instead of QuickGELU")
    return deviation.with_note(f"{distance.value:.1e} from the exact GELU")


class _Config(RecipeConfig):
    """What the recipe says beyond its optimiser."""

    model: Literal["small of clip_encoder.json"]
    scale: PositiveFloat
    coarse: PositiveInt


def _training_case(file: GoldenFile, name: str, recipe: GoldenRecipe) -> TrainingCase:
    config = file.parse(_Config, "recipes", name, "config")
    sizes = EncoderSizes.model_validate({**SMALL, "batch": config.batch, "coarse": config.coarse})
    if [len(rows) for rows in recipe.token_ids] != [config.batch] * BATCHES:
        raise file.error(f"entry 'recipes.{name}.token_ids': {BATCHES} lists of {config.batch} texts are expected")
    backbone: ClipBackbone = golden_backbone("small", sizes, file.prefix, "quickgelu")
    tokens = [golden_tokens(file, rows, sizes) for rows in recipe.token_ids]
    settings = recipe_settings(config, FinetuningSettings, scale=config.scale)
    method = ClipSum(backbone, settings)
    without_dropout(method)

    def batch(number: int) -> Batch:
        reference, target = (
            {"pixels": golden_pixels(file.prefix, f"stage1.batch{number}.{side}", sizes)}
            for side in ("reference", "target")
        )
        return Batch(reference, target, {"tokens": tokens[number]})

    used = torch.unique(torch.cat(tokens))
    return TrainingCase(method, backbone.clip, FINETUNING, settings, [batch(0), batch(1)], CHANGES, used)


FORMS = {"clip": _check}
TRAINING = {"clip4cir_stage1": _training_case}
