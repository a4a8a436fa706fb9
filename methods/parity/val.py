"""What checks and counts VAL: names, layouts, outputs, loss and gradients of the released TensorFlow code.

TensorFlow's layouts: convolutions (h, w, in, out), linear maps (in, out), maps (B, h, w, C), the
LSTM's gates i, candidate, f, o in one kernel of input rows and then hidden rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from benchmark.evaluation.sizes import Part, PublishedSizes
from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    Matrix,
    Rows,
    compare_count,
    compare_gradients,
    compare_names,
    compare_output,
    compare_tensor,
    missing,
    worst,
)
from benchmark.parity.files import Form, GoldenFile
from benchmark.parity.models import draw_input, without_dropout
from benchmark.parity.rules import Shape, draw

from ..networks.val import Level, Sizes, ValNetwork, level_vectors, unit_norm
from ..networks.val_cnns import VAL_TRUNKS
from ..networks.val_loss import Mining, hardest_allowed, matching_loss, squared_distances
from ..networks.val_optimisation import l2_penalty, penalised

VALUES = 1e-4
GRADIENTS = 1e-3
_DECAY = 4e-5
_STYLES = {"resnet": "resnetv2_50", "mobilenet": "mobilenetv1_100"}
_LSTM_KERNEL = "RNN/bidirectional_lstm/rnn/basic_lstm_cell/kernel"
_TF_GATES = (0, 2, 1, 3)
"""Where PyTorch's gates i, f, candidate, o lie in TensorFlow's order; its own inverse."""

_TEXT = {
    "RNN/token_embedding_weights": "text.words.weight",
    "RNN/bidirectional_lstm/forward/init_state_0": "text.cell",
    "RNN/bidirectional_lstm/forward/init_state_1": "text.hidden",
    "RNN/bidirectional_lstm/rnn/basic_lstm_cell/bias": "text.lstm.bias_ih_l0",
    "projection/text/weights": "text.projection.weight",
}
_KERNELS = ("text.lstm.weight_ih_l0", "text.lstm.weight_hh_l0")
_CONVOLUTIONS = {"Conv": "fusion", "Conv_1": "channel_gate", "Conv_2": "spatial_gate", "Conv_3": "attended"}
_DENSE = {"": "0.k", "_1": "0.v", "_2": "0.q", "_3": "1.k", "_4": "1.v", "_5": "1.q"}
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class _Config(Form):
    image_model: str
    word_embedding_size: PositiveInt
    levels: list[tuple[str, int, int, int]]


class _Listed(Form):
    norm: list[float]
    first16: Matrix


class _Outputs(Form):
    lstm_max: _Listed
    text: _Listed
    losses: dict[str, float]
    loss_sum: float
    query: _Listed | None = None
    gallery: _Listed | None = None
    squared_distances: Matrix | None = None


class _Training(_Outputs):
    regularisation_terms: int
    regularisation_sum: float
    gradient_norms: dict[str, float]
    moving_after_one_update: dict[str, list[float]]


class _Variant(Form):
    config: _Config
    variables: list[tuple[str, list[int]]] = Field(min_length=1)
    eval: _Outputs
    train_dropout_off: _Training


class _NotTheRelease(Form):
    row_wise_mask: float
    no_mask: float


class _LossAlone(Form):
    rows: PositiveInt
    width: PositiveInt
    noise_scale: float
    value: float
    chosen_target_per_composite: list[int]
    chosen_composite_per_target: list[int]
    gradient_norms: dict[str, float]
    not_the_release: _NotTheRelease


class _ValForm(Form):
    batch: PositiveInt
    vocabulary_size: PositiveInt
    token_ids: list[list[int]]
    lengths: list[int]
    margin: float
    variants: dict[str, _Variant] = Field(min_length=1)
    loss_alone: _LossAlone


@dataclass(frozen=True)
class _Inputs:
    """Word numbers (B, L), lengths (B,), and the maps of both sides, (B, C, h, h) per level."""

    tokens: Tensor
    lengths: Tensor
    source: list[Tensor]
    target: list[Tensor]

    def to(self, dtype: torch.dtype) -> _Inputs:
        """A copy whose maps gather gradients."""

        def cast(maps: list[Tensor]) -> list[Tensor]:
            return [x.to(dtype, copy=True).requires_grad_() for x in maps]

        return _Inputs(self.tokens, self.lengths, cast(self.source), cast(self.target))


def check_val(file: GoldenFile) -> Iterator[Deviation]:
    """A deviation for every output; raises UserError where the file is not of this form."""
    form = file.parse(_ValForm)
    for name, variant in form.variants.items():
        if variant.config.image_model not in _STYLES:
            raise file.error(f"entry 'variants.{name}.config.image_model': '{variant.config.image_model}' is unknown")
        raw = file.content["variants"][name]
        yield from _Check(file, form, name, variant, raw).run()
    yield from _check_loss_alone(form.loss_alone, form.margin, file.prefix)


def golden_weight(name: str, shape: Shape, prefix: str) -> NDArray[np.float32]:
    """The rule for one TensorFlow variable; a scalar is drawn as one entry."""
    g = draw(prefix, name, shape or (1,)).reshape(tuple(shape))
    array: NDArray[Any]
    if name.endswith("moving_variance"):
        array = 1 + 0.5 * np.abs(g)
    elif name.endswith(("gamma", "r_weight")):
        array = 1 + 0.1 * g
    elif not shape and name.endswith("/weight"):
        array = 0.5 + 0.1 * g
    elif name.endswith("token_embedding_weights"):
        array = 0.5 * g
    elif len(shape) >= 2:
        array = g / np.sqrt(np.float32(np.prod(shape[:-1])))
    else:
        array = 0.1 * g
    return np.asarray(array, dtype=np.float32)


def released_names(levels: int) -> dict[str, str]:
    """TensorFlow's names of all variables but the LSTM's kernel, to those of a `ValNetwork`."""
    names = dict(_TEXT)
    names |= {f"projection/text/BatchNorm/{tf}": f"text.norm.{own}" for tf, own in _NORM.items()}
    for i in range(levels):
        at, own_at = f"attention{i}", f"compositions.{i}"
        for tf, own in _CONVOLUTIONS.items():
            names[f"{at}/{tf}/weights"] = f"{own_at}.{own}.conv.weight"
            names |= {f"{at}/{tf}/BatchNorm/{t}": f"{own_at}.{own}.norm.{o}" for t, o in _NORM.items()}
        names |= {f"{at}/dense{tf}/kernel": f"{own_at}.heads.{own}.weight" for tf, own in _DENSE.items()}
        names |= {f"{at}/r_weight": f"{own_at}.joint_weight", f"{at}/weight": f"{own_at}.self_weight"}
    return names


def load_released(network: ValNetwork, variables: Mapping[str, NDArray[np.float32]]) -> None:
    """Fill a network from TensorFlow variables by name; PyTorch's constant bias of the forget gate stays."""
    state = network.state_dict()
    kernel = _torch_gates(torch.from_numpy(variables[_LSTM_KERNEL]).T)
    width = network.text.words.embedding_dim
    loaded = {_KERNELS[0]: kernel[:, :width], _KERNELS[1]: kernel[:, width:]}
    for tf, own in released_names(len(network.levels)).items():
        loaded[own] = _to_torch(own, torch.from_numpy(variables[tf])).reshape(state[own].shape)
    network.load_state_dict({**state, **loaded})


