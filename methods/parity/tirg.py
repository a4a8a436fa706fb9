"""What checks and counts TIRG's three compositions, its text encoder, vocabulary and losses.

The CNN is replaced by its last map, which the file draws; names and shapes are the released ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from benchmark.evaluation.sizes import Part, PublishedSizes
from benchmark.method import Views
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
    compare_tensor,
    worst,
)
from benchmark.parity.files import Form, GoldenFile
from benchmark.parity.models import draw_input, padded_tokens, shapes_of, without_dropout
from benchmark.parity.rules import Shape, draw

from ..networks.cnn import ImageEncoder, average_pool, unit
from ..networks.recurrent_texts import tirg_vocabulary
from ..networks.tirg import GatedResidual, MapGatedResidual, classification_loss, soft_triplet_loss
from ..networks.tirg_frames import Kind, ReleasedTirg, TirgSettings, released_method
from ..networks.vocabulary import Vocabulary, plain_words

TOLERANCE = 2e-5
GRADIENTS = GradientTolerance(
    2e-4,
    is_noise=lambda name: name in ("text_model.fc_output.1.bias", "composer.m.2.bias"),
    noise_share=1e-6,
)
"""A batch norm right behind these biases removes a shift: their gradients are rounding noise."""


class Entry(Form):
    """A state-dict entry."""

    name: str
    shape: list[int]


class _Config(Form):
    embed_dim: PositiveInt
    vocabulary_size: PositiveInt
    batch: PositiveInt
    feature_map: list[PositiveInt]


class VocabularyForm(Form):
    """What a vocabulary is built from and gives."""

    built_from: list[str]
    word2id: dict[str, int]
    encoded: list[tuple[str, list[int]]]


class _Loss(Form):
    loss: float
    grad_norms: dict[str, float]
    grad_a: list[float] | None = None
    triplets: list[list[int]] | None = None
    distances: Matrix | None = None


class _Training(Form):
    query_before_normalisation: Rows
    target_before_normalisation: Rows
    logits: Matrix
    running_after_one_step: dict[str, list[float]]
    batch_based_classification: _Loss
    soft_triplet: _Loss


_Positions = list[tuple[int, int, list[float]]]


class _Variant(Form):
    own_state_dict: list[Entry]
    parameters: int
    eval: dict[str, Rows | Matrix | dict[str, _Positions]]
    train_dropout_off: _Training


class _TirgForm(Form):
    config: _Config
    token_ids: list[list[int]]
    vocabulary: VocabularyForm
    state_dict: list[Entry]
    variants: dict[Kind, _Variant]


def weight(name: str, shape: Shape, prefix: str) -> NDArray[Any]:
    """The rule for an entry of TIRG's state dict, released names."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), dtype=np.int64)
    g = draw(prefix, name, shape)
    if name.endswith("running_var"):
        return np.asarray(1 + 0.5 * np.abs(g), dtype=np.float32)
    if name == "normalization_layer.norm_s":
        return np.asarray(4 + 0.1 * g, dtype=np.float32)
    if name == "a":
        return np.asarray(np.array([1, 10, 1, 1], dtype=np.float32) + 0.1 * g, dtype=np.float32)
    return common_weight(name, g, "embedding_layer.weight")


def common_weight(name: str, g: NDArray[np.float32], words: str) -> NDArray[np.float32]:
    """The part of the rule that TIRG's and ARTEMIS's files share; ``words`` ends the word vectors' name."""
    if name.endswith(words):
        return np.asarray(0.5 * g, dtype=np.float32)
    if g.ndim >= 2:
        return np.asarray(g / np.sqrt(np.float32(np.prod(g.shape[1:]))), dtype=np.float32)
    return np.asarray(1 + 0.1 * g if name.endswith(".weight") else 0.1 * g, dtype=np.float32)


def released_name(name: str) -> str:
    """Our state-dict names to the released ones."""
    if name.startswith("composition.m."):
        return name.replace("composition.", "composer.", 1)
    return name.removeprefix("composition.")


def numbered_words(size: int) -> Vocabulary:
    """A vocabulary of so many words, for texts that come as ids."""
    return Vocabulary(tuple(map(str, range(size))), (0,) * size)


