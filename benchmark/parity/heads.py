"""Golden numbers of heads on stored features: SPIRIT's and the Combiner's form.

A file lists the released state dict, the sizes, outputs in evaluation mode, and loss, logits and
gradient norms in train mode without dropout. Features are drawn: ``image``, ``text``, ``target``
(B, d), and ``reference_patches``, ``target_patches`` (B, P, d) where the sizes name patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from benchmark.method import Method, Stage, Views
from benchmark.parity.comparison import Deviation, GradientTolerance, compare_names
from benchmark.parity.files import ExpectedTraining, Form, GoldenFile, Listed, Matrix, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import draw_input, draw_weights, head_weight, renamed, shapes_of, without_dropout
from benchmark.parity.training import GoldenRecipe, RecipeConfig, TrainingCase, recipe_settings
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


class _Training(ExpectedTraining):
    logits: Matrix | None = None


@dataclass(frozen=True)
class Head:
    """How a method on stored features reads this form.

    ``build`` makes it from the sizes, ``part`` is its submodule with the released names, and
    ``outputs`` computes what files list besides query, target and logits, by their names.
    """

    build: Callable[[HeadSizes], Method]
    part: str
    outputs: Callable[[Method, Batch], dict[str, Tensor]] = lambda method, batch: {}

    def check(self, file: GoldenFile) -> Iterator[Deviation]:
        """A deviation for every output; raises UserError where the file is not of this form."""
        sizes, trained = file.parse(HeadSizes, "config"), file.parse(_Training, "train_dropout_off")
        golden = Golden(
            file,
            name="",
            network=self.golden_method(sizes, file.prefix),
            inputs=vars(head_batch(sizes, file.prefix, "input")),
            outputs=self._all_outputs,
            tolerance=TOLERANCE,
            gradients=GradientTolerance(TOLERANCE),
            released=renamed(lambda name: name.removeprefix(f"{self.part}.")),
            loss_floor=LOSS_FLOOR,
        )
        shapes = shapes_of(golden.released(golden.network.state_dict()))
        yield compare_names("state dict", shapes, file.parse(StateDict, "state_dict").root)
        yield from golden.compare("eval", golden.evaluated(), file.parse(Listed, "eval").outputs)
        passes = golden.passes("loss")
        if trained.logits is not None:
            yield from golden.compare("train", passes(torch.float32).outputs, {"logits": trained.logits})
        yield from golden.check_training("train", passes, trained)

    def training_case(self, file: GoldenFile, name: str, recipe: GoldenRecipe, stage: Stage) -> TrainingCase:
        """A recipe of a training file that trains this head as ``stage`` does."""
        at = ("recipes", name, "config")
        sizes, config = file.parse(HeadSizes, *at), file.parse(RecipeConfig, *at)
        method = self.golden_method(sizes, file.prefix)
        batches = (head_batch(sizes, file.prefix, f"input.batch{number}") for number in (0, 1))
        return TrainingCase(
            method, method.get_submodule(self.part), stage, recipe_settings(config, stage.settings), tuple(batches)
        )

    def golden_method(self, sizes: HeadSizes, prefix: str) -> Method:
        """The method with weights by the rule and without dropout."""
        method = self.build(sizes)
        draw_weights(method.get_submodule(self.part), head_weight, prefix)
        without_dropout(method)
        return method

    def _all_outputs(self, method: Method, inputs: dict[str, Views]) -> dict[str, Tensor]:
        batch = Batch(**inputs)
        query, target = method.encode_query(batch.reference, batch.text), method.encode_target(batch.target)
        assert isinstance(query, Tensor) and isinstance(target, Tensor)
        common = {"query": query, "target": target, "logits": 100 * query @ target.T}
        return {**common, "loss": method.loss(query, target), **self.outputs(method, batch)}


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
