"""Golden numbers of CLIP's encoders: names and counts, features, stage 1's loss and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from benchmark.encoders.backbones import ClipBackbone, build_clip, openai_architecture
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.encoders.pretrained import Activation
from benchmark.method import Method, Stage
from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    Matrix,
    Rows,
    compare_count,
    compare_gradients,
    compare_names,
    compare_output,
    worst,
)
from benchmark.parity.files import Form, GoldenFile
from benchmark.parity.models import draw_weights, padded_tokens, shapes_of, without_dropout
from benchmark.parity.rules import clip_images, clip_weight, names_sha256
from benchmark.parity.training import BATCHES, Recipe, RecipeConfig, TrainingCase
from benchmark.progress import say
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch

TOLERANCE = 1e-5
GRADIENTS = GradientTolerance(2e-5, is_noise=lambda name: name.endswith("k_proj.bias"), noise_share=1e-6)
"""A key's bias shifts a softmax's row: its gradient is rounding noise."""
LOSS_FLOOR = 5e-6
SCALE = 100.0
FINE_TUNING_CHANGES = 1e-3
"""Relative tolerance of a parameter's change after ten steps of stage 1."""


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
    "embed_dim": 64,
    "image_resolution": 64,
    "vision_layers": [1, 1, 1, 1],
    "vision_width": 16,
    "vision_patch_size": None,
    "vision_heads": 8,
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 128,
    "transformer_heads": 2,
    "transformer_layers": 2,
}
"""The model "small", which training files name without its sizes."""


class FineTuningConfig(RecipeConfig):
    """What the recipe of stage 1 says beyond its optimiser."""

    model: Literal["small of clip_encoder.json"]
    scale: PositiveFloat
    coarse: PositiveInt


class _Stage1(Form):
    loss: float
    logits: Matrix
    grad_norms: dict[str, float]
    no_gradient: list[str] = []


class _Model(Form):
    config: EncoderSizes
    entries: int
    parameters: int
    names_sha256: str
    state_dict: dict[str, list[int]] = {}
    state_dict_visual: dict[str, list[int]] = {}
    token_ids: list[list[int]] = Field(min_length=1)
    eval: dict[str, Rows | Matrix]
    stage1_loss: _Stage1 | None = None
    not_openai: dict[str, Rows] = {}


class _EncoderForm(Form):
    models: dict[str, _Model] = Field(min_length=1)


FineTuned = Callable[[ClipBackbone], Method]
"""The method that fine-tunes a backbone: (reference pixels, tokens) against target pixels."""


def check_encoders(file: GoldenFile, fine_tuned: FineTuned) -> Iterator[Deviation]:
    """A deviation for every output of every model; raises UserError where the file is of another form."""
    for name, model in file.parse(_EncoderForm).models.items():
        say(f"  {name}: {model.parameters:,} parameters")
        yield from _check_model(file, name, model, fine_tuned)


def golden_backbone(name: str, sizes: EncoderSizes, prefix: str, activation: Activation) -> ClipBackbone:
    """A backbone in evaluation mode with weights by CLIP's rule."""
    clip = build_clip(openai_architecture(sizes.model_dump()), activation)
    draw_weights(clip, clip_weight, prefix)
    preprocessing = Preprocessing("targetpad", sizes.image_resolution)
    return ClipBackbone(clip, preprocessing, name, "golden", activation).eval()


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


def fine_tuning_case(
    file: GoldenFile,
    name: str,
    recipe: Recipe,
    stage: Stage,
    build: Callable[[ClipBackbone, FineTuningConfig], tuple[Method, TrainingSettings]],
) -> TrainingCase:
    """Stage 1's recipe of a training file; ``build`` makes the method and its settings."""
    config = file.parse(FineTuningConfig, recipe.config, f"recipes.{name}.config")
    sizes = file.parse(EncoderSizes, {**SMALL, "batch": config.batch, "coarse": config.coarse})
    if [len(rows) for rows in recipe.token_ids] != [config.batch] * BATCHES:
        raise file.error(f"entry 'recipes.{name}.token_ids': {BATCHES} lists of {config.batch} texts are expected")
    backbone = golden_backbone("small", sizes, file.prefix, "quickgelu")
    tokens = [golden_tokens(file, rows, sizes) for rows in recipe.token_ids]
    method, settings = build(backbone, config)
    without_dropout(method)
    return TrainingCase(
        method=method,
        released=backbone.clip,
        stage=stage,
        settings=settings,
        batches=(_pixel_batch(file, sizes, 0, tokens[0]), _pixel_batch(file, sizes, 1, tokens[1])),
        changes=FINE_TUNING_CHANGES,
        used_tokens=torch.unique(torch.cat(tokens)),
    )


