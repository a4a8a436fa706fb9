"""What checks ARTEMIS, and TIRG in its release: encoders, attentions, scores, loss, gradients.

The CNN is replaced by its last map, which the file draws; names and shapes are the released ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from benchmark.method import Views
from benchmark.parity.comparison import Deviation, GradientTolerance, compare_count, compare_output
from benchmark.parity.files import Expected, ExpectedTraining, Form, GoldenFile, Listed, Matrix, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import Array, draw_input, draw_weights, renamed, weight_rule, without_dropout

from ..artemis import ArtemisSettings
from ..networks.artemis import Artemis, Version, artemis_of_version, implicit_reference
from ..networks.artemis_encoders import ArtemisMethod, Encoders, LinearPicture, text_maker
from ..networks.cnn import ImageEncoder, generalised_mean, unit
from ..networks.tirg_implementations import VARIANT_SHARES, ArtemisTirg, composition
from ..networks.vocabulary import artemis_words
from .tirg import GRADIENT, TOLERANCE, MapSizes, drawn_map, listed_texts, map_weight, numbered_words

SHARES_GRADIENT = 1e-3
"""The gradient of a is a difference of nearly equal numbers."""


class _Sizes(MapSizes):
    word_dim: PositiveInt
    gallery: PositiveInt
    lstm_hidden_dim: PositiveInt


class _Difference(Form):
    added: StateDict = StateDict({})
    absent: list[str] = []


class _Training(ExpectedTraining):
    temperature: float
    grad_temperature: float
    loss_without_temperature: float
    other_losses: dict[Version, ExpectedTraining] = {}
    scores: Matrix | None = None
    grad_a: list[float] | None = None
    running_after_one_step: dict[str, list[float]] = {}


class _Variant(Form):
    state_dict_difference: _Difference = _Difference()
    parameters: int
    eval: Listed
    train_dropout_off: _Training | None = None


@weight_rule
def _weight(name: str, g: Array) -> NDArray[Any]:
    if name in ("temperature", "a"):
        return (2.65926 if name == "temperature" else 1) + 0.1 * g
    if name.endswith("running_mean"):
        return np.asarray(0.1 * g / np.sqrt(512))
    if name.endswith("running_var"):
        return (1 + 0.5 * np.abs(g)) / 512
    if name.endswith("attention.2.weight"):
        return np.asarray(2 * g / np.sqrt(512))
    if name.endswith(("Transform_m.0.weight", "attention.0.weight")):
        return g
    return map_weight(name, g, "embed.weight")


def _check(file: GoldenFile) -> Iterator[Deviation]:
    tokens = file.parse(list[tuple[str, list[str]]], "tokens")
    yield compare_count("texts split wrongly", sum(artemis_words(text) != words for text, words in tokens), 0)
    for name, variant in file.parse(dict[str, _Variant], "variants").items():
        yield from _check_variant(file, name, variant)


def _check_variant(file: GoldenFile, name: str, variant: _Variant) -> Iterator[Deviation]:
    golden = _golden(file, name, "ARTEMIS")
    difference, common = variant.state_dict_difference, file.parse(StateDict, "state_dict").root
    shapes = {entry: shape for entry, shape in common.items() if entry not in difference.absent}
    yield from golden.check_state_dict(shapes | difference.added.root, variant.parameters)
    found = golden.evaluated()
    for version in get_args(Version):
        if f"scores {version}" in variant.eval.outputs:
            found[f"scores {version}"] = _golden(file, name, version).evaluated()["scores"]
    yield from golden.compare("eval", found, variant.eval.outputs)
    training = variant.train_dropout_off
    if training is not None:
        yield from _check_training(golden, training)
        for version, loss in training.other_losses.items():
            yield from _check_other_loss(_golden(file, name, version), f"train {version}", loss)


def _check_training(golden: Golden, training: _Training) -> Iterator[Deviation]:
    passes = golden.passes("loss")
    # The gradient of a has a tolerance of its own.
    yield from golden.check_training("train", passes, training, ignored=lambda name: name == "a")
    found = passes(torch.float32)
    scores = found.outputs["scores"]
    plain = F.cross_entropy(scores, torch.arange(len(scores)))
    expected: dict[str, Expected] = {
        "temperature": training.temperature,
        "loss without temperature": training.loss_without_temperature,
        **training.running_after_one_step,
    }
    if training.scores is not None:
        expected["scores"] = training.scores
    outputs = {**found.outputs, **found.state, "loss without temperature": plain}
    yield from golden.compare("train", outputs, expected)
    gradient, at = found.gradients, f"{golden.name}train"
    yield compare_output(f"{at} temperature gradient", gradient["temperature"], training.grad_temperature, GRADIENT)
    if training.grad_a is not None:
        norm, listed = gradient["a"].norm(), training.grad_norms["a"]
        yield compare_output(f"{at} gradient of a", gradient["a"], training.grad_a, SHARES_GRADIENT)
        yield compare_output(f"{at} gradient norm of a", norm, listed, SHARES_GRADIENT)


def _check_other_loss(golden: Golden, at: str, expected: ExpectedTraining) -> Iterator[Deviation]:
    """Of the other versions only some gradients are listed."""
    yield from golden.check_training(
        at, golden.passes("loss"), expected, ignored=lambda name: name not in expected.grad_norms
    )


def _golden(file: GoldenFile, name: str, version: Version) -> Golden:
    """One variant of a file: "ARTEMIS" or "TIRG", "bigru" or "lstm", and "features" for stored ones."""
    kind, text_encoder, *rest = [*name.split(), ""]
    if kind not in ("ARTEMIS", "TIRG") or text_encoder not in ("bigru", "lstm") or rest not in ([""], ["features", ""]):
        raise file.error(f"entry 'variants.{name}' is no variant that this reader knows")
    sizes, on_features = file.parse(_Sizes, "config"), "features" in rest
    settings = ArtemisSettings.model_validate(
        {
            "width": sizes.embed_dim, "word_width": sizes.word_dim, "text_encoder": text_encoder,
            "lstm_width": sizes.lstm_hidden_dim, "padding": "released", "dropout": 0.0,
        }
    )  # fmt: skip
    width, channels = sizes.embed_dim, sizes.feature_map[0]
    image: nn.Module = ImageEncoder(nn.Identity(), nn.Linear(channels, width), "gem")
    if on_features:
        image = LinearPicture(channels, width)
    encoders = Encoders(image, text_maker(settings))
    encoders.use(numbered_words(sizes.vocabulary_size))
    method: ArtemisMethod
    if kind == "TIRG":
        method = ArtemisTirg(encoders, composition("tirg", width, width, VARIANT_SHARES, 0.0))
    else:
        method = artemis_of_version(encoders, width, version)
    draw_weights(method, _weight, file.prefix, _released_name)
    without_dropout(method)

    def views(picture: str, batch: int) -> Views:
        if on_features:
            return {"global": draw_input(file.prefix, f"input.{picture}.feature", (batch, channels))}
        return {"pixels": drawn_map(file.prefix, f"input.{picture}", batch, sizes.feature_map)}

    inputs = {"source": views("source", sizes.batch), "target": views("target", sizes.batch)}
    gallery = {} if on_features else {"gallery": views("gallery", sizes.gallery)}
    return Golden(
        file, f"{name}: ", method, {**inputs, **gallery, "text": listed_texts(file)}, _outputs,
        TOLERANCE, GradientTolerance(GRADIENT), renamed(_released_name),
    )  # fmt: skip


def _released_name(name: str) -> str:
    return name.removeprefix("encoders.").removeprefix("composition.")


def _outputs(method: ArtemisMethod, inputs: Mapping[str, Views]) -> dict[str, Tensor]:
    query, target = method.encode_query(inputs["source"], inputs["text"]), method.encode_target(inputs["target"])
    outputs = {"scores": method.score(query, target), "loss": method.loss(query, target)}
    if method.training:
        return outputs
    # In training a second pass for these would move batch norms twice.
    text = method.encoders.text(inputs["text"])
    reference, target = method.encoders.picture(inputs["source"]), method.encoders.picture(inputs["target"])
    outputs |= {"text": text, "reference": reference, "target": target}
    if "gallery" in inputs:
        outputs["pooled_target"] = generalised_mean(inputs["target"]["pixels"])
        outputs["gallery_scores"] = method.score(query, method.encode_target(inputs["gallery"]))
    if isinstance(query, Tensor):
        return {**outputs, "query": query}
    if not (isinstance(method, Artemis) and {"explicit", "implicit"} <= query.keys()):
        return outputs
    explicit, implicit = query["explicit"], query["implicit"]
    return {
        **outputs,
        "attention_EM": explicit,
        "attention_IS": implicit,
        "transformed_text": unit(method.Transform_m(text)),
        "EM_target_of_own_query": unit(explicit * target),
        "IS_reference": implicit_reference(implicit, reference),
        "IS_target_of_own_query": unit(implicit * target),
    }


FORMS = {"artemis": _check}
