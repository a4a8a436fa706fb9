"""An epoch of SPIRIT from the feature store beside the same steps on tensors in memory, and re-encoding.

FashionIQ's size: 18,000 triplets, 36,000 pictures of 14 views, 1.3 GB mapped from files as the store
leaves them, every string known to the store as after the first epochs. A few updates are timed from
the store and on the same rows in memory; what begins an epoch (strings drawn, 54,000 rows looked up)
is timed whole, and both are scaled to an epoch.

Re-encoding is an estimate: RN50x4's forward pass of a few pictures, scaled to the two whole pictures
of every triplet, and the same steps. Decoding and patches are left out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark.methods.spirit import Spirit, SpiritSettings
from comparing import Compared, at_least, at_most, compared, played_back
from store_backbone import LENGTH, SmallBackbone, small_store
from torch import Tensor, nn

from benchmark.dataset import Triplets
from benchmark.distributed.job import ALONE
from benchmark.encoders.backbones import load_backbone
from benchmark.features.block_file import map_rows
from benchmark.features.store import PictureFeatures, SharedStore
from benchmark.method import FeatureInputs
from benchmark.settings import TrainingSettings
from benchmark.text_rules import text_rule
from benchmark.training.batches import Batch, Share
from benchmark.training.optimisation import standard_optimiser
from benchmark.training.sources import FeatureTraining

TRIPLETS, PICTURES, WIDTH, ROWS = 18_000, 36_000, 640, 64
UPDATES, ROUNDS, ENCODED = 2, 3, 4
UPDATES_OF_EPOCH = TRIPLETS // ROWS
VIEWS = ("global", "patches")
CALLS = ("updates from the store", "updates in memory", "start of an epoch", "forward pass of RN50x4")
PATH = f"SPIRIT's epoch of {TRIPLETS:,} triplets x 14 views"


class WideTexts(SmallBackbone):
    """Texts of SPIRIT's width, at no cost."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH)


class Epoch:
    """A source on mapped features, the same rows in memory, and SPIRIT's update."""

    def __init__(self, folder: Path) -> None:
        draw = np.random.default_rng(0)
        pictures = draw.permutation(PICTURES)
        captions = tuple((f"is {n} stripes", f"has {n % 77} dots") for n in range(TRIPLETS))
        triplets = Triplets(pictures[:TRIPLETS], pictures[TRIPLETS:], captions)
        features = PictureFeatures(
            {name: _mapped(folder / name, shape) for name, shape in zip(VIEWS, ((WIDTH,), (13, WIDTH)), strict=True)},
            np.arange(PICTURES),
        )
        inputs = FeatureInputs(reference=VIEWS, target=VIEWS)
        store = SharedStore(small_store(folder / "texts", WideTexts()), ALONE)
        self.method = Spirit(WIDTH, SpiritSettings()).train()
        self.source = FeatureTraining(
            lambda epoch: triplets, text_rule("joined"), inputs, features, store, self.method, 0, torch.device("cpu")
        )
        self.start()
        order = draw.permutation(TRIPLETS)
        self.plan = [Share(order[n * ROWS : (n + 1) * ROWS]) for n in range(UPDATES)]
        self.in_memory = [_copied(batch) for batch in self.source.batches(self.plan)]
        trained = [p for p in self.method.parameters() if p.requires_grad]
        self.optimiser = standard_optimiser([{"params": trained}], TrainingSettings())

    def start(self) -> None:
        self.source.start_epoch(0)

    def from_store(self) -> None:
        self._train(self.source.batches(self.plan))

    def from_memory(self) -> None:
        self._train(iter(self.in_memory))

    def _train(self, batches: Iterator[Batch]) -> None:
        for batch in batches:
            queries = self.method.encode_query(batch.reference, batch.text)
            self.method.loss(queries, self.method.encode_target(batch.target)).backward()
            self.optimiser.step()
            self.optimiser.zero_grad()


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Random rows in a file, mapped as the store maps its own."""
    draw = np.random.default_rng(1)
    with path.open("wb") as stream:
        for _ in range(0, PICTURES, 1000):
            stream.write(draw.standard_normal((1000, *shape), dtype=np.float32).tobytes())
    return map_rows(path, (PICTURES, *shape))


def _copied(batch: Batch) -> Batch:
    reference, target, text = (
        {name: tensor.clone() for name, tensor in views.items()} for views in (batch.reference, batch.target, batch.text)
    )
    return Batch(reference, target, text)


@pytest.fixture(scope="module")
def rounds(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    epoch = Epoch(tmp_path_factory.mktemp("features"))
    backbone = load_backbone("RN50x4", "random")
    pixels = torch.randn(ENCODED, 3, 288, 288).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode() -> None:
        backbone.encode_image(pixels)

    calls = (epoch.from_store, epoch.from_memory, epoch.start, encode)
    return compared(PATH, dict(zip(CALLS, calls, strict=True)), ROUNDS)


@played_back
@pytest.mark.parametrize("row", CALLS)
def test_epoch(benchmark, number, rounds: Compared, row: str) -> None:
    if row == CALLS[0]:
        for_wall, for_processor = ([float(kind.seconds[name].min()) for name in CALLS] for kind in (rounds.wall, rounds.processor))
        (from_store, again), (_, processor_again) = _ratios(for_wall), _ratios(for_processor)
        number(PATH, "epoch from the store / in memory", from_store, at_most(1.15), _ratios(for_processor)[0])
        number(PATH, "epoch with re-encoding (estimate) / from the store", again, at_least(20), processor_again)
        benchmark.extra_info["estimated seconds"] = _seconds(for_wall)
    rounds.play(benchmark, row)


def _seconds(parts: list[float]) -> dict[str, float]:
    """Of a whole epoch: from the store, in memory, with re-encoding."""
    from_store, in_memory, start, encode = parts
    scale = UPDATES_OF_EPOCH / UPDATES
    return {
        "from the store": start + scale * from_store,
        "in memory": scale * in_memory,
        "with re-encoding": scale * in_memory + 2 * TRIPLETS / ENCODED * encode,
    }


def _ratios(parts: list[float]) -> tuple[float, float]:
    seconds = _seconds(parts)
    return seconds["from the store"] / seconds["in memory"], seconds["with re-encoding"] / seconds["from the store"]
