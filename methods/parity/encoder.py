"""What checks and imports ENCODER."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from benchmark.backbone import GLOBAL, TOKENS
from benchmark.interop.importing import Release
from benchmark.parity.comparison import (
    Deviation,
    Difference,
    GradientTolerance,
    compare_count,
    compare_names,
    compare_output,
    compare_tensor,
    missing,
    worst,
)
from benchmark.parity.files import Form, GoldenFile, Matrix, Rows
from benchmark.parity.golden import Golden
from benchmark.parity.rules import draw_weights, names_sha256, renamed
from benchmark.parity.training import GoldenRecipe, StepTolerances, TrainingCase, check_recipe
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

from ..encoder import METHOD, Encoder, EncoderTraining
from ..networks.encoder import EncoderHead, EncoderSettings
from .tuned_clip import TunedClipSizes, check_tokens, tuned_clip_weight

TOLERANCE = 2e-5
LOSSES = 1e-5
_CLIP = "backbone.clip."
RELATION = "backbone.binding_decoder.learnable_relation"
_LIKENESS = "scores tokens of which a softmax over one number makes 1, whatever they are"
_NEVER_CALLED = "is called nowhere"
UNUSED = {
    **dict.fromkeys(
        [f"backbone.{name}." for name in (
            "weight_chanelImg", "weight_chanelImg_t", "cross_t2i", "weight_chanelText", "weight_chanelText_i",
            "cross_i2t", "weight_cross",
        )], _LIKENESS,
    ),
    **dict.fromkeys(
        [f"backbone.{name}." for name in (
            "t_weight_tokens", "v_weight_tokens", "t_weight_batch", "v_weight_batch", "multihead_attn",
            "binding_decoder.layer_norm",
        )], _NEVER_CALLED,
    ),
}  # fmt: skip
"""Beginnings of released names, and why they change no output."""


def released_name(ours: str) -> str:
    """The released name of one of the method's tensors."""
    own = ours.removeprefix("head.")
    outside = own.startswith(("affine.", "loss_T", "local_weight"))
    return own if outside or ours.startswith(_CLIP) else f"backbone.{own}"


class _Entry(Form):
    name: str
    shape: tuple[int, ...]


class _Counts(Form):
    factors: PositiveInt = Field(validation_alias="P")
    relations: PositiveInt = Field(validation_alias="N_p")


class _Tokens(Form):
    """A sequence (B, T, d): norms of all or, of long ones, of positions 0–3, −2, −1; entries of the first sample's
    first positions and of the last sample's last."""

    shape: tuple[int, int, int]
    norms: Matrix
    first: Matrix = Field(validation_alias="first_sample_first16")
    last: list[float] = Field(validation_alias="last_sample_last_row_first16")


class _Outputs(Form):
    picture_pooled: Rows | None = None
    text_pooled: Rows | None = None
    picture_local: _Tokens | None = None
    text_local: _Tokens | None = None
    reference_tokens: _Tokens
    text_tokens: _Tokens
    target_tokens: _Tokens
    composed_tokens: _Tokens
    entity_action_similarity: Matrix
    query: Rows
    target: Rows
    cosine: Matrix


class _OtherWay(Form):
    query: Rows


class _Train(Form):
    losses: dict[str, float]
    total: float
    grad_norms: dict[str, float]


class _Variant(Form):
    config: _Counts
    entries: int
    parameters: int
    names_sha256: str
    shapes_that_differ: dict[str, tuple[int, ...]] = {}
    eval: _Outputs
    train: _Train
    not_the_release: dict[str, _OtherWay] = {}


class _Steps(Form):
    variant: str
    config: dict[str, Any]
    texts: list[list[str]]


class _Optimiser(Form):
    lr: float
    clip_lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


_OTHER_WAYS: Mapping[str, dict[str, Any]] = {"scale_and_shift_token_by_token": {"affine": "token-wise"}}
"""What the file lists of ways that are no release's, and the settings that take them."""


