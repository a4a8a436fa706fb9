"""The pictures and texts that speeds are measured on: some of the dataset's, as they are or at a stated size."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmark.data.pictures import open_picture
from benchmark.dataset import Dataset, Pictures, Task

_PICTURES, _TEXTS = 64, 256
_QUALITY = 90


@dataclass(frozen=True)
class Sample:
    """The pictures and texts that are measured; ``described`` says what the pictures are."""

    pictures: Pictures
    texts: tuple[str, ...]
    described: str


def sample_of(dataset: Dataset, task: Task, size: tuple[int, int] | None, stack: ExitStack) -> Sample:
    """Pictures spread evenly over the evaluated split, and texts that the task asks.

    ``size``: (width, height) of JPEG files to make of the pictures, in a folder that ``stack`` removes;
    None for the pictures as they are.
    """
    indices = dataset.split_pictures(dataset.info.evaluation_split)
    shown = indices[np.unique(np.linspace(0, len(indices) - 1, _PICTURES).astype(np.int64))]
    names, paths = dataset.pictures.names, dataset.pictures.paths
    pictures = Pictures(tuple(names[i] for i in shown), tuple(paths[i] for i in shown))
    if size is not None:
        folder = stack.enter_context(TemporaryDirectory(prefix="throughput-"))
        pictures = _resized(Path(folder), pictures, size)
    texts = tuple(dict.fromkeys(task.queries.texts[:_TEXTS]))
    return Sample(pictures, texts, _described(dataset, pictures, resized=size is not None))


def _resized(folder: Path, pictures: Pictures, size: tuple[int, int]) -> Pictures:
    paths = []
    for number, path in enumerate(pictures.paths):
        made = folder / f"{number:04}.jpg"
        open_picture(path).convert("RGB").resize(size).save(made, quality=_QUALITY)
        paths.append(made)
    return Pictures(pictures.names, tuple(paths))


def _described(dataset: Dataset, pictures: Pictures, resized: bool) -> str:
    """ "64 drawn pictures (PNG, 120 x 160)"; the form is the first one's."""
    with Image.open(pictures.paths[0]) as image:
        form, (width, height) = image.format, image.size
    kind = "drawn pictures" if dataset.is_demo else f"pictures of {dataset.label}"
    return f"{len(pictures)} {kind}{' resized' if resized else ''} ({form}, {width} x {height})"
