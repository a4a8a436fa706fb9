"""One stage of a method, tiny, trained for a few updates by as many processes as started this.

A case is JSON: ``name``; ``method`` and, where it is not the last one, ``stage``; ``method_settings``;
``settings`` of the training, over those of the recipe that ``optimiser`` "own" takes; ``execution``;
``dtype``, float32 where it is not named; ``worlds``, the numbers of processes that train it, or all.
What comes out of a case: the weights, the loss of each epoch, and the encodings of a fixed batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.backbone import Backbone, BackboneChoice
from benchmark.dataset import IntArray, Triplets
from benchmark.distributed.process import this_process
from benchmark.encoders.families import load_choice
from benchmark.encoding import Encoding
from benchmark.method import REVERSED, BuildContext, FeatureInputs, Method, PixelInputs, Stage, Views
from benchmark.registry import Registry, discover
from benchmark.settings import TrainingSettings
from benchmark.text_rules import text_rule
from benchmark.training.batches import Batch, Share
from benchmark.training.sources import PixelTraining
from benchmark.training.trainer import TrainingJob, train

UPDATES = 5
_NEARLY_ZERO = 1e-4
PATCHES = 13
_COLOURS = ("red", "blue", "green", "black")
_WORDS = ("longer", "darker", "with lace", "no sleeves", "a low neck and a wide belt")
_PLAIN = {"text_rule": "as-is", "precision": "fp32", "gradient_clip": 0.0, "average_decay": 0.0, "epochs": 1}
_SGD = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.01}
_OPTIMISER = (
    "optimiser", "learning_rate", "betas", "eps", "momentum", "weight_decay", "optimisation", "cnn_rate",
    "batch_norm",
)  # fmt: skip

Case = dict[str, Any]


@cache
def _registry() -> Registry:
    return discover()


def trained(case: Case, folder: Path) -> dict[str, Any]:
    """Train a case from its start; ``folder`` is its own."""
    with _losses_in(_dtype(case)):
        return _trained(case, folder)


@contextmanager
def _losses_in(dtype: torch.dtype) -> Iterator[None]:
    """Losses go down to float32 from anything; in float64 they stay there."""
    single = Tensor.float
    if dtype == torch.float64:
        Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.float = single  # type: ignore[method-assign]


def _trained(case: Case, folder: Path) -> dict[str, Any]:
    stage, context, settings = _declared(case)
    method = _started(stage, context).to(_dtype(case))
    start = {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}
    source = _Cast(_source(method, stage, context, settings, settings.batch_size * UPDATES), _dtype(case))
    job = TrainingJob(
        method=method,
        stage=stage,
        settings=settings,
        source=source,
        process=this_process("cpu"),
        seed=0,
        folder=folder,
        identity={"case": case["name"]},
        validate=None,
        **_execution(case),
    )
    result = train(job, resume=False)
    _require_same_on_all_ranks(method)
    return {
        "weights": result.last,
        "losses": [entry.loss for entry in result.log],
        "gradient norms": [entry.gradient_norm for entry in result.log],
        "outputs": _outputs(method, source, settings.group),
        "start": start,
    }


def without_gradient(case: Case) -> dict[str, Tensor]:
    """Where the gradient is zero in exact arithmetic: in float64 nothing is left of it. By parameter, bool."""
    with _losses_in(torch.float64):
        return _without_gradient(case)


def _without_gradient(case: Case) -> dict[str, Tensor]:
    stage, context, settings = _declared(case)
    method = _started(stage, context).double().train()
    source = _Cast(_source(method, stage, context, settings, settings.group), torch.float64)
    source.start_epoch(0)
    (batch,) = source.batches([Share(np.arange(settings.group))])
    queries = method.encode_triplet(batch.reference, batch.text, batch.target)
    method.loss(queries, method.encode_target(batch.target)).backward()
    gradients = {name: p.grad.abs() for name, p in method.named_parameters() if p.grad is not None}
    largest = max(float(gradient.max()) for gradient in gradients.values())
    return {name: gradient < 1e-13 * largest for name, gradient in gradients.items()}


def _require_same_on_all_ranks(method: Method) -> None:
    """Weights and running statistics, to the last bit."""
    if this_process("cpu").world_size == 1:
        return
    for name, tensor in method.state_dict().items():
        of_main = tensor.clone()
        torch.distributed.broadcast(of_main, src=0)
        assert torch.equal(of_main, tensor), f"{name} is not the same on all ranks"


def _declared(case: Case) -> tuple[Stage, BuildContext, TrainingSettings]:
    registry = _registry()
    specification = registry.specification(case["method"])
    method_settings = specification.settings.model_validate(case.get("method_settings", {}))
    stages = {stage.name: stage for stage in specification.stages(method_settings, "random")}
    stage = stages[case.get("stage", list(stages)[-1])]
    chosen: dict[str, Any] = {**_SGD}
    if case["optimiser"] == "own":
        recipe = registry.recipe(stage.name, case.get("dataset", "fashioniq"), "", "pretrained")
        chosen = {name: value for name, value in recipe.settings.items() if name in _OPTIMISER}
    settings = stage.settings.model_validate({**_PLAIN, **chosen, **case["settings"]})
    backbone = _backbone(specification.demo_backbone) if specification.own_networks is None else None
    return stage, BuildContext(backbone, method_settings, settings), settings


def _backbone(name: str) -> Backbone:
    return load_choice(BackboneChoice(name, "random"))


def _started(stage: Stage, context: BuildContext) -> Method:
    """A method's own start, but for parameters of (nearly) zeros alone, beside which any rounding would look large."""
    torch.manual_seed(0)
    method = stage.build(context)
    method.build_extra_state(_texts(40))
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad and float(parameter.abs().max()) < _NEARLY_ZERO:
                parameter += 0.1 * torch.randn(parameter.shape)
    return method


