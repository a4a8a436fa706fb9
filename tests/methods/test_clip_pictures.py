"""The random part of a picture that open_clip trains on, held against torchvision's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmark.methods.networks.clip_pictures import RandomResizedCrop
from PIL import Image
from torchvision.transforms import RandomResizedCrop as Torchvisions

from benchmark.encoders.preprocessing import Preprocessing

CROP = RandomResizedCrop(Preprocessing("clip", 32))


@pytest.mark.parametrize("size", [(100, 80), (60, 90), (400, 50), (30, 300)])
def test_boxes_have_torchvisions_distribution_and_its_way_out(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([CROP.box(*size, rng) for _ in range(2000)], dtype=float)
    theirs = Torchvisions(32, scale=CROP.area, ratio=CROP.ratio)
    picture = Image.new("RGB", size)
    torch.manual_seed(0)
    drawn = (theirs.get_params(picture, list(theirs.scale), list(theirs.ratio)) for _ in range(2000))
    expected = np.array([(left, top, width, height) for top, left, height, width in drawn], dtype=float)
    spread = expected.std(axis=0) + boxes.std(axis=0)
    assert (np.abs(boxes.mean(axis=0) - expected.mean(axis=0)) <= 4 * spread / math.sqrt(2000)).all()
    assert (np.abs(boxes.std(axis=0) - expected.std(axis=0)) <= 0.1 * spread + 1e-9).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= size).all()


def test_a_box_is_resized_as_torchvision_does() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    left, top, width, height = CROP.box(70, 50, np.random.default_rng(5))
    found = CROP.picture(image, np.random.default_rng(5))
    expected = image.crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(found, np.asarray(expected)) and (width, height) != (70, 50)
    assert CROP.picture(Image.new("P", (9, 9)), np.random.default_rng(0)).shape == (32, 32, 3)
    # A palette's colours are mixed where RGB comes first, and its numbers picked where it comes last.
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    last = replace(CROP, rgb_first=False).picture(palette, np.random.default_rng(5))
    own = palette.crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(last, np.asarray(own.convert("RGB")))
    assert not np.array_equal(last, CROP.picture(palette, np.random.default_rng(5)))
