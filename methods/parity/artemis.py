"""What checks and counts ARTEMIS, and TIRG in its release: encoders, attentions, scores, loss, gradients.

The CNN is replaced by its last map, which the file draws; names and shapes are the released ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
from benchmark.parity.models import draw_input, shapes_of, without_dropout
from benchmark.parity.rules import Shape, draw

from ..artemis import ArtemisSettings
from ..networks.artemis import Artemis, Version, artemis_method, implicit_reference
from ..networks.artemis_frame import Encoders, FramedMethod, LinearPicture, text_maker
from ..networks.cnn import ImageEncoder, generalised_mean, unit
from ..networks.tirg_frames import VARIANT_SHARES, FramedTirg, composition
from ..networks.vocabulary import artemis_words
from .tirg import TOLERANCE, Entry, common_weight, draw_named, drawn_map, numbered_words, text_of

GRADIENT = 2e-4
GRADIENTS = GradientTolerance(GRADIENT)
SHARES_GRADIENT = 1e-3
"""The gradient of a is a difference of nearly equal numbers."""

_ATTENTION_INPUTS = ("Transform_m.0.weight", "attention.0.weight")


class _Config(Form):
    embed_dim: PositiveInt
    word_dim: PositiveInt
    vocabulary_size: PositiveInt
    batch: PositiveInt
    gallery: PositiveInt
    feature_map: list[PositiveInt]
    lstm_hidden_dim: PositiveInt


class _Difference(Form):
    added: list[Entry]
    absent: list[str]


class _Loss(Form):
    loss: float
    grad_norms: dict[str, float]


class _Training(_Loss):
    temperature: float
    grad_temperature: float
    loss_without_temperature: float
    other_losses: dict[Version, _Loss] = {}
    scores: Matrix | None = None
    grad_a: list[float] | None = None
    running_after_one_step: dict[str, list[float]] = {}


class _Variant(Form):
    state_dict_difference: _Difference = _Difference(added=[], absent=[])
    parameters: int
    eval: dict[str, Rows | Matrix | dict[Version, Matrix]]
    train_dropout_off: _Training | None = None


class _ArtemisForm(Form):
    config: _Config
    token_ids: list[list[int]]
    tokens: list[tuple[str, list[str]]]
    state_dict: list[Entry]
    variants: dict[str, _Variant]


def weight(name: str, shape: Shape, prefix: str) -> NDArray[Any]:
    """The rule for an entry of ARTEMIS's state dict, released names."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), dtype=np.int64)
    g = draw(prefix, name, shape)
    changed = {
        "temperature": 2.65926 + 0.1 * g,
        "a": 1 + 0.1 * g,
    }.get(name)
    if name.endswith("running_mean"):
        changed = 0.1 * g / np.sqrt(512)
    elif name.endswith("running_var"):
        changed = (1 + 0.5 * np.abs(g)) / 512
    elif name.endswith("attention.2.weight"):
        changed = 2 * g / np.sqrt(512)
    elif name.endswith(_ATTENTION_INPUTS):
        changed = g
    return common_weight(name, g, "embed.weight") if changed is None else np.asarray(changed, dtype=np.float32)


def released_name(name: str) -> str:
    """Our state-dict names to the released ones."""
    return name.removeprefix("encoders.").removeprefix("composition.")


def check_artemis(file: GoldenFile) -> Iterator[Deviation]:
    """A deviation for every output; raises UserError where the file is not of this form."""
    form = file.parse(_ArtemisForm)
    wrong = sum(artemis_words(text) != words for text, words in form.tokens)
    yield compare_count("texts split wrongly", wrong, 0)
    for name, variant in form.variants.items():
        yield from _Checked(file, form, name, variant).deviations()


