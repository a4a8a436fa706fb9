"""A single query gives what the batch path gives: the same features, the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.backbones import load_backbone
from benchmark.frozen_encoder import FrozenEncoder
from benchmark.live_query import LiveQuery
from benchmark.method import FeatureInputs, Method, PixelInputs, Views
from benchmark.pictures import open_picture
from benchmark.preprocessing import Preprocessing

CPU = torch.device("cpu")
TEXT = "is longer and has red stripes"


class Mixed(Method):
    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return reference["whole"] + reference["patches"].mean(dim=1) + text["text"]


class Brightness(Method):
    """A method with networks of its own: the mean of each colour, and the text's length."""

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return reference["pixels"].mean(dim=(2, 3)) + text["length"]

    def tokenize(self, texts: Any) -> Views:
        return {"length": torch.tensor([[float(len(text))] for text in texts])}


def picture(folder: Path) -> Path:
    path = folder / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, size=(50, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_features_and_order_are_those_of_the_store_s_passes(tmp_path: Path):
    backbone, path = load_backbone("tiny", "random"), picture(tmp_path)
    encoder = FrozenEncoder(backbone, CPU, "fp32")
    pipeline, image = backbone.preprocessing, open_picture(path)
    whole = torch.from_numpy(encoder.pictures(pipeline.picture(image)[None]))
    patches = torch.from_numpy(encoder.pictures(pipeline.patches(image, (2, 3))))
    text = torch.from_numpy(encoder.texts([TEXT] + [""] * 15)[:1])
    query = Mixed().encode_query({"whole": whole, "patches": patches[None]}, {"text": text})
    gallery = torch.randn(40, backbone.width, generator=torch.Generator().manual_seed(0))
    expected = (query @ gallery.T).topk(5).indices[0]
    views = ("whole", "patches")
    live = LiveQuery(Mixed(), FeatureInputs(views, views), backbone, gallery, CPU)
    assert live.best(path, TEXT, 5).tolist() == expected.tolist()


def test_methods_with_networks_of_their_own_read_pixels(tmp_path: Path):
    path, transform = picture(tmp_path), Preprocessing("clip", 16)
    pixels = transform.normalise(torch.from_numpy(transform.picture(open_picture(path)))[None])
    gallery = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    expected = ((pixels.mean(dim=(2, 3)) + len(TEXT)) @ gallery.T).topk(9).indices[0]
    live = LiveQuery(Brightness(), PixelInputs(transform, transform), None, gallery, CPU)
    assert live.best(path, TEXT, 9).tolist() == expected.tolist()
