"""What the golden files of Pic2Word, SEARLE and LinCIR share: a small CLIP's text side, φ, prompts and protocols.

No picture is encoded: one enters as its raw feature, drawn by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from benchmark.backbone import BackboneIdentity
from benchmark.dataset import Captions, Queries, Ragged, Task, TaskKey, integers
from benchmark.encoders.backbones import OPEN_CLIP, ClipBackbone, build_clip
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.evaluation.evaluator import EncodedTask, score_task
from benchmark.interop.importing import Release
from benchmark.method import Stage
from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    compare_names,
    compare_output,
    worst,
)
from benchmark.parity.files import Expected, Form, GoldenFile, Rows, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import clip_weight, draw_input, draw_weights, head_weight, without_dropout
from benchmark.parity.training import GoldenRecipe, StepTolerances, TrainingCase, check_recipe
from benchmark.settings import TrainingSettings
from benchmark.text_rules import text_rule
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

from ..networks.pseudo_word_stage import PseudoWordSettings
from ..networks.pseudo_words import FrozenText, Places, PseudoWord

TOLERANCE = 2e-5
LOSS = 1e-5
GRADIENTS = GradientTolerance(2e-5)
METRICS = 1e-4
_TOLERANCES = StepTolerances(sums=(2e-3, 1e-6, 0.0, 0.0))
_CUTOFFS = (1, 5, 10, 25, 50, 100)

S = TypeVar("S", bound=PseudoWordSettings)


class GoldenTextSizes(Form):
    """``config`` of a file: CLIP's text side, and the drawn features."""

    embed_dim: PositiveInt
    context_length: PositiveInt
    vocab_size: PositiveInt
    transformer_width: PositiveInt
    transformer_heads: PositiveInt
    transformer_layers: PositiveInt
    batch: PositiveInt
    input_scale: PositiveFloat
    oti_scale: PositiveFloat = 1.0


class CirrEntry(Form):
    reference: str
    target: str
    caption: str
    members: list[str] = []


class FashioniqEntry(Form):
    candidate: str
    target: str
    captions: list[str]


class CircoEntry(Form):
    reference_img_id: int
    target_img_id: int
    relative_caption: str
    gt_img_ids: list[int]


@dataclass(frozen=True)
class Asked:
    """A small data set: its queries as the method is asked them, and where their answers are in the gallery."""

    texts: tuple[str, ...]
    references: list[str]
    targets: list[str]
    gallery: list[str]
    positives: list[list[str]]
    members: list[list[str]]
    reference_is_ranked: bool = True