class _Checked:
    """One variant of a file: "ARTEMIS" or "TIRG", "bigru" or "lstm", and "features" for stored ones."""

    def __init__(self, file: GoldenFile, form: _ArtemisForm, name: str, variant: _Variant) -> None:
        kind, text_encoder, *rest = name.split()
        if kind not in ("ARTEMIS", "TIRG") or text_encoder not in ("bigru", "lstm") or rest not in ([], ["features"]):
            raise file.error(f"entry 'variants.{name}' is no variant that this reader knows")
        config, absent = form.config, variant.state_dict_difference.absent
        entries = [e for e in form.state_dict if e.name not in absent] + variant.state_dict_difference.added
        self._listed = {entry.name: entry.shape for entry in entries}
        self._prefix, self._name, self._variant, self._config = file.prefix, name, variant, config
        self._kind, self._on_features = kind, bool(rest)
        self._settings = ArtemisSettings.model_validate(
            {
                "width": config.embed_dim, "word_width": config.word_dim, "text_encoder": text_encoder,
                "lstm_width": config.lstm_hidden_dim, "padding": "released", "dropout": 0.0,
            }
        )  # fmt: skip
        self._text = text_of(form.token_ids)
        self._pictures = {name: self._views(name) for name in ("source", "target")}

    def deviations(self) -> Iterator[Deviation]:
        method = self._method("ARTEMIS")
        found = {released_name(name): shape for name, shape in shapes_of(method.state_dict()).items()}
        yield compare_names(f"{self._name}: state dict", found, self._listed)
        parameters = sum(parameter.numel() for parameter in method.parameters())
        yield compare_count(f"{self._name}: parameters", parameters, self._variant.parameters)
        yield from self._check_evaluation(method)
        training = self._variant.train_dropout_off
        if training is None:
            return
        yield from self._check_losses("ARTEMIS", training, training)
        for version, loss in training.other_losses.items():
            yield from self._check_losses(version, loss, None)

    def _views(self, name: str) -> Views:
        shape, batch = self._config.feature_map, self._config.batch
        if self._on_features:
            return {"global": draw_input(self._prefix, f"input.{name}.feature", (batch, shape[0]))}
        return {"pixels": drawn_map(self._prefix, f"input.{name}", batch, shape)}

    def _method(self, version: Version) -> FramedMethod:
        width, channels = self._config.embed_dim, self._config.feature_map[0]
        image: nn.Module = ImageEncoder(nn.Identity(), nn.Linear(channels, width), "gem")
        if self._on_features:
            image = LinearPicture(channels, width)
        encoders = Encoders(image, text_maker(self._settings))
        encoders.use(numbered_words(self._config.vocabulary_size))
        method: FramedMethod
        if self._kind == "TIRG":
            method = FramedTirg(encoders, composition("tirg", width, width, VARIANT_SHARES, 0.0))
        else:
            method = artemis_method(encoders, width, version)
        draw_named(method, weight, self._prefix, released_name)
        without_dropout(method)
        return method.eval()

    @torch.no_grad()
    def _check_evaluation(self, method: FramedMethod) -> Iterator[Deviation]:
        outputs = self._outputs(method)
        for name, expected in self._variant.eval.items():
            at = f"{self._name}: eval {name}"
            if isinstance(expected, dict):
                for version, scores in expected.items():
                    found = self._scores(self._method(version), self._pictures["target"])
                    yield compare_output(f"{at} {version}", found, scores, TOLERANCE)
            else:
                yield compare_output(at, outputs[name], expected, TOLERANCE)

    def _scores(self, method: FramedMethod, targets: Views) -> Tensor:
        return method.score(
            method.encode_query(self._pictures["source"], self._text), method.encode_target(targets)
        )

    def _outputs(self, method: FramedMethod) -> dict[str, Tensor]:
        """Outputs by the file's names."""
        reference, target = (method.encoders.picture(self._pictures[name]) for name in ("source", "target"))
        text = method.encoders.text(self._text)
        outputs = {
            "text": text, "reference": reference, "target": target,
            "scores": self._scores(method, self._pictures["target"]),
        }  # fmt: skip
        if not self._on_features:
            shape, gallery = self._config.feature_map, self._config.gallery
            outputs["pooled_target"] = generalised_mean(self._pictures["target"]["pixels"])
            drawn = drawn_map(self._prefix, "input.gallery", gallery, shape)
            outputs["gallery_scores"] = self._scores(method, {"pixels": drawn})
        if not isinstance(method, Artemis):
            query = method.encode_query(self._pictures["source"], self._text)
            assert isinstance(query, Tensor)
            return {**outputs, "query": query}
        explicit, implicit = method.Attention_EM(text), method.Attention_IS(text)
        return {
            **outputs,
            "attention_EM": explicit,
            "attention_IS": implicit,
            "transformed_text": unit(method.Transform_m(text)),
            "EM_target_of_own_query": unit(explicit * target),
            "IS_reference": implicit_reference(implicit, reference),
            "IS_target_of_own_query": unit(implicit * target),
        }

    def _check_losses(self, version: Version, expected: _Loss, training: _Training | None) -> Iterator[Deviation]:
        at, found = f"{self._name}: train {version if training is None else ''}".rstrip(), dict[str, Tensor]()
        reference = self._method(version)

        def gradients(dtype: torch.dtype) -> Mapping[str, Tensor | None]:
            method = copy.deepcopy(reference).to(dtype).train()
            pictures = {
                name: {view: tensor.to(dtype) for view, tensor in views.items()}
                for name, views in self._pictures.items()
            }
            queries = method.encode_query(pictures["source"], self._text)
            targets = method.encode_target(pictures["target"])
            loss = method.loss(queries, targets)
            torch.autograd.backward(loss)
            result = {released_name(name): p.grad for name, p in method.named_parameters()}
            if dtype == torch.float32:
                found.update(loss=loss.detach(), scores=method.score(queries, targets).detach())
                found.update({f"gradient {name}": g for name, g in result.items() if g is not None})
                found.update({released_name(name): tensor for name, tensor in method.state_dict().items()})
            return result if training is not None else {n: result.get(n) for n in expected.grad_norms}

        norms = {name: norm for name, norm in expected.grad_norms.items() if name != "a"}
        compared = compare_gradients(f"{at} gradients", lambda dtype: _without_a(gradients(dtype)), norms, GRADIENTS)
        yield worst(f"{at} loss", [Difference("", found["loss"].item(), expected.loss, TOLERANCE)])
        yield from compared
        if training is not None:
            yield from self._check_training(at, found, training)

    def _check_training(self, at: str, found: Mapping[str, Tensor], expected: _Training) -> Iterator[Deviation]:
        scores = found["scores"]
        plain = F.cross_entropy(scores, torch.arange(len(scores))).item()
        pairs = (
            ("temperature", found["temperature"].item(), expected.temperature, TOLERANCE),
            ("loss without temperature", plain, expected.loss_without_temperature, TOLERANCE),
            ("temperature gradient", found["gradient temperature"].item(), expected.grad_temperature, GRADIENT),
        )
        for name, value, wanted, tolerance in pairs:
            yield worst(f"{at} {name}", [Difference("", value, wanted, tolerance)])
        if expected.scores is not None:
            yield compare_output(f"{at} scores", scores, expected.scores, TOLERANCE)
        if expected.grad_a is not None:
            yield compare_tensor(f"{at} gradient of a", found["gradient a"], expected.grad_a, SHARES_GRADIENT)
            norm = found["gradient a"].norm().item()
            yield worst(f"{at} gradient norm of a", [Difference("", norm, expected.grad_norms["a"], SHARES_GRADIENT)])
        for name, values in expected.running_after_one_step.items():
            yield compare_tensor(f"{at} {name}", found[name][: len(values)], values, TOLERANCE)


