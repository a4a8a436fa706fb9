"""Toy methods that use every part of the engine's contract.

`toy` brings all of its networks: a small CNN on pixels and a vocabulary of its own, trained in two
stages (the CNN is frozen in the first), of which the second goes on with weights, moments of the
optimiser and best score. `toy_features` trains the same first stage and then a head on stored
features, which takes the word vectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from benchmark.facts import Initialisation
from benchmark.method import (
    BuildContext,
    FeatureInputs,
    Method,
    ParameterGroups,
    PixelInputs,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import MethodSettings, TrainingSettings

_WIDTH = 12
_SIDE = 32


class ToySettings(MethodSettings):
    sharpness: float = Field(10.0, gt=0, description="factor of the scores in the loss")


class ToyFullSettings(TrainingSettings):
    word_rate: float = Field(1.0, gt=0, description="factor of the word vectors' learning rate")


class Shrunk:
    """The whole picture at 32 pixels; in training mirrored by chance."""

    def __init__(self, random: bool) -> None:
        self._random = random

    @property
    def random(self) -> bool:
        return self._random

    def key(self) -> Mapping[str, Any]:
        return {"kind": "toy shrunk", "random": self._random}

    def picture(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE)))
        return np.ascontiguousarray(pixels[:, ::-1]) if self._random and rng.random() < 0.5 else pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float() / 255 - 0.5


class Toy(Method):
    """Encodings of two tensors: a vector (B, 12), and of a target also its bias (B, 1)."""

    def __init__(self, sharpness: float, frozen: bool) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.project = nn.Linear(8 * 16, _WIDTH)
        self.bias = nn.Linear(_WIDTH, 1)
        self.vocabulary: dict[str, int] = {}
        self._sharpness, self._frozen = sharpness, frozen
        self.cnn.requires_grad_(not frozen)

    @property
    def without_gradient(self) -> tuple[str, ...]:
        return ("cnn.",) if self._frozen else ()

    def build_extra_state(self, texts: Sequence[str]) -> None:
        self._use(sorted({word for text in texts for word in _words(text)}))

    def extra_state(self) -> Mapping[str, Any]:
        return {"words": list(self.vocabulary)}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._use(state["words"])

    def _use(self, words: Sequence[str]) -> None:
        self.vocabulary = {word: number for number, word in enumerate(words)}
        self.words = nn.EmbeddingBag(len(words) + 2, _WIDTH, mode="mean", padding_idx=len(words) + 1)

    def tokenize(self, texts: Sequence[str]) -> Views:
        unknown, padding = len(self.vocabulary), len(self.vocabulary) + 1
        rows = [[self.vocabulary.get(word, unknown) for word in _words(text)] or [unknown] for text in texts]
        longest = max(map(len, rows))
        return {"words": torch.tensor([row + [padding] * (longest - len(row)) for row in rows])}

    def encode_query(self, reference: Views, text: Views) -> dict[str, Tensor]:
        return {"vector": F.normalize(self._picture(reference) + self.words(text["words"]), dim=-1)}

    def encode_target(self, target: Views) -> dict[str, Tensor]:
        vector = self._picture(target)
        return {"vector": F.normalize(vector, dim=-1), "bias": torch.tanh(self.bias(vector))}

    def score(self, queries: Any, targets: Any) -> Tensor:
        """Not a dot product: minus the squared distance, and the target's bias."""
        distances = torch.cdist(queries["vector"][None], targets["vector"][None])[0].square()
        return 0.1 * targets["bias"].T - distances

    def loss(self, queries: Any, targets: Any) -> Tensor:
        scores = self._sharpness * self.score(queries, targets)
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def _picture(self, views: Views) -> Tensor:
        vector: Tensor = self.project(self.cnn(views["pixels"]))
        return vector


class ToyFull(Toy):
    """The second stage has one tensor that the first has not."""

    def __init__(self, sharpness: float) -> None:
        super().__init__(sharpness, frozen=False)
        self.scale = nn.Parameter(torch.ones(_WIDTH))

    def _picture(self, views: Views) -> Tensor:
        return self.scale * super()._picture(views)


class ToyHead(Method):
    """On stored features (B, d); the text's own feature and nothing of the first stage but its biases."""

    def __init__(self, width: int, earlier: Toy | None, sharpness: float) -> None:
        super().__init__()
        self.bias = nn.Linear(_WIDTH, 1)
        self.project_feature = nn.Linear(width, _WIDTH)
        self.sharpness = sharpness
        self.knew = len(earlier.vocabulary) if earlier is not None else 0

    @property
    def without_gradient(self) -> tuple[str, ...]:
        return ("bias.bias",)  # the same for all targets: the softmax removes it

    def encode_query(self, reference: Views, text: Views) -> dict[str, Tensor]:
        return {"vector": F.normalize(self.project_feature(reference["global"] + text["global"]), dim=-1)}

    def encode_target(self, target: Views) -> dict[str, Tensor]:
        pooled = target["global"] + target["patches"].mean(dim=1)
        vector = F.normalize(self.project_feature(pooled), dim=-1)
        return {"vector": vector, "bias": self.bias(vector)}

    def score(self, queries: Any, targets: Any) -> Tensor:
        scores: Tensor = queries["vector"] @ targets["vector"].T + targets["bias"].T
        return scores

    def loss(self, queries: Any, targets: Any) -> Tensor:
        scores = self.sharpness * self.score(queries, targets)
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def explain(self, reference: Views, text: Views) -> dict[str, Tensor]:
        return {"features": self.project_feature(reference["global"]).abs()}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _sharpness(context: BuildContext) -> float:
    assert isinstance(context.method_settings, ToySettings)
    return context.method_settings.sharpness


def _pixels(context: BuildContext) -> PixelInputs:
    return PixelInputs(train=Shrunk(random=True), evaluate=Shrunk(random=False))


def _groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    assert isinstance(method, ToyFull) and isinstance(settings, ToyFullSettings)
    rest = [p for name, p in method.named_parameters() if not name.startswith("words.")]
    words = {"params": list(method.words.parameters()), "lr": settings.word_rate * settings.learning_rate}
    return [{"params": rest}, words]


def _head(context: BuildContext) -> Method:
    earlier = context.earlier["toy-base"]
    assert isinstance(earlier, Toy)
    return ToyHead(context.width, earlier, _sharpness(context))


BASE = Stage(name="toy-base", build=lambda context: Toy(_sharpness(context), frozen=True), inputs=_pixels)
FULL = Stage(
    name="toy-full",
    build=lambda context: ToyFull(_sharpness(context)),
    inputs=_pixels,
    settings=ToyFullSettings,
    parameter_groups=_groups,
    initialise_from="weights and optimiser",
)
HEAD = Stage(
    name="toy-head",
    build=_head,
    inputs=lambda context: FeatureInputs(reference=("global",), target=("global", "patches"), grids=(2,)),
    initialise_from="weights",
)


def _random_start(settings: MethodSettings) -> Initialisation:
    return "random"


METHODS = {
    "toy": Specification(
        stages=lambda settings, start: (BASE, FULL), settings=ToySettings, own_networks=_random_start
    ),
    "toy_features": Specification(stages=lambda settings, start: (BASE, HEAD), settings=ToySettings),
}
