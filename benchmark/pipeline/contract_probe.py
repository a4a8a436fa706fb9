"""The contract of a method, held against it with a few rows before anything is trained or scored.

An evaluation encodes in blocks and scores in blocks, on any number of processes. Its numbers mean something
only where a row's encoding and a pair's score are their own, whatever stands beside them; a score that
sees its whole block (a softmax over queries, say) can rank every target first. So a few rows are encoded
together, again, one by one and in another order, and pairs are scored one by one. The method is left as it
was: weights, buffers, modes, gradients, and every generator of random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.arithmetic import float64_device, full_precision
from benchmark.encoding import Encoding, concatenate, encode, map_tensors, take
from benchmark.errors import UserError, described
from benchmark.method import Method
from benchmark.pipeline.probed_rows import ProbedRows
from benchmark.plugins import program_settings, put_back
from benchmark.records.measurement import Probe

RELATIVE, ABSOLUTE = 1e-4, 2e-5
"""How far scores of the same pair may lie apart; the second in units of the largest score, if above 1."""


def probe(name: str, method: Method, sample: ProbedRows, batch_norm: str | None) -> Probe:
    """Hold a method in evaluation mode against its contract.

    ``batch_norm``: how its batch norms train ("train" or "eval"), None for a method that trains nothing.
    Raises UserError, one line that names method, function and what was expected.
    """
    with _left_as_it_was(name, method) as kept, full_precision(), _exact_convolutions():
        found = _Contract(name, method, sample)
        deviation = found.evaluation(kept)
        if batch_norm is not None and sample.rows > 1:
            found.loss(batch_norm)
    return Probe(
        rows=sample.rows, rows_depend_on_batch=method.rows_depend_on_batch, largest_deviation=deviation
    )


@contextmanager
def _failing_in_one_line(name: str, function: str) -> Iterator[None]:
    """Raises UserError for whatever a method's own code raises, or where it ends the program."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # Memory is no fault of the method's, and what is told in a line already stays as it is.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            not isinstance(error, SystemExit) and described(error) is not None
        ):
            raise
        told = " ".join(str(error).split())
        told = f"{type(error).__name__}: {told}" if told else type(error).__name__
        raise UserError(f"method {name}: {function} raised {told}; --traceback shows where") from error


class _Contract:
    def __init__(self, name: str, method: Method, sample: ProbedRows) -> None:
        self._name, self._method, self._sample = name, method, sample
        self._all = list(range(sample.rows))

    @torch.no_grad()
    def evaluation(self, kept: Mapping[str, Tensor]) -> float:
        """Encodings and scores as an evaluation asks for them; gives the largest relative deviation.

        ``kept``: copies of the method's tensors as they were.
        """
        whole = self._all
        queries, targets = self._queries(whole), self._targets(whole)
        scores = self._score(queries, targets)
        pairs = [[self._score(take(queries, _one(q)), take(targets, _one(t))) for t in whole] for q in whole]
        alone = torch.cat([torch.cat(row, dim=1) for row in pairs])
        own = "the score of a pair depends on its query and its target alone"
        deviations = [self._compare("score", alone, scores, "in a block and as a single pair", own)]

        def compare(function: str, other: Encoding, way: str, meant: str) -> None:
            pair = (other, targets) if function == "encode_query" else (queries, other)
            deviations.append(self._compare(function, self._score(*pair), scores, way, meant))

        for function, encoded, first in (
            ("encode_query", self._queries, queries),
            ("encode_target", self._targets, targets),
        ):
            compare(function, encoded(whole), "once and again", "the same rows give the same encodings")
            if self._method.rows_depend_on_batch:
                continue
            own = "a row's encoding depends on that row alone, or the method declares rows_depend_on_batch"
            single = [encoded([row]) for row in whole]
            if any(_form(part) != _form(first) for part in single):
                raise self._broken(function, "gives other names, shapes or types alone than in a batch", own)
            compare(function, concatenate(single), "in a batch and alone", own)
            reverse = encoded(whole[::-1])
            compare(function, map_tensors(lambda tensor: tensor.flip(0), reverse), "in another order", own)
        changed = [name for name, tensor in _tensors_of(self._method) if not _equal(tensor, kept.get(name))]
        if changed:
            meant = "evaluation changes no weight or buffer"
            raise self._broken("an encoding or a score", f"changes {changed[0]}", meant)
        return max(deviations)

    def loss(self, batch_norm: str) -> None:
        """One group's loss in training mode, and its gradient."""
        self._method.train()
        for layer in self._method.modules():
            if isinstance(layer, _BatchNorm) and batch_norm == "eval":
                layer.eval()
        batch = self._sample.views(self._all)
        with torch.enable_grad():
            asked = {"reference": batch.reference, "text": batch.text}
            if self._method.encodes_triplets:
                queries = self._encoded("encode_triplet", self._all, **asked, target=batch.target)
            else:
                queries = self._encoded("encode_query", self._all, **asked)
            targets = self._encoded("encode_target", self._all, target=batch.target)
            with _failing_in_one_line(self._name, "loss"):
                loss = self._method.loss(queries, targets)
            expected = "a finite scalar with a gradient"
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
                raise self._broken("loss", f"gives {_format(loss)}", expected)
            if not bool(loss.isfinite()):
                raise self._broken("loss", f"is {float(loss)} on {len(self._all)} rows", expected)
            if not loss.requires_grad:
                raise self._broken("loss", "has no gradient", expected)
            with _failing_in_one_line(self._name, "the gradient of loss"):
                torch.autograd.backward(loss.reshape(()))
        gradients = {name: p.grad for name, p in self._method.named_parameters() if p.grad is not None}
        wrong = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
        if wrong:
            raise self._broken("loss", f"has a gradient that is not finite, of {wrong[0]}", "finite gradients")
        # A gradient of zeros is none's fault: a hinge, or a softmax of large scores, may be content with these rows.
        if not gradients:
            raise self._broken("loss", "depends on no parameter that trains", "a loss that trains something")

    def _queries(self, rows: Sequence[int]) -> Encoding:
        batch = self._sample.views(rows)
        return self._encoded("encode_query", rows, reference=batch.reference, text=batch.text)

    def _targets(self, rows: Sequence[int]) -> Encoding:
        return self._encoded("encode_target", rows, target=self._sample.views(rows).target)

    def _encoded(self, function: str, rows: Sequence[int], **views: dict[str, Tensor]) -> Encoding:
        with _failing_in_one_line(self._name, function):
            encoding = encode(getattr(self._method, function), **views)
        parts = {"": encoding} if isinstance(encoding, Tensor) else encoding
        expected = "a tensor, or a dict of tensors, with a row for each of its inputs"
        if not isinstance(parts, dict) or not parts or not all(isinstance(part, Tensor) for part in parts.values()):
            raise self._broken(function, f"gives {_format(encoding)}", expected)
        for key, tensor in parts.items():
            named = f"'{key}' " if key else ""
            if not tensor.ndim or len(tensor) != len(rows):
                given = f"gives {named}{_format(tensor)} for {len(rows)} rows"
                raise self._broken(function, given, expected)
            if not key and not tensor.is_floating_point():
                raise self._broken(function, f"gives {_format(tensor)}", "floating-point encodings")
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise self._broken(function, f"gives {named}values that are not finite", "finite encodings")
        return encoding

    def _score(self, queries: Encoding, targets: Encoding) -> Tensor:
        """(b, n) on float64 copies, as the evaluator calls it."""
        queries, targets = _double(queries), _double(targets)
        shape = (_count(queries), _count(targets))
        with _failing_in_one_line(self._name, "score"):
            scores = self._method.score(queries, targets)
        if not isinstance(scores, Tensor) or tuple(scores.shape) != shape or not scores.is_floating_point():
            expected = f"scores of shape {shape}, queries × targets"
            raise self._broken("score", f"gives {_format(scores)}", expected)
        if not bool(scores.isfinite().all()):
            raise self._broken("score", "gives values that are not finite", "finite scores")
        return scores.double()

    def _compare(self, function: str, found: Tensor, expected: Tensor, way: str, meant: str) -> float:
        unit = max(float(expected.abs().max()), 1.0)
        apart = (found - expected).abs()
        bad = apart > RELATIVE * expected.abs() + ABSOLUTE * unit
        if bool(bad.any()):
            query, target = (int(place) for place in bad.nonzero()[0])
            given = (
                f"gives other scores {way}: {float(expected[query, target]):.6g} and "
                f"{float(found[query, target]):.6g} for query {query} and target {target}"
            )
            raise self._broken(function, given, meant)
        return float(apart.max()) / unit

    def _broken(self, function: str, given: str, expected: str) -> UserError:
        return UserError(f"method {self._name}: {function} {given}; expected: {expected}")


