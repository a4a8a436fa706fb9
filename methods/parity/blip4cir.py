"""What checks and imports BLIP4CIR+Bi: BLIP's encoders, the marked texts, both stages with their reversed queries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from benchmark.encoders.blip import CONTEXT, Blip, BlipSizes, enlarged
from benchmark.encoders.wordpiece import encode, padded
from benchmark.interop.importing import Release
from benchmark.method import REVERSED
from benchmark.parity.comparison import Deviation, compare_names, compare_output
from benchmark.parity.files import Form, GoldenFile, Listed, Matrix, Rows, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import clip_images, draw_input, draw_weights, renamed, without_dropout
from benchmark.parity.training import BATCHES, GoldenRecipe, TrainingCase
from benchmark.text_rules import text_rule
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

from ..blip4cir import METHOD, Blip4Cir, Blip4CirSettings
from ..networks.layers import Combiner
from ..networks.reversed_queries import SumTraining, TextSum
from .blip2 import GRADIENTS, TOLERANCE, GoldenBert, GoldenVit, blip2_weight, model_named
from .sprc import CHANGES


class _CombinerSizes(Form):
    projection: PositiveInt
    hidden: PositiveInt


class _Sizes(Form):
    vit: GoldenVit
    text: GoldenBert
    embedding: PositiveInt
    combiner: _CombinerSizes
    batch: PositiveInt
    coarse: PositiveInt

    def blip(self) -> Blip:
        vit, text = self.vit, self.text
        return Blip(BlipSizes(
            vit.image_size, vit.patch_size, vit.width, vit.layers, vit.heads,
            text.width, text.layers, text.heads, text.mlp_width, self.embedding, dropout=0.0,
        ))  # fmt: skip


class _Text(Form):
    """One caption, or two that FashionIQ's rule joins, in both directions."""

    raw: str | tuple[str, str]
    forward: str
    forward_ids: list[int]
    backward: str
    backward_ids: list[int]


class _Enlarged(Form):
    before: list[int]
    after: list[int]
    rows: Rows


class _Stage(Form):
    loss_forward: float
    loss_reversed: float
    loss: float
    logits: Matrix | None = None
    logits_reversed: Matrix | None = None
    grad_norms: dict[str, float] = {}
    parameters_without_gradient: list[str] = []


def _golden_sum(file: GoldenFile, sizes: _Sizes, training: SumTraining) -> TextSum:
    """Stage 1 with golden weights and the whole of the released state dict in its backbone."""
    backbone = sizes.blip()
    backbone.text_encoder.embeddings.register_buffer("position_ids", torch.zeros(1, 512, dtype=torch.int64))
    draw_weights(backbone, blip2_weight, file.prefix)
    return TextSum(backbone.eval(), pixels=False, training=training)


@torch.no_grad()
def _stored(file: GoldenFile, sizes: _Sizes, blip: Any, name: str) -> dict[str, Tensor]:
    """What the frozen encoder says of the pictures of that name."""
    pixels = clip_images(name, sizes.batch, sizes.vit.image_size, sizes.coarse, file.prefix)
    return {"global": blip.encode_image(torch.from_numpy(pixels))}


