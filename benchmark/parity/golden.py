"""The general reader: a network with golden weights and inputs against what the released code made of the same.

:class:`Head` reads the form that heads on stored features share, SPIRIT's and the Combiner's: the released state
dict, the sizes, outputs in evaluation mode, and loss, logits and gradient norms in train mode without dropout.
Features are drawn: ``image``, ``text``, ``target`` (B, d), and ``reference_patches``, ``target_patches`` (B, P, d)
where the sizes name patches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from benchmark.method import Method, Stage, Views
from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    compare_count,
    compare_gradients,
    compare_names,
    compare_output,
    worst,
)
from benchmark.parity.files import Expected, ExpectedTraining, Form, GoldenFile, Listed, Matrix, StateDict
from benchmark.parity.rules import Released, Shape, draw_input, draw_weights, head_weight, renamed, without_dropout
from benchmark.parity.training import GoldenRecipe, RecipeConfig, TrainingCase, recipe_settings
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

TOLERANCE = 2e-5
LOSS_FLOOR = 5e-6
"""A cross-entropy of float32 logits near 100 is no more exact than this, however small it is."""


@dataclass(frozen=True)
class Pass:
    """What a forward and a backward pass gave: outputs by the file's names, the rest by released names."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


Passes = Callable[[torch.dtype], Pass]
"""The same pass in float32 or float64."""


@dataclass(frozen=True)
class Golden:
    """A network in evaluation mode and without dropout, and what to compute with it.

    ``name`` stands before each output in the report. ``inputs``: tensors, also nested in dicts and lists.
    ``outputs``: the network and its inputs to all that the file lists, by its names, losses among them; without
    gradients in evaluation. Both are cast to float64 where float32 does not decide. ``leaves``: inputs, or groups of
    them, whose gradients the file lists, too. ``trains_in_evaluation_mode``: losses and gradients are of that mode
    (batch norms that do not follow).
    """

    file: GoldenFile
    name: str
    network: nn.Module
    inputs: Mapping[str, Any]
    outputs: Callable[[Any, Any], dict[str, Tensor]]
    tolerance: float
    gradients: GradientTolerance
    released: Released = dict
    loss_floor: float = 0.0
    leaves: tuple[str, ...] = ()
    trains_in_evaluation_mode: bool = False

    def check_state_dict(self, listed: Mapping[str, Shape], parameters: int) -> Iterator[Deviation]:
        """Names and shapes of all entries, and the number of parameters."""
        yield compare_names(f"{self.name}state dict", shapes_of(self.released(self.network.state_dict())), listed)
        found = sum(parameter.numel() for parameter in self.network.parameters())
        yield compare_count(f"{self.name}parameters", found, parameters)

    @torch.no_grad()
    def evaluated(self) -> dict[str, Tensor]:
        """Outputs of evaluation mode."""
        return self.outputs(self.network.eval(), self.inputs)

    def compare(self, at: str, found: Mapping[str, Tensor], listed: Mapping[str, Expected]) -> Iterator[Deviation]:
        """What the file lists, each beside what was found. Raises UserError for an output that is not known."""
        for name, expected in listed.items():
            if name not in found:
                raise self.file.error(f"{self.name}entry '{at}.{name}' is no output that this reader knows")
            output = f"{self.name}{at} {name}" if at else f"{self.name}{name}"
            yield compare_output(output, found[name], expected, self.tolerance)

    def passes(self, loss: str) -> Passes:
        """Forward and backward from one of the outputs, with a network of its own: batch norms move."""
        return cache(partial(self._pass, loss))

    def check_training(
        self, at: str, passes: Passes, expected: ExpectedTraining, ignored: Callable[[str], bool] = lambda name: False
    ) -> Iterator[Deviation]:
        """The loss, and the norms of gradients that are not ``ignored``."""
        yield from self.check_gradients(at, passes, expected.norms, ignored)
        loss = passes(torch.float32).outputs["loss"].item()
        difference = Difference("", loss, expected.loss, self.tolerance, self.loss_floor)
        yield worst(f"{self.name}{at} loss", [difference])

    def check_gradients(
        self, at: str, passes: Passes, norms: Mapping[str, float], ignored: Callable[[str], bool] = lambda name: False
    ) -> list[Deviation]:
        def gradients(dtype: torch.dtype) -> dict[str, Tensor]:
            return {name: g for name, g in passes(dtype).gradients.items() if not ignored(name)}

        norms = {name: norm for name, norm in norms.items() if not ignored(name)}
        return compare_gradients(f"{self.name}{at} gradients", gradients, norms, self.gradients)

    def _pass(self, loss: str, dtype: torch.dtype) -> Pass:
        network = copy.deepcopy(self.network).to(dtype).train(not self.trains_in_evaluation_mode)
        inputs = cast(self.inputs, dtype)
        leaves: dict[str, Tensor] = {}
        for name in self.leaves:
            group = inputs[name]
            leaves |= {name: group} if isinstance(group, Tensor) else {f"{name}.{n}": t for n, t in group.items()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        outputs = self.outputs(network, inputs)
        torch.autograd.backward(outputs[loss])
        return Pass(
            {"loss": outputs[loss].detach(), **{name: tensor.detach() for name, tensor in outputs.items()}},
            self.released(_gradients(dict(network.named_parameters()))) | _gradients(leaves),
            self.released(network.state_dict()),
        )


def _gradients(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """None and zeros are equal in the files."""
    return {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in tensors.items()}


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """A copy of nested tensors; whole numbers stay as they are."""
    if isinstance(inputs, Mapping):
        return {name: cast(value, dtype) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [cast(value, dtype) for value in inputs]
    return inputs.detach().to(dtype, copy=True) if inputs.is_floating_point() else inputs


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
