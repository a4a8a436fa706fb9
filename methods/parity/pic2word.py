"""What checks and imports Pic2Word."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.parity.comparison import Deviation, Difference, worst
from benchmark.parity.files import Expected, Form, GoldenFile, Matrix
from benchmark.parity.rules import draw_input
from benchmark.training.batches import Batch

from ..networks.layers import normalise
from ..networks.pseudo_words import first_place
from ..pic2word import METHOD, SENTENCE, Pic2Word, Pic2WordSettings
from .pseudo_words import LOSS, GoldenWords, golden_words, phi_release

_METRICS = {f"{prefix}R@{k}": f"R@{k}" for prefix in ("", "recall_") for k in (1, 5, 10, 50, 100)}


class _Config(Form):
    middle_dim: int


class _Optimiser(Form):
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    warmup: int
    total_steps: int


class _Trained(Form):
    loss: float
    logits: Matrix


class _Ranks(Form):
    losses: list[float]
    grad_norms: dict[str, float]


def _check(file: GoldenFile) -> Iterator[Deviation]:
    hidden = file.parse(_Config, "config").middle_dim
    settings = Pic2WordSettings(hidden=hidden)
    rules = {"cirr": "as-is", "fashioniq": "last-first"}
    golden = golden_words(file, "*", first_place, Pic2Word, settings, rules)
    yield from golden.check_pseudo_words()
    yield from _sentences(golden)
    for at, asked in golden.asked():
        yield from golden.check_data(at, asked, "composed", _METRICS)
        pictures = normalise(golden.features(asked.references))
        # The plain text row: on FashionIQ the sentence with its star left in, on CIRR the bare caption.
        said = golden.file.parse(list[str], "eval", at, "texts") if at == "fashioniq" else list(asked.texts)
        with torch.no_grad():
            texts = normalise(golden.method.text(golden.method.text.tokenize(said)))
        for row, query in (("image", pictures), ("text", texts), ("mixture", normalise(pictures + texts))):
            yield golden.compare(f"{at} {row}", query, "eval", at, row)
            found = golden.metrics(asked, query)
            yield golden.check_metrics(f"{at} {row} metrics", found, _METRICS, "eval", at, f"{row}_metrics")
    yield from _training(golden)


def _sentences(golden: GoldenWords) -> Iterator[Deviation]:
    """The training sentence, whose word the release inserts in front of the end token, and one about a domain."""
    file, method = golden.file, golden.method
    words = golden.features(file.parse(list[str], "pictures"))
    with torch.no_grad():
        words = method.eval().phi(words)
        tokens = method.text.tokenize([SENTENCE]).expand(len(words), -1)
        yield golden.compare("training_text", method.text(tokens, words), "eval", "training_text")
        domain = method.text.tokenize(file.parse(list[str], "eval", "domain", "texts"))
        yield golden.check_tokens("domain texts", domain, "eval", "domain", "token_ids")
        said = normalise(method.text(domain.expand(len(words), -1), words))
        yield golden.compare("domain", said, "eval", "domain", "composed")


def _training(golden: GoldenWords) -> Iterator[Deviation]:
    file, sizes, method = golden.file, golden.sizes, golden.method
    sentence = method.text.tokenize([SENTENCE]).expand(sizes.batch, -1)
    batches = []
    for number in (0, 1):
        drawn = draw_input(file.prefix, f"input.batch{number}.image", (sizes.batch, sizes.embed_dim), sizes.input_scale)
        batches.append(Batch({"global": drawn}, {"global": drawn}, {"sentence": sentence}))
    expected = file.parse(_Trained, "train_dropout_off")
    listed: dict[str, Expected] = {"loss": expected.loss, "logits": expected.logits}
    yield from golden.check_gradients(vars(batches[0]), _outputs, listed)
    yield from _ranks(golden, batches[0])
    told = file.parse(_Optimiser, "steps", "config")
    settings = METHOD.stages(Pic2WordSettings(), "pretrained")[-1].settings(
        epochs=told.total_steps // 2, batch_size=sizes.batch, optimiser="adamw", learning_rate=told.learning_rate,
        betas=told.betas, eps=told.eps, weight_decay=told.weight_decay, schedule="cosine",
        warmup_updates=told.warmup,
    )  # fmt: skip
    yield from golden.check_steps(METHOD.stages(Pic2WordSettings(), "pretrained")[-1], settings, batches)


def _outputs(method: Pic2Word, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    queries = method.encode_query(inputs["reference"], inputs["text"])
    targets = method.encode_target(inputs["target"])
    assert isinstance(queries, Tensor)
    scale = method.text.backbone.cosine_scale
    return {"loss": method.loss(queries, targets), "logits": scale * targets @ queries.T}


def _ranks(golden: GoldenWords, batch: Batch) -> Iterator[Deviation]:
    """What the release makes of two processes: the whole batch's loss, and half of its gradient."""
    expected = golden.file.parse(_Ranks, "two_ranks")
    method = golden.method.train()
    method.zero_grad()
    loss = _outputs(method, vars(batch))["loss"]  # type: ignore[arg-type]
    torch.autograd.backward(loss)
    norms = {name: float(p.grad.norm()) / 2 for name, p in method.phi.named_parameters() if p.grad is not None}
    method.zero_grad()
    losses = [Difference("", float(loss.detach()), value, LOSS) for value in expected.losses]
    yield worst("release on two processes: loss", losses)
    pairs = [Difference(name, norms[name], value, 2e-5) for name, value in expected.grad_norms.items()]
    yield worst("release on two processes: half the gradient", pairs)


RELEASES = {"pic2word": phi_release("state_dict_img2text", "layers.0.0.weight")}
FORMS = {"pic2word": _check}