def _to_torch(own: str, array: Tensor) -> Tensor:
    if own == "text.lstm.bias_ih_l0":
        return _torch_gates(array)
    if array.ndim == 4:
        return array.permute(3, 2, 0, 1)
    return array.T if ".heads." in own else array


def _torch_gates(rows: Tensor) -> Tensor:
    """(4·H, …) in TensorFlow's order of gates to PyTorch's."""
    gates = rows.chunk(4)
    return torch.cat([gates[i] for i in _TF_GATES])


def _released_shapes(network: ValNetwork) -> dict[str, tuple[int, ...]]:
    state = network.state_dict()
    shapes = {tf: _tf_shape(tf, tuple(state[own].shape)) for tf, own in released_names(len(network.levels)).items()}
    inputs, hidden = (state[name].shape for name in _KERNELS)
    return {**shapes, _LSTM_KERNEL: (inputs[1] + hidden[1], inputs[0])}


def _tf_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name.endswith("/weights"):
        out, channels, *kernel = (*shape, 1, 1)[:4]
        return (*kernel, channels, out)
    if name.endswith("weight"):
        return ()
    return shape[::-1] if name.endswith("/kernel") else shape


@dataclass(frozen=True)
class _Check:
    """One variant of a file: its network with weights by the rule, and the comparisons."""

    file: GoldenFile
    form: _ValForm
    name: str
    variant: _Variant
    raw: Mapping[str, Mapping[str, Mapping[str, object]]]

    def run(self) -> Iterator[Deviation]:
        levels = [Level(name, channels, side) for name, channels, side, _ in self.variant.config.levels]
        network = ValNetwork(
            levels,
            Sizes(word=self.variant.config.word_embedding_size),
            VAL_TRUNKS[_STYLES[self.variant.config.image_model]].style,
        )
        network.text.use_words(self.form.vocabulary_size)
        listed = {name: tuple(shape) for name, shape in self.variant.variables}
        names = compare_names(f"{self.name} variables", _released_shapes(network), listed)
        yield names
        if not names.ok:
            return
        load_released(network, {n: golden_weight(n, s, self.file.prefix) for n, s in listed.items()})
        without_dropout(network)
        inputs = self._inputs(levels)
        with torch.no_grad():
            found = self._outputs(network.eval(), inputs)
        yield from self._compare("eval", found, self.variant.eval, levels)
        yield from self._check_training(network, inputs, levels)

    def _inputs(self, levels: Sequence[Level]) -> _Inputs:
        most = 6.0 if self.variant.config.image_model == "mobilenet" else float("inf")

        def maps(side: str) -> list[Tensor]:
            shapes = {level.name: (self.form.batch, level.side, level.side, level.channels) for level in levels}
            drawn = (draw_input(self.file.prefix, f"input.{side}.{n}", s) for n, s in shapes.items())
            return [x.clamp(0, most).permute(0, 3, 1, 2).contiguous() for x in drawn]

        return _Inputs(
            torch.tensor(self.form.token_ids), torch.tensor(self.form.lengths), maps("source"), maps("target")
        )

    def _outputs(self, network: ValNetwork, inputs: _Inputs) -> dict[str, Tensor]:
        text = network.text(inputs.tokens, inputs.lengths, zero_padding=True)
        composed = network.compose(inputs.source, text)
        query, gallery = level_vectors(composed), level_vectors(inputs.target)
        widths = [level.channels for level in network.levels]
        found = {
            "lstm_max": network.text.pooled(inputs.tokens, inputs.lengths, zero_padding=True),
            "text": text,
            "query": query,
            "gallery": gallery,
            "squared_distances": squared_distances(query, gallery),
        }
        pairs = zip(torch.split(query, widths, 1), torch.split(gallery, widths, 1), strict=True)
        for level, mine, target, (q, t) in zip(network.levels, composed, inputs.target, pairs, strict=True):
            found[f"composed_pooled_{level.name}"] = mine.mean(dim=(2, 3))
            found[f"target_pooled_{level.name}"] = target.mean(dim=(2, 3))
            found[f"composed_map_{level.name}_row0"] = mine[0]
            found[f"loss_{level.name}"] = matching_loss(q, t, self.form.margin, "column")
        found["loss_sum"] = torch.stack([found[f"loss_{level.name}"] for level in network.levels]).sum()
        return found

    def _compare(
        self, mode: str, found: Mapping[str, Tensor], expected: _Outputs, levels: Sequence[Level]
    ) -> Iterator[Deviation]:
        at = f"{self.name} {mode}"
        pooled = [f"{side}_pooled_{level.name}" for level in levels for side in ("composed", "target")]
        for name in ("lstm_max", "text", *pooled, "query", "gallery"):
            if name in self.raw[mode]:
                rows = self.file.parse(_Listed, self.raw[mode][name], f"variants.{self.name}.{mode}.{name}")
                listed = Rows(norms=rows.norm, first16=rows.first16)
                yield compare_output(f"{at} {name}", found[name], listed, VALUES)
        for level in levels:
            name = f"composed_map_{level.name}_row0"
            yield self._compare_places(f"{at} {name}", found[name], self.raw[mode].get(name, {}))
        if expected.squared_distances is not None:
            output = f"{at} squared distances"
            yield compare_output(output, found["squared_distances"], expected.squared_distances, VALUES)
        losses = {**{f"loss_{n}": v for n, v in expected.losses.items()}, "loss_sum": expected.loss_sum}
        yield worst(f"{at} losses", [Difference(n, found[n].item(), v, VALUES) for n, v in losses.items()])

    def _compare_places(self, output: str, found: Tensor, places: Mapping[str, object]) -> Deviation:
        """Six channels of a map (C, h, h) at each "row,column"."""
        if not places:
            return missing(output, "no positions are listed")
        corners = [tuple(map(int, place.split(","))) for place in places]
        listed = [values for values in places.values() if isinstance(values, list)]
        values = torch.stack([found[: len(listed[0]), row, column] for row, column in corners])
        return compare_tensor(output, values, listed, VALUES)

    def _check_training(
        self, network: ValNetwork, inputs: _Inputs, levels: Sequence[Level]
    ) -> Iterator[Deviation]:
        expected, trained_state = self.variant.train_dropout_off, dict[str, Tensor]()
        found: dict[str, Tensor] = {}

        def gradients(dtype: torch.dtype) -> Mapping[str, Tensor | None]:
            trained = copy.deepcopy(network).to(dtype).train()
            batch = inputs.to(dtype)
            outputs = self._outputs(trained, batch)
            torch.autograd.backward(outputs["loss_sum"])
            if dtype == torch.float32:
                found.update({name: tensor.detach() for name, tensor in outputs.items()})
                trained_state.update(trained.state_dict())
            return _gradients(trained, batch)

        tolerance = GradientTolerance(GRADIENTS, is_noise=lambda name: name == "projection/text/BatchNorm/beta")
        compared = compare_gradients(f"{self.name} train gradients", gradients, expected.gradient_norms, tolerance)
        yield from self._compare("train_dropout_off", found, expected, levels)
        yield from compared
        own = released_names(len(levels))
        statistics = [
            Difference(f"{name}[{i}]", trained_state[own[name]][i].item(), value, VALUES, VALUES)
            for name, values in expected.moving_after_one_update.items()
            for i, value in enumerate(values)
        ]
        yield worst(f"{self.name} moving statistics after one update", statistics)
        penalty = Difference("", l2_penalty(network, _DECAY).item(), expected.regularisation_sum, VALUES)
        yield worst(f"{self.name} L2 penalty", [penalty])
        terms = len(penalised(network))
        yield compare_count(f"{self.name} terms of the L2 penalty", terms, expected.regularisation_terms)


