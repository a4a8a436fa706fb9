"""What ranks of a job do together, its outcome written by every rank: run as a program by `test_sharded.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forked_ranks import run_ranks
from store_backbone import SmallBackbone, draw_pictures, small_store
from torch import Tensor
from traffic_meter import Meter

import benchmark.evaluation.evaluator
import benchmark.evaluation.sources
import benchmark.features.store
from benchmark.data.pixels import PixelSource
from benchmark.dataset import IntArray, Pictures, Queries, Ragged, Task, TaskKey
from benchmark.distributed.job import Job, join_job
from benchmark.distributed.process_group import quiet_deepspeed
from benchmark.distributed.shards import broadcast_state
from benchmark.encoding import Encoding
from benchmark.evaluation.evaluator import encode_tasks, score_task, top_of_task
from benchmark.evaluation.sources import ALL, LiveFeatures
from benchmark.features.store import SharedStore
from benchmark.method import Method, PixelInputs, Views

WIDTH = 6
WORLDS = (1, 2, 3, 5)
BLOCK, PLACES = 4, 20
TEXTS = ["red", "a longer one", "", "red", *(f"word {n}" for n in range(40))]
Outcome = dict[str, Any]


def task_of(queries: int, gallery: Sequence[int], category: str, seed: int) -> Task:
    """Several positives, subsets, removed references and whole numbers as scores, so that many tie."""
    rng = np.random.default_rng(seed)
    count = len(gallery)
    reference = rng.integers(0, count, queries)
    positives = [rng.choice(count, size=rng.integers(1, 4), replace=False).tolist() for _ in range(queries)]
    return Task(
        key=TaskKey("toy", "val", "official", "single", category),
        queries=Queries(
            ids=tuple(map(str, range(queries))),
            reference_picture=np.asarray(gallery)[reference],
            reference_in_gallery=reference,
            texts=tuple(TEXTS[i % 7] for i in range(queries)),
            positives=Ragged.of(positives),
            group=np.arange(queries),
            subset=rng.permuted(np.tile(np.arange(count), (queries, 1)), axis=1)[:, :5],
        ),
        gallery=np.asarray(gallery, dtype=np.int64),
        exclude_reference=True,
        cutoffs=(1, 5),
        subset_cutoffs=(1, 2, 3),
    )


TASKS = [
    task_of(11, range(PLACES), "dress", 1),
    task_of(2, [1, 3, 4, 7, 9, 12], "shirt", 2),
    replace(task_of(9, range(5, 19), "toptee", 3), exclude_reference=False),
]


class Whole:
    """A source that knows a vector of whole numbers for each picture; counts what is asked of it."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.vectors = torch.randint(-2, 3, (PLACES, WIDTH), generator=generator).float()
        self.encoded = 0

    def prepare(self, tasks: Sequence[Task]) -> None:
        self.encoded = 0

    def reference(self, split: str, queries: Queries, rows: slice = ALL) -> Views:
        return self.target(split, queries.reference_picture[rows])

    def target(self, split: str, pictures: IntArray) -> Views:
        self.encoded += len(pictures)
        return {"global": self.vectors[torch.from_numpy(pictures)]}

    def texts(self, strings: Sequence[str]) -> Views:
        return {"global": torch.tensor([[float(len(s))] for s in strings])}


