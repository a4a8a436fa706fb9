"""A picture of example rankings: reference, modification text, the top five, the target marked.

All lengths are pixels of the finished PNG, 1,400 wide; a row takes 192 of its height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmark.data.pictures import open_picture
from benchmark.errors import UserError
from benchmark.files import atomic_path

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_WIDTH, _MARGIN = 1400, 36
_HEADER, _ROW, _FOOT = 108, 192, 20
_CELL, _GAP = 140, 12
_TEXT_LEFT = _MARGIN + _CELL + 22
_TEXT_WIDTH = 230
_TOP_LEFT = _TEXT_LEFT + _TEXT_WIDTH + 22
_TARGET_LEFT = _WIDTH - _MARGIN - _CELL
_TEXT_LINES = 6

_PAPER: Colour = (255, 255, 255)
_BAND: Colour = (246, 247, 249)
_CELL_PAPER: Colour = (255, 255, 255)
_RULE: Colour = (214, 218, 224)
_INK: Colour = (28, 32, 38)
_SOFT: Colour = (108, 116, 128)
_GREEN: Colour = (22, 146, 72)

TOP = 5


@dataclass(frozen=True)
class ExampleRow:
    """One query. ``ranked``: its best pictures, best first, and whether each is a right answer;
    the first five are drawn. ``target_rank``: rank of ``target`` from 1."""

    reference: Path
    text: str
    ranked: tuple[tuple[Path, bool], ...]
    target: Path
    target_rank: int


def draw_examples(path: Path, rows: Sequence[ExampleRow], title: str) -> None:
    """Write the PNG. Raises UserError naming a picture that cannot be read."""
    if not rows:
        raise UserError(f"{path}: no queries to draw; a run without queries has no examples")
    canvas = Image.new("RGB", (_WIDTH, _HEADER + _ROW * len(rows) + _FOOT), _PAPER)
    _draw_header(canvas, title)
    for number, row in enumerate(rows):
        _draw_row(canvas, row, _HEADER + _ROW * number, banded=number % 2 == 0)
    with atomic_path(path) as temporary:
        # Pillow's optimize takes four times as long and saves 2 % of the bytes.
        canvas.save(temporary)


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _draw_header(canvas: Image.Image, title: str) -> None:
    draw = ImageDraw.Draw(canvas)
    fitting = next((s for s in (26, 23, 20, 17) if _font(s).getlength(title) <= _WIDTH - 2 * _MARGIN), 15)
    draw.text((_MARGIN, 24), title, font=_font(fitting), fill=_INK)
    for left, label in (
        (_MARGIN, "reference"),
        (_TEXT_LEFT, "modification text"),
        (_TOP_LEFT, "top five, best first"),
        (_TARGET_LEFT, "target, if lower"),
    ):
        draw.text((left, _HEADER - 30), label, font=_font(16), fill=_SOFT)
    draw.line((_MARGIN, _HEADER - 4, _WIDTH - _MARGIN, _HEADER - 4), fill=_RULE, width=1)


def _draw_row(canvas: Image.Image, row: ExampleRow, top: int, banded: bool) -> None:
    draw = ImageDraw.Draw(canvas)
    if banded:
        draw.rectangle((_MARGIN - 16, top, _WIDTH - _MARGIN + 15, top + _ROW - 1), fill=_BAND)
    cell_top = top + 12
    _draw_cell(canvas, row.reference, _MARGIN, cell_top, marked=False)
    _draw_text(draw, row.text, cell_top)
    for place, (picture, is_target) in enumerate(row.ranked[:TOP]):
        left = _TOP_LEFT + place * (_CELL + _GAP)
        _draw_cell(canvas, picture, left, cell_top, marked=is_target)
        _draw_label(draw, f"{place + 1}, target" if is_target else f"{place + 1}", left, cell_top, is_target)
    if not any(is_target for _, is_target in row.ranked[:TOP]):
        _draw_cell(canvas, row.target, _TARGET_LEFT, cell_top, marked=True)
        _draw_label(draw, f"target, rank {row.target_rank:,}", _TARGET_LEFT, cell_top, True)


def _draw_label(draw: ImageDraw.ImageDraw, label: str, left: int, cell_top: int, marked: bool) -> None:
    middle = left + _CELL / 2
    colour = _GREEN if marked else _SOFT
    draw.text((middle, cell_top + _CELL + 20), label, font=_font(16), fill=colour, anchor="mm")


def _draw_cell(canvas: Image.Image, picture: Path, left: int, top: int, marked: bool) -> None:
    """A picture whole inside its square, framed; the right answer in green with a tick."""
    draw = ImageDraw.Draw(canvas)
    box = (left, top, left + _CELL - 1, top + _CELL - 1)
    draw.rectangle(box, fill=_CELL_PAPER)
    inside = _fitted(picture, _CELL)
    canvas.paste(inside, (left + (_CELL - inside.width) // 2, top + (_CELL - inside.height) // 2))
    draw.rectangle(box, outline=_RULE, width=1)
    if marked:
        draw.rectangle((left - 5, top - 5, left + _CELL + 4, top + _CELL + 4), outline=_GREEN, width=6)
        badge = _badge()
        canvas.paste(badge, (left + _CELL - badge.width + 10, top - 10), badge)


def _fitted(picture: Path, side: int) -> Image.Image:
    """The picture in RGB, transparent parts white, scaled to fit a square of that side."""
    image = open_picture(picture).convert("RGBA")
    opaque = Image.new("RGBA", image.size, (*_CELL_PAPER, 255))
    opaque.alpha_composite(image)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return opaque.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@cache
def _badge() -> Image.Image:
    """A white tick on a green disc, drawn large and scaled down for smooth edges."""
    side, finer = 32, 4
    large = Image.new("RGBA", (side * finer, side * finer), (*_GREEN, 0))
    draw = ImageDraw.Draw(large)
    draw.ellipse((0, 0, side * finer - 1, side * finer - 1), fill=(*_PAPER, 255))
    draw.ellipse((finer * 2, finer * 2, (side - 2) * finer, (side - 2) * finer), fill=(*_GREEN, 255))
    tick = [(x * finer, y * finer) for x, y in ((9.5, 16.5), (14, 21), (22.5, 11.5))]
    draw.line(tick, fill=(*_PAPER, 255), width=3 * finer, joint="curve")
    return large.resize((side, side), Image.Resampling.LANCZOS)


def _draw_text(draw: ImageDraw.ImageDraw, text: str, top: int) -> None:
    """The modification text, wrapped, its middle at the middle of the pictures."""
    font = _font(19)
    lines = wrapped(text, font, _TEXT_WIDTH, _TEXT_LINES)
    height = 26
    start = top + (_CELL - height * len(lines)) / 2 + height / 2
    for number, line in enumerate(lines):
        draw.text((_TEXT_LEFT, start + number * height), line, font=font, fill=_INK, anchor="lm")


def wrapped(text: str, font: Font, width: float, most: int) -> list[str]:
    """Lines of at most ``width`` pixels; words too long are cut, and what is left over ends in "…"."""
    lines = [""]
    for word in text.split():
        for piece in _pieces(word, font, width):
            joined = f"{lines[-1]} {piece}".strip()
            if font.getlength(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + "…"]


def _pieces(word: str, font: Font, width: float) -> list[str]:
    """A word cut into parts that fit; most words are one."""
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width:
            parts.append("")
        parts[-1] += letter
    return parts
