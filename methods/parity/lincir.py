"""What checks and imports LinCIR's φ."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmark.parity.comparison import Deviation
from benchmark.parity.files import Form, GoldenFile, Rows
from benchmark.parity.rules import draw_input
from benchmark.training.batches import Batch

from ..lincir import METHOD, Lincir, LincirSettings
from ..networks.keyword_masking import MARK, TaggedSentence, cleaned, masked
from ..networks.pseudo_words import every_place
from .pseudo_words import GoldenWords, golden_words, phi_release
from .searle import RULES, check_evaluation, check_training


class _Masking(Form):
    caption: str
    parts_of_speech: list[tuple[str, str]]
    cleaned: str
    keywords: list[str]
    token_ids: list[int]
    masked_token_ids: list[int]
    draws_a_word: bool


class _Inputs(Form):
    texts: list[str]
    masked_texts: list[str]


class _Trained(Form):
    loss: float
    text: Rows
    noisy: Rows
    pseudo_word: Rows
    masked_text: Rows


def _check(file: GoldenFile) -> Iterator[Deviation]:
    golden = golden_words(file, "$", every_place, Lincir, LincirSettings(), RULES)
    yield from check_evaluation(golden)
    yield from _check_masking(golden)
    sizes, method, told = golden.sizes, golden.method, file.parse(_Inputs, "training_inputs")
    texts, marked = method.text.tokenize(told.texts), method.text.tokenize_marked(told.masked_texts, MARK)
    for name, tokens in (("token_ids", texts), ("masked_token_ids", marked)):
        yield golden.check_tokens(name, tokens, "training_inputs", name)
    with torch.no_grad():
        features = method.text(texts)
    batches = []
    for start in range(0, len(texts), sizes.batch):
        own = slice(start, start + sizes.batch)
        views = {"global": features[own]}
        batches.append(Batch(views, views, {"masked": marked[own], "noise": _noise(golden, 0)}))
    yield from check_training(
        golden, METHOD.stages(LincirSettings(), "pretrained")[-1], batches, _Trained, _outputs,
        before_step=lambda step: batches[step % len(batches)].text.update(noise=_noise(golden, step)),
    )  # fmt: skip


def _noise(golden: GoldenWords, step: int) -> Tensor:
    """(B, d): a strength per row, times a direction."""
    prefix, shape = golden.file.prefix, (golden.sizes.batch, golden.sizes.embed_dim)
    generator = np.random.default_rng(zlib.crc32(f"{prefix}input.noise.{step}.scale".encode()))
    strength = torch.from_numpy(generator.random(shape[0], dtype=np.float32))
    return strength[:, None] * draw_input(prefix, f"input.noise.{step}.direction", shape)


def _check_masking(golden: GoldenWords) -> Iterator[Deviation]:
    """Of a sentence whose word is drawn only that something is masked."""
    text, rng = golden.method.text, np.random.default_rng(0)
    for number, case in enumerate(golden.file.parse(list[_Masking], "masking")):
        sentence = TaggedSentence(cleaned(case.caption), tuple(case.parts_of_speech))
        tokens = [row[: int(row.argmax()) + 1].tolist() for row in text.tokenize([sentence.text])][0]
        marked = text.tokenize_marked([masked(sentence, rng)], MARK)[0]
        own = marked[: int(marked.argmax()) + 1].tolist()
        said = (sentence.text, sentence.keywords, tokens) == (case.cleaned, case.keywords, case.token_ids)
        is_masked = 259 in own if case.draws_a_word else own == case.masked_token_ids
        yield Deviation(f"masking {number + 1}", float(not said) + float(not is_masked), 0.0, note=repr(case.caption))


def _outputs(method: Lincir, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    reference, text = inputs["reference"], inputs["text"]
    said, own = method.encode_query(reference, text), method.encode_target(inputs["target"])
    assert isinstance(said, Tensor)
    noisy = reference["global"] + text["noise"]
    return {
        "loss": method.loss(said, own), "text": own, "noisy": noisy, "pseudo_word": method.phi(noisy),
        "masked_text": said,
    }  # fmt: skip


RELEASES = {"lincir": phi_release("Phi", "layers.0.weight")}
FORMS = {"lincir": _check}