def _check(file: GoldenFile) -> Iterator[Deviation]:
    sizes, texts = file.parse(_Sizes, "config"), file.parse(list[_Text], "texts")
    stage_1 = _golden_sum(file, sizes, SumTraining())
    blip = stage_1.backbone
    stage_2 = Blip4Cir(Combiner(sizes.embedding, sizes.combiner.projection, sizes.combiner.hidden, 0.0), 0.0)
    draw_weights(stage_2.combiner, blip2_weight, file.prefix)
    yield compare_names("state dict", shapes_of(blip.state_dict()), file.parse(StateDict, "state_dict").root)
    combiner = shapes_of(stage_2.combiner.state_dict())
    yield compare_names("Combiner's state dict", combiner, file.parse(StateDict, "combiner_state_dict").root)
    yield _check_texts(texts)
    yield _check_positions(file)
    inputs: dict[str, Any] = {side: _stored(file, sizes, blip, f"input.{side}") for side in ("reference", "target")}
    words = {"tokens": padded([text.forward_ids for text in texts])}
    words[f"{REVERSED}tokens"] = padded([text.backward_ids for text in texts])
    with torch.no_grad():
        said = {name.replace("tokens", "global"): blip.encode_text(tokens) for name, tokens in words.items()}
    first = Golden(
        file, "", stage_1, {**inputs, "text": words}, _stage_outputs, TOLERANCE, GRADIENTS,
        renamed(lambda name: name.removeprefix("backbone.")),
    )  # fmt: skip
    second = Golden(
        file, "", stage_2, {**inputs, "text": said}, _stage_outputs, TOLERANCE, GRADIENTS,
        renamed(lambda name: name.removeprefix("combiner.")),
    )  # fmt: skip
    evaluated = {
        **{side: inputs[side]["global"] for side in ("reference", "target")},
        "text_forward": said["global"], "text_backward": said[f"{REVERSED}global"],
        **{f"{name}_sum": tensor for name, tensor in first.evaluated().items()},
        **{f"{name}_combiner": tensor for name, tensor in second.evaluated().items()},
    }  # fmt: skip
    yield from first.compare("eval", evaluated, file.parse(Listed, "eval").outputs)
    for name, stage in file.parse(dict[str, _Stage], "train_dropout_off").items():
        yield from _check_stage(name, stage, first if name.startswith("stage1") else second)


