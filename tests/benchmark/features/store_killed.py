"""Run by test_feature_store.py: kills itself in every write of a filling, and resumes each time.

``python store_killed.py FOLDER pictures|texts``: prints how many kills there were. A kill happens
before or in the middle of the k-th call that writes or flushes, for every k.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from store_backbone import draw_pictures, small_store

import benchmark.features.picture_filling
import benchmark.features.store
import benchmark.features.text_features

PICTURES, BLOCK = 5, 3
TEXTS = tuple(f"text number {n}" for n in range(40))


def fill(folder: Path, what: str) -> dict[str, np.ndarray]:
    store = small_store(folder)
    if what == "texts":
        features = store.texts(TEXTS)
        return {"global": features.view[features.rows(TEXTS)].numpy().copy()}
    pictures = draw_or_find(folder.parent / "pictures")
    listed = store.pictures("toy", "all", pictures, np.arange(PICTURES), ("global", "patches"), (1,))
    return {name: view.numpy().copy() for name, view in listed.views.items()}


def draw_or_find(folder: Path) -> Any:
    from benchmark.dataset import Pictures

    if not folder.exists():
        return draw_pictures(folder, PICTURES)
    paths = sorted(folder.glob("*.png"))
    return Pictures(tuple(path.stem for path in paths), tuple(paths))


def die_at(call: int, moment: str) -> None:
    """Replace what writes and flushes by versions of which the ``call``-th kills this process."""
    count = 0

    def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count != call:
                return original(*arguments)
            if moment == "middle" and original is os_pwrite:
                original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
            os.kill(os.getpid(), signal.SIGKILL)

        return called

    os_pwrite = os.pwrite
    os.pwrite, os.ftruncate, os.fsync = deadly(os.pwrite), deadly(os.ftruncate), deadly(os.fsync)


def killed_and_resumed(folder: Path, what: str, call: int, moment: str) -> bool:
    """Whether the child was killed; it was not once ``call`` is above the number of calls."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        die_at(call, moment)
        fill(folder, what)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(root: Path, what: str) -> None:
    torch.set_num_threads(1)
    benchmark.features.store.PICTURES_PER_BLOCK = BLOCK
    benchmark.features.picture_filling._COMMIT_SECONDS = 0.0
    benchmark.features.text_features._COMMIT_SECONDS = 0.0
    undisturbed = fill(root / "undisturbed", what)
    kills = 0
    for moment in ("before", "middle"):
        for call in range(1, 1000):
            folder = root / f"{moment}-{call}"
            if not killed_and_resumed(folder, what, call, moment):
                break
            kills += 1
            resumed = fill(folder, what)
            for name, expected in undisturbed.items():
                assert resumed[name].tobytes() == expected.tobytes(), (moment, call, name)
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
