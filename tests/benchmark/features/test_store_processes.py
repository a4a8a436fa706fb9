"""The feature store under kills and by several processes: the bits are those of an undisturbed one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from store_backbone import BLOCK, COUNT, SmallBackbone, ask, same, small_store

from benchmark.dataset import Pictures

HERE = Path(__file__).parent


def test_whatever_is_written_but_not_yet_claimed_is_no_claim(tmp_path: Path, pictures: Pictures) -> None:
    """Cut anywhere, in header, checksums or rows, a file serves nothing but what is whole."""
    first = ask(small_store(tmp_path / "whole"), pictures, ("global",)).views["global"].clone()
    (file,) = (tmp_path / "whole").rglob("global*.safetensors")
    for length in range(0, file.stat().st_size, 41):
        cut = tmp_path / f"cut-{length}"
        shutil.copytree(tmp_path / "whole", cut)
        os.truncate(cut / file.relative_to(tmp_path / "whole"), length)
        for _ in range(2):
            assert torch.equal(ask(small_store(cut), pictures, ("global",)).views["global"], first)


def test_a_log_of_texts_cut_short_anywhere_is_no_claim(tmp_path: Path) -> None:
    strings = ["red", "a longer one", ""]
    first = small_store(tmp_path / "whole").texts(strings)
    expected = first.view[first.rows(strings)].clone()
    (log,) = (tmp_path / "whole").rglob("texts.log")
    for length in range(0, log.stat().st_size, 5):
        cut = tmp_path / f"cut-{length}"
        shutil.copytree(tmp_path / "whole", cut)
        os.truncate(cut / log.relative_to(tmp_path / "whole"), length)
        for _ in range(2):
            again = small_store(cut).texts(strings)
            assert torch.equal(again.view[again.rows(strings)], expected)


@pytest.mark.parametrize("what", ["pictures", "texts"])
def test_killed_in_any_write_and_resumed_the_bits_are_the_same(tmp_path: Path, what: str) -> None:
    kills = subprocess.run(
        [sys.executable, str(HERE / "store_killed.py"), str(tmp_path), what],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    assert kills.returncode == 0, kills.stderr
    assert int(kills.stdout) > 20


_SLOW = """
import sys, time
from pathlib import Path
import numpy as np, torch
import benchmark.features.store, benchmark.features.picture_filling
from benchmark.dataset import Pictures
from store_backbone import SmallBackbone, small_store

class Slow(SmallBackbone):
    def encode_image(self, pixels):
        time.sleep(0.02)
        return super().encode_image(pixels)

benchmark.features.store.PICTURES_PER_BLOCK = int(sys.argv[4])
benchmark.features.picture_filling._COMMIT_SECONDS = 0.0
torch.set_num_threads(1)
paths = sorted(Path(sys.argv[1]).glob("*.png"))
pictures = Pictures(tuple(p.stem for p in paths), tuple(paths))
backbone = Slow()
print("ready", flush=True)
if sys.argv[3] == "wait":
    sys.stdin.readline()
small_store(Path(sys.argv[2]), backbone).pictures(
    "toy", "all", pictures, np.arange(len(paths)), ("global", "patches"),
    progress=lambda done, total, note: print(note, file=sys.stderr) if note else None)
print(len(backbone.image_passes))
"""


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _start(pictures: Pictures, cache: Path, mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(pictures.paths[0].parent), str(cache), mode, str(BLOCK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_from_outside_at_random_moments(tmp_path: Path, pictures: Pictures) -> None:
    undisturbed = ask(small_store(tmp_path / "undisturbed"), pictures)
    draw = random.Random(3)
    for _ in range(2):
        process = _start(pictures, tmp_path / "killed", "go")
        time.sleep(draw.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert same(ask(small_store(tmp_path / "killed"), pictures), undisturbed)


def test_two_processes_share_one_list(tmp_path: Path, pictures: Pictures) -> None:
    alone = SmallBackbone()
    undisturbed = ask(small_store(tmp_path / "alone", alone), pictures)
    both = [_start(pictures, tmp_path / "shared", "wait") for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum(int(out) for out, _ in told) == len(alone.image_passes), "no block was computed twice"
    assert same(ask(small_store(tmp_path / "shared"), pictures), undisturbed)


def test_a_process_waits_for_what_another_holds_and_says_so(tmp_path: Path, pictures: Pictures) -> None:
    (cache := tmp_path / "cache").mkdir()
    ask(small_store(cache), pictures, ("global",))
    (folder,) = (path.parent for path in cache.rglob("blocks.lock"))
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 1);"
            "print('held', flush=True); sys.stdin.readline()",
            str(folder / "blocks.lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    notes: list[str] = []

    def listen(done: int, total: int, note: str) -> None:
        if note:
            notes.append(note)
            assert done == COUNT - BLOCK
            assert total == COUNT
            holder.kill()

    features = ask(small_store(cache), pictures, progress=listen)
    holder.communicate()
    assert len(notes) == 1
    assert "waiting" in notes[0]
    assert same(features, ask(small_store(tmp_path / "other"), pictures))


@pytest.mark.parametrize("shard", [(0, 2), (1, 2), (6, 7)])
def test_the_split_over_processes_changes_no_bit(
    tmp_path: Path, pictures: Pictures, shard: tuple[int, int]
) -> None:
    expected = ask(small_store(tmp_path / "one"), pictures)
    assert same(ask(small_store(tmp_path / "shard"), pictures, shard=shard), expected)


def test_two_stores_of_one_folder_append_without_harm(tmp_path: Path) -> None:
    one, two = small_store(tmp_path), small_store(tmp_path)
    one.texts(["a", "b"])
    two.texts(["b", "c"])
    one.texts(["d"])
    strings = ["a", "b", "c", "d"]
    expected = small_store(tmp_path / "other").texts(strings)
    for store in (one, two):
        features = store.texts(strings)
        assert torch.equal(features.view[features.rows(strings)], expected.view[expected.rows(strings)])
        assert len(features.view) == 4
