"""Speeds that depend on the backbone and the pictures alone: decoding, encoding, texts, the machine itself.

Every part is the code that fills the feature store, held against the same work done bare.

Notation: n pictures, S side of the backbone's input, P patches, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.pictures import open_picture
from benchmark.data.pixels import PixelSource, cores
from benchmark.encoders.backbones import ClipBackbone
from benchmark.encoders.frozen_encoder import PICTURES_PER_PASS, TEXTS_PER_PASS, FrozenEncoder
from benchmark.encoders.preprocessing import GRIDS
from benchmark.records.measurement import Measurement
from benchmark.throughput.limits import bare_patches, bare_picture, computing_in, large_product, memory_copy
from benchmark.throughput.product_shapes import Products
from benchmark.throughput.rates import Limit, Setting, rate
from benchmark.throughput.sample import Sample

_TEXT_PASSES = 4
_BARE_PILLOW = "bare Pillow loop"
_BARE_FORWARD = "bare forward pass"


def machine_speeds(setting: Setting) -> dict[str, Measurement]:
    """What the machine can do at most: one large product, one large copy."""
    with computing_in(setting.precision, setting.device), torch.no_grad():
        multiply, flops = large_product(setting.device, setting.precision)
        copied = memory_copy(setting.device)
        rounds = setting.rounds({"product": multiply, "copy": copied})
        moved = 2 * copied().nbytes
    side = round((flops / 2) ** (1 / 3))
    return {
        "matrix product": rate(
            rounds, "product", flops / 1e9, "GFLOP", None, f"{side} x {side} x {side}", flops=flops, setting=setting
        ),
        "memory copy": rate(rounds, "copy", moved / 1e9, "GB", None, f"{moved / 2e6:.0f} MB read, as many written"),
    }


def decoding_speeds(backbone: ClipBackbone, sample: Sample, setting: Setting) -> dict[str, Measurement]:
    """Pictures decoded and preprocessed a second and core."""
    pipeline, paths = backbone.preprocessing, sample.pictures.paths
    indices, keys = np.arange(len(paths)), [(0,)] * len(paths)
    on_cpu = Setting(torch.device("cpu"), setting.precision, setting.seconds)
    found = {}
    with ExitStack() as stack:
        one, all_cores = (
            stack.enter_context(PixelSource(sample.pictures, pipeline, workers=workers, budget_bytes=0))
            for workers in (1, cores())
        )
        pool = stack.enter_context(ThreadPoolExecutor(cores()))
        alone = on_cpu.rounds(
            {
                "loader": lambda: one.batch(indices, keys),
                "bare": lambda: np.stack([bare_picture(path, pipeline) for path in paths]),
            }
        )
        together = on_cpu.rounds(
            {
                "loader": lambda: all_cores.batch(indices, keys),
                "bare": lambda: np.stack(list(pool.map(lambda path: bare_picture(path, pipeline), paths))),
            }
        )
    few = paths[: max(1, len(paths) // sum(grid * grid for grid in GRIDS))]
    patches = on_cpu.rounds(
        {
            "loader": lambda: [pipeline.patches(open_picture(path), GRIDS) for path in few],
            "bare": lambda: [bare_patches(path, pipeline, GRIDS) for path in few],
        }
    )
    limit, unit, side = Limit("bare", _BARE_PILLOW), "pictures/core", pipeline.size
    found["decoding, 1 core"] = rate(alone, "loader", len(paths), unit, limit, f"{sample.described} to {side}²")
    found[f"decoding, {cores()} cores at once"] = rate(
        together, "loader", len(paths) / cores(), unit, limit, f"{sample.described} to {side}²"
    )
    found["decoding 13 patches, 1 core"] = rate(
        patches, "loader", len(few), unit, limit, f"{len(few)} of these, 13 x {side}² each"
    )
    return found


def encoding_speeds(
    backbone: ClipBackbone, sample: Sample, setting: Setting, compiled: bool = False
) -> dict[str, Measurement]:
    """Pictures, pictures by 13 patches, and texts encoded a second, as the feature store does it.

    ``compiled``: the picture encoder through torch.compile; the limit is never compiled.
    """
    encoder = FrozenEncoder(backbone, setting.device, setting.precision, compiled)
    pipeline = backbone.preprocessing
    per_picture = sum(grid * grid for grid in GRIDS)
    wanted = -(-PICTURES_PER_PASS // per_picture)
    whole = _filled([pipeline.picture(open_picture(path)) for path in sample.pictures.paths[:PICTURES_PER_PASS]])
    patches = _filled(np.concatenate([pipeline.patches(open_picture(p)) for p in sample.pictures.paths[:wanted]]))
    side = f"one pass of {PICTURES_PER_PASS} x {pipeline.size}²"
    return {
        "encoding pictures": _encoding(encoder, backbone, whole, setting, PICTURES_PER_PASS, side),
        "encoding 13 patches": _encoding(
            encoder, backbone, patches, setting, PICTURES_PER_PASS / per_picture, f"{side} patches"
        ),
        "encoding texts": _text_encoding(encoder, backbone, sample.texts, setting),
    }


def _encoding(
    encoder: FrozenEncoder,
    backbone: ClipBackbone,
    pixels: NDArray[np.uint8],
    setting: Setting,
    pictures: float,
    work: str,
) -> Measurement:
    with computing_in(setting.precision, setting.device), torch.no_grad():
        ready = backbone.preprocessing.normalise(torch.from_numpy(pixels).to(setting.device))

        def forward() -> Tensor:
            return backbone.encode_image(ready)

        flops = len(pixels) * Products.recorded(lambda: backbone.encode_image(ready[:1])).flops
        rounds = setting.rounds({"store": lambda: encoder.pictures(pixels), "bare": forward})
    limit = Limit("bare", _BARE_FORWARD)
    return rate(rounds, "store", pictures, "pictures", limit, work, flops=flops, setting=setting)


def _text_encoding(
    encoder: FrozenEncoder, backbone: ClipBackbone, texts: Sequence[str], setting: Setting
) -> Measurement:
    """The limit reads tokens up to the longest text of its pass."""
    wanted = _TEXT_PASSES * TEXTS_PER_PASS
    strings = [texts[i % len(texts)] for i in range(wanted)]
    passes = [strings[start : start + TEXTS_PER_PASS] for start in range(0, wanted, TEXTS_PER_PASS)]
    with computing_in(setting.precision, setting.device), torch.no_grad():
        ready = [short_tokens(backbone, part).to(setting.device) for part in passes]

        def forward() -> None:
            for tokens in ready:
                backbone.encode_text(tokens)

        products = Products.recorded(forward)
        rounds = setting.rounds({"store": lambda: [encoder.texts(part) for part in passes], "bare": forward})
    longest = max(tokens.shape[1] for tokens in ready)
    work = f"{_TEXT_PASSES} passes of {TEXTS_PER_PASS} texts of up to {longest} tokens"
    limit = Limit("bare", f"{_BARE_FORWARD} of tokens")
    return rate(rounds, "store", wanted, "texts", limit, work, flops=products.flops, setting=setting)


def short_tokens(backbone: ClipBackbone, texts: Sequence[str]) -> Tensor:
    """(B, L), L being the tokens of the longest text."""
    tokens = backbone.tokenize(texts)
    return tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]


def _filled(pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As many pictures as a pass has, those given over and over."""
    given = np.stack(list(pixels))
    return given[np.arange(PICTURES_PER_PASS) % len(given)]