def drawn_map(prefix: str, name: str, batch: int, shape: list[int]) -> Tensor:
    """``max(g(name.map) + 2 g(name.level), 0)``, (B, C, h, w)."""
    level = draw_input(prefix, f"{name}.level", (batch, shape[0], 1, 1), 2.0)
    return (draw_input(prefix, f"{name}.map", (batch, *shape)) + level).clamp(min=0)


def text_of(ids: list[list[int]]) -> Views:
    return {
        "tokens": padded_tokens(ids, max(map(len, ids))),
        "lengths": torch.tensor([len(row) for row in ids]),
    }


Rule = Callable[[str, Shape, str], NDArray[Any]]


def draw_named(module: nn.Module, rule: Rule, prefix: str, named: Callable[[str], str]) -> None:
    """Fill a module by a rule of released names; ``named`` gives them from ours."""
    drawn = {
        name: torch.from_numpy(rule(named(name), tuple(tensor.shape), prefix)).to(tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(drawn)


def check_tirg(file: GoldenFile) -> Iterator[Deviation]:
    """A deviation for every output; raises UserError where the file is not of this form."""
    form = file.parse(_TirgForm)
    yield from _check_vocabulary(form.vocabulary)
    for kind, variant in form.variants.items():
        yield from _Checked(file, form, kind, variant).deviations()


def _check_vocabulary(form: VocabularyForm) -> Iterator[Deviation]:
    vocabulary = tirg_vocabulary(form.built_from)
    yield compare_count("vocabulary", len(set(form.word2id.items()) ^ set(vocabulary.numbers.items())), 0)
    found = [[vocabulary.number(word) for word in plain_words(text)] for text, _ in form.encoded]
    wrong = sum(ids != expected for ids, (_, expected) in zip(found, form.encoded, strict=True))
    yield compare_count("texts encoded wrongly", wrong, 0)


class _Checked:
    """One composition of a file."""

    def __init__(self, file: GoldenFile, form: _TirgForm, kind: Kind, variant: _Variant) -> None:
        self._kind, self._variant = kind, variant
        self._listed = {e.name: e.shape for e in (*form.state_dict, *variant.own_state_dict)}
        config = form.config
        settings = TirgSettings(width=config.embed_dim, dropout=0.0)
        self._method = released_method(kind, settings, nn.Identity(), config.feature_map[0])
        self._method.use(numbered_words(config.vocabulary_size))
        draw_named(self._method, weight, file.prefix, released_name)
        without_dropout(self._method)
        self._maps = {
            name: drawn_map(file.prefix, f"input.{name}", config.batch, config.feature_map)
            for name in ("source", "target")
        }
        self._text = text_of(form.token_ids)

    def deviations(self) -> Iterator[Deviation]:
        found = {released_name(name): shape for name, shape in shapes_of(self._method.state_dict()).items()}
        yield compare_names(f"{self._kind}: state dict", found, self._listed)
        parameters = sum(parameter.numel() for parameter in self._method.parameters())
        yield compare_count(f"{self._kind}: parameters", parameters, self._variant.parameters)
        yield from self._check_evaluation()
        yield from self._check_training()

    @torch.no_grad()
    def _check_evaluation(self) -> Iterator[Deviation]:
        outputs, positions = _evaluated(self._method.eval(), self._maps, self._text)
        for name, expected in self._variant.eval.items():
            if isinstance(expected, dict):
                for part, rows in expected.items():
                    found = torch.stack([positions[part][0, : len(v), r, c] for r, c, v in rows])
                    yield compare_tensor(
                        f"{self._kind}: eval {part} at positions", found, [v for _, _, v in rows], TOLERANCE
                    )
            else:
                yield compare_output(f"{self._kind}: eval {name}", outputs[name], expected, TOLERANCE)

    def _check_training(self) -> Iterator[Deviation]:
        expected = self._variant.train_dropout_off
        trained = copy.deepcopy(self._method).train()
        with torch.no_grad():
            query, target = _passed(trained, self._maps, self._text)
            scaled = [trained.normalization_layer(vectors) for vectors in (query, target)]
        name = f"{self._kind}: train"
        yield compare_output(f"{name} query", query, expected.query_before_normalisation, TOLERANCE)
        yield compare_output(f"{name} target", target, expected.target_before_normalisation, TOLERANCE)
        yield compare_output(f"{name} logits", scaled[0] @ scaled[1].T, expected.logits, TOLERANCE)
        state = {released_name(key): tensor for key, tensor in trained.state_dict().items()}
        for key, values in expected.running_after_one_step.items():
            yield compare_tensor(f"{name} {key}", state[key][: len(values)], values, TOLERANCE)
        rows = torch.cat(scaled)
        distances = (rows[:, None] - rows).square().sum(dim=-1)
        if expected.soft_triplet.distances is not None:
            yield compare_output(f"{name} distances", distances, expected.soft_triplet.distances, TOLERANCE)
        for loss in ("batch_based_classification", "soft_triplet"):
            yield from self._check_loss(loss, getattr(expected, loss))

    def _check_loss(
        self, kind: Literal["batch_based_classification", "soft_triplet"], expected: _Loss
    ) -> Iterator[Deviation]:
        found: dict[str, Tensor] = {}

        def gradients(dtype: torch.dtype) -> Mapping[str, Tensor | None]:
            trained = copy.deepcopy(self._method).to(dtype).train()
            maps = {name: tensor.to(dtype) for name, tensor in self._maps.items()}
            query, target = (trained.normalization_layer(v) for v in _passed(trained, maps, self._text))
            if kind == "soft_triplet":
                loss = soft_triplet_loss(query, target, torch.tensor(expected.triplets))
            else:
                loss = classification_loss(query, target)
            torch.autograd.backward(loss)
            result = {released_name(name): p.grad for name, p in trained.named_parameters()}
            if dtype == torch.float32:
                found["loss"] = loss.detach()
                found.update({"a": result["a"]} if result.get("a") is not None else {})  # type: ignore[dict-item]
            return result

        name = f"{self._kind}: {kind}"
        compared = compare_gradients(f"{name} gradients", gradients, expected.grad_norms, GRADIENTS)
        yield worst(f"{name} loss", [Difference("", found["loss"].item(), expected.loss, TOLERANCE)])
        yield from compared
        if expected.grad_a is not None and "a" in found:
            yield compare_tensor(f"{name} gradient of a", found["a"], expected.grad_a, 2e-4)


def _passed(method: ReleasedTirg, maps: Mapping[str, Tensor], text: Views) -> tuple[Tensor, Tensor]:
    """Query and target before any normalisation."""
    query = method.compose(maps["source"], method.text_model(text))
    return query, method.img_model(maps["target"])


def _evaluated(
    method: ReleasedTirg, maps: Mapping[str, Tensor], text: Views
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs by the file's names, and the maps of which it lists positions."""
    image: ImageEncoder = method.img_model
    vectors = method.text_model(text)
    query, target = _passed(method, maps, text)
    outputs = {
        "text": vectors, "image": image(maps["source"]), "target": target, "query": query,
        "cosine": unit(query) @ unit(target).T,
    }  # fmt: skip
    composed = method.composition
    if isinstance(composed, GatedResidual):
        outputs["gate"], outputs["residual"] = composed.parts(outputs["image"], vectors)
    if not isinstance(composed, MapGatedResidual):
        return outputs, {}
    gate, residual = composed.parts(maps["source"], vectors)
    means = {"gate_mean": gate, "residual_mean": residual, "composed_map_mean": composed(maps["source"], vectors)}
    outputs.update({name: average_pool(found) for name, found in means.items()})
    return outputs, {"gate": gate, "residual": residual}


FORMS = {"tirg": check_tirg}


def _released_sizes(besides_the_trunk: int) -> PublishedSizes:
    """The authors' frame with 40 words, <UNK> among them."""
    besides = ("img_model.fc.", "text_model.", "composition.", "normalization_layer.")
    trunk = Part("ResNet-18 without its classifier", ("img_model.cnn.",), 11_176_512)
    return PublishedSizes(
        (trunk, Part("all besides", besides, besides_the_trunk)), settings={"start": "random"}, words=39
    )


_FRAMED = ("encoders.txt_enc.", "encoders.img_enc.fc.", "composition.", "temperature")
SIZES = {
    "tirg": {
        "released, 40 words": _released_sizes(4_750_341),
        # Its five special words are among the 40.
        "ARTEMIS's frame, 40 words": PublishedSizes(
            (Part("all but the CNN", _FRAMED, 4_021_475),), settings={"start": "random", "frame": "artemis"}, words=35
        ),
    },
    "tirg_lastconv": {"released, 40 words": _released_sizes(30_965_765)},
    "concat": {"released, 40 words": _released_sizes(4_225_537)},
}
