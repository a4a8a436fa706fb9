"""Noisy triplets: the published exchanges, what a run with them leaves, and where they are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Command

from benchmark.data.noise import NoisyDataset, exchange, trained_with
from benchmark.data.wrapped import noise_of
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.records.record import read_record, run_key
from benchmark.records.tables import tables
from benchmark.registry import discover
from benchmark.weights.checkpoints import read_header


def dataset(root: Path) -> Dataset:
    return discover().load_dataset("cirr", root, ("train", "val"))


@pytest.mark.parametrize("scheme", ["ntc", "ntc-front"])
def test_each_drawn_triplet_has_one_part_of_another_drawn_one(scheme: str) -> None:
    count, every = 1000, np.arange(1000)
    found = exchange(count, 0.5, 42, scheme)
    parts = [found.reference, found.text, found.target]
    assert len(set(found.drawn.tolist())) == len(found.drawn) == 500
    thirds = np.split(found.drawn, [166, 333])
    for part, third in zip(parts, thirds, strict=True):
        assert np.array_equal(np.sort(part), every), "a permutation: nothing is lost"
        assert set(np.flatnonzero(part != every).tolist()) <= set(third.tolist())
        assert set(part[third].tolist()) == set(third.tolist()), "exchanged within the third"
        assert (part[third] != third).sum() > len(third) - 6
    assert sum(int((part != every).sum()) for part in parts) <= 500


def test_the_same_whatever_the_run_and_nothing_without_a_share() -> None:
    assert exchange(300, 0.2, 42).digest == exchange(300, 0.2, 42).digest != exchange(300, 0.2, 43).digest
    front, end = exchange(300, 0.2, 42, "ntc-front"), exchange(300, 0.2, 42)
    assert front.digest != end.digest and np.array_equal(front.drawn, end.drawn)
    none = exchange(300, 0.0, 42)
    assert not len(none.drawn) and np.array_equal(none.target, np.arange(300))


def test_published_first_positions() -> None:
    """Of FashionIQ's 18,000 and CIRR's 28,225 triplets; what follows is compared by their digests elsewhere."""
    assert exchange(18_000, 0.2, 42).drawn[:4].tolist() == [3648, 819, 9012, 8024]
    cirr = exchange(28_225, 0.2, 42)
    assert cirr.drawn[:4].tolist() == [20952, 3648, 819, 24299] and len(cirr.drawn) == 5645
    # HABIT's and ConeSep's, and TME's, which gives entries back from the front.
    told = {
        "ntc": "78eb7ec25f41ef03529b2fa4a69cc84551ef650bb401b685ae7bb7b84f59c8b3",
        "ntc-front": "59c6956a7ea4831f1fbbe60143ffa5345038ffc47feb04e8a1572df955546e4d",
    }
    for scheme, sha256 in told.items():
        numbers = ",".join(map(str, exchange(28_225, 0.2, 42, scheme).reference.tolist()))
        assert hashlib.sha256(numbers.encode()).hexdigest() == sha256


def test_only_training_triplets_are_touched(small_cirr: Path) -> None:
    clean = dataset(small_cirr)
    noisy = NoisyDataset(clean, 0.5, 42, "ntc")
    one, other = clean.train_triplets(0, 0), noisy.train_triplets(3, 7)
    found = exchange(len(one), 0.5, 42)
    assert np.array_equal(other.reference_picture, one.reference_picture[found.reference])
    assert other.captions == tuple(one.captions[i] for i in found.text)
    assert sorted(other.target_picture.tolist()) == sorted(one.target_picture.tolist())
    assert not np.array_equal(other.target_picture, one.target_picture)
    tasks = [data.tasks("val", "official", "as-is")[0] for data in (clean, noisy)]
    assert tasks[0].queries.texts == tasks[1].queries.texts and noisy.fingerprint == clean.fingerprint
    assert noise_of(clean) is None and noise_of(noisy).share == 0.5
    assert noise_of(trained_with(clean, vars(noisy.noise))) == noisy.noise and trained_with(clean, {}) is clean


def test_pairs_that_are_drawn_anew_cannot_be_noisy(small_cirr: Path) -> None:
    class Drawn:
        def __init__(self) -> None:
            self._dataset = dataset(small_cirr)

        def __getattr__(self, name: str) -> object:
            return getattr(self._dataset, name)

        def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> object:
            triplets = self._dataset.train_triplets(epoch, seed)
            return replace(triplets, target_picture=np.roll(triplets.target_picture, seed))

    with pytest.raises(UserError, match="draws its training pairs anew"):
        NoisyDataset(Drawn(), 0.2, 42, "ntc")  # type: ignore[arg-type]


def test_a_run_s_noise_is_in_identity_weights_and_tables(
    command: Command, small_cirr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shares in one command; a checkpoint that is evaluated later still tells its noise."""
    data = ["--dataset", "cirr", "--data-root", small_cirr, "--backbone", "tiny"]
    outcome = command(
        "run", "--method", "clip4cir", *data, "--set", "method.encoder=untouched", "--epochs", 1, "--batch-size", 24,
        "--noise", 0, 0.5, "--selection", "last", "--output", "out",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    clean, noisy = (read_record(Path("out", "cirr", "clip4cir", f"noise-{share}", "seed-0")) for share in ("0", "0.5"))
    assert clean.identity.noise is None and noisy.identity.noise is not None
    assert (noisy.identity.noise.share, noisy.identity.noise.seed, noisy.identity.noise.scheme) == (0.5, 42, "ntc")
    assert run_key(clean) != run_key(noisy) and clean.results[0].metrics != noisy.results[0].metrics
    assert clean.identity.data == noisy.identity.data, "evaluated on the same data"
    first, second = tables([noisy, clean])
    assert first.rows[0].first is not second.rows[0].first and "noisy" not in first.heading
    assert "50 % of the training triplets noisy" in second.heading and "(50 % noise)" in second.rows[0].name
    weights = Path("out", "cirr", "clip4cir", "noise-0.5", "seed-0", "weights", "last.safetensors")
    assert read_header(weights).noise["share"] == 0.5 and not read_header(Path(str(weights).replace("0.5", "0"))).noise
    outcome = command("evaluate", "--method", "clip4cir", "--checkpoint", weights, *data[2:4], "--output", "again")
    assert outcome.status == 0, outcome.err
    again = read_record(Path("again"))
    assert again.identity.noise == noisy.identity.noise
    assert again.results[0].metrics == noisy.results[0].metrics
    wrong = command("run", "--method", "clip4cir", *data, "--noise", 1.5)
    assert wrong.status == 2 and "noise" in wrong.err


@pytest.mark.parametrize("encoder", ["untouched", "finetuned"])
def test_a_method_that_trains_nothing_has_no_noise(encoder: str, small_cirr: Path) -> None:
    given = {"dataset": "cirr", "data_root": {"*": str(small_cirr)}, "backbone": "tiny", "weights": "random"}
    plan = make_plan(make_options(method="image_only", noise=0.5, set={"method.encoder": encoder}, **given))
    assert isinstance(plan.dataset, NoisyDataset) and (plan.noise is not None) == (encoder == "finetuned")
