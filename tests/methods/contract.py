"""Builds every method of the registry small, with twenty triplets, as its demo settings and recipe say.

A case is a method, or one of its variants with another network. What a stage reads is made here:
random features for stages on stored features, drawn pictures of odd sizes and short texts for those
on pixels.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import TOY_PLUGIN
from PIL import Image
from torch import Tensor, nn

from benchmark.backbone import Backbone, BackboneChoice, Output
from benchmark.distributed.process import this_process
from benchmark.encoders.families import load_choice
from benchmark.encoding import Encoding, encode
from benchmark.method import REVERSED, FeatureInputs, Inputs, Method, PixelInputs, Views
from benchmark.options import make_options
from benchmark.parity.rules import without_dropout
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.probed_rows import ROWS as PROBED
from benchmark.pipeline.probed_rows import ProbedRows
from benchmark.registry import Registry
from benchmark.stage_building import BuiltStage, build_stage
from benchmark.text_rules import text_rule
from benchmark.training.batches import Batch, Share
from benchmark.training.job import Trained, TrainingJob
from benchmark.training.trainer import train as train_stage

ROWS = 20
TEXTS = tuple(
    f"{colour} {garment}"
    for colour in ("red", "blue", "green", "black", "white")
    for garment in ("dress with sleeves", "shirt", "shorter skirt", "coat")
)


@dataclass(frozen=True)
class Triplets:
    """Views of B references, texts and targets; row i of the targets answers query i."""

    reference: Views
    text: Views
    target: Views

    @property
    def batch(self) -> Batch:
        return Batch(reference=self.reference, target=self.target, text=self.text)

    def to(self, dtype: torch.dtype) -> Triplets:
        def cast_views(views: Views) -> Views:
            return {name: t.to(dtype) if t.is_floating_point() else t for name, t in views.items()}

        return Triplets(cast_views(self.reference), cast_views(self.text), cast_views(self.target))


@dataclass(frozen=True)
class Case:
    """One trained or evaluated stage of a planned method."""

    plan: Plan
    planned: PlannedStage
    width: int = 0

    def build(self, seed: int = 0, dropout: bool = False) -> Method:
        """The stage's method from a seed, its vocabulary learnt; in training mode as its recipe says."""
        method = self.built(seed).method
        if not dropout:
            without_dropout(method)
        return train(method, self.planned.settings.batch_norm)

    def triplets(self, method: Method, rows: int = ROWS, first: int = 0) -> Triplets:
        """Some of the twenty, each alike whatever the others are."""
        return self.chosen(method, range(first, first + rows))

    def sample(self, method: Method) -> ProbedRows:
        """The first of them for a probe of the contract."""
        return ProbedRows(PROBED, lambda rows: self.chosen(method, rows).batch)

    def chosen(self, method: Method, chosen: Sequence[int]) -> Triplets:
        inputs = self.inputs
        if isinstance(inputs, FeatureInputs):
            return self._features(method, inputs, chosen)
        return Triplets(
            {"pixels": _pixels(inputs, "reference", chosen)},
            self._tokens(method, chosen),
            {"pixels": _pixels(inputs, "target", chosen)},
        )

    def _features(self, method: Method, inputs: FeatureInputs, chosen: Sequence[int]) -> Triplets:
        shapes = self._shapes
        if "global" in shapes:
            shapes = {**shapes, "patches": (sum(grid * grid for grid in inputs.grids), *shapes["global"])}

        def views(role: int, names: tuple[str, ...]) -> Views:
            return {
                name: torch.stack([_drawn(role, len(name), i, shapes[name]) for i in chosen]) for name in names
            }

        rows = self.plan.rows(self.planned)
        if inputs.text == "features":
            text = {"global": torch.stack([_drawn(2, 4, i, shapes["global"]) for i in chosen])}
            if self._is_reversed:
                text[f"{REVERSED}global"] = torch.stack([_drawn(3, 4, i, shapes["global"]) for i in chosen])
        else:
            text = self._tokens(method, chosen)
        if rows is not None:
            # What training reads of a row, beside what evaluation reads of a text.
            text |= rows.text(method, np.asarray(chosen) % len(rows), np.random.default_rng(0))
        return Triplets(views(0, inputs.reference), text, views(1, inputs.target))

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what the backbone gives for a picture, by name."""
        shapes = {name: output.shape for name, output in self._backbone(0).picture_outputs.items()}
        return {name: (*shape[:-1], self.width or shape[-1]) for name, shape in shapes.items()}

    @property
    def _is_reversed(self) -> bool:
        return text_rule(self.planned.settings.text_rule).draw_reversed is not None

    def _tokens(self, method: Method, chosen: Sequence[int]) -> Views:
        views = method.tokenize([TEXTS[i] for i in chosen])
        backward = method.tokenize([f"not {TEXTS[i]}" for i in chosen]) if self._is_reversed else {}
        return views | {f"{REVERSED}{name}": tensor for name, tensor in backward.items()}

    def _backbone(self, seed: int) -> Backbone:
        """The demo data's, small, with random weights; other widths are of a backbone that is not there."""
        return load_choice(BackboneChoice(self.plan.specification.demo_backbone, "random", seed=seed))

    @cached_property
    def inputs(self) -> Inputs:
        return self.built(0).inputs

    def built(self, seed: int) -> BuiltStage:
        """The stage from a seed, its vocabulary learnt, or that of the stage that it goes on from."""
        backbone: Any = None
        if self.plan.backbone:
            # A frozen text tower that the method reads is no part of it.
            backbone = self._backbone(0 if self.planned.stage.rows is not None else seed)
        if self.width:
            backbone = OtherWidth(backbone, self.width)
        earlier: dict[str, Method] = {}
        for planned in self.plan.stages[: self.plan.stages.index(self.planned)]:
            if planned.stage.output == "method":
                earlier[planned.stage.name] = self._of(planned, backbone, earlier, seed).method
        return self._of(self.planned, backbone, earlier, seed)

    def _of(self, planned: PlannedStage, backbone: Any, earlier: dict[str, Method], seed: int) -> BuiltStage:
        return build_stage(
            planned.stage, backbone, self.plan.method_settings, planned.settings,
            texts=lambda: TEXTS, seed=seed, earlier=dict(earlier),
        )  # fmt: skip


