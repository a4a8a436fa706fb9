"""What checks and imports SPRC, and checks the first stage of BLIP-2 that it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.encoders.wordpiece import padded
from benchmark.interop.importing import Release
from benchmark.parity.comparison import Deviation, Difference, compare_names, worst
from benchmark.parity.files import Expected, Form, GoldenFile, Listed, Matrix, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import renamed
from benchmark.parity.training import BATCHES, GoldenRecipe, TrainingCase
from benchmark.training.batches import Batch
from benchmark.training.optimisation import standard_momentum, standard_schedule
from benchmark.weights.fit import shapes_of

from ..networks.blip2 import UNUSED, PromptedStage
from ..networks.blip2_stage import Blip2Settings, PictureTokens
from ..sprc import METHOD, Sprc, SprcTraining
from .blip2 import (
    GRADIENTS,
    TOLERANCE,
    FirstStageSizes,
    Text,
    check_first_stage,
    check_texts,
    golden_inputs,
    golden_network,
    pixels,
    seen_by_vit,
    sizes_named,
)


def golden_sprc(file: GoldenFile, sizes: FirstStageSizes, training: SprcTraining) -> Sprc:
    """The method with golden weights and the whole of the released state dict in its network."""
    return Sprc(golden_network(file, sizes, PromptedStage), PictureTokens(None), training)


class _Losses(Form):
    losses: dict[str, float]
    loss_fashioniq: float
    loss_cirr: float
    grad_norms: dict[str, float]
    parameters_without_gradient: list[str]
    logits: Matrix
    prompt_logits: Matrix


class _Point(Form):
    lr: float
    beta1: float


class _Schedule(Form):
    steps_per_epoch: int
    epochs: int
    max_lr: float
    pct_start: float
    div_factor: float
    at: dict[int, _Point] = Field(min_length=1)


def _check(file: GoldenFile) -> Iterator[Deviation]:
    sizes, texts = file.parse(FirstStageSizes, "config"), file.parse(list[Text], "texts")
    golden = Golden(
        file, "", golden_sprc(file, sizes, SprcTraining()), golden_inputs(file, sizes, texts), _outputs, TOLERANCE,
        GRADIENTS,
        renamed(lambda name: name.removeprefix("network.")),
    )  # fmt: skip
    shapes = shapes_of(golden.released(golden.network.state_dict()))
    yield compare_names("state dict", shapes, file.parse(StateDict, "state_dict").root)
    yield check_texts("texts", texts, sizes.max_text_tokens)
    yield from golden.compare("eval", golden.evaluated(), file.parse(Listed, "eval").outputs)
    expected, passes = file.parse(_Losses, "train_dropout_off"), golden.passes("loss_fashioniq")
    listed: dict[str, Expected] = {
        **expected.losses, "loss_fashioniq": expected.loss_fashioniq, "loss_cirr": expected.loss_cirr,
        "logits": expected.logits, "prompt_logits": expected.prompt_logits,
    }  # fmt: skip
    yield from golden.compare("train", passes(torch.float32).outputs, listed)
    norms = {**dict.fromkeys(expected.parameters_without_gradient, 0.0), **expected.grad_norms}
    yield from golden.check_gradients("train", passes, norms)
    for name, schedule in file.parse(dict[str, _Schedule], "schedules").items():
        yield _check_schedule(name, schedule)


def _outputs(method: Sprc, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    network, words = method.network, {"tokens": inputs["words"]}
    reference, target = seen_by_vit(network, inputs)
    training = method.training
    queries = method.train().encode_query(reference, words)
    targets = method.train(training).encode_target(target)
    assert isinstance(queries, dict)
    query, prompted, tokens = queries["query"], queries["prompted"], targets.flatten(0, 1)
    fused = network.joint(network.vision(reference["tokens"]), inputs["words"])[:, : network.queries]
    losses = method.losses(queries, targets)
    logits, prompt_logits = (method.score(rows, targets) / network.temp for rows in (query, prompted))
    best = (query @ tokens.T).view(len(query), *targets.shape[:2]).argmax(dim=2)
    sums = {name: losses["itc"] + w * (losses["rtc"] + losses["align"]) for name, w in _WEIGHTS.items()}
    return {
        "query": query, "target": targets, "scores": method.score(query, targets), "best_token": best.double(),
        "prompt_query": prompted, "fused_tokens": fused, "logits": logits, "prompt_logits": prompt_logits,
        **{f"loss_{name}": loss for name, loss in (losses | sums).items()},
    }  # fmt: skip


_WEIGHTS = {"fashioniq": 1.0, "cirr": 0.4}
"""Of the prompt query's loss and of the alignment."""


