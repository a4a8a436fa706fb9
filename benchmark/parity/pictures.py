"""Golden numbers of preprocessing: drawn pictures of several modes and shapes, bit for bit."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from benchmark.encoders.preprocessing import PADS, Preprocessing
from benchmark.parity.comparison import Deviation, Difference, worst
from benchmark.parity.files import Form, GoldenFile, Matrix

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_COLOURS = 16
_NORMALISED = 1e-5


class _Result(Form):
    """What one pipeline makes of a picture; sizes are (width, height), pixels (row, column, r, g, b)."""

    padded_size: tuple[int, int]
    resized_size: tuple[int, int]
    uint8_sha256: str
    uint8_sums: tuple[int, int, int]
    uint8_pixels: list[tuple[int, int, int, int, int]] = Field(min_length=1)
    normalised_first4: Matrix
    normalised_means: list[float]


class _OtherOrder(Form):
    converted_to_rgb_first: dict[str, str] = {}


class _Picture(Form):
    name: str
    mode: Literal["P", "L", "RGB", "RGBA"]
    size: tuple[PositiveInt, PositiveInt]
    source_sha256: str
    targetpad: _Result
    squarepad: _Result
    clip: _Result
    not_the_release: _OtherOrder = _OtherOrder()


class _Versions(Form):
    Pillow: str


class _PreprocessingForm(Form):
    dim: PositiveInt
    target_ratio: PositiveFloat
    versions: _Versions
    pictures: list[_Picture] = Field(min_length=1)


def check_preprocessing(file: GoldenFile) -> Iterator[Deviation]:
    """Deviations per pipeline over all pictures; raises UserError where the file is of another form.

    Under the Pillow version that the file names, pixels must be equal bit for bit; under another
    one single values may be off by 1, and only the pixels that the file lists are compared.
    """
    form = file.parse(_PreprocessingForm)
    pictures = [(picture, _draw_picture(picture, file.prefix)) for picture in form.pictures]
    wrong = {p.name: _digest(np.asarray(image)) != p.source_sha256 for p, image in pictures}
    yield worst("drawn pictures that differ", [Difference(n, float(w), 0.0, 0.0) for n, w in wrong.items()])
    for pad in PADS:
        yield from _check_pipeline(form, pictures, pad)
    rgb_first = {pad: Preprocessing(pad, form.dim, form.target_ratio, rgb_first=True) for pad in PADS}
    converted = [
        Difference(f"{picture.name}, {pad}", float(_digest(rgb_first[pad].picture(image)) != digest), 0.0, 0.0)
        for picture, image in pictures
        for pad, digest in picture.not_the_release.converted_to_rgb_first.items()
        if pad in PADS
    ]
    if converted and PIL.__version__ == form.versions.Pillow:
        yield worst("option rgb_first: pixels", converted)


def _draw_picture(picture: _Picture, prefix: str) -> Image.Image:
    """By the rule, written as PNG and read back."""
    (width, height), name = picture.size, f"{prefix}picture.{picture.name}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if picture.mode == "P":
        image = Image.fromarray(rng.integers(0, _COLOURS, size=(height, width), dtype=np.uint8))
        colours = np.random.default_rng(zlib.crc32(f"{name}.palette".encode()))
        image.putpalette(colours.integers(0, 256, size=(_COLOURS, 3), dtype=np.uint8).tobytes())
    else:
        pixels = rng.integers(0, 256, size=(height, width, _CHANNELS[picture.mode]), dtype=np.uint8)
        image = Image.fromarray(pixels[..., 0] if picture.mode == "L" else pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    stream.seek(0)
    return Image.open(stream)


def _check_pipeline(
    form: _PreprocessingForm, pictures: list[tuple[_Picture, Image.Image]], pad: str
) -> Iterator[Deviation]:
    preprocessing = Preprocessing(pad, form.dim, form.target_ratio)
    sizes: list[Difference] = []
    pixels: list[Difference] = []
    normalised: list[Difference] = []
    notes: list[str] = []
    is_same_pillow = PIL.__version__ == form.versions.Pillow
    for picture, image in pictures:
        name, made = picture.name, preprocessing.picture(image)
        expected: _Result = getattr(picture, pad)
        wanted = np.array([expected.padded_size, expected.resized_size])
        off = np.abs(np.array(preprocessing.sizes(*image.size)) - wanted).max()
        sizes.append(Difference(name, float(off), 0.0, 0.0))
        pixel = _pixel_difference(name, made, expected, is_same_pillow)
        pixels.append(pixel)
        floor = _NORMALISED + pixel.floor / (255 * min(preprocessing.std))
        values = preprocessing.normalise(torch.from_numpy(made.copy())[None])[0].double()
        pairs: tuple[tuple[Tensor, list[Any]], ...] = (
            (values[:, 0, :4], expected.normalised_first4),
            (values.mean(dim=(1, 2)), expected.normalised_means),
        )
        for found, entries in pairs:
            listed = torch.tensor(entries, dtype=torch.float64)
            largest = float((found - listed).abs().max()) if found.shape == listed.shape else np.inf
            normalised.append(Difference(name, largest, 0.0, 0.0, floor))
        if _digest(made) == picture.not_the_release.converted_to_rgb_first.get(pad):
            notes.append(f"{name} is converted to RGB first")
    yield worst(f"{pad}: sizes", sizes)
    how = f"{len(pictures)} pictures, bit for bit"
    if not is_same_pillow:
        how = f"Pillow {PIL.__version__} instead of {form.versions.Pillow}: listed pixels where the digest differs"
    yield worst(f"{pad}: pixels", pixels).with_note("; ".join(notes) or how)
    yield worst(f"{pad}: normalised", normalised)


def _pixel_difference(name: str, made: NDArray[np.uint8], expected: _Result, is_same_pillow: bool) -> Difference:
    """0 where every pixel is equal; else the largest difference of a listed pixel, at least 1."""
    sums_equal = tuple(int(s) for s in made.sum(axis=(0, 1), dtype=np.int64)) == expected.uint8_sums
    if _digest(made) == expected.uint8_sha256 and sums_equal:
        return Difference(name, 0.0, 0.0, 0.0)
    listed = np.array(expected.uint8_pixels)
    if listed[:, :2].max() >= len(made) or listed[:, :2].min() < 0:
        return Difference(name, np.inf, 0.0, 0.0)
    largest = np.abs(made[listed[:, 0], listed[:, 1]].astype(int) - listed[:, 2:]).max()
    return Difference(name, max(float(largest), 1.0), 0.0, 0.0, floor=0.0 if is_same_pillow else 1.0)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
