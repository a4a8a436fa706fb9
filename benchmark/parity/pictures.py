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

from benchmark.encoders.preprocessing import PADS, Preprocessing
from benchmark.parity.comparison import Deviation, Difference, Matrix, worst
from benchmark.parity.files import Form, GoldenFile

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_COLOURS = 16
_NORMALISED = 1e-5

Pixels = NDArray[np.uint8]


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
    pictures = [_draw_picture(picture, file.prefix) for picture in form.pictures]
    yield worst(
        "drawn pictures that differ",
        [
            Difference(p.name, float(_digest(np.asarray(image)) != p.source_sha256), 0.0, 0.0)
            for p, image in zip(form.pictures, pictures, strict=True)
        ],
    )
    for pad in PADS:
        yield from _check_pipeline(form, pictures, pad)
    yield from _check_other_order(form, pictures)


def _draw_picture(picture: _Picture, prefix: str) -> Image.Image:
    """By the rule, written as PNG and read back."""
    width, height = picture.size
    rng = _generator(prefix, f"picture.{picture.name}")
    if picture.mode == "P":
        image = Image.fromarray(rng.integers(0, _COLOURS, size=(height, width), dtype=np.uint8))
        image.putpalette(_palette(prefix, picture.name))
    else:
        shape = (height, width, _CHANNELS[picture.mode])
        pixels = rng.integers(0, 256, size=shape, dtype=np.uint8)
        image = Image.fromarray(pixels[..., 0] if picture.mode == "L" else pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    stream.seek(0)
    return Image.open(stream)


def _palette(prefix: str, name: str) -> bytes:
    colours = _generator(prefix, f"picture.{name}.palette").integers(0, 256, size=(_COLOURS, 3), dtype=np.uint8)
    return colours.tobytes()


def _generator(prefix: str, name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32((prefix + name).encode()))


def _check_pipeline(form: _PreprocessingForm, pictures: list[Image.Image], pad: str) -> Iterator[Deviation]:
    preprocessing = Preprocessing(pad, form.dim, form.target_ratio)
    sizes: list[Difference] = []
    pixels: list[Difference] = []
    normalised: list[Difference] = []
    notes: list[str] = []
    is_same_pillow = PIL.__version__ == form.versions.Pillow
    for picture, image in zip(form.pictures, pictures, strict=True):
        expected: _Result = getattr(picture, pad)
        made = preprocessing.picture(image)
        sizes.append(_size_difference(picture.name, preprocessing.sizes(*image.size), expected))
        pixel = _pixel_difference(picture.name, made, expected, is_same_pillow)
        floor = _NORMALISED + pixel.floor / (255 * min(preprocessing.std))
        pixels.append(pixel)
        normalised.extend(_normalised_differences(picture.name, preprocessing, made, expected, floor))
        if _digest(made) == picture.not_the_release.converted_to_rgb_first.get(pad):
            notes.append(f"{picture.name} is converted to RGB first")
    yield worst(f"{pad}: sizes", sizes)
    how = f"{len(pictures)} pictures, bit for bit"
    if not is_same_pillow:
        how = f"Pillow {PIL.__version__} instead of {form.versions.Pillow}: listed pixels where the digest differs"
    yield worst(f"{pad}: pixels", pixels).with_note("; ".join(notes) or how)
    yield worst(f"{pad}: normalised", normalised)


def _size_difference(name: str, sizes: tuple[tuple[int, int], tuple[int, int]], expected: _Result) -> Difference:
    found, wanted = np.array(sizes), np.array([expected.padded_size, expected.resized_size])
    return Difference(name, float(np.abs(found - wanted).max()), 0.0, 0.0)


def _pixel_difference(name: str, made: Pixels, expected: _Result, is_same_pillow: bool) -> Difference:
    """0 where every pixel is equal; else the largest difference of a listed pixel, at least 1."""
    sums_equal = tuple(int(s) for s in made.sum(axis=(0, 1), dtype=np.int64)) == expected.uint8_sums
    if _digest(made) == expected.uint8_sha256 and sums_equal:
        return Difference(name, 0.0, 0.0, 0.0)
    listed = np.array(expected.uint8_pixels)
    if listed[:, :2].max() >= len(made) or listed[:, :2].min() < 0:
        return Difference(name, np.inf, 0.0, 0.0)
    largest = np.abs(made[listed[:, 0], listed[:, 1]].astype(int) - listed[:, 2:]).max()
    return Difference(name, max(float(largest), 1.0), 0.0, 0.0, floor=0.0 if is_same_pillow else 1.0)


def _normalised_differences(
    name: str, preprocessing: Preprocessing, made: Pixels, expected: _Result, floor: float
) -> Iterator[Difference]:
    values = preprocessing.normalise(torch.from_numpy(made.copy())[None])[0].double()
    pairs: list[tuple[Any, list[Any]]] = [
        (values[:, 0, :4], expected.normalised_first4),
        (values.mean(dim=(1, 2)), expected.normalised_means),
    ]
    for found, listed in pairs:
        wanted = torch.tensor(listed, dtype=torch.float64)
        largest = float((found - wanted).abs().max()) if found.shape == wanted.shape else np.inf
        yield Difference(name, largest, 0.0, 0.0, floor)


def _check_other_order(form: _PreprocessingForm, pictures: list[Image.Image]) -> Iterator[Deviation]:
    """The variant that converts to RGB before anything else, where the file has its digests."""
    wrong = [
        Difference(f"{picture.name}, {pad}", float(_digest(_rgb_first(form, pad).picture(image)) != digest), 0.0, 0.0)
        for picture, image in zip(form.pictures, pictures, strict=True)
        for pad, digest in picture.not_the_release.converted_to_rgb_first.items()
        if pad in PADS
    ]
    if wrong and PIL.__version__ == form.versions.Pillow:
        yield worst("option rgb_first: pixels", wrong)


def _rgb_first(form: _PreprocessingForm, pad: str) -> Preprocessing:
    return Preprocessing(pad, form.dim, form.target_ratio, rgb_first=True)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
