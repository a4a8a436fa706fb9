"""Draws the demo data's pictures into files, on several cores.

The other cores are given to separate interpreters started here, not to a pool of `multiprocessing`:
a pool forks a process that may hold torch's threads, or imports the caller's script a second time.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .drawing import draw, draw_nuisance
from .subjects import Garment, Shoe

SEED = 20_260

Progress = Callable[[int, int], None]
"""Called with the pictures drawn so far and their total."""

_SUBJECTS: dict[str, type[Garment] | type[Shoe]] = {"Garment": Garment, "Shoe": Shoe}
_ASSISTANT = (
    "import json, sys\n"
    "job = json.load(sys.stdin)\n"
    "sys.path[:] = job['path']\n"
    "from benchmark.datasets.demo.studio import assist\n"
    "assist(job)\n"
)


@dataclass(frozen=True)
class Shot:
    """One picture to draw: where to (relative to the data folder), what, and the nuisance's seed.

    The path's ending decides the format: .png, .jpg or .jpeg.
    """

    path: str
    subject: Garment | Shoe
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What a dataset's writer leaves to do once its annotation files are written."""

    shots: list[Shot] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, name: str, paths: Sequence[str], subjects: Sequence[Garment | Shoe]) -> None:
        """One shot for each subject; its seed is its own: the name of its split and its place in it."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        self.shots.extend(
            Shot(path, subject, (SEED, key, i)) for i, (path, subject) in enumerate(zip(paths, subjects, strict=True))
        )

    def count(self, split: str, entries: int, pictures: int) -> None:
        words = ("triplets", "pictures") if split == "train" else ("queries", "gallery")
        self.counts[split] = dict(zip(words, (entries, pictures), strict=True))


def shoot(shots: Sequence[Shot], root: Path, workers: int, progress: Progress) -> None:
    """Draw every shot below ``root``; the files do not depend on the number of workers.

    Raises OSError where a file cannot be written.
    """
    for folder in sorted({(root / shot.path).parent for shot in shots}):
        folder.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(workers, len(shots) // 50))
    assistants = [_start(shots[share::workers], root) for share in range(1, workers)]
    try:
        own = shots[0::workers]
        for done, shot in enumerate(own, start=1):
            _take(shot, root)
            if done % 25 == 0:
                progress(done * len(shots) // len(own), len(shots))
        for assistant in assistants:
            _finish(assistant)
    finally:
        for assistant in assistants:
            if assistant.poll() is None:
                assistant.kill()
                assistant.wait()
    progress(len(shots), len(shots))


def assist(job: dict[str, Any]) -> None:
    """What a started interpreter does: draw its share, or say in its last line why it could not."""
    try:
        for path, sort, subject, seed in job["shots"]:
            _take(Shot(path, _SUBJECTS[sort](**subject), tuple(seed)), Path(job["root"]))
    except OSError as error:
        sys.exit(f"{error.errno or 0} {error.strerror or error}")


def _take(shot: Shot, root: Path) -> None:
    picture = draw(shot.subject, draw_nuisance(np.random.default_rng(shot.seed)))
    if shot.path.endswith(".png"):
        # Runs alone are sought: as small as the usual search leaves soft light, and quicker.
        picture.save(root / shot.path, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    else:
        picture.save(root / shot.path, format="JPEG", quality=92)


def _start(shots: Sequence[Shot], root: Path) -> subprocess.Popen[str]:
    assistant = subprocess.Popen(
        [sys.executable, "-c", _ASSISTANT],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    job = {
        "path": [str(Path(entry).resolve()) for entry in sys.path],
        "root": str(root.resolve()),
        "shots": [(s.path, type(s.subject).__name__, asdict(s.subject), s.seed) for s in shots],
    }
    assert assistant.stdin is not None
    # One that has died already cannot listen; `_finish` reads from it why.
    with suppress(BrokenPipeError), assistant.stdin as order:
        json.dump(job, order)
    return assistant


def _finish(assistant: subprocess.Popen[str]) -> None:
    assert assistant.stderr is not None
    complaint = assistant.stderr.read().strip()
    assistant.stderr.close()
    if assistant.wait() == 0:
        return
    number, _, reason = (complaint.splitlines() or [""])[-1].partition(" ")
    if number.isdigit():
        raise OSError(int(number), reason)
    raise OSError(f"a drawing process ended with status {assistant.returncode}: {complaint or 'killed'}")
