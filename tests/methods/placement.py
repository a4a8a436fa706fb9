"""Where a method's tensors are: its passes on what claims to be a GPU, and what its updates make the host wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from operator import add
from typing import Any
from unittest.mock import patch

import torch
from benchmark.methods.networks.recurrent_texts import BiGruText
from benchmark.methods.tme import Tme
from contract import TEXTS, Case, Triplets, encodings_of
from fake_gpu import GPU, fake_gpu, on_gpu, views_on_gpu
from host_waits import HostWaits
from torch import Tensor

from benchmark.backbone import Backbone, BackboneChoice
from benchmark.encoders.families import load_choice
from benchmark.encoding import Encoding
from benchmark.method import Method
from benchmark.stage_building import BuiltStage
from benchmark.training.engine import StageEngine
from benchmark.training.memory import encode_in_micro_batches
from benchmark.training.optimisation import MovingAverage

_PAIRS = 6
_READ = "aten::_local_scalar_dense"
_NUMBER = "aten::lift_fresh"
"""What `torch.tensor` does with its numbers; with a device, it sends them there, and the host waits."""


def sent_by_nature(method: Method) -> dict[str, int]:
    """Copies between host and GPU in one pass that cannot be left out."""
    if any(isinstance(module, BiGruText) for module in method.modules()):
        # Torch packs texts by lengths on the host, and sends the order of the rows back.
        return {"cuda to cpu": 1, "cpu to cuda": 1}
    # Triplets are drawn on the host, alike for every device; nobody waits for them.
    return {"cpu to cuda": 1} if getattr(method, "_loss", "") == "soft_triplet" else {}


def made_by_nature(method: Method) -> set[str]:
    """Of an update's operations those that make the host wait elsewhere: values read, and numbers sent to the device.

    Here they concern tensors that lie on the host on every device.
    """
    if isinstance(method, Tme):
        return {_READ, _NUMBER}  # Adam's counts of updates
    packs = "cuda to cpu" in sent_by_nature(method)
    # Lengths of texts that are packed; triplets that are drawn.
    return {_READ} if packs else {_NUMBER} if sent_by_nature(method) else set()


@dataclass(frozen=True)
class CaseOnGpu(Case):
    """The stage as a run builds it: around a backbone that is on the GPU, and then moved there itself."""

    @classmethod
    def of(cls, case: Case) -> CaseOnGpu:
        return cls(case.plan, case.planned, case.width)

    def _backbone(self, seed: int) -> Backbone:
        return _backbone_on_gpu(self.plan.specification.demo_backbone)

    @cached_property
    def _built(self) -> BuiltStage:
        return super().built(0)

    def built(self, seed: int) -> BuiltStage:
        return self._built

    def placed(self) -> tuple[Method, Triplets]:
        """The method, in training mode, and a batch."""
        method = on_gpu(self.build(dropout=True))
        drawn = self.triplets(method, _PAIRS)
        return method, Triplets(*(views_on_gpu(views) for views in (drawn.reference, drawn.text, drawn.target)))


@cache
def _backbone_on_gpu(name: str) -> Backbone:
    return on_gpu(load_choice(BackboneChoice(name, "random")))


def check_training_pass(method: Method, batch: Triplets, half: bool) -> None:
    """Encodings and loss, as the engine asks for them, are computed on the GPU, and nothing is sent there or back."""
    asked, how = {"reference": batch.reference, "text": batch.text}, method.encode_query
    if method.encodes_triplets:
        asked, how = {**asked, "target": batch.target}, method.encode_triplet
    with fake_gpu(half), HostWaits() as found:
        queries = encode_in_micro_batches(how, 0, **asked)
        targets = encode_in_micro_batches(method.encode_target, 0, target=batch.target)
        parts = method.loss_parts(queries, targets)
        loss = reduce(add, parts.values())
    _require_on_gpu(loss, *parts.values(), *_tensors(queries), *_tensors(targets))
    assert found.crossings in ({}, sent_by_nature(method)), found.crossings


@torch.no_grad()
def check_evaluation(method: Method, batch: Triplets) -> None:
    """Encodings, scores, and what a report shows are computed on the GPU; strings alone are sent there."""
    method.eval()
    with fake_gpu():
        with HostWaits() as found:
            queries, targets = encodings_of(method, batch, batch)
            scores = method.score(queries, targets)
        shown = {**method.explain(batch.reference, batch.text), **method.encode_text_alone(TEXTS[:_PAIRS])}
    _require_on_gpu(scores, *_tensors(queries), *_tensors(targets), *shown.values())
    assert found.crossings in ({}, sent_by_nature(method)), found.crossings


@contextmanager
def waits_of_updates() -> Iterator[HostWaits]:
    """Counts what the trainer's second update does, and those after it: forwards, backwards, moving average, clipping,
    optimiser, schedule."""
    found, ended = HostWaits(), 0

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal ended
            with found if ended else nullcontext():
                outcome = function(*args)
            ended += function.__qualname__ == "StageEngine.update"
            return outcome

        return call

    steps = {StageEngine: ("accumulate", "measure_gradient", "update"), MovingAverage: ("update",)}
    with ExitStack() as stack:
        for owner, names in steps.items():
            for name in names:
                stack.enter_context(patch.object(owner, name, counting(getattr(owner, name))))
        yield found


def check_updates(method: Method, found: HostWaits) -> None:
    numbers = {_NUMBER} & set(found.calls)
    assert found.calls["aten::mm"] + found.calls["aten::addmm"]
    assert set(found.waits) | numbers <= made_by_nature(method), (found.waits, numbers)


def _require_on_gpu(*tensors: Tensor) -> None:
    devices = {tensor.device for tensor in tensors}
    assert devices == {GPU}, devices


def _tensors(encoding: Encoding) -> list[Tensor]:
    return [encoding] if isinstance(encoding, Tensor) else list(encoding.values())