class OtherWidth(Backbone):
    """A backbone of another width, that encodes no picture; its text tower is a sum of tokens."""

    def __init__(self, like: Backbone, width: int) -> None:
        super().__init__()
        self._like, self._width = (like,), width
        self.identity, self.preprocessing = like.identity, like.preprocessing
        with torch.random.fork_rng(devices=[]):
            if like.text_outputs:
                self.embedding = nn.Embedding(int(like.tokenize([""]).max()) + 1, self.token_width)
            self.projection = nn.Linear(self.token_width, width)

    @property
    def width(self) -> int:
        return self._width

    @property
    def token_width(self) -> int:
        return 20

    @property
    def cosine_scale(self) -> Tensor:
        return torch.tensor(10.0)

    @property
    def picture_outputs(self) -> dict[str, Output]:
        own = self._like[0].picture_outputs
        return {name: Output((*output.shape[:-1], self._width)) for name, output in own.items()}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self._like[0].tokenize(texts)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def encode_embedded(self, embedded: Tensor, tokens: Tensor) -> Tensor:
        ends = tokens.argmax(dim=-1)
        return self.projection(embedded.cumsum(dim=1)[torch.arange(len(tokens)), ends])


def cases_of(registry: Registry, method: str, variant: str, data: Path, plugins: tuple[str, ...]) -> Iterator[Case]:
    """The stages of a method that are its own: an encoder that others train, too, counts for `clip4cir_sum`."""
    from benchmark.methods.networks.clip_finetuning import FINETUNING

    options = {"method": method, "dataset": "cirr", "data_root": data, "variant": variant or "none"}
    plan = make_plan(make_options(plugins=plugins, **options), registry)
    for planned in plan.stages:
        if planned is plan.last or planned.stage is not FINETUNING:
            yield Case(plan, planned)


