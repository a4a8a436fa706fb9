"""What checks VAL: names, layouts, outputs, loss and gradients of the released TensorFlow code.

TensorFlow's layouts: convolutions (h, w, in, out), linear maps (in, out), maps (B, h, w, C), the
LSTM's gates i, candidate, f, o in one kernel of input rows and then hidden rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    compare_count,
    compare_names,
    compare_output,
    worst,
)
from benchmark.parity.files import ExpectedTraining, Form, GoldenFile, Listed, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import Array, Released, draw_input, draw_rearranged, weight_rule, without_dropout
from benchmark.weights.fit import shapes_of

from ..networks.val import Level, ValNetwork, ValSizes, level_vectors, unit_norm
from ..networks.val_cnns import VAL_TRUNKS
from ..networks.val_training import (
    Mining,
    hardest_allowed,
    l2_penalty,
    matching_loss,
    penalised,
    squared_distances,
)

VALUES = 1e-4
GRADIENTS = GradientTolerance(1e-3, is_noise=lambda name: name == "projection/text/BatchNorm/beta")
_DECAY = 4e-5
_STYLES = {"resnet": "resnetv2_50", "mobilenet": "mobilenetv1_100"}
_LSTM_KERNEL = "RNN/bidirectional_lstm/rnn/basic_lstm_cell/kernel"
_LSTM_BIAS = "RNN/bidirectional_lstm/rnn/basic_lstm_cell/bias"
_TEXT = {
    "RNN/token_embedding_weights": "text.words.weight",
    "RNN/bidirectional_lstm/forward/init_state_0": "text.cell",
    "RNN/bidirectional_lstm/forward/init_state_1": "text.hidden",
    _LSTM_BIAS: "text.lstm.bias_ih_l0",
    "projection/text/weights": "text.projection.weight",
}
_CONVOLUTIONS = {"Conv": "fusion", "Conv_1": "channel_gate", "Conv_2": "spatial_gate", "Conv_3": "attended"}
_DENSE = {"": "0.k", "_1": "0.v", "_2": "0.q", "_3": "1.k", "_4": "1.v", "_5": "1.q"}
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class _Config(Form):
    image_model: str
    word_embedding_size: PositiveInt
    levels: list[tuple[str, int, int, int]]


class _Losses(Form):
    losses: dict[str, float]
    loss_sum: float


class _Training(ExpectedTraining):
    regularisation_terms: int
    regularisation_sum: float
    moving_after_one_update: dict[str, list[float]]


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


@weight_rule
def _weight(name: str, g: Array) -> NDArray[Any]:
    if name.endswith("moving_variance"):
        return 1 + 0.5 * np.abs(g)
    if name.endswith(("gamma", "r_weight")):
        return 1 + 0.1 * g
    if g.ndim == 0 and name.endswith("/weight"):
        return 0.5 + 0.1 * g
    if name.endswith("token_embedding_weights"):
        return 0.5 * g
    return g / np.sqrt(np.float32(np.prod(g.shape[:-1]))) if g.ndim >= 2 else 0.1 * g


def _released(levels: int) -> Released:
    """To TensorFlow's names and layouts; PyTorch's second bias of the LSTM is no variable there."""
    names = _TEXT | {f"projection/text/BatchNorm/{tf}": f"text.norm.{own}" for tf, own in _NORM.items()}
    for i in range(levels):
        at, own_at = f"attention{i}", f"compositions.{i}"
        for tf, own in _CONVOLUTIONS.items():
            names[f"{at}/{tf}/weights"] = f"{own_at}.{own}.conv.weight"
            names |= {f"{at}/{tf}/BatchNorm/{t}": f"{own_at}.{own}.norm.{o}" for t, o in _NORM.items()}
        names |= {f"{at}/dense{tf}/kernel": f"{own_at}.heads.{own}.weight" for tf, own in _DENSE.items()}
        names |= {f"{at}/r_weight": f"{own_at}.joint_weight", f"{at}/weight": f"{own_at}.self_weight"}

    def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kernel = torch.cat([state["text.lstm.weight_ih_l0"], state["text.lstm.weight_hh_l0"]], dim=1)
        variables = {tf: _laid_out(tf, state[own]) for tf, own in names.items() if own in state}
        return {**variables, _LSTM_KERNEL: _gates(kernel).T}

    return released


def _laid_out(name: str, tensor: Tensor) -> Tensor:
    if name == _LSTM_BIAS:
        return _gates(tensor)
    if name.endswith("/weights"):  # of a convolution; a linear map is one of 1×1 there
        return tensor.reshape(*tensor.shape, *(1,) * (4 - tensor.ndim)).permute(2, 3, 1, 0)
    if name.endswith("weight"):
        return tensor.reshape(())
    return tensor.T if name.endswith("/kernel") else tensor


def _gates(rows: Tensor) -> Tensor:
    """(4·H, …) of PyTorch's gates i, f, candidate, o in TensorFlow's order."""
    i, f, candidate, o = rows.chunk(4)
    return torch.cat([i, candidate, f, o])


def _check(file: GoldenFile) -> Iterator[Deviation]:
    margin = file.parse(float, "margin")
    for name in file.parse(dict[str, Any], "variants"):
        config = file.parse(_Config, "variants", name, "config")
        if config.image_model not in _STYLES:
            raise file.error(f"entry 'variants.{name}.config.image_model': '{config.image_model}' is unknown")
        golden = _golden(file, name, config, margin)
        shapes = shapes_of(golden.released(golden.network.state_dict()))
        names = compare_names(f"{name} variables", shapes, file.parse(StateDict, "variants", name, "variables").root)
        yield names
        if names.ok:
            yield from _compare(golden, name, "eval", golden.evaluated())
            yield from _check_training(golden, name)
    yield from _check_loss_alone(file, margin)


def _golden(file: GoldenFile, name: str, config: _Config, margin: float) -> Golden:
    levels = [Level(level, channels, side) for level, channels, side, _ in config.levels]
    style = VAL_TRUNKS[_STYLES[config.image_model]].style
    network = ValNetwork(levels, ValSizes(word=config.word_embedding_size), style)
    network.text.use_words(file.parse(int, "vocabulary_size"))
    released = _released(len(levels))
    draw_rearranged(network, _weight, file.prefix, released)
    without_dropout(network)
    batch, most = file.parse(int, "batch"), 6.0 if config.image_model == "mobilenet" else float("inf")

    def maps(side: str) -> dict[str, Tensor]:
        """(B, C, h, h) by level."""
        shapes = {level.name: (batch, level.side, level.side, level.channels) for level in levels}
        drawn = {n: draw_input(file.prefix, f"input.{side}.{n}", shape) for n, shape in shapes.items()}
        return {n: x.clamp(0, most).permute(0, 3, 1, 2).contiguous() for n, x in drawn.items()}

    def outputs(network: ValNetwork, inputs: dict[str, Any]) -> dict[str, Tensor]:
        words, source, target = (inputs["tokens"], inputs["lengths"]), inputs["source"], inputs["target"]
        text = network.text(*words, zero_padding=True)
        composed = network.compose(list(source.values()), text)
        query, gallery = level_vectors(composed), level_vectors(list(target.values()))
        found = {
            "lstm_max": network.text.pooled(*words, zero_padding=True), "text": text, "query": query,
            "gallery": gallery, "squared distances": squared_distances(query, gallery),
        }  # fmt: skip
        widths = [level.channels for level in levels]
        pairs = zip(torch.split(query, widths, 1), torch.split(gallery, widths, 1), strict=True)
        for (level, theirs), mine, pair in zip(target.items(), composed, pairs, strict=True):
            found[f"composed_pooled_{level}"] = mine.mean(dim=(2, 3))
            found[f"target_pooled_{level}"] = theirs.mean(dim=(2, 3))
            found[f"composed_map_{level}_row0"] = mine[0]
            found[f"loss_{level}"] = matching_loss(*pair, margin, "column")
        found["loss_sum"] = torch.stack([found[f"loss_{level}"] for level in target]).sum()
        return found

    inputs = {n: torch.tensor(file.parse(list[Any], at)) for n, at in (("tokens", "token_ids"), ("lengths", "lengths"))}
    return Golden(
        file, f"{name} ", network, {**inputs, "source": maps("source"), "target": maps("target")}, outputs,
        VALUES, GRADIENTS, released, leaves=("source", "target"),
    )  # fmt: skip


def _compare(golden: Golden, name: str, mode: str, found: Mapping[str, Tensor]) -> Iterator[Deviation]:
    at = ("variants", name, mode)
    losses = golden.file.parse(_Losses, *at)
    listed = {o.replace("_distances", " distances"): e for o, e in golden.file.parse(Listed, *at).outputs.items()}
    required = {"lstm_max", "text", *(output for output in found if output.startswith("composed_map_"))}
    for output in sorted(required - listed.keys()):
        raise golden.file.error(f"entry '{'.'.join(at)}.{output}' is missing")
    known = {output: expected for output, expected in listed.items() if output in found and "loss" not in output}
    yield from golden.compare(mode, found, known)
    wanted = {**{f"loss_{level}": loss for level, loss in losses.losses.items()}, "loss_sum": losses.loss_sum}
    yield worst(f"{name} {mode} losses", [Difference(n, found[n].item(), v, VALUES) for n, v in wanted.items()])


def _check_training(golden: Golden, name: str) -> Iterator[Deviation]:
    expected = golden.file.parse(_Training, "variants", name, "train_dropout_off")
    passes = golden.passes("loss_sum")
    yield from _compare(golden, name, "train_dropout_off", passes(torch.float32).outputs)
    yield from golden.check_gradients("train", passes, expected.norms)
    state = passes(torch.float32).state
    statistics = [
        Difference(f"{variable}[{i}]", state[variable][i].item(), value, VALUES, VALUES)
        for variable, values in expected.moving_after_one_update.items()
        for i, value in enumerate(values)
    ]
    yield worst(f"{name} moving statistics after one update", statistics)
    yield compare_output(f"{name} L2 penalty", l2_penalty(golden.network, _DECAY), expected.regularisation_sum, VALUES)
    terms = len(penalised(golden.network))
    yield compare_count(f"{name} terms of the L2 penalty", terms, expected.regularisation_terms)


def _check_loss_alone(file: GoldenFile, margin: float) -> Iterator[Deviation]:
    expected = file.parse(_LossAlone, "loss_alone")
    shape = (expected.rows, expected.width)
    target = draw_input(file.prefix, "input.loss.target", shape)
    composite = target + draw_input(file.prefix, "input.loss.noise", shape, expected.noise_scale)
    other = expected.not_the_release
    wanted: dict[Mining, float] = {"column": expected.value, "row": other.row_wise_mask, "none": other.no_mask}

    def losses(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pair = unit_norm(inputs["composite"]), unit_norm(inputs["target"])
        return {mining: matching_loss(*pair, margin, mining) for mining in wanted}

    inputs = {"composite": composite, "target": target}
    golden = Golden(
        file, "loss alone:", nn.Identity(), inputs, losses, VALUES, GradientTolerance(1e-3), leaves=tuple(inputs)
    )
    found = golden.evaluated()
    yield worst("loss alone", [Difference(m, found[m].item(), v, VALUES) for m, v in wanted.items()])
    distances = squared_distances(unit_norm(composite), unit_norm(target))
    chosen = [hardest_allowed(d, "column")[1].tolist() for d in (distances, distances.T)]
    listed = [expected.chosen_target_per_composite, expected.chosen_composite_per_target]
    wrong = sum(a != b for mine, theirs in zip(chosen, listed, strict=True) for a, b in zip(mine, theirs, strict=True))
    yield Deviation("loss alone: chosen negatives", wrong, 0, note=f"{2 * expected.rows} negatives")
    yield from golden.check_gradients("", golden.passes("column"), expected.gradient_norms)


FORMS = {"val": _check}
