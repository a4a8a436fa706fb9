"""The best pictures of a gallery for a picture and a text, by a run's method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import torch
from PIL import Image, ImageDraw, ImageFont

from benchmark.data.pictures import open_picture
from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.interop.exported import Model, Picture
from benchmark.records.example_picture import wrapped
from benchmark.search.gallery import SearchGallery

BEST = 10
LONGEST_TEXT = 2_000
_CELL, _GAP, _LABEL = 180, 14, 26


@dataclass(frozen=True)
class Hit:
    """A picture of the gallery by its number, with its name and score."""

    number: int
    name: str
    score: float


@dataclass(frozen=True)
class Search:
    """A method and a gallery, for several threads at once: one query is encoded at a time."""

    model: Model
    gallery: SearchGallery
    _lock: Lock = field(default_factory=Lock)

    def best(
        self, reference: Picture | int, text: str, k: int = BEST, caption: str | None = None, words: str | None = None
    ) -> list[Hit]:
        """The k best pictures, best first. A reference that is a number is that picture of the gallery, and left out.

        ``caption``, ``words``: of and on the reference, for a method that reads such.

        Raises UserError for a text that is empty or too long, a number that is none, or a picture that cannot be read.
        """
        if not text.strip():
            raise UserError("the text is empty; say how the wanted picture differs")
        if len(text) > LONGEST_TEXT:
            raise UserError(f"the text has {len(text):,} characters; give at most {LONGEST_TEXT:,}")
        own = reference if isinstance(reference, int) else -1
        if isinstance(reference, int):
            if not 0 <= reference < len(self.gallery.names):
                raise UserError(f"the gallery has {len(self.gallery.names):,} pictures, and none of number {reference}")
            reference = self.gallery.paths[reference]
        with self._lock:
            of_reference = [None if one is None else [one] for one in (caption, words)]
            query = self.model.encode_query([reference], [text], *of_reference)
            scores = self.model.score(query, self.gallery.encodings)[0]
        if own >= 0:
            scores[own] = -torch.inf
        values, order = torch.topk(scores, min(k, len(scores) - (own >= 0)))
        return [Hit(i, self.gallery.names[i], v) for i, v in zip(order.tolist(), values.tolist(), strict=True)]


def draw_best(path: Path, reference: Path, text: str, found: Sequence[Path]) -> None:
    """Write a PNG: the reference and the text above, below the best pictures in rows of five."""
    columns = 5
    rows = -(-len(found) // columns)
    width = columns * _CELL + (columns + 1) * _GAP
    canvas = Image.new("RGB", (width, 2 * _GAP + _CELL + rows * (_CELL + _LABEL + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(20)
    _paste(canvas, reference, _GAP, _GAP)
    for number, line in enumerate(wrapped(text, font, width - _CELL - 4 * _GAP, 6)):
        draw.text((_CELL + 3 * _GAP, _GAP + 28 * number), line, font=font, fill="black")
    for place, picture in enumerate(found):
        left = _GAP + place % columns * (_CELL + _GAP)
        top = 3 * _GAP + _CELL + place // columns * (_CELL + _LABEL + _GAP)
        _paste(canvas, picture, left, top)
        draw.text((left + _CELL / 2, top + _CELL + _LABEL / 2), str(place + 1), font=font, fill="black", anchor="mm")
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def _paste(canvas: Image.Image, picture: Path, left: int, top: int) -> None:
    image = fitted(open_picture(picture), _CELL)
    canvas.paste(image, (left + (_CELL - image.width) // 2, top + (_CELL - image.height) // 2))


def fitted(image: Image.Image, side: int) -> Image.Image:
    """In RGB on white, whole inside a square of that side."""
    shown = image.convert("RGBA")
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    opaque = Image.new("RGB", shown.size, "white")
    opaque.paste(shown, mask=shown.getchannel("A"))
    return opaque
