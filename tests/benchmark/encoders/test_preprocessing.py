"""Preprocessing and picture files, against the released pipelines' golden numbers and torchvision."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from benchmark.data.pictures import each_picture, open_picture, picture_fault
from benchmark.encoders.preprocessing import PADS, Preprocessing
from benchmark.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "preprocessing.json").read_text())
PICTURES: list[dict[str, Any]] = GOLDEN["pictures"]
NAMES = [picture["name"] for picture in PICTURES]


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32((GOLDEN["seed_prefix"] + name).encode()))


def golden_picture(row: dict[str, Any]) -> Image.Image:
    """The picture of a row by the golden rule, written as PNG and read back."""
    name, mode, (width, height) = row["name"], row["mode"], row["size"]
    rng = generator(f"picture.{name}")
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 16, size=(height, width), dtype=np.uint8), "P")
        colours = generator(f"picture.{name}.palette").integers(0, 256, size=(16, 3), dtype=np.uint8)
        image.putpalette(colours.tobytes())
    else:
        channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
        pixels = rng.integers(0, 256, size=(height, width, channels), dtype=np.uint8)
        image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    stream.seek(0)
    return Image.open(stream)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(params=PICTURES, ids=NAMES)
def row(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("pad", PADS)
def test_golden_pixels(row: dict[str, Any], pad: str) -> None:
    image = golden_picture(row)
    assert sha256(np.asarray(image)) == row["source_sha256"]
    preprocessing = Preprocessing(pad, GOLDEN["dim"], GOLDEN["target_ratio"])
    pixels, expected = preprocessing.picture(image), row[pad]
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    if Image.__version__ == GOLDEN["versions"]["Pillow"]:
        assert sha256(pixels) == expected["uint8_sha256"]
        assert pixels.sum(axis=(0, 1), dtype=int).tolist() == expected["uint8_sums"]
    for y, x, *rgb in expected["uint8_pixels"]:
        np.testing.assert_allclose(pixels[y, x].astype(int), rgb, atol=1)
    normalised = preprocessing.normalise(torch.from_numpy(pixels.copy())[None])
    assert normalised.shape == (1, 3, 32, 32) and normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised[0, :, 0, :4], expected["normalised_first4"], atol=1e-5)
    np.testing.assert_allclose(normalised[0].mean(dim=(1, 2)), expected["normalised_means"], atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["palette", "rgba"])
@pytest.mark.parametrize("pad", PADS)
def test_rgb_first_is_the_other_order(name: str, pad: str) -> None:
    row = PICTURES[NAMES.index(name)]
    first = Preprocessing(pad, 32, rgb_first=True)
    last = Preprocessing(pad, 32)
    assert first.key() != last.key()
    if Image.__version__ == GOLDEN["versions"]["Pillow"]:
        expected = row["not_the_release"]["converted_to_rgb_first"][pad]
        assert sha256(first.picture(golden_picture(row))) == expected
        assert sha256(last.picture(golden_picture(row))) != expected


def oracle(image: Image.Image, pad: str, size: int) -> np.ndarray:
    """The pipeline in torchvision's own operations."""
    width, height = image.size
    left = top = 0
    if pad == "squarepad":
        left, top = (max(width, height) - width) // 2, (max(width, height) - height) // 2
    elif pad == "targetpad" and max(width, height) / min(width, height) >= 1.25:
        side = max(width, height) / 1.25
        left, top = max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)
    image = reference.pad(image, [left, top, left, top], 0, "constant")
    image = reference.resize(image, [size], InterpolationMode.BICUBIC)
    return np.asarray(reference.center_crop(image, [size, size]).convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_and_shape_equals_torchvision(mode: str) -> None:
    rng = np.random.default_rng(7)
    for width, height in [(9, 31), (50, 40), (41, 33), (24, 24), (70, 23), (160, 37), (23, 24)]:
        rgba = Image.fromarray(rng.integers(0, 256, size=(height, width, 4), dtype=np.uint8))
        image = rgba.convert(mode) if mode in ("RGBA", "LA") else rgba.convert("RGB").convert(mode)
        for pad in PADS:
            np.testing.assert_array_equal(Preprocessing(pad, 24).picture(image), oracle(image, pad, 24))


def test_patches_are_two_grids_row_by_row_of_the_squashed_picture() -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, size=(50, 90, 3), dtype=np.uint8))
    preprocessing = Preprocessing("targetpad", 32)
    canvas = np.asarray(image.resize((360, 360), Image.Resampling.LANCZOS))
    expected = [canvas[r : r + 180, c : c + 180] for r in (0, 180) for c in (0, 180)]
    expected += [canvas[r : r + 120, c : c + 120] for r in (0, 120, 240) for c in (0, 120, 240)]
    crops = preprocessing.patch_crops(image)
    assert len(crops) == 13
    for crop, array in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(crop), array)
    patches = preprocessing.patches(image)
    assert patches.shape == (13, 32, 32, 3)
    np.testing.assert_array_equal(patches[5], preprocessing.picture(crops[5]))
    assert len(preprocessing.patch_crops(image, grids=(1, 4))) == 17
    with pytest.raises(ValueError, match="divide"):
        preprocessing.patch_crops(image, grids=(7,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["palette", "rgba", "grey"])
def test_patch_crops_keep_the_files_mode(name: str) -> None:
    row = PICTURES[NAMES.index(name)]
    image = golden_picture(row)
    crops = Preprocessing("targetpad", 32).patch_crops(image)
    assert {crop.mode for crop in crops} == {row["mode"]}
    assert Preprocessing("targetpad", 32).patches(image).shape == (13, 32, 32, 3)
    assert {crop.mode for crop in Preprocessing("clip", 32, rgb_first=True).patch_crops(image)} == {"RGB"}


def test_normalise_gives_the_same_digits_and_layout_for_both_forms() -> None:
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    preprocessing = Preprocessing("clip", 16)
    rows, planes = (
        preprocessing.normalise(pixels),
        preprocessing.normalise(pixels.permute(0, 3, 1, 2).contiguous()),
    )
    assert torch.equal(rows, planes) and rows.stride() == planes.stride()


def test_the_key_tells_apart_all_that_changes_pixels() -> None:
    base = Preprocessing("targetpad", 32)
    others = [
        Preprocessing("squarepad", 32),
        Preprocessing("targetpad", 64),
        Preprocessing("targetpad", 32, ratio=1.5),
        Preprocessing("targetpad", 32, mean=(0.5, 0.5, 0.5)),
        Preprocessing("targetpad", 32, rgb_first=True),
    ]
    keys = {json.dumps(p.key(), sort_keys=True) for p in (base, *others)}
    assert len(keys) == 6
    assert base.patch_key((2, 3)) != base.patch_key((2,))
    assert Preprocessing("clip", 32, ratio=1.5).key() == Preprocessing("clip", 32).key()


def test_an_unknown_pad_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean targetpad"):
        Preprocessing("targetpat", 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good picture and every kind of bad one."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(64, 48, 3), dtype=np.uint8))
    for name in ("good.png", "good.jpg"):
        image.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("good", "truncated")).write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.jpg", "no such picture"),
        ("empty.jpg", "empty"),
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("text.jpg", "not a picture"),
        ("folder.jpg", "not a file"),
    ],
)
def test_a_bad_picture_is_named(folder: Path, name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as raised:
        open_picture(folder / name)
    assert str(folder / name) in str(raised.value) and "\n" not in str(raised.value)


def test_an_opened_picture_is_decoded(folder: Path) -> None:
    image = open_picture(folder / "good.png")
    (folder / "good.png").unlink()
    assert image.mode == "RGB" and np.asarray(image).shape == (64, 48, 3)


def test_a_large_picture_is_a_warning_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_picture(folder / "good.png").size == (48, 64)
    assert any(issubclass(w.category, Image.DecompressionBombWarning) for w in caught)


def test_all_problems_come_in_order(folder: Path) -> None:
    names = ["text.jpg", "good.png", "missing.jpg", "good.jpg", "empty.jpg"]
    seen: list[tuple[int, int]] = []
    faults = each_picture(picture_fault, [folder / n for n in names], 3, lambda done, total: seen.append((done, total)))
    problems = [fault for fault in faults if fault is not None]
    assert [Path(p.split(": ")[0]).name for p in problems] == ["text.jpg", "missing.jpg", "empty.jpg"]
    assert seen == [(n, 5) for n in range(1, 6)]