def plugins_of(registry: Registry, further: list[str]) -> tuple[str, ...]:
    """The toy distribution and files that the test run names, added to the registry."""
    return tuple(str(registry.add_plugin(Path(name)).path) for name in (str(TOY_PLUGIN), *further))


def train(method: Method, batch_norm: str = "train") -> Method:
    """Train mode, with the batch norms as a recipe says."""
    method.train()
    for layer in method.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and batch_norm == "eval":
            layer.eval()
    return method


def loss_of(method: Method, triplets: Triplets) -> Tensor:
    """The reference's side first, as the engine does."""
    queries, targets = encodings_of(method, triplets, triplets)
    if method.encodes_triplets:
        views = {"reference": triplets.reference, "text": triplets.text, "target": triplets.target}
        queries = encode(method.encode_triplet, **views)
    return method.loss(queries, targets)


def encodings_of(method: Method, queries: Triplets, targets: Triplets) -> tuple[Encoding, Encoding]:
    """As the engine asks for them: a view that the stage's inputs do not name is told in a line."""
    query = encode(method.encode_query, reference=queries.reference, text=queries.text)
    return query, encode(method.encode_target, target=targets.target)


class TripletSource:
    """The twenty triplets as a stage trains on them; with the first of them Ctrl-C is pressed, where it is asked for."""

    def __init__(self, triplets: Triplets, interrupted: bool) -> None:
        self._triplets, self._interrupted = triplets, interrupted

    def start_epoch(self, epoch: int) -> int:
        return ROWS

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for share in plan:
            if self._interrupted:
                self._interrupted = False
                signal.raise_signal(signal.SIGINT)
            rows = torch.from_numpy(share.rows)
            views = (self._triplets.reference, self._triplets.target, self._triplets.text)
            yield Batch(*({name: tensor[rows] for name, tensor in view.items()} for view in views))


def trained_by_the_engine(
    case: Case, method: Method, folder: Path, interrupted: bool = False, resume: bool = False, **settings: Any
) -> Trained:
    """Two updates of half the triplets each, by the stage's own optimiser, schedule and groups.

    Raises Interrupted behind the first of them where it is ``interrupted``; ``resume`` goes on from there.
    """
    changed = {"epochs": 1, "batch_size": ROWS // 2, "negative_group": 0, "precision": "fp32", **settings}
    job = TrainingJob(
        method=method,
        stage=case.planned.stage,
        settings=case.planned.settings.model_copy(update=changed),
        source=TripletSource(case.triplets(method), interrupted),
        process=this_process("cpu"),
        seed=0,
        folder=folder,
        identity={},
        validate=None,
    )
    return train_stage(job, resume)


@contextmanager
def losses_in_float64() -> Iterator[None]:
    """`queries.float()`, by which a loss leaves half precision, stays in float64 within."""
    single = Tensor.float
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.float = single  # type: ignore[method-assign]


@torch.no_grad()
def scores_of(method: Method, queries: Triplets, targets: Triplets) -> Tensor:
    """(queries, targets) in evaluation mode."""
    method.eval()
    return method.score(*encodings_of(method, queries, targets))


def state_of(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows_of(encoding: Encoding) -> set[int]:
    tensors = [encoding] if isinstance(encoding, Tensor) else list(encoding.values())
    return {len(tensor) for tensor in tensors}


def _drawn(*key: Any) -> Tensor:
    *seed, shape = key
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def _pixels(inputs: PixelInputs, role: str, chosen: Sequence[int]) -> Tensor:
    """Blotches of colour in pictures of odd sizes, through the stage's evaluation transform."""
    pictures = []
    for i in chosen:
        rng = np.random.default_rng([len(role), i])
        blotches = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        picture = blotches.resize((61 + 2 * (i % 5), 83 - 2 * (i % 7)), Image.Resampling.NEAREST)
        pictures.append(np.array(inputs.evaluate.picture(picture, rng)))
    return inputs.evaluate.normalise(torch.from_numpy(np.stack(pictures)))
