"""Filling the store beside the bare forward pass, and the loader beside a bare Pillow loop.

The loader's pixels are those of the plain loop, bit for bit. JPEG's draft mode and decoders that are
faster than Pillow give other pixels and are not used.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import Compared, at_least, compared, played_back
from PIL import Image

from benchmark.data.pictures import cores
from benchmark.data.pixels import PixelSource
from benchmark.dataset import Pictures
from benchmark.encoders.backbones import ClipBackbone, load_backbone
from benchmark.encoders.frozen_encoder import PICTURES_PER_PASS
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.features.store import FeatureStore

SIDE, ENCODED, DECODED = 288, PICTURES_PER_PASS, 96
ENCODING = ("store", "bare forward pass")
LOADING = ("loader", "bare Pillow loop")


def draw_pictures(folder: Path, count: int) -> Pictures:
    """JPEG files with the sizes of photographs of the datasets and with something at every scale."""
    draw, paths = np.random.default_rng(0), []
    for number in range(count):
        width, height = ((640, 480), (480, 640), (800, 600), (300, 400))[number % 4]
        noise = sum(
            np.asarray(Image.fromarray(draw.integers(0, 64, (side, side, 3), dtype=np.uint8)).resize((width, height)), dtype=int)
            for side in (4, 16, 64, 256)
        )
        path = folder / f"{number:03}.jpg"
        Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return Pictures(tuple(path.stem for path in paths), tuple(paths))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return draw_pictures(tmp_path_factory.mktemp("pictures"), DECODED)


# Encoding


@pytest.fixture(scope="module")
def encoding(pictures: Pictures, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """One block, whole view: decoded, encoded, written, flushed and checked, each time anew."""
    backbone = load_backbone("RN50x4", "random")
    folder = tmp_path_factory.mktemp("stores")
    few = np.arange(ENCODED)
    source = PixelSource(pictures, backbone.preprocessing, workers=1)
    pixels = backbone.preprocessing.normalise(source.batch(few, [(0,)] * ENCODED))

    def fill() -> None:
        number = len(list(folder.iterdir()))
        store = FeatureStore(
            folder / str(number), backbone, encoder_digest="random", device=torch.device("cpu"), workers=1
        )
        store.pictures("benchmark", "few", pictures, few, ("global",))

    calls = dict(zip(ENCODING, (fill, _forward(backbone, pixels)), strict=True))
    return compared(f"encoding with RN50x4, {ENCODED} pictures, 1 thread", calls, rounds=3, warm_ups=0)


def _forward(backbone: ClipBackbone, pixels: torch.Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        backbone.encode_image(pixels)

    return run


@played_back
@pytest.mark.parametrize("row", ENCODING)
def test_encoding(benchmark, ratio, encoding: Compared, row: str) -> None:
    if row == ENCODING[0]:
        ratio(encoding, row, ENCODING[1], at_least(0.95), inverse=True)
    encoding.play(benchmark, row, **{"pictures per second": ENCODED / float(encoding.wall.seconds[row].min())})


# Loading


def bare_loop(paths: list[Path]) -> list[np.ndarray]:
    """Decode, pad, resize, crop: Pillow's calls and nothing else."""
    plain, found = Preprocessing("targetpad", SIDE), []
    for path in paths:
        image = Image.open(path)
        padded, resized = plain.sizes(*image.size)
        canvas = image
        if padded != image.size:
            canvas = Image.new("RGB", padded)
            canvas.paste(image, ((padded[0] - image.width) // 2, (padded[1] - image.height) // 2))
        canvas = canvas.resize(resized, Image.Resampling.BICUBIC)
        left, top = round((canvas.width - SIDE) / 2), round((canvas.height - SIDE) / 2)
        found.append(np.asarray(canvas.crop((left, top, left + SIDE, top + SIDE))))
    return found


def in_processes(shares: list[list[Path]]) -> None:
    """One process per share, from its start to its end."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=bare_loop, args=(share,)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


@pytest.fixture(scope="module", params=[1, 2], ids=["1 core", "2 cores"])
def loading(request: pytest.FixtureRequest, pictures: Pictures) -> Iterator[Compared]:
    """As many threads as there are processes of the bare loop, each of these with its share."""
    workers = request.param
    if workers > cores():
        pytest.skip("fewer cores than that")
    paths, every, keys = list(pictures.paths), np.arange(DECODED), [(0,)] * DECODED
    shares = [paths[start::workers] for start in range(workers)]
    with PixelSource(pictures, Preprocessing("targetpad", SIDE), workers=workers, budget_bytes=0) as source:
        pixels = source.batch(every, keys).numpy()
        assert all(np.array_equal(a, b) for a, b in zip(pixels, bare_loop(paths), strict=True))
        calls = (lambda: source.batch(every, keys), lambda: in_processes(shares))
        path = f"loader of {DECODED} pictures, {SIDE} pixels, {workers} core{'s'[: workers - 1]}"
        yield compared(path, dict(zip(LOADING, calls, strict=True)), rounds=7)


@played_back
@pytest.mark.parametrize("row", LOADING)
def test_loading(benchmark, ratio, loading: Compared, row: str) -> None:
    if row == LOADING[0]:
        ratio(loading, row, LOADING[1], at_least(0.9), inverse=True)
    loading.play(benchmark, row, **{"pictures per second": DECODED / float(loading.wall.seconds[row].min())})
