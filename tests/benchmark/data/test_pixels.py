"""Pixels for training: the same whatever the threads, decoded again only where chance is involved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.Image import fromarray as from_array
from store_backbone import draw_pictures
from torch import Tensor

import benchmark.data.pixels
from benchmark.data.pictures import bad_pictures
from benchmark.data.pixels import PixelSource
from benchmark.dataset import IntArray, Pictures
from benchmark.errors import UserError

COUNT, SIDE = 12, 8
BYTES = SIDE * SIDE * 3


class Shrunk:
    """Resizes; with chance it adds a drawn number to every pixel."""

    def __init__(self, random: bool) -> None:
        self.random = random

    def key(self) -> Mapping[str, Any]:
        return {"random": self.random}

    def picture(self, image: Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)))
        return (pixels + rng.integers(0, 256, dtype=np.uint8)) if self.random else pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return draw_pictures(tmp_path_factory.mktemp("pictures"), COUNT)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures opened, in order."""
    names: list[str] = []
    original = benchmark.data.pixels.open_picture

    def counted(path: Path) -> Image:
        names.append(path.stem)
        return original(path)

    monkeypatch.setattr(benchmark.data.pixels, "open_picture", counted)
    return names


def keys(indices: IntArray, epoch: int = 0) -> list[tuple[int, ...]]:
    return [(7, epoch, position, 0) for position in range(len(indices))]


def source(pictures: Pictures, random: bool, workers: int = 2, budget: int = 1 << 20) -> PixelSource:
    return PixelSource(pictures, Shrunk(random), workers=workers, budget_bytes=budget)


class Written:
    """Sets as many pixels of the first row to 255 as the note has letters."""

    def key(self) -> Mapping[str, Any]:
        return {"written": True}

    def draw(self, image: Image, note: str) -> Image:
        pixels = np.array(image.convert("RGB").resize((SIDE, SIDE)))
        pixels[0, : len(note)] = 255
        return from_array(pixels)


def test_a_picture_with_a_note_is_another_one_kept_for_that_note(pictures: Pictures, opened: list[str]) -> None:
    wanted, notes = np.array([3, 3, 3, 0]), ["red", None, "no belt", "red"]
    with PixelSource(pictures, Shrunk(False), Written(), workers=2, budget_bytes=4 * BYTES) as pixels:
        first = pixels.batch(wanted, keys(wanted), notes)
        again = pixels.batch(wanted[::-1].copy(), keys(wanted), notes[::-1])
        plain = pixels.batch(np.array([3]), keys(wanted[:1]))
    assert torch.equal(first, again.flip(0)) and torch.equal(first[1], plain[0])
    assert sorted(opened) == ["000", "003", "003", "003"], "each kept once"
    for row, note in zip(first, notes, strict=True):
        assert (row[0, : len(note or "")] == 255).all()
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    with source(pictures, random=False) as bare, pytest.raises(TypeError, match="nothing that shows it"):
        bare.batch(wanted, keys(wanted), notes)


def test_without_chance_a_picture_is_decoded_once(pictures: Pictures, opened: list[str]) -> None:
    wanted = np.array([3, 0, 3, 11])
    with source(pictures, random=False) as pixels:
        first = pixels.batch(wanted, keys(wanted))
        second = pixels.batch(wanted, keys(wanted, epoch=1))
    assert first.shape == (4, SIDE, SIDE, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[2])
    assert sorted(opened) == ["000", "003", "011"]
    for row, index in enumerate(wanted):
        with benchmark.data.pixels.open_picture(pictures.paths[index]) as image:
            assert (first[row].numpy() == Shrunk(False).picture(image, np.random.default_rng())).all()


def test_the_budget_bounds_what_is_kept(pictures: Pictures, opened: list[str]) -> None:
    everything = np.arange(COUNT)
    with source(pictures, random=False, workers=1, budget=5 * BYTES + 1) as pixels:
        first = pixels.batch(everything, keys(everything))
        assert torch.equal(first, pixels.batch(everything, keys(everything)))
    assert len(opened) == COUNT + (COUNT - 5)


def test_a_batch_may_be_written_to(pictures: Pictures) -> None:
    wanted = np.array([1, 1, 2])
    with source(pictures, random=False) as pixels:
        first = pixels.batch(wanted, keys(wanted))
        expected = first.clone()
        first.zero_()
        assert torch.equal(pixels.batch(wanted, keys(wanted)), expected)


def test_chance_comes_from_the_key_alone(pictures: Pictures, opened: list[str]) -> None:
    wanted = np.array([5, 2, 9, 2])
    with source(pictures, random=True, workers=1) as one, source(pictures, random=True, workers=4) as four:
        batch = one.batch(wanted, keys(wanted))
        one.batch(np.arange(COUNT), keys(np.arange(COUNT), epoch=3))
        assert torch.equal(four.batch(wanted, keys(wanted)), batch)
        assert torch.equal(four.batch(wanted[2:3], keys(wanted)[2:3]), batch[2:3])
        assert not torch.equal(four.batch(wanted, keys(wanted, epoch=1)), batch)
    assert not torch.equal(batch[1], batch[3]), "two places draw apart from each other"
    assert len(opened) == 4 + COUNT + 4 + 1 + 4


@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
def test_prefetched_batches_are_those_asked_for(pictures: Pictures, random: bool, ahead: int) -> None:
    rng = np.random.default_rng(1)
    requests = [(rng.integers(0, COUNT, size=size), keys(np.arange(size), size)) for size in (3, 1, 5, 4)]
    with source(pictures, random) as pixels:
        expected = [pixels.batch(*request) for request in requests]
        found = list(pixels.prefetch(iter(requests), ahead=ahead))
        assert len(found) == 4
        assert all(map(torch.equal, found, expected))
        assert list(pixels.prefetch(iter([]))) == []


def test_prefetching_looks_no_further_than_told(pictures: Pictures) -> None:
    asked: list[int] = []

    def requests() -> Iterator[tuple[IntArray, list[tuple[int, ...]]]]:
        for number in range(8):
            asked.append(number)
            yield np.array([number]), [(number,)]

    with source(pictures, random=True) as pixels:
        batches = pixels.prefetch(requests(), ahead=2)
        assert asked == []
        next(batches)
        assert asked == [0, 1, 2]
        next(batches)
        assert asked == [0, 1, 2, 3]
        batches.close()  # type: ignore[attr-defined]
        assert asked == [0, 1, 2, 3]


def test_an_unreadable_picture_is_named_in_its_turn(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path, 4)
    pictures.paths[2].write_bytes(pictures.paths[2].read_bytes()[:60])
    requests = [(np.array([index]), [(index,)]) for index in (0, 1, 2, 3)]
    with source(pictures, random=False) as pixels:
        batches = pixels.prefetch(requests)
        assert next(batches).shape == next(batches).shape
        with pytest.raises(UserError, match=r"002\.png"):
            next(batches)


def test_bad_pictures_are_all_found(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path, 6)
    pictures.paths[1].write_bytes(b"")
    pictures.paths[3].unlink()
    pictures.paths[4].write_bytes(pictures.paths[4].read_bytes()[:60])
    counted: list[tuple[int, int]] = []
    wanted = np.array([5, 4, 3, 0, 2])
    found = bad_pictures(pictures, wanted, 2, lambda done, total: counted.append((done, total)))
    assert sorted(found) == [3, 4]
    assert "003.png" in found[3]
    assert "004.png" in found[4]
    assert counted == [(n, 5) for n in range(1, 6)]
