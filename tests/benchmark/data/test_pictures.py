"""Pictures of every kind that a folder may hold: scaled where Pillow would cut, bounded, refused in one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.folders import picture_problem, squashed_size
from benchmark.data.pictures import LARGEST_RATIO, LONGEST_SIDE, conversion_losses, open_picture
from benchmark.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
GREY[0, :2] = 0, 255


def png(width: int, height: int, depth: int = 8, colour: int = 0, raw: bytes = b"") -> bytes:
    """A PNG of these sizes, whatever rows it has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def saved(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def deep(folder: Path) -> dict[str, Path]:
    """The same grey picture in forms of more than 8 bits a pixel."""
    exact = GREY.astype(np.float32)
    pgm = folder / "16.pgm"
    pgm.write_bytes(b"P5 16 12 65535\n" + (GREY.astype(">u2") * 257).tobytes())
    dark = folder / "dark.pgm"
    dark.write_bytes(b"P5 16 12 65535\n" + (GREY.astype(">u2") // 8 * 257).tobytes())
    return {
        "16-bit PNG": saved(folder / "16.png", GREY.astype(np.uint16) * 257),
        "16-bit TIFF": saved(folder / "16.tif", GREY.astype(np.uint16) * 257),
        "16-bit PGM": pgm,
        "32-bit TIFF of 8-bit values": saved(folder / "small.tif", GREY.astype(np.int32)),
        "32-bit TIFF of 16-bit values": saved(folder / "middle.tif", GREY.astype(np.int32) * 257),
        "float TIFF to 1": saved(folder / "unit.tif", exact / 255),
        "float TIFF to 255": saved(folder / "bytes.tif", exact),
        "float TIFF to 65,535": saved(folder / "words.tif", exact * 257),
    }


def test_deep_greys_are_scaled_to_what_the_8_bit_picture_is(tmp_path: Path) -> None:
    expected = np.asarray(Image.fromarray(GREY).convert("RGB"))
    for kind, path in deep(tmp_path).items():
        opened = open_picture(path)
        assert opened.mode == "L", kind
        assert np.array_equal(np.asarray(opened.convert("RGB")), expected), kind


def test_a_dark_picture_of_declared_16_bits_stays_dark(tmp_path: Path) -> None:
    deep(tmp_path)
    assert np.array_equal(np.asarray(open_picture(tmp_path / "dark.pgm")), GREY // 8)
    path = saved(tmp_path / "dark.png", (GREY // 8).astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(open_picture(path)), GREY // 8)


def test_floats_that_are_no_brightness_are_black_or_white(tmp_path: Path) -> None:
    pixels = np.array([[np.nan, -3.0, 0.0, 0.5, 1.0, np.inf, -np.inf]], dtype=np.float32)
    opened = open_picture(saved(tmp_path / "odd.tif", pixels))
    assert np.asarray(opened).tolist() == [[0, 0, 0, 128, 255, 255, 0]]
    for value in (0.0, -5.0, np.nan, np.inf):
        path = saved(tmp_path / "flat.tif", np.full((2, 2), value, dtype=np.float32))
        assert np.asarray(open_picture(path)).max() == (255 if value == np.inf else 0)


def test_other_modes_are_left_as_they_are(tmp_path: Path) -> None:
    rgb = np.stack([GREY] * 3, axis=-1)
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(rgb).convert(mode).save(path)
        assert open_picture(path).mode == mode


@pytest.mark.parametrize(
    ("width", "height"),
    [(80_000_000, 1), (1, 80_000_000), (65_000, 1), (1, 65_000), (LONGEST_SIDE + 1, 20_000), (LARGEST_RATIO + 1, 1), (2, 2**31 - 1), (4, 4 * LARGEST_RATIO + 1)],
)
def test_sizes_beyond_the_bounds_are_refused_by_the_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(png(width, height))
    with pytest.raises(UserError) as told:
        open_picture(path)
    assert str(path) in str(told.value) and "refused" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(("width", "height"), [(LARGEST_RATIO, 1), (1, 1), (3, 3 * LARGEST_RATIO), (2 * LARGEST_RATIO, 2)])
def test_narrow_pictures_within_the_bounds_are_read(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "narrow.png"
    path.write_bytes(png(width, height, raw=(b"\0" + bytes(width)) * height))
    assert open_picture(path).size == (width, height)


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "zero.png", "folder.png", "loop.png"):
        for look in (open_picture, conversion_losses):
            with pytest.raises(UserError, match="not a file|no such picture") as told:
                look(tmp_path / name)
            assert "\n" not in str(told.value)
        assert picture_problem(tmp_path / name) is not None
    assert squashed_size([tmp_path / "pipe.png"] * 5) is None


def test_no_format_that_starts_another_program_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: started.append(a))
    path = tmp_path / "drawing.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) print\n%%EOF\n")
    with pytest.raises(UserError, match="not a picture of a format that is read"):
        open_picture(path)
    assert not started


def test_what_the_conversion_loses_is_named(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.stack([GREY] * 3, axis=-1))
    see_through = rgb.convert("RGBA")
    see_through.putpixel((3, 3), (1, 2, 3, 100))
    palette = rgb.convert("P")
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    made: dict[str, tuple[Image.Image, dict[str, Any], tuple[str, ...]]] = {
        "plain.jpg": (rgb, {}, ()),
        "plain.png": (rgb, {}, ()),
        "opaque.png": (rgb.convert("RGBA"), {}, ()),
        "clear.png": (see_through, {}, ("transparency",)),
        "palette.png": (palette, {"transparency": palette.getpixel((0, 0))}, ("transparency",)),
        "turned.jpg": (rgb, {"exif": turned}, ("EXIF orientation",)),
        "turned.png": (rgb, {"exif": turned}, ("EXIF orientation",)),
        "upright.jpg": (rgb, {"exif": upright}, ()),
    }
    for name, (image, options, losses) in made.items():
        image.save(tmp_path / name, **options)
        assert conversion_losses(tmp_path / name) == losses, name
    for kind, path in deep(tmp_path).items():
        assert conversion_losses(path) == ("float" if kind.startswith("float") else "more than 8 bits",), kind
    for colour, channels in ((2, 3), (4, 2), (6, 4)):
        path = tmp_path / f"deep{colour}.png"
        path.write_bytes(png(2, 2, 16, colour, (b"\0" + b"\xff\xfe" * channels * 2) * 2))
        assert conversion_losses(path) == ("more than 8 bits",)


def sound() -> list[bytes]:
    found = []
    image = Image.fromarray(np.stack([GREY] * 3, axis=-1))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP"):
        stream = io.BytesIO()
        image.save(stream, kind)
        found.append(stream.getvalue())
    for pixels in (GREY.astype(np.uint16) * 257, GREY.astype(np.float32)):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "TIFF")
        found.append(stream.getvalue())
    return found


@settings(max_examples=200, deadline=None)
@given(
    which=st.sampled_from(sound()),
    end=st.floats(0, 1),
    harms=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    early=st.booleans(),
)
def test_damaged_files_open_or_are_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, which: bytes, end: float, harms: list[tuple[float, int]], early: bool
) -> None:
    content = bytearray(which if end > 0.5 else which[: int(2 * end * len(which))])
    for place, value in harms:
        if content:
            content[int(place * (min(len(content), 64) if early else len(content)) * 0.999)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content)
    for look in (open_picture, conversion_losses):
        try:
            look(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