def golden_encoder(
    file: GoldenFile, sizes: TunedClipSizes, counts: _Counts, training: EncoderTraining, **settings: Any
) -> Encoder:
    """The method with weights by the rule."""
    told = {"factors": counts.factors, "relations": counts.relations, "hidden": sizes.hidden_dim}
    head_sizes = EncoderSettings.model_validate({**told, **settings})
    head = EncoderHead(sizes.embed_dim, sizes.vision_width, sizes.text_width, head_sizes)
    method = Encoder(sizes.backbone(), head, training)
    draw_weights(method, tuned_clip_weight, file.prefix, released_name)
    return method


def _check(file: GoldenFile) -> Iterator[Deviation]:
    sizes, variants = file.parse(TunedClipSizes, "config"), file.parse(dict[str, _Variant], "variants")
    texts, ids = file.parse(list[str], "texts"), file.parse(list[list[int]], "token_ids")
    listed = {entry.name: entry.shape for entry in file.parse(list[_Entry], "state_dict")}
    inputs = {side: {"pixels": sizes.pixels(file, f"input.{side}")} for side in ("reference", "target")}
    inputs["text"] = {"tokens": sizes.words(ids)}
    for name, variant in variants.items():
        method = golden_encoder(file, sizes, variant.config, EncoderTraining())
        yield check_tokens(f"{name}: texts", method.tokenize(texts)["tokens"], texts, ids)
        yield from _check_shapes(name, method, {**listed, **variant.shapes_that_differ}, variant)
        golden = Golden(
            file, f"{name}: ", method, inputs, _outputs, TOLERANCE,
            GradientTolerance(5e-5, floor=1e-7), renamed(released_name),
        )  # fmt: skip
        yield from _check_outputs(name, golden.evaluated(), variant.eval, variant.config.relations)
        yield from _check_losses(name, golden, variant.train)
        for other, expected in variant.not_the_release.items():
            if other in _OTHER_WAYS:
                own = golden_encoder(file, sizes, variant.config, EncoderTraining(), **_OTHER_WAYS[other]).eval()
                with torch.no_grad():
                    query = own.encode_query(inputs["reference"], inputs["text"])
                assert isinstance(query, Tensor)
                yield compare_output(f"{name}: {other}: query", query, expected.query, TOLERANCE)
    if "training" in file.content:
        yield from _check_steps(file, sizes, variants)


def _released_shapes(method: Encoder) -> dict[str, tuple[int, ...]]:
    """As a released file lists them: without R, CLIP's own scale as a number."""
    shapes = {released_name(name): shape for name, shape in shapes_of(method.state_dict()).items()}
    del shapes[RELATION]
    return {**shapes, f"{_CLIP}logit_scale": ()}


def _check_shapes(
    name: str, method: Encoder, listed: Mapping[str, tuple[int, ...]], variant: _Variant
) -> Iterator[Deviation]:
    unused = {entry: shape for entry, shape in listed.items() if entry.startswith(tuple(UNUSED))}
    own = _released_shapes(method)
    yield compare_names(f"{name}: state dict", own, {n: s for n, s in listed.items() if n not in unused})
    whole = {**own, **unused}
    yield compare_count(f"{name}: entries, {len(unused)} without effect", len(whole), variant.entries)
    yield compare_count(f"{name}: parameters", sum(map(prod, whole.values())), variant.parameters)
    same = names_sha256(whole) == variant.names_sha256
    yield Deviation(f"{name}: names", float(not same), 0.0, note="" if same else "the digest differs")


