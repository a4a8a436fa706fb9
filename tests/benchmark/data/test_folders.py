"""Squashed copies are told by their sizes, whatever else lies in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmark.data.folders import SAMPLE, squashed_size


def pictures(folder: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size).save(path)
    return paths


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([(8, 8)] * 5, 8),
        ([(8, 8)] * 4 + [(9, 9)], None),
        ([(8, 8)] * 4 + [(8, 9)], None),
        ([(8, 9)] * 5, None),
        ([(8, 8)] * 3, None),
        ([], None),
    ],
)
def test_all_square_and_equal(tmp_path: Path, sizes: list[tuple[int, int]], found: int | None) -> None:
    assert squashed_size(pictures(tmp_path, sizes)) == found


def test_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    paths = pictures(tmp_path, [(8, 8)] * 6)
    paths[2].write_bytes(b"")
    assert squashed_size([*paths, tmp_path / "missing.jpg"]) == 8


def test_the_sample_reaches_the_end_of_the_list(tmp_path: Path) -> None:
    sizes = [(8, 8)] * (2 * SAMPLE) + [(8, 9)] * (2 * SAMPLE)
    assert squashed_size(pictures(tmp_path, sizes)) is None
