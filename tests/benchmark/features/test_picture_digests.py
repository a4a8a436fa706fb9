"""Pictures are known by their content: whatever is replaced is seen, whatever is copied is known again."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_backbone import SmallBackbone, draw_pictures, small_store

import benchmark.features.picture_digests
import benchmark.features.picture_filling
from benchmark.errors import UserError
from benchmark.features.picture_digests import PIECE, PictureDigests, content_digest

ENDINGS = (".png", ".jpg", ".bmp")


def noise(path: Path, seed: int, side: int = 40) -> None:
    """A picture in a file whose size depends on the side alone: what follows a picture's end is no part of it."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    os.truncate(path, 3 * side * side + 2000)


def replace_unseen(path: Path, seed: int, side: int) -> None:
    """Another picture in a picture's place, of the same size and time."""
    status = path.stat()
    noise(path, seed, side)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("side", [12, 40, 120])
def test_a_picture_replaced_at_the_same_size_and_time_is_seen(tmp_path: Path, ending: str, side: int) -> None:
    paths = [tmp_path / f"{n}{ending}" for n in range(4)]
    for n, path in enumerate(paths):
        noise(path, n, side)
    digests = PictureDigests(tmp_path / "digests")
    before = digests.of(paths)
    assert before == [content_digest(path) for path in paths] and len(set(before)) == 4
    for round_ in range(5):
        replace_unseen(paths[2], 100 + round_, side)
        after = digests.of(paths)
        assert after == [content_digest(path) for path in paths]
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]


def test_features_of_a_picture_replaced_at_the_same_size_and_time_are_computed_anew(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path / "pictures", 5)
    for seed, path in enumerate(pictures.paths):
        noise(path, seed)
    indices = np.arange(5)
    before = small_store(tmp_path / "cache").pictures("toy", "all", pictures, indices, ("global",)).views["global"].clone()
    replace_unseen(pictures.paths[2], 7, 40)
    after = small_store(tmp_path / "cache").pictures("toy", "all", pictures, indices, ("global",)).views["global"]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]


def test_a_change_between_the_pieces_is_seen_by_its_time(tmp_path: Path) -> None:
    path = tmp_path / "large.bmp"
    noise(path, 0, 120)
    digests = PictureDigests(tmp_path / "digests")
    (before,) = digests.of([path])
    content = bytearray(path.read_bytes())
    content[PIECE + 100] ^= 255
    path.write_bytes(content)
    assert digests.of([path]) == [content_digest(path)] != [before]


def test_a_copy_of_the_pictures_shares_the_features(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path / "pictures", 5)
    small_store(tmp_path / "cache").pictures("toy", "all", pictures, np.arange(5), ("global",))
    for path in pictures.paths:
        content = path.read_bytes()
        path.unlink()  # another inode, another time of change
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    backbone = SmallBackbone()
    small_store(tmp_path / "cache", backbone).pictures("toy", "all", pictures, np.arange(5), ("global",))
    assert backbone.image_passes == []


def test_what_is_known_is_not_read_whole_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(20)]
    for n, path in enumerate(paths):
        noise(path, n)
    read: list[Path] = []
    original = benchmark.features.picture_digests._read_whole

    def counted(path: Path) -> tuple[bytes, bytes]:
        read.append(path)
        return original(path)

    monkeypatch.setattr(benchmark.features.picture_digests, "_read_whole", counted)
    first = PictureDigests(tmp_path / "digests").of(paths[:15])
    assert PictureDigests(tmp_path / "digests").of(paths)[:15] == first
    assert sorted(read) == sorted(paths)


def test_a_damaged_memory_is_never_believed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for n, path in enumerate(paths):
        noise(path, n)
    file, wanted = tmp_path / "digests", [content_digest(path) for path in paths]
    PictureDigests(file).of(paths)
    sound, draw = file.read_bytes(), random.Random(0)
    for _ in range(60):
        broken = bytearray(sound[: draw.randrange(len(sound))] if draw.random() < 0.5 else sound)
        for _ in range(draw.randrange(1, 4)):
            if broken:
                broken[draw.randrange(len(broken))] ^= draw.randrange(1, 256)
        file.write_bytes(bytes(broken))
        assert PictureDigests(file).of(paths) == wanted
        assert PictureDigests(file).of(paths) == wanted


def test_where_nothing_can_be_written_the_pictures_are_read_again(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 0)
    (tmp_path / "file").write_bytes(b"in the folder's place")
    digests = PictureDigests(tmp_path / "file" / "digests")
    assert digests.of([tmp_path / "a.png"]) == [content_digest(tmp_path / "a.png")]


def test_a_pipe_or_a_folder_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    paths = [tmp_path / name for name in ("pipe.png", "folder.png", "none.png")]
    with pytest.raises(UserError) as told:
        PictureDigests(tmp_path / "digests").of(paths)
    assert "pipe.png: cannot be read" in str(told.value) and "folder.png: cannot be read" in str(told.value)
    assert "none.png: no such picture" in str(told.value)


def test_a_picture_replaced_while_it_is_encoded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = draw_pictures(tmp_path / "pictures", 5)
    original = benchmark.features.picture_filling.open_picture

    def replaced(path: Path) -> Image.Image:
        image = original(path)
        if path == pictures.paths[3]:
            noise(path, 5)
        return image

    monkeypatch.setattr(benchmark.features.picture_filling, "open_picture", replaced)
    with pytest.raises(UserError, match=r"003\.png: the picture changed while"):
        small_store(tmp_path / "cache").pictures("toy", "all", pictures, np.arange(5), ("global",))


def test_many_lists_at_once_remember_everything(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(24)]
    for n, path in enumerate(paths):
        noise(path, n, 12)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda k: PictureDigests(tmp_path / "digests").of(paths[k : k + 12]), range(12)))
    assert all(found[k] == [content_digest(path) for path in paths[k : k + 12]] for k in range(12))
