"""What a query shows in evaluation: its reference through a transform of its own, drawn by seed and query alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmark.methods.networks.clip_pictures import RandomResizedCrop
from PIL import Image

from benchmark.data.pixels import PixelSource
from benchmark.dataset import Pictures, Queries, Ragged
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.evaluation.sources import PixelEvaluation
from benchmark.method import Method, PixelInputs

COUNT = 6


def drawn(folder: Path, seed: int, queries: Queries, rows: slice, crops: bool = True) -> torch.Tensor:
    pad = Preprocessing("clip", 16)
    inputs = PixelInputs(pad, pad, RandomResizedCrop(pad) if crops else None)
    pictures = Pictures(tuple(map(str, range(COUNT))), tuple(folder / f"{i}.png" for i in range(COUNT)))
    with PixelSource(pictures, pad, workers=1) as plain, PixelSource(pictures, RandomResizedCrop(pad)) as random:
        source = PixelEvaluation(inputs, plain, Method(), torch.device("cpu"), random if crops else None, seed)
        shown = source.reference("val", queries, rows)["pixels"]
        gallery = source.target("val", queries.reference_picture[rows])["pixels"]
    assert torch.equal(shown, gallery) is not crops
    return shown


def test_a_reference_of_its_own_depends_on_seed_and_query_alone(tmp_path: Path) -> None:
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    of = np.array([0, 1, 2, 3, 4, 0])
    ids = ("a", "b", "c", "d", "e", "f")
    queries = Queries(ids, of, of, ("text",) * COUNT, Ragged.of([[0]] * COUNT), np.arange(COUNT))
    whole = drawn(tmp_path, 3, queries, slice(None))
    part = drawn(tmp_path, 3, queries.take(np.array([4, 1])), slice(None))
    assert torch.equal(part, whole[[4, 1]]) and torch.equal(drawn(tmp_path, 3, queries, slice(2, 4)), whole[2:4])
    assert not torch.equal(whole[0], whole[5]), "two queries with one reference draw alike"
    assert not torch.equal(drawn(tmp_path, 4, queries, slice(None)), whole)
    drawn(tmp_path, 3, queries, slice(None), crops=False)
