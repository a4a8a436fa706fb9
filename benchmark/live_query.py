"""One composed query at a time, from a picture file and a string to a ranking: no batch, no store.

Nothing is filled up to a fixed number of rows and near ties are not settled exactly, as the evaluator
does: this is for a person who waits, not for a number in a table.

Notation: G gallery pictures, k best, S side of the input, P patches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.backbones import ClipBackbone
from benchmark.encoding import Encoding
from benchmark.method import FeatureInputs, Inputs, Method, PixelInputs, Views
from benchmark.pictures import open_picture


class LiveQuery:
    """Ranks a gallery of G encodings for single queries.

    ``backbone`` is None for methods with networks of their own. Method, backbone and gallery are on
    one device and stay as they are; method and backbone are in evaluation mode.
    """

    def __init__(
        self, method: Method, inputs: Inputs, backbone: ClipBackbone | None, gallery: Encoding, device: torch.device
    ) -> None:
        self._method, self._inputs, self._backbone = method, inputs, backbone
        self._gallery, self._device = gallery, device

    @torch.no_grad()
    def best(self, picture: Path, text: str, k: int) -> Tensor:
        """Gallery rows of the k best, best first, (k,)."""
        pixels, tokens = self.read(picture, text)
        return self.rank(pixels, tokens, k)

    def read(self, picture: Path, text: str) -> tuple[Tensor, Views]:
        """The network's inputs: (1, 3, S, S), or (1 + P, 3, S, S) where patches are read, and the tokens."""
        image = open_picture(picture)
        if isinstance(self._inputs, PixelInputs):
            transform = self._inputs.evaluate
            pixels = np.stack([transform.picture(image, np.random.default_rng(0))])
            normalised = transform.normalise(torch.from_numpy(pixels).to(self._device))
            tokens = self._method.tokenize([text])
        else:
            backbone = self._encoder
            pixels = np.stack([backbone.preprocessing.picture(image)])
            if "patches" in self._inputs.reference:
                pixels = np.concatenate([pixels, backbone.preprocessing.patches(image, self._inputs.grids)])
            normalised = backbone.preprocessing.normalise(torch.from_numpy(pixels).to(self._device))
            found = backbone.tokenize([text])
            tokens = {"tokens": found[:, : int(found.argmax(dim=-1).max()) + 1]}
        return normalised, {name: tensor.to(self._device) for name, tensor in tokens.items()}

    @torch.no_grad()
    def rank(self, pixels: Tensor, tokens: Views, k: int) -> Tensor:
        """From the network's inputs to the k best gallery rows, best first."""
        if isinstance(self._inputs, FeatureInputs):
            features = self._encoder.encode_image(pixels).float()
            reference = {"whole": features[:1], "patches": features[None, 1:]}
            text = {"text": self._encoder.encode_text(tokens["tokens"]).float()}
            query = self._method.encode_query({name: reference[name] for name in self._inputs.reference}, text)
        else:
            query = self._method.encode_query({"pixels": pixels}, tokens)
        return self._method.score(query, self._gallery).topk(k, dim=1).indices[0]

    @property
    def _encoder(self) -> ClipBackbone:
        if self._backbone is None:
            raise TypeError("this method reads features, but has no backbone")
        return self._backbone
