"""What checks TIRG's three compositions, its text encoder, vocabulary and losses.

The CNN is replaced by its last map, which the file draws; names and shapes are the released ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from benchmark.method import Views
from benchmark.parity.comparison import Deviation, GradientTolerance, compare_count, compare_tensor
from benchmark.parity.files import Expected, ExpectedTraining, Form, GoldenFile, Listed, Matrix, Rows, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import (
    Array,
    draw_input,
    draw_weights,
    gain_or_bias,
    padded_tokens,
    renamed,
    weight_rule,
    without_dropout,
)

from ..networks.cnn import average_pool, unit
from ..networks.recurrent_texts import tirg_vocabulary
from ..networks.tirg import GatedResidual, MapGatedResidual, classification_loss, soft_triplet_loss
from ..networks.tirg_implementations import Kind, OriginalTirg, TirgSettings, original_tirg
from ..networks.vocabulary import Vocabulary, plain_words

TOLERANCE = 2e-5
GRADIENT = 2e-4
GRADIENTS = GradientTolerance(
    GRADIENT,
    is_noise=lambda name: name in ("text_model.fc_output.1.bias", "composer.m.2.bias"),
    noise_share=1e-6,
)
"""A batch norm right behind these biases removes a shift: their gradients are rounding noise."""


class MapSizes(Form):
    """Sizes that TIRG's and ARTEMIS's files share, ``config`` in a file."""

    embed_dim: PositiveInt
    vocabulary_size: PositiveInt
    batch: PositiveInt
    feature_map: list[PositiveInt]


class _Vocabulary(Form):
    built_from: list[str]
    word2id: dict[str, int]
    encoded: list[tuple[str, list[int]]]


class _Loss(ExpectedTraining):
    grad_a: list[float] | None = None
    triplets: list[list[int]] = []
    distances: Matrix | None = None


class _Training(Form):
    query_before_normalisation: Rows
    target_before_normalisation: Rows
    logits: Matrix
    running_after_one_step: dict[str, list[float]]
    batch_based_classification: _Loss
    soft_triplet: _Loss


class _Variant(Form):
    own_state_dict: StateDict
    parameters: int
    eval: Listed
    train_dropout_off: _Training


@weight_rule
def _weight(name: str, g: Array) -> NDArray[Any]:
    if name.endswith("running_var"):
        return 1 + 0.5 * np.abs(g)
    if name == "normalization_layer.norm_s":
        return 4 + 0.1 * g
    if name == "a":
        return np.array([1, 10, 1, 1], dtype=np.float32) + 0.1 * g
    return map_weight(name, g, "embedding_layer.weight")


def map_weight(name: str, g: Array, words: str) -> NDArray[Any]:
    """The end of the rule, which TIRG's and ARTEMIS's files share; ``words`` ends the word vectors' name."""
    if name.endswith(words):
        return 0.5 * g
    return g / np.sqrt(np.float32(np.prod(g.shape[1:]))) if g.ndim >= 2 else gain_or_bias(name, g)


def numbered_words(size: int) -> Vocabulary:
    """A vocabulary of so many words, for texts that come as ids."""
    return Vocabulary(tuple(map(str, range(size))), (0,) * size)


def drawn_map(prefix: str, name: str, batch: int, shape: list[int]) -> Tensor:
    """``max(g(name.map) + 2 g(name.level), 0)``, (B, C, h, w)."""
    level = draw_input(prefix, f"{name}.level", (batch, shape[0], 1, 1), 2.0)
    return (draw_input(prefix, f"{name}.map", (batch, *shape)) + level).clamp(min=0)


def listed_texts(file: GoldenFile) -> Views:
    """Word numbers, padded, and lengths of a file's texts."""
    ids = file.parse(list[list[int]], "token_ids")
    return {"tokens": padded_tokens(ids, max(map(len, ids))), "lengths": torch.tensor([len(row) for row in ids])}


def _released_name(name: str) -> str:
    if name.startswith("composition.m."):
        return name.replace("composition.", "composer.", 1)
    return name.removeprefix("composition.")