@dataclass(frozen=True)
class GoldenWords:
    """A file and what is computed with it; ``rules``: the method's text rule by data set."""

    file: GoldenFile
    sizes: GoldenTextSizes
    method: PseudoWord
    rules: Mapping[str, str]

    def feature(self, name: str) -> Tensor:
        """(d,), raw."""
        return draw_input(self.file.prefix, f"input.picture.{name}", (self.sizes.embed_dim,), self.sizes.input_scale)

    def features(self, names: Sequence[str]) -> Tensor:
        """(n, d), raw."""
        return torch.stack([self.feature(name) for name in names])

    def asked(self) -> Iterator[tuple[str, Asked]]:
        """Each data set that the file has, with the queries that the method's text rule makes."""
        pictures = self.file.parse(list[str], "pictures")
        cirr = self.file.parse(list[CirrEntry], "cirr_entries")
        yield "cirr", Asked(
            self._texts("cirr", [(entry.caption,) for entry in cirr]),
            [entry.reference for entry in cirr], [entry.target for entry in cirr], pictures,
            [[entry.target] for entry in cirr], [entry.members for entry in cirr], reference_is_ranked=False,
        )  # fmt: skip
        fashioniq = self.file.parse(list[FashioniqEntry], "fashioniq_entries")
        yield "fashioniq", Asked(
            self._texts("fashioniq", [tuple(entry.captions) for entry in fashioniq]),
            [entry.candidate for entry in fashioniq], [entry.target for entry in fashioniq], pictures,
            [[entry.target] for entry in fashioniq], [],
        )  # fmt: skip
        if "circo_entries" in self.file.content:
            circo = self.file.parse(list[CircoEntry], "circo_entries")
            first, last = self.file.parse(tuple[int, int], "circo_gallery")
            yield "circo", Asked(
                self._texts("circo", [(entry.relative_caption,) for entry in circo]),
                [_coco(entry.reference_img_id) for entry in circo], [_coco(entry.target_img_id) for entry in circo],
                [_coco(number) for number in range(first, last + 1)],
                [[_coco(number) for number in entry.gt_img_ids] for entry in circo], [],
            )  # fmt: skip

    def _texts(self, dataset: str, captions: Sequence[Captions]) -> tuple[str, ...]:
        rule = text_rule(self.rules[dataset])
        return tuple(query for entry in captions for query in rule.queries(entry))

    @torch.no_grad()
    def query(self, asked: Asked) -> Tensor:
        """(Q, d), as a run encodes them."""
        views = {"global": self.features(asked.references)}
        found = self.method.eval().encode_query(views, self.method.tokenize(asked.texts))
        assert isinstance(found, Tensor)
        return found

    @torch.no_grad()
    def metrics(self, asked: Asked, query: Tensor, positives: list[list[str]] | None = None) -> dict[str, float]:
        """In percent, by the program's own names, of queries that were encoded anyhow."""
        place = {name: i for i, name in enumerate(asked.gallery)}
        chosen = asked.positives if positives is None else positives
        references = integers(place[name] for name in asked.references)
        # The candidates of a query are its picture set without its reference.
        own = [
            [place[m] for m in row if m != reference]
            for row, reference in zip(asked.members, asked.references, strict=False)
        ]
        queries = Queries(
            ids=tuple(map(str, range(len(query)))),
            reference_picture=references,
            reference_in_gallery=references,
            texts=asked.texts,
            positives=Ragged.of([[place[name] for name in row] for row in chosen]),
            group=np.arange(len(query)),
            subset=np.asarray(own, dtype=np.int64) if any(asked.members) else None,
        )
        key = TaskKey("golden", "val", "golden", "single")
        gallery = np.arange(len(asked.gallery))
        of_subset = (1, 2, 3) if any(asked.members) else ()
        task = Task(key, queries, gallery, not asked.reference_is_ranked, _CUTOFFS, of_subset)
        targets = self.method.eval().encode_target({"global": self.features(asked.gallery)})
        return score_task(None, EncodedTask(task, query, targets)).metrics

    def check_pseudo_words(self) -> Iterator[Deviation]:
        """Names and shapes of both networks, and the words of all pictures."""
        clip = shapes_of({n: t for n, t in self._clip.openai_state_dict().items() if not n.startswith("visual.")})
        yield compare_names("CLIP's text side", clip, self.file.parse(StateDict, "clip_state_dict").root)
        phi = shapes_of(self.method.phi.state_dict())
        yield compare_names("state dict", phi, self.file.parse(StateDict, "state_dict").root)
        with torch.no_grad():
            found = self.method.eval().phi(self.features(self.file.parse(list[str], "pictures")))
        yield self.compare("pseudo_word", found, "eval", "pseudo_word")

    @property
    def _clip(self) -> ClipBackbone:
        assert isinstance(self.method.text.backbone, ClipBackbone)
        return self.method.text.backbone

    def compare(self, name: str, found: Tensor, *at: str) -> Deviation:
        """Rows that the file lists there."""
        return compare_output(name, found, self.file.parse(Rows, *at), TOLERANCE)

    def check_tokens(self, name: str, found: Tensor, *at: str) -> Deviation:
        """Rows of tokens (n, L), to the last digit."""
        listed = self.file.parse(list[list[int]], *at)
        own = [row[: int(row.argmax()) + 1].tolist() for row in found]
        wrong = sum(a != b for a, b in zip(own, listed, strict=True))
        return Deviation(name, float(wrong), 0.0, note=f"{len(own)} texts")

    def check_data(self, at: str, asked: Asked, row: str, metrics: Mapping[str, str]) -> Iterator[Deviation]:
        """Sentences, tokens, queries and metrics of a data set. ``metrics``: the file's names to the program's."""
        tokens = self.method.tokenize(asked.texts)["tokens"]
        for k, suffix in enumerate(("", "_reversed")[: tokens.shape[1]]):
            listed = self.file.parse(list[str], "eval", at, f"texts{suffix}")
            again = self.method.text.tokenize(listed)
            yield self.check_tokens(f"{at} sentences{suffix}", tokens[:, k], "eval", at, f"token_ids{suffix}")
            yield self.check_tokens(f"{at} texts{suffix}", again, "eval", at, f"token_ids{suffix}")
        query = self.query(asked)
        yield self.compare(f"{at} query", query, "eval", at, row)
        listed_under = "metrics" if row == "query" else f"{row}_metrics"
        yield self.check_metrics(f"{at} metrics", self.metrics(asked, query), metrics, "eval", at, listed_under)

    def check_metrics(self, name: str, found: Mapping[str, float], names: Mapping[str, str], *at: str) -> Deviation:
        """``names``: the file's to the program's."""
        listed = self.file.parse(dict[str, float], *at)
        pairs = [Difference(n, found[names[n]], value, 0.0, METRICS) for n, value in listed.items() if n in names]
        return worst(name, pairs)

    def check_steps(
        self, stage: Stage, settings: TrainingSettings, batches: Sequence[Batch], **more: Any
    ) -> Iterator[Deviation]:
        """Ten steps of the program's own trainer."""
        steps = self.file.parse(_Steps, "steps")
        rates = steps.learning_rate or [settings.learning_rate] * steps.steps
        recipe = GoldenRecipe(loss=steps.loss, learning_rate=rates, parameters=steps.parameters, config={})
        case = TrainingCase(self.method, self.method.phi, stage, settings, batches, tolerances=_TOLERANCES, **more)
        yield from check_recipe("steps", recipe, case)

    def check_gradients(
        self,
        inputs: Mapping[str, Any],
        outputs: Callable[[Any, Any], dict[str, Tensor]],
        listed: Mapping[str, Expected],
    ) -> Iterator[Deviation]:
        """What training without dropout gives of one batch, the losses among it, and the gradients of φ."""
        golden = Golden(self.file, "", self.method, inputs, outputs, TOLERANCE, GRADIENTS, _of_phi)
        passes = golden.passes("loss")
        found = passes(torch.float32).outputs
        for name, expected in listed.items():
            is_loss = isinstance(expected, float)
            yield compare_output(f"train {name}", found[name], expected, LOSS if is_loss else TOLERANCE)
        norms = self.file.parse(dict[str, float], "train_dropout_off", "grad_norms")
        yield from golden.check_gradients("train", passes, norms)