def _pixel_batch(file: GoldenFile, sizes: EncoderSizes, number: int, tokens: Tensor) -> Batch:
    reference, target = (
        golden_pixels(file.prefix, f"stage1.batch{number}.{side}", sizes) for side in ("reference", "target")
    )
    return Batch(reference={"pixels": reference}, target={"pixels": target}, text={"tokens": tokens})


def _check_model(file: GoldenFile, name: str, model: _Model, fine_tuned: FineTuned) -> Iterator[Deviation]:
    backbone = golden_backbone(name, model.config, file.prefix, "quickgelu")
    yield from _check_names(name, backbone, model)
    pixels = golden_pixels(file.prefix, f"{name}.input.reference", model.config)
    tokens = golden_tokens(file, model.token_ids, model.config)
    found = _features(backbone, pixels, tokens)
    other = _features(golden_backbone(name, model.config, file.prefix, "gelu"), pixels, tokens)
    for output, expected in model.eval.items():
        if output not in found:
            raise file.error(f"entry 'models.{name}.eval.{output}' is no output of CLIP's encoders")
        deviation = compare_output(f"{name} {output}", found[output], expected, TOLERANCE)
        yield _tell_gelu_apart(deviation, found[output], model.not_openai.get(output))
    for output, not_openai in model.not_openai.items():
        if output not in found:
            raise file.error(f"entry 'models.{name}.not_openai.{output}' is no output of CLIP's encoders")
        yield compare_output(f"{name} {output}, exact GELU", other[output], not_openai, TOLERANCE)
    if model.stage1_loss is not None:
        target = golden_pixels(file.prefix, f"{name}.input.target", model.config)
        inputs = (pixels, tokens, target)
        yield from _check_stage1(name, backbone, fine_tuned(backbone), model.stage1_loss, inputs)


def _check_names(name: str, backbone: ClipBackbone, model: _Model) -> Iterator[Deviation]:
    shapes = shapes_of(backbone.openai_state_dict())
    yield compare_count(f"{name} entries", len(shapes), model.entries)
    yield compare_count(f"{name} parameters", sum(p.numel() for p in backbone.parameters()), model.parameters)
    same = names_sha256(shapes) == model.names_sha256
    yield Deviation(f"{name} sha256 of names", float(not same), 0.0, note="" if same else "the digest differs")
    if model.state_dict:
        yield compare_names(f"{name} state dict", shapes, model.state_dict)
    if model.state_dict_visual:
        visual = {entry: shape for entry, shape in shapes.items() if entry.startswith("visual.")}
        yield compare_names(f"{name} state dict, image side", visual, model.state_dict_visual)


@torch.no_grad()
def _features(backbone: ClipBackbone, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    images, texts = backbone.encode_image(pixels), backbone.encode_text(tokens)
    cosines = functional.normalize(images) @ functional.normalize(texts).T
    return {"encode_image": images, "encode_text": texts, "cosine_image_text": cosines}


def _tell_gelu_apart(deviation: Deviation, found: Tensor, not_openai: Rows | None) -> Deviation:
    """Say how far the numbers are from those of the other activation."""
    if not_openai is None:
        return deviation
    distance = compare_output("", found, not_openai, TOLERANCE)
    if distance.ok:
        return deviation.with_note("computed with the exact GELU instead of QuickGELU")
    return deviation.with_note(f"{distance.value:.1e} from the exact GELU")


def _check_stage1(
    name: str, backbone: ClipBackbone, method: Method, expected: _Stage1, inputs: tuple[Tensor, Tensor, Tensor]
) -> Iterator[Deviation]:
    """The loss of the fine-tuning on (reference, text, target), batch norms in evaluation mode."""

    def gradients(dtype: torch.dtype) -> Mapping[str, Tensor | None]:
        method.to(dtype).zero_grad()
        pixels, tokens, target = (t.to(dtype) if t.is_floating_point() else t for t in inputs)
        queries = method.encode_query({"pixels": pixels}, {"tokens": tokens})
        targets = method.encode_target({"pixels": target})
        loss = method.loss(queries, targets)
        torch.autograd.backward(loss)
        if dtype == torch.float32:
            found.update(logits=SCALE * method.score(queries, targets), loss=loss)
        return {n: None if p.grad is None else p.grad.clone() for n, p in backbone.clip.named_parameters()}

    found: dict[str, Tensor] = {}
    method.eval()
    norms = {**dict.fromkeys(expected.no_gradient, 0.0), **expected.grad_norms}
    compared = compare_gradients(f"{name} stage 1 gradients", gradients, norms, GRADIENTS)
    yield compare_output(f"{name} stage 1 logits", found["logits"], expected.logits, TOLERANCE)
    loss = Difference("", found["loss"].item(), expected.loss, TOLERANCE, LOSS_FLOOR)
    yield worst(f"{name} stage 1 loss", [loss])
    yield from compared
