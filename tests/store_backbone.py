"""A backbone of a few numbers for the tests of the feature store, and pictures for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.backbone import Backbone
from benchmark.dataset import Pictures
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.facts import BackboneDescription
from benchmark.features.store import FeatureStore, PictureFeatures

WIDTH, SIDE, LENGTH = 6, 8, 12
COUNT, BLOCK = 10, 4
"""Pictures, and how many of them one block of the store holds in tests."""
BOTH = ("global", "patches")


class SmallBackbone(Backbone):
    """Linear in the pixels and in the tokens; counts the rows that it encodes."""

    def __init__(self, name: str = "small", activation: str = "gelu") -> None:
        super().__init__()
        self._name, self._activation = name, activation
        generator = torch.Generator().manual_seed(5)
        self.preprocessing = Preprocessing("targetpad", SIDE)
        self.image = nn.Parameter(torch.randn(3 * SIDE * SIDE, WIDTH, generator=generator))
        self.text = nn.Parameter(torch.randn(LENGTH, WIDTH, generator=generator))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.image_passes: list[int] = []
        self.text_passes: list[int] = []

    @property
    def width(self) -> int:
        return self.text.shape[1]

    @property
    def description(self) -> BackboneDescription:
        preprocessing = self.preprocessing.key()
        return BackboneDescription(
            self._name, "drawn", self.width, SIDE, LENGTH, self._activation, "weights", preprocessing, 0
        )

    def encode_image(self, pixels: Tensor) -> Tensor:
        assert not self.norm.training
        assert not torch.is_grad_enabled()
        self.image_passes.append(len(pixels))
        return self.norm(pixels.flatten(1) @ self.image)

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.text_passes.append(len(tokens))
        return self.norm(tokens.float() @ self.text)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        codes = [list(text.encode("utf-8", "surrogatepass"))[:LENGTH] for text in texts]
        return torch.tensor([code + [0] * (LENGTH - len(code)) for code in codes])


def draw_pictures(folder: Path, count: int, seed: int = 0) -> Pictures:
    """Small noisy pictures of different sizes, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        height, width = rng.integers(10, 30, size=2)
        path = folder / f"{number:03}.png"
        Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return Pictures(tuple(path.stem for path in paths), tuple(paths))


def small_store(folder: Path, backbone: SmallBackbone | None = None) -> FeatureStore:
    return FeatureStore(
        folder,
        backbone or SmallBackbone(),
        encoder_digest="weights",
        device=torch.device("cpu"),
        workers=2,
    )


def ask(
    store: FeatureStore, pictures: Pictures, views: tuple[str, ...] = BOTH, **other: Any
) -> PictureFeatures:
    return store.pictures("toy", "all", pictures, np.arange(len(pictures)), views, **other)


def same(one: PictureFeatures, other: PictureFeatures) -> bool:
    return all(torch.equal(one.views[view], other.views[view]) for view in one.views)
