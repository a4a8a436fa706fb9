"""The picture of example rankings: the right answer is marked, whatever the pictures look like."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFont

from benchmark.errors import UserError
from benchmark.records.example_picture import ExampleRow, draw_examples, wrapped

GREEN = (22, 146, 72)


def picture(folder: Path, name: str, mode: str = "RGB", size: tuple[int, int] = (40, 60)) -> Path:
    path = folder / f"{name}.png"
    Image.new(mode, size).save(path)
    return path


def row(folder: Path, place: int | None, rank: int) -> ExampleRow:
    other, target = picture(folder, "other"), picture(folder, "target")
    ranked = tuple((target, True) if n == place else (other, False) for n in range(7))
    return ExampleRow(other, "is red", ranked, target, rank)


def green_runs(path: Path) -> list[int]:
    """Left ends of the green frames, from a line through the middle of the first row's pictures."""
    with Image.open(path) as image:
        line = [image.getpixel((x, 230)) == GREEN for x in range(image.width)]
    return [x for x in range(1, len(line)) if line[x] and not line[x - 1]]


def test_the_target_is_framed_where_it_stands(tmp_path: Path) -> None:
    first, fourth = tmp_path / "1.png", tmp_path / "4.png"
    draw_examples(first, [row(tmp_path, 0, 1)], "title")
    draw_examples(fourth, [row(tmp_path, 3, 4)], "title")
    with Image.open(first) as image:
        assert image.width == 1400
    left, _ = green_runs(first)
    shifted, _ = green_runs(fourth)
    assert shifted - left == 3 * 152


@pytest.mark.parametrize("place", [None, 5])
def test_a_target_outside_the_top_five_is_shown_at_the_end(tmp_path: Path, place: int | None) -> None:
    path = tmp_path / "out.png"
    draw_examples(path, [row(tmp_path, place, 6)], "title")
    left, _ = green_runs(path)
    assert left > 1200


def test_several_right_answers_are_all_marked(tmp_path: Path) -> None:
    one = row(tmp_path, 1, 2)
    both = tuple((p, n in (1, 4)) for n, (p, _) in enumerate(one.ranked))
    path = tmp_path / "out.png"
    draw_examples(path, [ExampleRow(one.reference, one.text, both, one.target, 2)], "title")
    assert len(green_runs(path)) == 4


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "LA", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (900, 3), (3, 900)])
def test_any_picture_and_any_text_is_drawn(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    odd = picture(tmp_path, "odd", mode, size)
    texts = ("", "x" * 900, "a b " * 300, "è 服")
    rows = [ExampleRow(odd, text, ((odd, False),), odd, 12345) for text in texts]
    draw_examples(tmp_path / "out.png", rows, "a long title " * 30)
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (1400, 108 + 4 * 192 + 20)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    clear = picture(tmp_path, "clear", "RGBA", (50, 50))
    draw_examples(tmp_path / "out.png", [ExampleRow(clear, "", ((clear, True),), clear, 1)], "t")
    with Image.open(tmp_path / "out.png") as image:
        assert image.getpixel((36 + 70, 108 + 12 + 70)) == (255, 255, 255)


def test_a_broken_picture_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match="broken.png"):
        draw_examples(tmp_path / "out.png", [ExampleRow(broken, "", (), broken, 1)], "t")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.png"]
    with pytest.raises(UserError, match="no queries"):
        draw_examples(tmp_path / "out.png", [], "t")


def test_lines_fit_and_lose_no_word() -> None:
    font = ImageFont.load_default(19)
    text = "has long sleeves and a much-brighter-than-before-and-hyphenated colour with two pockets"
    found = wrapped(text, font, 150, 50)
    assert all(font.getlength(line) <= 150 for line in found)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    cut = wrapped(text, font, 150, 2)
    assert len(cut) == 2 and cut[-1].endswith("…") and font.getlength(cut[-1]) <= 150