def _gradients(network: ValNetwork, inputs: _Inputs) -> dict[str, Tensor | None]:
    """Gradients by TensorFlow's names, and of the maps."""
    parameters = dict(network.named_parameters())
    found: dict[str, Tensor | None] = {}
    for tf, own in released_names(len(network.levels)).items():
        if own in parameters:
            found[tf] = parameters[own].grad
    parts = [parameters[name].grad for name in _KERNELS]
    found[_LSTM_KERNEL] = torch.cat([part for part in parts if part is not None], dim=1)
    for side, maps in (("source", inputs.source), ("target", inputs.target)):
        found |= {f"{side}.{level.name}": x.grad for level, x in zip(network.levels, maps, strict=True)}
    return found


def _check_loss_alone(expected: _LossAlone, margin: float, prefix: str) -> Iterator[Deviation]:
    shape = (expected.rows, expected.width)
    target = draw_input(prefix, "input.loss.target", shape)
    composite = target + draw_input(prefix, "input.loss.noise", shape, expected.noise_scale)

    def loss(composite: Tensor, target: Tensor, mining: Mining) -> Tensor:
        return matching_loss(unit_norm(composite), unit_norm(target), margin, mining)

    other = expected.not_the_release
    wanted: dict[Mining, float] = {"column": expected.value, "row": other.row_wise_mask, "none": other.no_mask}
    yield worst("loss alone", [Difference(m, loss(composite, target, m).item(), v, VALUES) for m, v in wanted.items()])
    distances = squared_distances(unit_norm(composite), unit_norm(target))
    chosen = [hardest_allowed(d, "column")[1].tolist() for d in (distances, distances.T)]
    listed = [expected.chosen_target_per_composite, expected.chosen_composite_per_target]
    wrong = sum(a != b for mine, theirs in zip(chosen, listed, strict=True) for a, b in zip(mine, theirs, strict=True))
    yield Deviation("loss alone: chosen negatives", wrong, 0, note=f"{2 * expected.rows} negatives")

    def gradients(dtype: torch.dtype) -> Mapping[str, Tensor | None]:
        leaves = {"composite": composite.to(dtype, copy=True), "target": target.to(dtype, copy=True)}
        for leaf in leaves.values():
            leaf.requires_grad_()
        torch.autograd.backward(loss(leaves["composite"], leaves["target"], "column"))
        return {name: leaf.grad for name, leaf in leaves.items()}

    tolerance = GradientTolerance(GRADIENTS)
    yield from compare_gradients("loss alone: gradients", gradients, expected.gradient_norms, tolerance)


FORMS = {"val": check_val}
SIZES = {
    "val": {
        "ResNet-50 v2": PublishedSizes(
            (
                Part(
                    "CNN without its classifier", ("cnn.",), 23_520_000, 20_000,
                    "timm's stand-in for TF-slim's: its convolutions have no biases, 19,008 fewer",
                ),
                Part("LSTM", ("network.text.lstm.weight", "network.text.lstm.bias_ih"), 6_300_000, 5_000),
                Part("text projection", ("network.text.projection.", "network.text.norm."), 530_000, 5_000),
                Part("composition, low", ("network.compositions.0.",), 1_450_000, 5_000),
                Part("composition, mid", ("network.compositions.1.",), 5_250_000, 5_000),
                Part("composition, high", ("network.compositions.2.",), 19_940_000, 5_000),
            ),
            settings={"start": "random"},
            words=39,
        )
    }
}  # fmt: skip