def _double(encoding: Encoding) -> Encoding:
    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(float64_device(tensor.device), torch.float64 if tensor.is_floating_point() else tensor.dtype)

    return map_tensors(convert, encoding)


def _one(row: int) -> slice:
    return slice(row, row + 1)


def _count(encoding: Encoding) -> int:
    return len(encoding if isinstance(encoding, Tensor) else next(iter(encoding.values())))


def _form(encoding: Encoding) -> dict[str, tuple[object, ...]]:
    """Shape of a row and type of each tensor."""
    parts = {"": encoding} if isinstance(encoding, Tensor) else encoding
    return {name: (tensor.shape[1:], tensor.dtype) for name, tensor in parts.items()}


def _format(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters and buffers, those that no checkpoint keeps included."""
    return [*module.named_parameters(), *module.named_buffers()]


def _equal(one: Tensor, other: Tensor | None) -> bool:
    if other is None or one.shape != other.shape:
        return False
    # To the first, which is far quicker, NaN differs from itself: a buffer may hold some.
    return torch.equal(one, other) or torch.allclose(one, other, 0, 0, equal_nan=True)


@contextmanager
def _left_as_it_was(name: str, method: Method) -> Iterator[Mapping[str, Tensor]]:
    """Restore the method and all generators; raises UserError where settings of the whole program were changed.

    Gives copies of the method's tensors.
    """
    kept = {own: tensor.detach().clone() for own, tensor in _tensors_of(method)}
    settings = program_settings()
    modes = [(module, module.training) for module in method.modules()]
    gradients = [(parameter, parameter.grad) for parameter in method.parameters()]
    devices = {p.device for p in method.parameters() if p.device.type == "cuda"}
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield kept
    finally:
        changed = put_back(settings)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for own, tensor in _tensors_of(method):
                if own in kept and not _equal(tensor, kept[own]):
                    tensor.copy_(kept[own])
    if changed:
        meant = "a method changes nothing but itself"
        raise UserError(f"method {name}: a function changes {changed[0]}; expected: {meant}")


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Convolutions of a GPU in float32: TF32 has other roundings for other numbers of rows."""
    with ExitStack() as stack:
        for name in ("conv", "rnn"):
            layer: Any = getattr(torch.backends.cudnn, name)
            stack.callback(setattr, layer, "fp32_precision", layer.fp32_precision)
            layer.fp32_precision = "ieee"
        yield
