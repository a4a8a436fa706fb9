"""Speeds that depend on the backbone and the pictures alone: decoding, encoding, texts, the machine itself.

Every part is the code that fills the feature store, held against the same work done bare.

Notation: n pictures, S side of the backbone's input, P patches, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.backbone import Backbone
from benchmark.data.pictures import cores, open_picture
from benchmark.data.pixels import PixelSource
from benchmark.dataset import Dataset, Pictures, Task
from benchmark.encoders.frozen_encoder import PICTURES_PER_PASS, TEXTS_PER_PASS, FrozenEncoder
from benchmark.encoders.preprocessing import GRIDS, Preprocessing
from benchmark.records.measurement import Measurement
from benchmark.records.tables import SYNTHETIC
from benchmark.throughput.limits import (
    BARE_PRODUCTS,
    Products,
    bare_patches,
    bare_picture,
    computing_in,
    large_product,
    memory_copy,
    with_bytes_moved,
)
from benchmark.throughput.timing import Setting

_PICTURES, _TEXTS = 64, 256
_QUALITY = 90
_TEXT_PASSES = 4
_LOADER, _STORE = "loader", "store"
_BARE_LOOP = "bare Pillow loop"
_BARE_FORWARD = "bare forward pass"
IN_PRODUCTS = "encoding pictures, in products"
"""The name of the speed of encoding beside its bare products."""


@dataclass(frozen=True)
class Sample:
    """The pictures and texts that speeds are measured on; ``described`` says what the pictures are."""

    pictures: Pictures
    texts: tuple[str, ...]
    described: str

    @classmethod
    def of(cls, dataset: Dataset, task: Task, size: tuple[int, int] | None, stack: ExitStack) -> Sample:
        """Pictures spread evenly over the evaluated split, and texts that the task asks.

        ``size``: (width, height) of JPEG files to make of the pictures, in a folder that ``stack`` removes;
        None for the pictures as they are.
        """
        indices = dataset.split_pictures(dataset.info.evaluation_split)
        shown = indices[np.unique(np.linspace(0, len(indices) - 1, _PICTURES).astype(np.int64))]
        paths = [dataset.pictures.paths[i] for i in shown]
        if size is not None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="throughput-")))
            for number, path in enumerate(paths):
                paths[number] = folder / f"{number:04}.jpg"
                open_picture(path).convert("RGB").resize(size).save(paths[number], quality=_QUALITY)
        with Image.open(paths[0]) as image:
            form = f"{image.format}, {image.width} x {image.height}"
        kind = SYNTHETIC if dataset.is_demo else f"pictures of {dataset.label}"
        return cls(
            pictures=Pictures(tuple(dataset.pictures.names[i] for i in shown), tuple(paths)),
            texts=tuple(dict.fromkeys(task.queries.texts[:_TEXTS])),
            described=f"{len(paths)} {kind}{' resized' if size is not None else ''} ({form})",
        )


def machine_speeds(setting: Setting) -> dict[str, Measurement]:
    """What the machine can do at most: one large product, one large copy."""
    with computing_in(setting.precision, setting.device), torch.no_grad():
        multiply, flops = large_product(setting.device, setting.precision)
        copied = memory_copy(setting.device)
        rounds = setting.rounds({"product": multiply, "copy": copied})
        moved = 2 * copied().nbytes
    square = " x ".join([str(round((flops / 2) ** (1 / 3)))] * 3)
    return {
        "matrix product": setting.rate(rounds, "product", flops / 1e9, "GFLOP", square, flops=flops),
        "memory copy": setting.rate(rounds, "copy", moved / 1e9, "GB", f"{moved / 2e6:.0f} MB read, as many written"),
    }


def decoding_speeds(backbone: Backbone, sample: Sample, setting: Setting) -> dict[str, Measurement]:
    """Pictures decoded and preprocessed a second and core."""
    pipeline, paths = backbone.preprocessing, sample.pictures.paths
    assert isinstance(pipeline, Preprocessing), "the bare loop goes CLIP's way"
    on_cpu, unit = replace(setting, device=torch.device("cpu")), "pictures/core"
    every = np.arange(len(paths))

    def whole(workers: int, loop: Callable[..., Iterable[NDArray[np.uint8]]]) -> Measurement:
        with PixelSource(sample.pictures, pipeline, workers=workers, budget_bytes=0) as source:
            rounds = on_cpu.rounds(
                {
                    _LOADER: lambda: source.batch(every, [(0,)] * len(paths)),
                    _BARE_LOOP: lambda: np.stack(list(loop(lambda path: bare_picture(path, pipeline), paths))),
                }
            )
        work = f"{sample.described} to {pipeline.size}²"
        return on_cpu.rate(rounds, _LOADER, len(paths) / workers, unit, work, _BARE_LOOP)

    found = {"decoding, 1 core": whole(1, map)}
    with ThreadPoolExecutor(cores()) as pool:
        found[f"decoding, {cores()} cores at once"] = whole(cores(), pool.map)
    few = paths[: max(1, len(paths) // sum(grid * grid for grid in GRIDS))]
    rounds = on_cpu.rounds(
        {
            _LOADER: lambda: [pipeline.patches(open_picture(path), GRIDS) for path in few],
            _BARE_LOOP: lambda: [bare_patches(path, pipeline, GRIDS) for path in few],
        }
    )
    work = f"{len(few)} of these, 13 x {pipeline.size}² each"
    found["decoding 13 patches, 1 core"] = on_cpu.rate(rounds, _LOADER, len(few), unit, work, _BARE_LOOP)
    return found


def encoding_speeds(
    backbone: Backbone, sample: Sample, setting: Setting, compiled: bool = False
) -> dict[str, Measurement]:
    """Pictures, pictures by 13 patches, and texts encoded a second, as the feature store does it.

    ``compiled``: the picture encoder through torch.compile; the limit is never compiled.
    """
    encoder = FrozenEncoder(backbone, setting.device, setting.precision, compiled)
    pipeline, per_picture = backbone.preprocessing, sum(grid * grid for grid in GRIDS)
    wanted = -(-PICTURES_PER_PASS // per_picture)
    whole = [pipeline.picture(open_picture(path)) for path in sample.pictures.paths[:PICTURES_PER_PASS]]
    patches = np.concatenate([pipeline.patches(open_picture(path), GRIDS) for path in sample.pictures.paths[:wanted]])
    work = f"one pass of {PICTURES_PER_PASS} x {pipeline.size}²"

    def encoding(given: Sequence[NDArray[np.uint8]], pictures: float, work: str) -> list[Measurement]:
        """Of one pass, filled with the pictures (S, S, 3) given, over and over: beside each of its two limits."""
        pixels = np.stack(given)[np.arange(PICTURES_PER_PASS) % len(given)]
        with computing_in(setting.precision, setting.device), torch.no_grad():
            ready = pipeline.normalise(torch.from_numpy(pixels).to(setting.device))
            products = Products.recorded(lambda: backbone.encode_image(ready))
            # Besides: the pixels read, and written as numbers.
            bare = with_bytes_moved(products.replay(), pixels.nbytes + ready.nbytes, setting.device)
            rounds = setting.rounds(
                {
                    _STORE: lambda: encoder.pictures(pixels),
                    _BARE_FORWARD: lambda: backbone.encode_image(ready),
                    BARE_PRODUCTS: bare,
                }
            )
        limits = (_BARE_FORWARD, BARE_PRODUCTS)
        return [setting.rate(rounds, _STORE, pictures, "pictures", work, limit, products.flops) for limit in limits]

    of_pictures, in_products = encoding(whole, PICTURES_PER_PASS, work)
    return {
        "encoding pictures": of_pictures,
        IN_PRODUCTS: in_products,
        "encoding 13 patches": encoding(list(patches), PICTURES_PER_PASS / per_picture, f"{work} patches")[0],
        "encoding texts": _text_encoding(encoder, backbone, sample.texts, setting),
    }


def _text_encoding(
    encoder: FrozenEncoder, backbone: Backbone, texts: Sequence[str], setting: Setting
) -> Measurement:
    """The limit reads tokens up to the longest text of its pass."""
    count, limit = _TEXT_PASSES * TEXTS_PER_PASS, f"{_BARE_FORWARD} of tokens"
    strings = [texts[i % len(texts)] for i in range(count)]
    passes = [strings[start : start + TEXTS_PER_PASS] for start in range(0, count, TEXTS_PER_PASS)]
    with computing_in(setting.precision, setting.device), torch.no_grad():
        ready = [short_tokens(backbone, part).to(setting.device) for part in passes]

        def forward() -> None:
            for tokens in ready:
                backbone.encode_text(tokens)

        flops = Products.recorded(forward).flops
        rounds = setting.rounds({_STORE: lambda: [encoder.texts(part) for part in passes], limit: forward})
    longest = max(tokens.shape[1] for tokens in ready)
    work = f"{_TEXT_PASSES} passes of {TEXTS_PER_PASS} texts of up to {longest} tokens"
    return setting.rate(rounds, _STORE, count, "texts", work, limit, flops)


def short_tokens(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """(B, L), L being the tokens of the longest text where no more are read."""
    return backbone.shortened(backbone.tokenize(texts))