class Product(Method):
    """Encodings of one tensor, by a product whose last digits depend on the block's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(WIDTH, 32, generator=torch.Generator().manual_seed(4)))

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        return (reference["global"] + text["global"]) @ self.weight

    def encode_target(self, target: Views) -> Encoding:
        return target["global"] @ self.weight

    def loss(self, queries: Encoding, targets: Encoding) -> Tensor:
        raise AssertionError("nothing is trained here")


class OwnScore(Product):
    """Encodings of several tensors and types, and a score of its own."""

    scores_by_dot_product = False

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        return {"vector": reference["global"], "length": text["global"].long()}

    def encode_target(self, target: Views) -> Encoding:
        return {"vector": target["global"], "square": target["global"].square().sum(dim=1)}

    def score(self, queries: Encoding, targets: Encoding) -> Tensor:
        assert isinstance(queries, dict) and isinstance(targets, dict)
        return queries["vector"] @ targets["vector"].T - 0.5 * targets["square"] + queries["length"] % 2


def evaluation(job: Job) -> Outcome:
    found: Outcome = {}
    for name, method in (("product", Product()), ("own", OwnScore())):
        source = Whole()
        with Meter() as meter:
            encoded = encode_tasks(method.eval(), TASKS, source, job)
        found[f"apart/{name} rows encoded"] = source.encoded
        found[f"apart/{name} bytes gathered"] = meter.bytes["broadcast"]
        for task in encoded:
            place = f"{name}/{task.task.key.category}"
            for kind, encoding in (("queries", task.queries), ("gallery", task.gallery)):
                parts = {"": encoding} if isinstance(encoding, Tensor) else encoding
                found |= {f"{place}/{kind}{part}": tensor.numpy() for part, tensor in parts.items()}
            with Meter() as meter:
                scores = score_task(method, task, job)
                found[f"{place}/top"] = top_of_task(method, task, 5, job)
            found[f"apart/{place} bytes of ranks"] = meter.bytes["broadcast"]
            ranks = scores.ranks
            found |= {f"{place}/rank": ranks.rank, f"{place}/ties": ranks.ties, f"{place}/subset": ranks.subset_rank}
            found[f"{place}/every"] = ranks.positive_ranks.values
            found |= {f"{place}/{metric}": value for metric, value in scores.metrics.items()}
    return found


class OneDataset:
    """As much of a dataset as the shared store asks for."""

    label = "toy"

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures


def features(job: Job, pictures: Pictures, cache: Path) -> Outcome:
    backbone = SmallBackbone()
    store = SharedStore(small_store(cache, backbone), job)
    dataset: Any = OneDataset(pictures)
    kept = store.pictures(dataset, "all", np.arange(len(pictures)), ("global", "patches"), (2, 3))
    texts = store.fill_texts(TEXTS)
    return {
        "features/global": kept.views["global"].numpy(),
        "features/patches": kept.views["patches"].numpy(),
        "features/texts": texts.view[texts.rows(TEXTS)].numpy(),
        "apart/passes": len(backbone.image_passes),
    }


def live(job: Job, pictures: Pictures) -> Outcome:
    """Features of an encoder that is being trained: of 20 pictures, more often shown than once."""
    backbone: Any = SmallBackbone().eval()
    transform: Any = backbone.preprocessing
    inputs = PixelInputs(train=Fixed(transform), evaluate=Fixed(transform))
    with PixelSource(pictures, inputs.evaluate, workers=1) as pixels:
        source = LiveFeatures(backbone, inputs, pixels, job)
        source.prepare(TASKS)
        return {"live": source.target("val", np.asarray([3, 0, 19]))["global"].numpy()}


class Fixed:
    """The evaluation transform of a preprocessing."""

    random = False

    def __init__(self, preprocessing: Any) -> None:
        self._preprocessing = preprocessing

    def key(self) -> dict[str, Any]:
        found: dict[str, Any] = self._preprocessing.key()
        return found

    def picture(self, image: Any, rng: Any) -> Any:
        return self._preprocessing.picture(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        normalised: Tensor = self._preprocessing.normalise(pixels)
        return normalised


def agreement(job: Job) -> Outcome:
    state = {"w": torch.full((3, 2), float(job.process.rank)), "n": torch.tensor(job.process.rank)}
    broadcast_state(state, job)
    told = job.barrier.from_main("asking rank 0", lambda: {"rank": job.process.rank})
    shared = job.barrier.share("sharing", job.process.rank)
    assert shared == list(range(job.process.world_size))
    return {"state": state["w"].numpy(), "count": state["n"].numpy(), "told": told["rank"]}


def all_work(folder: Path, pictures: Pictures, world_size: int) -> None:
    """Everything on one rank; with an even number of ranks, the odd ones have a cache of their own."""
    torch.set_num_threads(1)
    own = int(os.environ.get("RANK", "0"))
    cache = folder / f"cache-{world_size}" / str(own % 2 if world_size % 2 == 0 else 0)
    job = join_job("cpu", cache)
    outcome = {**agreement(job), **features(job, pictures, cache), **evaluation(job), **live(job, pictures)}
    outcome["apart/sharing"] = job.cache.ranks
    outcome["apart/cores"] = job.cores
    np.savez(folder / f"{world_size}-{own}.npz", **outcome)


if __name__ == "__main__":
    benchmark.features.store.PICTURES_PER_BLOCK = BLOCK
    benchmark.evaluation.evaluator._BLOCK = 4
    benchmark.evaluation.sources.ENCODING_BLOCK = 4
    quiet_deepspeed()
    place = Path(sys.argv[1])
    drawn = draw_pictures(place / "pictures", PLACES)
    for world_size in WORLDS:
        run_ranks(world_size, partial(all_work, place, drawn, world_size))
