"""Golden numbers of heads on stored features: SPIRIT's and the Combiner's form.

A file lists the released state dict, the sizes, outputs in evaluation mode, and loss, logits and
gradient norms in train mode without dropout. Features are drawn: ``image``, ``text``, ``target``
(B, d), and ``reference_patches``, ``target_patches`` (B, P, d) where the sizes name patches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from benchmark.method import Method, Stage, Views
from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    Matrix,
    Rows,
    compare_gradients,
    compare_names,
    compare_output,
    worst,
)
from benchmark.parity.files import Form, GoldenFile
from benchmark.parity.models import draw_input, draw_weights, shapes_of, without_dropout
from benchmark.parity.rules import head_weight
from benchmark.parity.training import Recipe, RecipeConfig, TrainingCase, recipe_settings
from benchmark.training.batches import Batch

TOLERANCE = 2e-5
LOSS_FLOOR = 5e-6
"""A cross-entropy of float32 logits near 100 is no more exact than this, however small it is."""


class HeadSizes(Form):
    """Sizes of a head and of its inputs, ``config`` in a file."""

    clip_dim: PositiveInt
    projection_dim: PositiveInt
    hidden_dim: PositiveInt
    patches: PositiveInt | None = None
    batch: PositiveInt
    input_scale: PositiveFloat


class _Entry(Form):
    name: str
    shape: list[int]


class _Training(Form):
    loss: float
    logits: Matrix | None = None
    grad_norms: dict[str, float]
    parameters_without_gradient: list[str] = []


class _HeadForm(Form):
    config: HeadSizes
    state_dict: list[_Entry] = Field(min_length=1)
    eval: dict[str, Rows | Matrix] = Field(min_length=1)
    train_dropout_off: _Training


@dataclass(frozen=True)
class Head:
    """How a method on stored features reads this form.

    ``build`` makes it from the sizes, ``released`` gives its part with the released names, and
    ``outputs`` computes what files list, by their names, "query", "target" and "logits" among them.
    """

    build: Callable[[HeadSizes], Method]
    released: Callable[[Method], nn.Module]
    outputs: Callable[[Method, Batch], dict[str, Tensor]]

    def check(self, file: GoldenFile) -> Iterator[Deviation]:
        """A deviation for every output; raises UserError where the file is not of this form."""
        form = file.parse(_HeadForm)
        method = self.golden_method(form.config, file.prefix)
        listed = {entry.name: entry.shape for entry in form.state_dict}
        yield compare_names("state dict", shapes_of(self.released(method).state_dict()), listed)
        batch = head_batch(form.config, file.prefix, "input")
        with torch.no_grad():
            found = self.outputs(method.eval(), batch)
        for name, expected in form.eval.items():
            if name not in found:
                raise file.error(f"entry 'eval.{name}' is no output that this reader knows")
            yield compare_output(f"eval {name}", found[name], expected, TOLERANCE)
        yield from self._check_training(method, batch, form.train_dropout_off)

    def training_case(self, file: GoldenFile, name: str, recipe: Recipe, stage: Stage) -> TrainingCase:
        """A recipe of a training file that trains this head as ``stage`` does."""
        at = f"recipes.{name}.config"
        sizes = file.parse(HeadSizes, recipe.config, at)
        method = self.golden_method(sizes, file.prefix)
        return TrainingCase(
            method=method,
            released=self.released(method),
            stage=stage,
            settings=recipe_settings(file.parse(RecipeConfig, recipe.config, at), stage.settings),
            batches=(
                head_batch(sizes, file.prefix, "input.batch0"),
                head_batch(sizes, file.prefix, "input.batch1"),
            ),
        )

    def golden_method(self, sizes: HeadSizes, prefix: str) -> Method:
        """The method with weights by the rule and without dropout."""
        method = self.build(sizes)
        draw_weights(self.released(method), head_weight, prefix)
        without_dropout(method)
        return method

    def _check_training(self, method: Method, batch: Batch, expected: _Training) -> Iterator[Deviation]:
        def gradients(dtype: torch.dtype) -> Mapping[str, Tensor | None]:
            # A copy each time: train mode moves the batch norms' statistics.
            trained = copy.deepcopy(method).to(dtype).train()
            outputs = self.outputs(trained, _cast(batch, dtype))
            loss = trained.loss(outputs["query"], outputs["target"])
            torch.autograd.backward(loss)
            if dtype == torch.float32:
                found.update(outputs, loss=loss)
            return {name: p.grad for name, p in self.released(trained).named_parameters()}

        found: dict[str, Tensor] = {}
        norms = {**dict.fromkeys(expected.parameters_without_gradient, 0.0), **expected.grad_norms}
        compared = compare_gradients("train gradients", gradients, norms, GradientTolerance(TOLERANCE))
        if expected.logits is not None:
            yield compare_output("train logits", found["logits"], expected.logits, TOLERANCE)
        yield worst("train loss", [Difference("", found["loss"].item(), expected.loss, TOLERANCE, LOSS_FLOOR)])
        yield from compared


def head_batch(sizes: HeadSizes, prefix: str, name: str) -> Batch:
    """The features of one batch; ``name`` stands before each of theirs ("input", "input.batch0")."""

    def drawn(feature: str, *shape: int) -> Tensor:
        return draw_input(prefix, f"{name}.{feature}", (sizes.batch, *shape), sizes.input_scale)

    reference: Views = {"global": drawn("image", sizes.clip_dim)}
    target: Views = {"global": drawn("target", sizes.clip_dim)}
    if sizes.patches is not None:
        reference["patches"] = drawn("reference_patches", sizes.patches, sizes.clip_dim)
        target["patches"] = drawn("target_patches", sizes.patches, sizes.clip_dim)
    return Batch(reference=reference, target=target, text={"global": drawn("text", sizes.clip_dim)})


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    def cast(views: Views) -> Views:
        return {name: tensor.to(dtype) for name, tensor in views.items()}

    return Batch(cast(batch.reference), cast(batch.target), cast(batch.text))