def _outputs(method: Encoder, inputs: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    reference, text, target = (inputs[side] for side in ("reference", "text", "target"))
    if torch.is_grad_enabled():
        queries, targets = method.encode_query(reference, text), method.encode_target(target)
        return {**method.losses(queries, targets), "total": method.loss(queries, targets)}
    head = method.head
    picture = method.backbone.encode_picture_outputs(reference["pixels"], (GLOBAL, TOKENS))
    words = method.backbone.encode_text_outputs(text["tokens"], (GLOBAL, TOKENS))
    of_reference, of_text = method.picture_tokens(reference), method.text_tokens(text)
    query, found = method.encode_query(reference, text), method.encode_target(target)
    assert isinstance(query, Tensor) and isinstance(found, Tensor)
    return {
        "picture_pooled": picture[GLOBAL], "picture_local": head.fc(picture[TOKENS]),
        "text_pooled": words[GLOBAL], "text_local": head.text_fc(words[TOKENS]),
        "reference_tokens": of_reference, "text_tokens": of_text, "target_tokens": method.picture_tokens(target),
        "composed_tokens": head.affine(of_reference, of_text),
        "entity_action_similarity": head.matches(head.entities(of_text), head.entities(of_reference)),
        "query": query, "target": found, "cosine": method.score(query, found),
    }  # fmt: skip


def _check_outputs(
    name: str, found: Mapping[str, Tensor], listed: _Outputs, relations: int
) -> Iterator[Deviation]:
    for entry in type(listed).model_fields:
        expected, at = getattr(listed, entry), f"{name}: {entry}"
        if isinstance(expected, _Tokens):
            # Entities are hundreds of times smaller than what stands beside them.
            apart = entry.endswith("_tokens") and entry != "composed_tokens"
            entities = range(1, 1 + relations) if apart else range(0)
            yield from _compare_tokens(at, found[entry], expected, entities)
        elif expected is not None:
            yield compare_output(at, found[entry], expected, TOLERANCE)


def _compare_tokens(output: str, found: Tensor, expected: _Tokens, apart: range) -> Iterator[Deviation]:
    if tuple(found.shape) != expected.shape:
        yield missing(output, f"shape {tuple(found.shape)} instead of {expected.shape}")
        return
    count, entries = found.shape[1], len(expected.last)
    positions = range(count) if len(expected.norms[0]) == count else (0, 1, 2, 3, count - 2, count - 1)
    norms, first = found[:, list(positions)].double().norm(dim=2), found[0, : len(expected.first), :entries]
    groups = {"": [i for i in positions if i not in apart], ", entities": list(apart)}
    for what, rows in groups.items():
        if not rows:
            continue
        places = [list(positions).index(row) for row in rows]
        listed = [[sample[place] for place in places] for sample in expected.norms]
        yield compare_tensor(f"{output}{what}", norms[:, places], listed, TOLERANCE, "norms")
        some = [row for row in range(len(expected.first)) if (row in apart) == bool(what)]
        wanted = [expected.first[row] for row in some]
        yield compare_tensor(f"{output}{what}, entries", first[some], wanted, TOLERANCE, "entries")
    yield compare_tensor(f"{output}, last", found[-1, -1:, :entries], [expected.last], TOLERANCE)


_NOISE = 1e-5
_NEARLY_EQUAL = "backbone.t_weight_phrases."
"""Where a text's two actions nearly coincide, gradients of their weights are differences of nearly equal numbers."""


def _check_losses(name: str, golden: Golden, expected: _Train) -> Iterator[Deviation]:
    method = golden.network
    assert isinstance(method, Encoder)
    passes = golden.passes("total")
    outputs, gradients = passes(torch.float32).outputs, passes(torch.float32).gradients
    for loss, value in {**expected.losses, "total": expected.total}.items():
        floor = 1e-12 if loss == "ortho" else 0.0
        yield worst(f"{name}: {loss}", [Difference("", float(outputs[loss]), value, LOSSES, floor)])
    still = tuple(map(released_name, method.without_gradient))
    noise = [n for n in gradients if n.startswith(still)]
    zero = [Difference(n, float(gradients[n].norm()), 0.0, 0.0, _NOISE, scale=0.0) for n in noise]
    yield worst(f"{name}: gradients that are rounding noise", zero)
    listed = {**dict.fromkeys(gradients, 0.0), **expected.grad_norms}

    def is_special(entry: str) -> bool:
        return entry.startswith((*still, _NEARLY_EQUAL))

    yield from golden.check_gradients("train", passes, listed, is_special)
    nearly = {n: g for n, g in gradients.items() if n.startswith(_NEARLY_EQUAL) and n not in noise}
    if nearly:
        norms = [Difference(n, float(g.norm()), listed[n], 5e-3, 1e-7) for n, g in nearly.items()]
        yield worst(f"{name}: train gradients of actions' weights", norms)


def _check_steps(file: GoldenFile, sizes: TunedClipSizes, variants: Mapping[str, _Variant]) -> Iterator[Deviation]:
    """Ten steps, one an epoch."""
    steps, recipe = file.parse(_Steps, "training"), file.parse(GoldenRecipe, "training")
    config = file.parse(_Optimiser, "training", "config")
    settings = EncoderTraining(
        epochs=len(recipe.loss), batch_size=sizes.batch, optimiser="adamw", learning_rate=config.lr,
        betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, schedule="step", milestones=(5, 10),
        rates={"backbone.": config.clip_lr}, distillation_weight=0.5,
    )  # fmt: skip
    method = golden_encoder(file, sizes, variants[steps.variant].config, settings)
    for number, (texts, ids) in enumerate(zip(steps.texts, recipe.token_ids, strict=True)):
        yield check_tokens(f"training: texts of batch {number}", method.tokenize(texts)["tokens"], texts, ids)
    words = [sizes.words(ids) for ids in recipe.token_ids]

    def batch(number: int) -> Batch:
        reference, target = (
            {"pixels": sizes.pixels(file, f"training.batch{number}.{side}")} for side in ("reference", "target")
        )
        return Batch(reference, target, {"tokens": words[number]})

    embedding = f"{_CLIP}token_embedding.weight"
    own = {n: v for n, v in recipe.parameters.items() if not n.startswith(tuple(UNUSED))}
    weight = settings.distillation_weight
    recipe = recipe.model_copy(
        update={
            "parameters": own,
            # Most of its rows stand in no text; those that do, and one that decays alone, are listed apart.
            "rounding_noise": [*recipe.rounding_noise, embedding],
            "parts": [[rank, weight * kl, entity, ortho] for rank, kl, entity, ortho in recipe.parts],
        }
    )
    case = TrainingCase(
        method, _released_module(method), METHOD.stages(EncoderSettings(), "pretrained")[-1], settings,
        [batch(0), batch(1)], changes=3e-3, used_tokens=torch.unique(torch.cat(words)), updates_per_epoch=1,
        tolerances=StepTolerances((1e-3, 0.0), 5e-3, 1e-4, (5e-2, 0.0, 1e-7, 5e-6), 5e-2),
    )  # fmt: skip
    yield from check_recipe("training", recipe, case)


def _released_module(method: Encoder) -> nn.Module:
    """The method's own tensors once more, under the released names."""
    whole, backbone, head = nn.Module(), nn.Module(), method.head
    backbone.clip = method.backbone.clip
    for name in ("fc", "text_fc", "fac_net", "binding_decoder", "t_weight_phrases", "v_weight_phrases"):
        backbone.add_module(name, head.get_submodule(name))
    whole.backbone, whole.affine, whole.loss_T, whole.local_weight = (
        backbone, head.affine, head.loss_T, head.local_weight,
    )  # fmt: skip
    return whole


def _settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, Any]]:
    """What the shapes of a released file tell."""
    return shapes["backbone.fc.weight"][0], {
        "factors": shapes["backbone.fac_net.weight.3.weight"][0],
        "relations": shapes["backbone.binding_decoder.mlp_p.0.weight"][0],
        "hidden": shapes["affine.MLP.1.weight"][0],
    }


RELEASES = {
    "encoder": Release(
        part="",
        settings=_settings,
        without_effect={
            "local_weight": "weighs the teacher of training alone",
            f"{_CLIP}logit_scale": "is the scale of the CLIP's own training",
        },
        left_out=UNUSED,
        renamed=released_name,
        holds_encoder=True,
        drawn={RELATION: "the release neither trains nor saves it, and draws another one for every evaluation"},
    )
}
FORMS = {"encoder": _check}
