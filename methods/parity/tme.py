"""What checks and imports TME."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from benchmark.interop.importing import Release
from benchmark.parity.comparison import Deviation, Difference, compare_count, compare_names, worst
from benchmark.parity.files import Form, GoldenFile, Listed, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import draw, renamed
from benchmark.parity.training import BATCHES, GoldenRecipe, TrainingCase
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

from ..networks.blip2_stage import Blip2Settings, PictureTokens
from ..networks.tme import DifferenceStage, PhaseName, are_clean, clean_probabilities
from ..tme import METHOD, Tme, TmeTraining, losses_of_entries
from .blip2 import (
    GRADIENTS,
    TOLERANCE,
    FirstStageSizes,
    Text,
    check_texts,
    golden_inputs,
    golden_network,
    seen_by_vit,
    sizes_named,
)
from .sprc import CHANGES, LEFT_OUT, CycleConfig, golden_words, released_settings, stored_batch

_BELOW_FLOOR = 5e-5
_PROBABILITY = 0.03


def _golden_tme(file: GoldenFile, sizes: FirstStageSizes, training: TmeTraining) -> Tme:
    return Tme(golden_network(file, sizes, DifferenceStage), PictureTokens(None), training)


class _Phase(Form):
    losses: dict[str, float]
    loss_cirr: float
    parameters_without_gradient: list[str]
    grad_norms: dict[str, float] = {}


class _BelowFloor(Form):
    temp_before: float
    temp_after: float
    losses: dict[str, float]


class _Split(Form):
    clean: PositiveInt
    noisy: PositiveInt
    clean_count: int
    probabilities_first: list[float]
    probabilities_last: list[float]
    between: list[tuple[int, float]]
    wrong: list[int]


def _check(file: GoldenFile) -> Iterator[Deviation]:
    sizes, texts = file.parse(FirstStageSizes, "config"), file.parse(list[Text], "texts")
    inputs = {**golden_inputs(file, sizes, texts), "labels": torch.tensor(file.parse(list[float], "labels"))}
    yield check_texts("texts", texts, sizes.max_text_tokens)

    def golden(phase: PhaseName, temperature: float | None = None) -> Golden:
        method = _golden_tme(file, sizes, TmeTraining())
        method.phase.name = phase
        if temperature is not None:
            with torch.no_grad():
                method.network.temp.fill_(temperature)
        return Golden(
            file, "", method, inputs, _outputs, TOLERANCE, GRADIENTS,
            renamed(lambda name: name.removeprefix("network.")),
        )  # fmt: skip

    added = file.parse(StateDict, "state_dict_difference", "added").root
    shapes = shapes_of(golden("full").network.get_submodule("network").state_dict())
    own = {name: shape for name, shape in shapes.items() if name in added}
    yield compare_names("state dict, beside SPRC's", own, added)
    yield from golden("full").compare("eval", golden("full").evaluated(), file.parse(Listed, "eval").outputs)
    phases: tuple[PhaseName, ...] = ("qformer", "proj", "last", "full")
    for phase in phases:
        expected = file.parse(_Phase, "train_dropout_off", phase)
        own_phase = golden(phase)
        passes = own_phase.passes("loss_cirr")
        listed = {**expected.losses, "loss_cirr": expected.loss_cirr}
        yield from own_phase.compare(phase, passes(torch.float32).outputs, listed)
        without = [n for n, g in passes(torch.float32).gradients.items() if not g.any() and "visual_encoder" not in n]
        differing = sorted(set(without) ^ set(expected.parameters_without_gradient))
        yield Deviation(f"{phase} without gradient", len(differing), 0, differing[0] if differing else "")
        if expected.grad_norms:
            still = dict.fromkeys((n for n, _ in own_phase.network.named_parameters() if "visual_encoder" in n), 0.0)
            norms = {n.removeprefix("network."): v for n, v in still.items()}
            norms |= {**dict.fromkeys(expected.parameters_without_gradient, 0.0), **expected.grad_norms}
            yield from own_phase.check_gradients(phase, passes, norms)
    yield from _check_floor(file.parse(_BelowFloor, "temperature_below_its_floor"), golden)
    yield from _check_split(file.parse(_Split, "split"), file.prefix)


def _outputs(method: Tme, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    network, words = method.network, inputs["words"]
    reference, target = seen_by_vit(network, inputs)
    text = {"tokens": words, "clean": inputs["labels"]}
    targets, triplet = method.encode_target(target), method.encode_triplet(reference, text, target)
    assert isinstance(triplet, dict)
    losses = method.losses(triplet, targets)
    if torch.is_grad_enabled():
        return {**losses, "loss_cirr": method.loss(triplet, targets), "temp": network.temp}
    picture, other = network.vision(reference["tokens"]), network.vision(target["tokens"])
    scores = method.score(triplet["query"], targets)
    return {
        "reference_queries": network.picture_queries(picture), "query": triplet["query"], "target": targets,
        "scores": scores, "difference_queries": network.difference(picture, other),
        "difference_query": triplet["difference"], "prompt_query": triplet["prompted"],
        "loss_per_triplet": losses_of_entries(method, reference, text, target),
        "similarity_per_triplet": scores.diagonal(),
    }  # fmt: skip


def _check_floor(form: _BelowFloor, golden: object) -> Iterator[Deviation]:
    assert callable(golden)
    own: Golden = golden("full", form.temp_before)
    outputs = own.passes("loss_cirr")(torch.float32).outputs
    differences = [
        Difference(name, float(outputs[name]), value, _BELOW_FLOOR)
        for name, value in {**form.losses, "temp": form.temp_after}.items()
    ]
    yield worst("temperature below its floor", differences)


def _check_split(form: _Split, prefix: str) -> Iterator[Deviation]:
    clean = 0.3 * np.abs(draw(prefix, "input.split.clean", (form.clean,)))
    noisy = 2 + 0.6 * draw(prefix, "input.split.noisy", (form.noisy,))
    losses = np.concatenate([clean, noisy]).astype(np.float64)
    found, labels = clean_probabilities(losses, 0), are_clean(losses, 0)
    yield compare_count("split: clean", int(labels.sum()), form.clean_count)
    wrong = np.flatnonzero(labels != (np.arange(len(losses)) < form.clean)).tolist()
    yield Deviation("split: wrong", len(set(wrong) ^ set(form.wrong)), 0)
    count, last = len(form.probabilities_first), len(form.probabilities_last)
    places = [*range(count), *range(len(losses) - last, len(losses)), *(place for place, _ in form.between)]
    wanted = [*form.probabilities_first, *form.probabilities_last, *(value for _, value in form.between)]
    pairs = zip(places, wanted, strict=True)
    differences = [Difference(f"entry {i}", float(found[i]), w, 0.0, _PROBABILITY, scale=0.0) for i, w in pairs]
    yield worst("split: probabilities", differences)


class _Second(Form):
    lr: float


class _Config(CycleConfig):
    loss_weights: dict[str, float]
    labels_of_the_full_phase: list[float]
    second_optimiser: _Second


class _Steps(Form):
    phase: list[PhaseName]


def _training_case(file: GoldenFile, name: str, recipe: GoldenRecipe) -> TrainingCase:
    config = file.parse(_Config, "recipes", name, "config")
    phases = file.parse(_Steps, "recipes", name, "by_step").phase
    sizes = sizes_named(file, config.model, config.batch, config.coarse)
    settings = TmeTraining(**config.settings(), difference_weight=config.loss_weights["lrd"])
    method, words = _golden_tme(file, sizes, settings), golden_words(file, name, recipe, sizes)
    labels = torch.tensor(config.labels_of_the_full_phase)

    def batch(number: int) -> Batch:
        stored = stored_batch(file, sizes, method.network, number, words[number])
        return Batch(stored.reference, stored.target, {**stored.text, "clean": labels})

    def set_phase(step: int) -> None:
        method.phase.name = phases[step]

    stage = METHOD.stages(Blip2Settings(), "pretrained")[-1]
    batches = [batch(number) for number in range(BATCHES)]
    return TrainingCase(method, method.network, stage, settings, batches, CHANGES, before_step=set_phase)


FORMS = {"tme": _check}
TRAINING = {"tme": _training_case}
RELEASES = {"tme": Release(part="network", settings=released_settings, left_out=LEFT_OUT)}
