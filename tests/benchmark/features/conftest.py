"""Pictures and a backbone for tests of the feature store, which works in small blocks here."""

from __future__ import annotations

import pytest
from store_backbone import BLOCK, COUNT, SmallBackbone, draw_pictures

import benchmark.features.store
from benchmark.dataset import Pictures


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.features.store, "PICTURES_PER_BLOCK", BLOCK)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return draw_pictures(tmp_path_factory.mktemp("pictures"), COUNT)


@pytest.fixture
def backbone() -> SmallBackbone:
    return SmallBackbone()
