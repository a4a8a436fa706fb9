"""What checks and imports SEARLE's φ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.method import Stage
from benchmark.parity.comparison import Deviation
from benchmark.parity.files import Expected, Form, GoldenFile, Rows
from benchmark.parity.rules import draw_input
from benchmark.training.batches import Batch

from ..networks.pseudo_words import first_place
from ..searle import METHOD, Searle, SearleSettings
from .pseudo_words import GoldenWords, golden_words, phi_release

METRIC_NAMES = {
    **{f"cirr_recall_at{k}": f"R@{k}" for k in (1, 5, 10, 50)},
    **{f"cirr_group_recall_at{k}": f"R_subset@{k}" for k in (1, 2, 3)},
    **{f"fiq_recall_at{k}": f"R@{k}" for k in (10, 50)},
    **{f"circo_map_at{k}": f"mAP@{k}" for k in (5, 10, 25, 50)},
}
TARGET_NAMES = {f"circo_recall_at{k}": f"R@{k}" for k in (5, 10, 25, 50)}
RULES = {"cirr": "as-is", "fashioniq": "averaged-orders", "circo": "as-is"}


class _AdamW(Form):
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class _Inputs(Form):
    names: list[str]
    phrases: list[str]
    concepts: list[str]
    masked_phrases: list[str]


class _Trained(Form):
    loss: float
    distillation_loss: float
    gpt_loss: float
    pseudo_word: Rows
    phrase_text: Rows
    masked_phrase_text: Rows


def check_evaluation(golden: GoldenWords) -> Iterator[Deviation]:
    """Words, and the queries and metrics of all three data sets."""
    yield from golden.check_pseudo_words()
    for at, asked in golden.asked():
        yield from golden.check_data(at, asked, "query", METRIC_NAMES)
        if at == "circo":
            of_target = golden.metrics(asked, golden.query(asked), [[target] for target in asked.targets])
            yield golden.check_metrics("circo, the target's recall", of_target, TARGET_NAMES, "eval", at, "metrics")


def check_training(
    golden: GoldenWords, stage: Stage, batches: Sequence[Batch], listed: type[Form],
    outputs: Callable[[Any, Any], dict[str, Tensor]], **more: Any,
) -> Iterator[Deviation]:  # fmt: skip
    """What the first batch gives, and ten steps of AdamW."""
    told, optimiser = golden.file.parse(listed, "train_dropout_off"), golden.file.parse(_AdamW, "steps", "config")
    numbers: dict[str, Expected] = {name: getattr(told, name) for name in listed.model_fields}
    yield from golden.check_gradients(vars(batches[0]), outputs, numbers)
    settings = stage.settings(epochs=5, batch_size=golden.sizes.batch, optimiser="adamw", **optimiser.model_dump())
    yield from golden.check_steps(stage, settings, batches, **more)


def _check(file: GoldenFile) -> Iterator[Deviation]:
    golden = golden_words(file, "$", first_place, Searle, SearleSettings(), RULES)
    yield from check_evaluation(golden)
    told, sizes, method = file.parse(_Inputs, "training_inputs"), golden.sizes, golden.method
    masked = [phrase.replace(k, " $ ") for phrase, k in zip(told.phrases, told.concepts, strict=True)]
    wrong = sum(a != b for a, b in zip(masked, told.masked_phrases, strict=True))
    yield Deviation("masked phrases", float(wrong), 0.0, note=f"{len(masked)} phrases")
    for name, texts in (("token_ids", told.phrases), ("masked_token_ids", masked)):
        yield golden.check_tokens(name, method.text.tokenize(texts), "training_inputs", name)
    batches = []
    for start in range(0, len(told.names), sizes.batch):
        own = slice(start, start + sizes.batch)
        words = [
            draw_input(file.prefix, f"input.oti.{name}", (sizes.transformer_width,), sizes.oti_scale)
            for name in told.names[own]
        ]
        views = {"global": golden.features(told.names[own])}
        text = {
            "phrase": method.text.tokenize(told.phrases[own]), "masked": method.text.tokenize(masked[own]),
            "optimised": torch.stack(words),
        }  # fmt: skip
        batches.append(Batch(views, views, text))
    yield from check_training(golden, METHOD.stages(SearleSettings(), "pretrained")[-1], batches, _Trained, _outputs)


def _outputs(method: Searle, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    reference, text = inputs["reference"], inputs["text"]
    queries = method.encode_query(reference, text)
    assert isinstance(queries, dict)
    words, losses = method.phi(reference["global"]), method.losses(queries)
    return {
        "loss": method.loss(queries, method.encode_target(inputs["target"])),
        "distillation_loss": losses["distillation"], "gpt_loss": losses["phrase"], "pseudo_word": words,
        "phrase_text": method.text(text["phrase"]), "masked_phrase_text": method.text(text["masked"], words),
    }  # fmt: skip


RELEASES = {"searle": phi_release("Phi", "layers.0.weight")}
FORMS = {"searle": _check}
