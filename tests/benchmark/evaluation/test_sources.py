"""What a query shows in evaluation: its reference through a transform of its own, drawn by seed and query alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmark.methods.networks.clip_pictures import RandomResizedCrop
from PIL import Image

from benchmark.data.pixels import PixelSource
from benchmark.data.released_files import LabelledSide
from benchmark.dataset import CategoryCaptions, Pictures, Queries, Ragged, Triplets
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.evaluation.sources import PixelEvaluation
from benchmark.method import Method, PixelInputs, Views
from benchmark.text_rules import text_rule
from benchmark.training.batches import Share
from benchmark.training.sources import PixelTraining

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


class Blackened:
    """A picture with a note is black but for as many levels as the note has letters."""

    def key(self) -> dict[str, str]:
        return {}

    def draw(self, image: Image.Image, note: str) -> Image.Image:
        return Image.new("RGB", image.size, (len(note),) * 3)


def test_notes_are_shown_on_references_alone_and_not_where_the_picture_stands_alone(tmp_path: Path) -> None:
    for i in range(COUNT):
        Image.new("RGB", (20, 20), (200, 200, 200)).save(tmp_path / f"{i}.png")
    pictures = Pictures(tuple(map(str, range(COUNT))), tuple(tmp_path / f"{i}.png" for i in range(COUNT)))
    pad = Preprocessing("clip", 16, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    inputs, of = PixelInputs(pad, pad, annotator=Blackened()), np.arange(COUNT)
    notes = ["x" * (10 * i + 1) for i in range(COUNT)]
    captions = tuple(CategoryCaptions(("text",), side=LabelledSide("a", note)) for note in notes)
    queries = Queries(tuple("abcdef"), of, of, ("text",) * COUNT, Ragged.of([[0]] * COUNT), of, captions=captions)
    with PixelSource(pictures, pad, Blackened(), workers=1) as pixels:
        source = PixelEvaluation(inputs, pixels, Method(), torch.device("cpu"))

        def levels(views: Views) -> list[int]:
            return [round(float(v)) for v in views["pixels"].mean(dim=(1, 2, 3))]

        assert levels(source.reference("val", queries, slice(1, 4))) == [11, 21, 31]
        assert levels(source.reference("val", queries.take(np.array([5, 0])))) == [51, 1]
        assert levels(source.target("val", of)) == [200] * COUNT
        assert levels(source.bare_reference("val", queries, slice(0, 2))) == [0, 0]
        triplets = Triplets(of, of[::-1].copy(), captions)
        training = PixelTraining(lambda epoch: triplets, text_rule("as-is"), inputs, pixels, Written(), 0, torch.device("cpu"))
        assert training.start_epoch(0) == COUNT
        # As two processes see one group: each its own rows, with their own notes.
        group = np.array([4, 2, 0, 5])
        shares = [Share(group, slice(0, 2)), Share(group, slice(2, 4))]
        shown = [(levels(batch.reference), levels(batch.target)) for batch in training.batches(shares)]
        assert shown == [([41, 21], [200, 200]), ([1, 51], [200, 200])]


class Written(Method):
    def tokenize(self, texts: Sequence[str]) -> Views:
        return {"length": torch.tensor([len(text) for text in texts])}
