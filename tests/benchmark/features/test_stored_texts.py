"""Stored features of texts: the store grows, and a text is the same in any company."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from store_backbone import WIDTH, SmallBackbone, small_store


def test_texts_grow_and_are_computed_once(tmp_path: Path, backbone: SmallBackbone) -> None:
    store = small_store(tmp_path, backbone)
    first = store.texts(["red", "longer", "red"])
    rows = first.view[first.rows(["longer", "red", "red"])].clone()
    second = store.texts(["blue", "red"])
    assert torch.equal(second.view[second.rows(["longer", "red", "red"])], rows)
    assert backbone.text_passes == [16, 16]
    assert len(second.view) == 3
    assert len(first.view) == 2
    fresh = SmallBackbone()
    third = small_store(tmp_path, fresh).texts(["blue", "red", "longer"])
    assert fresh.text_passes == []
    assert torch.equal(third.view, second.view)
    for texts in (first, third):
        with pytest.raises(ValueError):
            texts.rows(["green"])
    store.texts(["green"])
    with pytest.raises(ValueError, match="later"):
        first.rows(["green"])


def test_texts_are_told_apart_exactly(tmp_path: Path) -> None:
    strings = ["red", "Red", "red ", "", "ré\ud800d", "re\nd", '"red"', "日本"]
    store = small_store(tmp_path)
    store.texts(strings)
    again = small_store(tmp_path).texts(strings)
    assert sorted(again.rows(strings).tolist()) == list(range(len(strings)))
    assert small_store(tmp_path / "none").texts([]).view.shape == (0, WIDTH)


def test_damaged_texts_are_computed_again(tmp_path: Path) -> None:
    strings = [f"text {n}" for n in range(40)]
    first = small_store(tmp_path).texts(strings)
    expected = first.view[first.rows(strings)].clone()
    (rows,) = tmp_path.rglob("texts.f32")
    content = bytearray(rows.read_bytes())
    content[5] ^= 1
    rows.write_bytes(content[:-10])
    for passes in ([16], []):
        backbone = SmallBackbone()
        again = small_store(tmp_path, backbone).texts(strings)
        assert torch.equal(again.view[again.rows(strings)], expected)
        assert backbone.text_passes == passes
    rows.unlink()
    again = small_store(tmp_path).texts(strings)
    assert torch.equal(again.view[again.rows(strings)], expected)


def test_a_text_is_the_same_in_any_company(tmp_path: Path) -> None:
    """The last digits of this backbone's narrow product depend on the place of a row."""
    strings = [f"{n} stripes" for n in range(50)]
    alone = torch.cat([small_store(tmp_path / text).texts([text]).view for text in strings[:9]])
    for name, order in (("up", strings), ("down", strings[::-1]), ("few", strings[4:9] + strings[:4])):
        for shard in ((0, 1), (2, 3)):
            together = small_store(tmp_path / f"{name}-{shard[0]}").texts(order, shard=shard)
            assert torch.equal(together.view[together.rows(strings[:9])], alone)