def _stage_outputs(method: TextSum | Blip4Cir, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    targets = method.encode_target(inputs["target"])
    if not torch.is_grad_enabled():
        query = method.encode_query(inputs["reference"], inputs["text"])
        return {"query": query, "scores": method.score(query, targets)}
    queries = method.encode_triplet(inputs["reference"], inputs["text"], inputs["target"])
    assert isinstance(queries, dict)
    losses = method.losses(queries, targets)
    sums = {f"loss {name}": losses["forward"] + weight * losses["reversed"] for name, weight in _WEIGHTS.items()}
    backward = method.reversed_logits(queries, targets)
    logits = {"logits": 100 * method.score(queries["query"], targets), "logits_reversed": backward}
    return {**sums, "loss_forward": losses["forward"], "loss_reversed": losses["reversed"], **logits}


_WEIGHTS = {"stage1_fashioniq": 0.4, "stage2_fashioniq": 0.5, "stage1_cirr": 0.1, "stage2_cirr": 0.1}
"""Of the reversed queries' loss."""


def _check_stage(name: str, stage: _Stage, golden: Golden) -> Iterator[Deviation]:
    if name not in _WEIGHTS:
        raise golden.file.error(f"entry 'train_dropout_off.{name}' is no stage that this reader knows")
    passes = golden.passes(f"loss {name}")
    found = passes(torch.float32).outputs
    found = {**found, "loss": found[f"loss {name}"]}
    listed = {key: value for key in ("loss_forward", "loss_reversed", "loss", "logits", "logits_reversed")
              if (value := getattr(stage, key)) is not None}  # fmt: skip
    yield from golden.compare(name, found, listed)
    if stage.grad_norms:
        norms = {**dict.fromkeys(stage.parameters_without_gradient, 0.0), **stage.grad_norms}
        yield from golden.check_gradients(name, passes, norms)


def _check_texts(texts: list[_Text]) -> Deviation:
    """Marks and tokens of every text, equal in each character and number."""
    wrong = []
    for text in texts:
        captions = (text.raw,) if isinstance(text.raw, str) else text.raw
        rule = text_rule("directed-as-is" if len(captions) == 1 else "directed-joined")
        assert rule.draw_reversed is not None
        both = rule.queries(captions)[0], rule.draw_reversed(captions, _FirstForm())
        found = [(string, encode(string, CONTEXT)) for string in both]
        if found != [(text.forward, text.forward_ids), (text.backward, text.backward_ids)]:
            wrong.append(repr(text.raw))
    return Deviation("texts", len(wrong), 0, wrong[0] if wrong else "", f"{len(texts)} texts in both directions")


class _FirstForm(np.random.Generator):
    """Always draws "A and b"."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, *args: Any, **kwargs: Any) -> Any:
        return 0


def _check_positions(file: GoldenFile) -> Deviation:
    entry = file.parse(dict[str, Any], "position_embedding_enlarged")
    form = _Enlarged.model_validate({"before": entry.get("from"), "after": entry.get("to"), "rows": entry.get("rows")})
    positions = draw_input(file.prefix, "input.pos_embed", form.before, 0.5)
    return compare_output("positions enlarged", enlarged(positions, form.after[1])[0], form.rows, TOLERANCE)


class _Config(Form):
    model: str
    batch: PositiveInt
    coarse: PositiveInt
    lr: PositiveFloat
    lr_of_text_proj: PositiveFloat
    betas: tuple[float, float]
    eps: PositiveFloat
    weight_decay: float
    reversed_weight: float
    schedule: str
    pictures: tuple[str, str]

    @property
    def epochs_down(self) -> int:
        """To the cosine's minimum, from the words of ``schedule``."""
        found = re.search(r"after (\d+) epochs", self.schedule)
        return int(found[1]) if found else 10


SMALL = {
    "vit": {"image_size": 64, "patch_size": 16, "width": 80, "layers": 2, "heads": 5},
    "text": {"width": 64, "layers": 2, "heads": 4, "mlp_width": 128},
    "embedding": 32, "combiner": {"projection": 48, "hidden": 72},
}  # fmt: skip
"""The model of `blip4cir.json`."""


def _training_case(file: GoldenFile, name: str, recipe: GoldenRecipe) -> TrainingCase:
    config = file.parse(_Config, "recipes", name, "config")
    of_batch = {"batch": config.batch, "coarse": config.coarse}
    sizes = _Sizes.model_validate({**model_named(file, config.model, SMALL), **of_batch})
    if [len(rows) for rows in recipe.token_id_pairs] != [config.batch] * BATCHES:
        raise file.error(f"entry 'recipes.{name}.token_ids': {BATCHES} lists of {config.batch} pairs are expected")
    settings = SumTraining(
        epochs=20, batch_size=config.batch, optimiser="adamw", learning_rate=config.lr, betas=config.betas,
        eps=config.eps, weight_decay=config.weight_decay, schedule="cosine-rising",
        schedule_epochs=config.epochs_down,
        reversed_weight=config.reversed_weight, projection_rate=config.lr_of_text_proj / config.lr,
    )  # fmt: skip
    method = _golden_sum(file, sizes, settings)
    without_dropout(method)
    blip: Any = method.backbone

    def batch(number: int) -> Batch:
        reference, target = (
            _stored(file, sizes, blip, f"{config.pictures[number]}.{side}") for side in ("reference", "target")
        )
        forward, backward = (padded(rows) for rows in zip(*recipe.token_id_pairs[number], strict=True))
        return Batch(reference, target, {"tokens": forward, f"{REVERSED}tokens": backward})

    released = nn.Module()
    released.text_encoder, released.text_proj = blip.text_encoder, blip.text_proj
    return TrainingCase(method, released, _STAGE, settings, [batch(0), batch(1)], CHANGES)


_STAGE = METHOD.stages(Blip4CirSettings(), "pretrained")[0]


def _released_settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, Any]]:
    """d, and the Combiner's p and h."""
    projection, width = shapes["text_projection_layer.weight"]
    return width, {"projection": projection, "hidden": shapes["output_layer.weight"][1]}


FORMS = {"blip4cir": _check}
TRAINING = {"blip4cir_stage1": _training_case}
RELEASES = {"blip4cir": Release(part="combiner", settings=_released_settings, entry="Combiner")}
