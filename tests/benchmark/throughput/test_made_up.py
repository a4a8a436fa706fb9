"""Made-up features, encodings and tasks have the form of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmark.backbone import Output
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.evaluation.ranking import rank_queries
from benchmark.features.store import FeatureStore
from benchmark.throughput.made_up import MadeUpBackbone, made_up_features, made_up_task, many_rows


def test_features_are_mapped_and_found_by_picture(tmp_path: Path):
    pictures = np.array([7, 3, 600], dtype=np.int64)
    found = made_up_features(tmp_path, pictures, {"global": Output((6,)), "patches": Output((13, 6)), "tokens": Output((5, 4), "float16")})
    assert found.views["tokens"].shape == (3, 5, 4) and found.views["tokens"].dtype == torch.float16
    assert found.views["global"].shape == (3, 6) and found.views["patches"].shape == (3, 13, 6)
    assert found.rows(np.array([600, 7])).tolist() == [2, 0]
    (tmp_path / "many").mkdir()
    many = made_up_features(tmp_path / "many", np.arange(700), {"global": Output((6,))}).views["global"]
    assert many.shape == (700, 6) and bool(torch.isfinite(many).all())
    assert len(torch.unique(many[:256], dim=0)) == 256


def test_the_feature_store_takes_the_made_up_backbone(tmp_path: Path):
    backbone = MadeUpBackbone(6, Preprocessing("clip", 8))
    store = FeatureStore(tmp_path, backbone, encoder_digest="made up", device=torch.device("cpu"))
    texts = store.texts(["red", "green", "red"])
    rows = texts.view[texts.rows(["red", "green"])]
    assert rows.shape == (2, 6) and not torch.equal(rows[0], rows[1])


def test_rows_are_as_many_as_asked_and_no_two_alike():
    few = {"a": torch.randn(3, 4), "b": torch.randn(3, 2, 5)}
    many = many_rows(few, 50, seed=0)
    assert isinstance(many, dict)
    assert many["a"].shape == (50, 4) and many["b"].shape == (50, 2, 5)
    assert len(torch.unique(many["a"], dim=0)) == 50
    again = many_rows(few, 50, seed=0)
    assert isinstance(again, dict) and torch.equal(many["b"], again["b"])


def test_a_task_can_be_ranked_at_any_size():
    for queries, gallery in ((3, 12), (40, 100)):
        task = made_up_task(queries, gallery)
        ranks = rank_queries(torch.randn(queries, 5), torch.randn(gallery, 5), task)
        assert ranks.rank.min() >= 1 and ranks.subset_rank is not None and ranks.subset_rank.max() <= 5
        subset = task.queries.subset
        assert subset is not None and all(len(set(members)) == 6 for members in subset.tolist())