def _without_a(gradients: Mapping[str, Tensor | None]) -> Mapping[str, Tensor | None]:
    """All but the gradient of a, which has a tolerance of its own."""
    return {name: gradient for name, gradient in gradients.items() if name != "a"}


FORMS = {"artemis": check_artemis}

_BESIDES_THE_CNN = ("encoders.txt_enc.", "encoders.img_enc.fc.", "Transform_m.", "Attention_", "temperature")
SIZES = {
    "artemis": {
        "GRU, 40 words": PublishedSizes(
            (
                Part("all but the CNN", _BESIDES_THE_CNN, 3_231_457),
                Part("GRU", ("encoders.txt_enc.sent_enc.",), 857_088),
                Part("words", ("encoders.txt_enc.embed.",), 12_000),
                Part("image linear", ("encoders.img_enc.fc.",), 1_049_088),
                Part("T", ("Transform_m.",), 262_656),
                Part("attention of EM", ("Attention_EM.",), 525_312),
                Part("attention of IS", ("Attention_IS.",), 525_312),
            ),
            settings={"start": "random"},
            words=35,
        ),
        "LSTM, 40 words": PublishedSizes(
            (Part("all but the CNN", _BESIDES_THE_CNN, 8_330_465),),
            settings={"start": "random", "text_encoder": "lstm"},
            words=35,
        ),
    }
}