def _execution(case: Case) -> dict[str, Any]:
    """How the stage is computed, where a case asks for something else than one weight copy per process."""
    if "execution" not in case:
        return {}
    from benchmark.training.execution import Execution

    return {"execution": Execution(**case["execution"])}


def _texts(rows: int) -> list[str]:
    """Texts of different lengths, so that padding matters."""
    return [f"is {_COLOURS[i % 4]} {' and '.join(_WORDS[: 1 + i % len(_WORDS)])}" for i in range(rows)]


def _source(method: Method, stage: Stage, context: BuildContext, settings: TrainingSettings, rows: int) -> Any:
    inputs, rule = stage.inputs(context), text_rule(settings.text_rule)
    if isinstance(inputs, FeatureInputs):
        return _Features(rows, context.width, rule.draw_reversed is not None)
    captions = tuple((text,) for text in _texts(rows))
    triplets = Triplets(np.arange(rows), np.arange(rows) + rows, captions)
    pixels: Any = _Pixels(inputs)
    return PixelTraining(lambda epoch: triplets, rule, inputs, pixels, method, 0, torch.device("cpu"))


class _Pixels:
    """Drawn at random for each picture, of the size that the transform gives."""

    def __init__(self, inputs: PixelInputs) -> None:
        image = Image.new("RGB", (64, 64))
        self._side = inputs.evaluate.picture(image, np.random.default_rng(0)).shape[0]

    def prefetch(self, wanted: Iterable[tuple[IntArray, Any, Any]], pinned: bool = False) -> Iterator[Tensor]:
        for pictures, *_ in wanted:
            yield torch.stack([self._picture(int(picture)) for picture in pictures])

    def _picture(self, number: int) -> Tensor:
        """Two by two fields as bright as the number says, so that pictures are far apart for any network."""
        rng = np.random.default_rng(number)
        coarse = (rng.random((2, 2, 3)) * rng.uniform(40, 255)).astype(np.uint8)
        noise = rng.integers(0, 60, (self._side, self._side, 3))
        fields = np.array(Image.fromarray(coarse).resize((self._side, self._side), Image.Resampling.NEAREST))
        return torch.from_numpy(np.clip(fields + noise, 0, 255).astype(np.uint8))


class _Cast:
    """A source's batches in another precision."""

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        self._source, self._dtype = source, dtype

    def start_epoch(self, epoch: int) -> int:
        entries: int = self._source.start_epoch(epoch)
        return entries

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for batch in self._source.batches(plan):
            yield Batch(self._cast(batch.reference), self._cast(batch.target), self._cast(batch.text))

    def _cast(self, views: Views) -> Views:
        return {name: view.to(self._dtype) if view.is_floating_point() else view for name, view in views.items()}


class _Features:
    """Made-up features of references, targets and texts."""

    def __init__(self, rows: int, width: int, is_reversed: bool) -> None:
        rng = torch.Generator().manual_seed(7)
        whole = torch.randn(2, rows, width, generator=rng)
        patches = torch.randn(2, rows, PATCHES, width, generator=rng)
        self._views = [{"global": whole[i], "patches": patches[i]} for i in range(2)]
        self._text = {"global": torch.randn(rows, width, generator=rng)}
        if is_reversed:
            self._text[f"{REVERSED}global"] = torch.randn(rows, width, generator=rng)

    def start_epoch(self, epoch: int) -> int:
        return len(self._text["global"])

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for share in plan:
            rows = torch.from_numpy(share.rows)
            reference, target = ({name: view[rows] for name, view in views.items()} for views in self._views)
            yield Batch(reference, target, {name: view[rows] for name, view in self._text.items()})


def _outputs(method: Method, source: Any, rows: int) -> dict[str, Tensor]:
    """Encodings of the first rows in evaluation, by name."""
    method.eval()
    source.start_epoch(0)
    (batch,) = source.batches([Share(np.arange(rows))])
    with torch.no_grad():
        encoded = {
            "query": method.encode_query(batch.reference, batch.text),
            "target": method.encode_target(batch.target),
        }
    return {f"{side} {name}": tensor for side, e in encoded.items() for name, tensor in _named(e).items()}


def _named(encoding: Encoding) -> dict[str, Tensor]:
    return {"": encoding} if isinstance(encoding, Tensor) else encoding


def _dtype(case: Case) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, case.get("dtype", "float32"))
    return dtype


def trained_all(cases: Sequence[Case], folder: Path) -> dict[str, Any]:
    """All cases one after the other; rank 0 leaves them in ``folder``."""
    return {case["name"]: trained(case, folder / str(number)) for number, case in enumerate(cases)}