class _Steps(Form):
    steps: int
    loss: list[float]
    learning_rate: list[float] = []
    parameters: dict[str, tuple[float, float, float]]


def _of_phi(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("phi."): tensor for name, tensor in tensors.items() if name.startswith("phi.")}


def _coco(number: int) -> str:
    return f"{number:012d}"


def golden_words(
    file: GoldenFile, placeholder: str, places: Places, build: Callable[[int, int, FrozenText, S], PseudoWord],
    settings: S, rules: Mapping[str, str],
) -> GoldenWords:  # fmt: skip
    """The method with golden weights, on a golden CLIP, without dropout."""
    sizes = file.parse(GoldenTextSizes, "config")
    config = {
        "embed_dim": sizes.embed_dim,
        # No picture is encoded.
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": {
            "context_length": sizes.context_length, "vocab_size": sizes.vocab_size, "width": sizes.transformer_width,
            "heads": sizes.transformer_heads, "layers": sizes.transformer_layers,
        },
    }  # fmt: skip
    clip = build_clip(config, "quickgelu")
    draw_weights(clip, clip_weight, file.prefix)
    identity = BackboneIdentity(OPEN_CLIP, "golden", "random", "quickgelu")
    text = FrozenText(ClipBackbone(clip, Preprocessing("clip", 32), identity).eval(), placeholder, places)
    method = build(sizes.embed_dim, sizes.transformer_width, text, settings)
    draw_weights(method.phi, head_weight, file.prefix)
    without_dropout(method)
    return GoldenWords(file, sizes, method, rules)


def phi_release(entry: str, first: str) -> Release:
    """φ alone in a file, whose width is that of ``first``'s input."""

    def settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, Any]]:
        hidden, width = shapes[first]
        return width, {"hidden": hidden}

    return Release(part="phi", settings=settings, entry=entry)
