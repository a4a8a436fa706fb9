"""Tokens in half precision; features that do not fit on the disk; what the cache holds and how it is freed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from store_backbone import BOTH, COUNT, SIDE, WIDTH, SmallBackbone, draw_pictures
from torch import Tensor

from benchmark.backbone import GLOBAL, Output
from benchmark.dataset import Pictures
from benchmark.errors import UserError
from benchmark.features import computed as computing
from benchmark.features import store as stores
from benchmark.features.computed import ComputedView
from benchmark.features.kept import kept_features, remove
from benchmark.features.loader import feature_loader
from benchmark.features.store import FeatureStore
from benchmark.files import disk_bytes

TOKENS = 5
INDICES = np.arange(COUNT, dtype=np.int64)


class WithTokens(SmallBackbone):
    """Gives tokens besides its global vector: of each picture TOKENS times the vector, scaled."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    @property
    def picture_outputs(self) -> Mapping[str, Output]:
        return {GLOBAL: Output((WIDTH,)), "tokens": Output((TOKENS, WIDTH), "float16")}

    def encode_picture_outputs(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        found = self.encode_image(pixels)
        given = {GLOBAL: found, "tokens": self.scale * torch.stack([found * (n + 1) for n in range(TOKENS)], dim=1)}
        return {name: given[name] for name in names}


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return draw_pictures(tmp_path / "pictures", COUNT)


def store_of(folder: Path, backbone: SmallBackbone) -> FeatureStore:
    return FeatureStore(folder / "cache", backbone.eval(), encoder_digest="w", device=torch.device("cpu"), workers=1)


def test_what_is_computed_is_what_is_stored(tmp_path: Path, pictures: Pictures) -> None:
    store, views = store_of(tmp_path, WithTokens()), (*BOTH, "tokens")
    stored = store.pictures("toy", "all", pictures, INDICES, views)
    computed = store.computed(pictures, INDICES, views, (2, 3))
    rows = torch.tensor([7, 0, 7, 3])
    for view in views:
        found, expected = computed.views[view][rows], stored.views[view][rows]
        assert found.dtype == expected.dtype == (torch.float16 if view == "tokens" else torch.float32)
        torch.testing.assert_close(found, expected)
    assert stored.views["tokens"].shape == (COUNT, TOKENS, WIDTH)
    loaders = [feature_loader(features.views, torch.device("cpu")) for features in (stored, computed)]
    for loader in loaders:
        loader.put("text", torch.arange(4.0)[:, None])
    columns = [("tokens", torch.arange(COUNT)), ("tokens", torch.arange(COUNT).flip(0)), ("text", torch.arange(COUNT) % 4)]
    plan = [np.array([1, 4, 2]), np.array([0, 9])]
    for first, second in zip(*(loader.batches(columns, plan) for loader in loaders), strict=True):
        assert len(first) == len(second) == 3
        for found, expected in zip(second, first, strict=True):
            torch.testing.assert_close(found, expected)


def test_a_batch_s_picture_is_decoded_once_for_all_views(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    decode = computing.open_picture
    monkeypatch.setattr(computing, "open_picture", lambda path: opened.append(path) or decode(path))
    views = store_of(tmp_path, WithTokens()).computed(pictures, INDICES, (*BOTH, "tokens"), (2, 3)).views
    for rows in (torch.tensor([3, 0, 3]), torch.tensor([3, 5])):
        for view in views.values():
            assert len(view[rows]) == len(rows)
    # The second batch has one picture that the first one did not show.
    assert [path.name for path in opened] == [pictures.paths[row].name for row in (0, 3, 5)]


def test_a_batch_s_picture_is_encoded_once(tmp_path: Path, pictures: Pictures) -> None:
    backbone = WithTokens()
    computed = store_of(tmp_path, backbone).computed(pictures, INDICES, ("tokens",), ())
    loader = feature_loader(computed.views, torch.device("cpu"))
    rows = torch.zeros(COUNT, dtype=torch.int64)
    list(loader.batches([("tokens", rows), ("tokens", rows)], [np.arange(COUNT)]))
    assert len(backbone.image_passes) == 1, "reference and target of a batch share a pass"


def test_tokens_too_large_for_half_precision_are_refused_with_the_picture(tmp_path: Path, pictures: Pictures) -> None:
    store = store_of(tmp_path, WithTokens(scale=1e6))
    for ask in (
        lambda: store.pictures("toy", "all", pictures, INDICES, ("tokens",)),
        lambda: store.computed(pictures, INDICES, ("tokens",), ()).views["tokens"][torch.tensor([0])],
    ):
        with pytest.raises(UserError, match=r"0.*png: .* or too large for the half precision that it is kept in"):
            ask()


def test_a_full_disk_is_no_matter_where_the_features_are_there(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path, WithTokens())
    monkeypatch.setattr(stores, "free_bytes", lambda folder: 8)
    asked = ("toy", "all", pictures, INDICES, ("tokens",))
    assert not store.fits(*asked)
    store.pictures(*asked)
    assert store.fits(*asked)


def test_the_cache_is_listed_and_freed(tmp_path: Path, pictures: Pictures) -> None:
    store = store_of(tmp_path, WithTokens())
    store.pictures("toy", "all", pictures, INDICES, ("tokens",))
    store.texts(["red"])
    folder = tmp_path / "cache"
    listed, texts = kept_features(folder)
    assert listed.architecture == "small" and listed.bytes > COUNT * TOKENS * WIDTH * 2
    assert texts.what == "texts" and texts.bytes > WIDTH * 4
    with pytest.raises(UserError, match="unknown entry of .* 'nothing'"):
        remove(["nothing", listed.name], folder)
    assert remove([listed.name], folder) == listed.bytes
    assert [part.what for part in kept_features(folder)] == ["texts"] and store.texts(["red"]).view.shape == (1, WIDTH)
    remove([texts.encoder], folder)
    assert not list(kept_features(folder))


def test_a_view_is_of_the_backbone_s_size(tmp_path: Path, pictures: Pictures) -> None:
    computed = store_of(tmp_path, WithTokens()).computed(pictures, INDICES[:3], ("patches",), (2,))
    view = computed.views["patches"]
    assert isinstance(view, ComputedView) and len(view) == 3 and view[torch.tensor([1])].shape == (1, 4, WIDTH)
    assert SIDE == view._encoder.backbone.preprocessing.size


def test_a_file_that_is_filled_by_half_counts_by_what_it_takes(tmp_path: Path) -> None:
    """Its whole length stands from the first block on, and a disk that is full would seem to have room."""
    file = tmp_path / "rows"
    with file.open("wb") as stream:
        stream.truncate(64 * 2**20)
        stream.write(b"x" * 2**20)
        stream.flush()
    assert file.stat().st_size == 64 * 2**20 and disk_bytes(file) < 8 * 2**20