def _check_schedule(name: str, form: _Schedule) -> Deviation:
    settings = SprcTraining(
        epochs=form.epochs, learning_rate=form.max_lr, schedule="one-cycle", warmup=form.pct_start,
        cycle_start=form.div_factor,
    )  # fmt: skip
    rate = standard_schedule(settings, form.steps_per_epoch)
    momentum = standard_momentum(settings, form.steps_per_epoch)
    assert momentum is not None
    return worst(
        f"schedule {name}",
        [
            difference
            for step, point in form.at.items()
            for difference in (
                Difference(f"rate of step {step}", form.max_lr * rate(step), point.lr, 1e-6),
                Difference(f"beta of step {step}", momentum(step), point.beta1, 1e-6),
            )
        ],
    )


class CycleConfig(Form):
    """What a recipe on a one-cycle schedule says, whatever its losses."""

    model: str
    batch: int
    coarse: int
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    steps_per_epoch: Literal[2]
    epochs: int
    pct_start: float
    div_factor: float

    def settings(self) -> dict[str, Any]:
        """As a stage's training settings."""
        return {
            "epochs": self.epochs, "batch_size": self.batch, "optimiser": "adamw", "learning_rate": self.lr,
            "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay, "schedule": "one-cycle",
            "warmup": self.pct_start, "cycle_start": self.div_factor,
        }  # fmt: skip


class _Config(CycleConfig):
    loss_weights: dict[str, float]


CHANGES = 2e-3


def stored_batch(file: GoldenFile, sizes: FirstStageSizes, network: nn.Module, number: int, words: Tensor) -> Batch:
    """A batch of a training file: what the frozen ViT says of its pictures, and its texts."""
    inputs = {side: pixels(file, sizes, f"input.batch{number}.{side}") for side in ("reference", "target")}
    return Batch(*seen_by_vit(network, inputs), {"tokens": words})


def golden_words(file: GoldenFile, name: str, recipe: GoldenRecipe, sizes: FirstStageSizes) -> list[Tensor]:
    """Token numbers of both batches. Raises UserError where there are others than a recipe has."""
    if [len(rows) for rows in recipe.token_ids] != [sizes.batch] * BATCHES:
        raise file.error(f"entry 'recipes.{name}.token_ids': {BATCHES} lists of {sizes.batch} texts are expected")
    return [padded(rows, sizes.max_text_tokens) for rows in recipe.token_ids]


def _training_case(file: GoldenFile, name: str, recipe: GoldenRecipe) -> TrainingCase:
    config = file.parse(_Config, "recipes", name, "config")
    sizes = sizes_named(file, config.model, config.batch, config.coarse)
    weights = config.loss_weights
    settings = SprcTraining(
        **config.settings(), prompt_weight=weights["loss_rtc"], align_weight=weights["loss_align"]
    )
    method, words = golden_sprc(file, sizes, settings), golden_words(file, name, recipe, sizes)
    batches = [stored_batch(file, sizes, method.network, number, words[number]) for number in range(BATCHES)]
    return TrainingCase(method, method.network, _STAGE, settings, batches, CHANGES)


_STAGE = METHOD.stages(Blip2Settings(), "pretrained")[-1]


def released_settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, Any]]:
    """What shapes tell; the number of heads is BERT's, one for 64 of the width."""
    layer = "Qformer.bert.encoder.layer"
    _, queries, width = shapes["query_tokens"]
    return 0, {
        "width": width,
        "layers": 1 + max(int(name.split(".")[4]) for name in shapes if name.startswith(layer)),
        "heads": max(width // 64, 1),
        "inner": shapes[f"{layer}.0.intermediate.dense.weight"][0],
        "queries": queries,
        "embedding": shapes["vision_proj.weight"][0],
        "qformer": "random",
    }


LEFT_OUT = {**UNUSED, "visual_encoder.": "the picture encoder, which is the backbone here and has a file of its own"}
RELEASES = {
    "sprc": Release(
        part="network",
        settings=released_settings,
        entry="Blip2QformerCirAlignPrompt",
        left_out=LEFT_OUT,
    )
}
FORMS = {"blip2_qformer": check_first_stage, "sprc": _check}
TRAINING = {"sprc": _training_case}