def _check(file: GoldenFile) -> Iterator[Deviation]:
    listed = file.parse(_Vocabulary, "vocabulary")
    vocabulary = tirg_vocabulary(listed.built_from)
    yield compare_count("vocabulary", len(set(listed.word2id.items()) ^ set(vocabulary.numbers.items())), 0)
    wrong = sum([vocabulary.number(word) for word in plain_words(text)] != ids for text, ids in listed.encoded)
    yield compare_count("texts encoded wrongly", wrong, 0)
    for kind, variant in file.parse(dict[Kind, _Variant], "variants").items():
        yield from _check_variant(_golden(file, kind, variant), kind, variant)


def _golden(file: GoldenFile, kind: Kind, variant: _Variant) -> Golden:
    sizes = file.parse(MapSizes, "config")
    settings = TirgSettings(width=sizes.embed_dim, dropout=0.0)
    method = original_tirg(kind, settings, nn.Identity(), sizes.feature_map[0])
    method.use(numbered_words(sizes.vocabulary_size))
    draw_weights(method, _weight, file.prefix, _released_name)
    without_dropout(method)
    inputs = {n: drawn_map(file.prefix, f"input.{n}", sizes.batch, sizes.feature_map) for n in ("source", "target")}
    triplets = torch.tensor(variant.train_dropout_off.soft_triplet.triplets)
    return Golden(
        file, f"{kind}: ", method, {**inputs, "text": listed_texts(file), "triplets": triplets},
        _outputs, TOLERANCE, GRADIENTS, renamed(_released_name),
    )  # fmt: skip


def _check_variant(golden: Golden, kind: Kind, variant: _Variant) -> Iterator[Deviation]:
    shapes = golden.file.parse(StateDict, "state_dict").root | variant.own_state_dict.root
    yield from golden.check_state_dict(shapes, variant.parameters)
    places = "first_sample_first_6_channels "
    listed = {
        f"{name.removeprefix(places)} at positions" if name.startswith(places) else name: expected
        for name, expected in variant.eval.outputs.items()
    }
    yield from golden.compare("eval", golden.evaluated(), listed)
    expected = variant.train_dropout_off
    trained = copy.deepcopy(golden.network).train()
    with torch.no_grad():
        found = _outputs(trained, golden.inputs)  # type: ignore[arg-type]
    outputs: dict[str, Expected] = {
        "query": expected.query_before_normalisation,
        "target": expected.target_before_normalisation,
        "logits": expected.logits,
        **expected.running_after_one_step,
    }
    if expected.soft_triplet.distances is not None:
        outputs["distances"] = expected.soft_triplet.distances
    yield from golden.compare("train", found | golden.released(trained.state_dict()), outputs)
    for loss in ("batch_based_classification", "soft_triplet"):
        passes = golden.passes(loss)
        listed_loss: _Loss = getattr(expected, loss)
        yield from golden.check_training(loss, passes, listed_loss)
        shares = passes(torch.float32).gradients.get("a")
        if listed_loss.grad_a is not None and shares is not None:
            yield compare_tensor(f"{kind}: {loss} gradient of a", shares, listed_loss.grad_a, GRADIENT)


def _outputs(method: OriginalTirg, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Query and target before any normalisation, and what a file lists of either mode."""
    text, source = inputs["text"], inputs["source"]
    query, target = method.compose(source, method.text_model(text)), method.img_model(inputs["target"])
    if method.training:
        queries, targets = method.normalization_layer(query), method.normalization_layer(target)
        rows = torch.cat([queries, targets])
        return {
            "query": query, "target": target, "logits": queries @ targets.T,
            "distances": (rows[:, None] - rows).square().sum(dim=-1),
            "batch_based_classification": classification_loss(queries, targets),
            "soft_triplet": soft_triplet_loss(queries, targets, inputs["triplets"]),
        }  # fmt: skip
    # In training a second pass for these would move batch norms twice.
    vectors, image, composed = method.text_model(text), method.img_model(source), method.composition
    outputs = {
        "query": query, "target": target, "text": vectors, "image": image, "cosine": unit(query) @ unit(target).T,
    }  # fmt: skip
    if isinstance(composed, GatedResidual):
        outputs["gate"], outputs["residual"] = composed.parts(image, vectors)
    if isinstance(composed, MapGatedResidual):
        gate, residual = composed.parts(source, vectors)
        means = {"gate_mean": gate, "residual_mean": residual, "composed_map_mean": composed(source, vectors)}
        outputs |= {name: average_pool(found) for name, found in means.items()}
        outputs |= {"gate at positions": gate[0], "residual at positions": residual[0]}
    return outputs


FORMS = {"tirg": _check}
