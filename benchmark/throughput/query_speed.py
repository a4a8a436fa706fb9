"""Speed of answering: queries ranked a second, and how long one composed query takes at batch one.

The gallery is made up: encodings of a few rows by the method itself, repeated with noise.

Notation: Q queries, G gallery pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import GLOBAL, Backbone, Output
from benchmark.data.pictures import open_picture
from benchmark.encoders.frozen_encoder import FrozenEncoder
from benchmark.encoding import Encoding, map_tensors, rows, take
from benchmark.evaluation.evaluator import EncodedTask, score_task
from benchmark.evaluation.scoring import chunks_on
from benchmark.features.picture_filling import PATCHES
from benchmark.features.room import view_output
from benchmark.interop.exported import Model
from benchmark.method import FeatureInputs, Inputs, Method, PixelInputs, Views
from benchmark.records.measurement import Measurement
from benchmark.text_rules import text_rule
from benchmark.throughput.encoder_speed import Sample, short_tokens
from benchmark.throughput.limits import computing_in
from benchmark.throughput.made_up import CIRR_VALIDATION, made_up_task, many_rows
from benchmark.throughput.timing import Setting, latencies
from benchmark.weights.checkpoints import WeightsHeader

_ENCODED = 16
_FEWEST = 12
_SLOW_SCORE_QUERIES = 512
_TOP = 50
_LEAST_QUERIES = 20
_AS_ASKED = "as-is"
"""The text rule of strings that a task's rule has made already."""

_IDS = "tokens"
_NO_FILE = WeightsHeader("", "", "", {}, {}, {}, 0, 0)


def query_speeds(
    method: Method, inputs: Inputs, backbone: Backbone | None, sample: Sample, setting: Setting, limit: int | None
) -> dict[str, Measurement]:
    """``limit`` shrinks queries and gallery to so many, or a few more."""
    method.eval()
    with computing_in(setting.precision, setting.device), torch.no_grad():
        reference, text, target = _few_views(method, inputs, backbone, sample, setting.device)
        queries, gallery = method.encode_query(reference, text), method.encode_target(target)
    asked, pictures = CIRR_VALIDATION if method.scores_by_dot_product else (_SLOW_SCORE_QUERIES, CIRR_VALIDATION[1])
    if limit is not None:
        asked, pictures = max(min(asked, limit), 1), max(min(pictures, limit), _FEWEST)
    many = many_rows(gallery, pictures, seed=1)
    ranking = _ranking(method, many_rows(queries, asked, seed=2), many, setting)
    one = _one_query(method, inputs, backbone, many, sample, setting)
    return {"ranking": ranking, **{f"one query, {name}": found for name, found in one.items()}}


def _few_views(
    method: Method, inputs: Inputs, backbone: Backbone | None, sample: Sample, device: torch.device
) -> tuple[Views, Views, Views]:
    """A few rows of reference, text and target: random features, or pictures and texts of the sample."""
    if isinstance(inputs, FeatureInputs):
        assert backbone is not None
        outputs, grids = backbone.picture_outputs, inputs.grids
        reference, target = (
            {view: _random_rows(view_output(view, outputs, grids), device) for view in views}
            for views in (inputs.reference, inputs.target)
        )
        return reference, _few_texts(method, inputs, backbone, sample, device), target
    pairs = zip(cycle(sample.pictures.paths), cycle(sample.texts), strict=True)
    pixels, tokens = _decoded(method, inputs, list(islice(pairs, _ENCODED)), device)
    return pixels, tokens, pixels


def _random_rows(output: Output, device: torch.device) -> Tensor:
    return torch.randn(_ENCODED, *output.shape, device=device).to(getattr(torch, output.dtype))


def _few_texts(
    method: Method, inputs: FeatureInputs, backbone: Backbone, sample: Sample, device: torch.device
) -> Views:
    """Random features, or tokens of the sample's texts."""
    if inputs.text == "features":
        return {GLOBAL: _random_rows(backbone.text_outputs[GLOBAL], device)}
    tokens = method.tokenize(list(islice(cycle(sample.texts), _ENCODED)))
    return {name: tensor.to(device) for name, tensor in tokens.items()}


def _decoded(
    method: Method, inputs: PixelInputs, queries: Sequence[tuple[Path, str]], device: torch.device
) -> tuple[Views, Views]:
    """Pictures and texts as a method on pixels reads them."""
    rng = np.random.default_rng(0)
    pixels = np.stack([inputs.evaluate.picture(open_picture(path), rng) for path, _ in queries])
    tokens = method.tokenize([text for _, text in queries])
    normalised = inputs.evaluate.normalise(torch.from_numpy(pixels).to(device))
    return {"pixels": normalised}, {name: tensor.to(device) for name, tensor in tokens.items()}


def _ranking(method: Method, queries: Encoding, gallery: Encoding, setting: Setting) -> Measurement:
    asked, pictures = rows(queries), rows(gallery)
    encoded = EncodedTask(made_up_task(asked, pictures), queries, gallery)
    there = [map_tensors(lambda tensor: tensor.to(setting.device), encoding) for encoding in (queries, gallery)]
    rows_at_once, columns = chunks_on(setting.device)
    limit = "bare matrix product" if method.scores_by_dot_product else "the method's score, in float32"

    def every_score() -> None:
        """In the evaluator's blocks, and nothing done with them."""
        for start in range(0, pictures, columns):
            targets = take(there[1], slice(start, start + columns))
            for first in range(0, asked, rows_at_once):
                method.score(take(there[0], slice(first, first + rows_at_once)), targets)

    with computing_in("fp32", setting.device), torch.no_grad():
        rounds = setting.rounds({"evaluator": lambda: score_task(method, encoded), limit: every_score})
    if isinstance(gallery, Tensor):
        widths = f"d {gallery.shape[1]:,}"
    else:
        widths = ", ".join(f"{name} {tuple(tensor.shape[1:])}" for name, tensor in gallery.items())
    return setting.rate(
        rounds, "evaluator", asked, "queries", f"{asked:,} x {pictures:,}, {widths}, subsets of 6", limit
    )


def _one_query(
    method: Method, inputs: Inputs, backbone: Backbone | None, gallery: Encoding, sample: Sample, setting: Setting
) -> dict[str, Measurement]:
    """As a search service has it: `exported.Model` on picture files and strings, the gallery on the device."""
    there = map_tensors(lambda tensor: tensor.to(setting.device), gallery)
    encoder = None
    if backbone is not None and isinstance(inputs, FeatureInputs):
        encoder = FrozenEncoder(backbone, setting.device, setting.precision)
    model = Model(_NO_FILE, method, inputs, encoder, text_rule(_AS_ASKED), setting.device)
    asked = list(zip(sample.pictures.paths, cycle(sample.texts), strict=False))
    number, limit = min(_TOP, rows(gallery)), "decoding, bare forward passes and products"
    with computing_in(setting.precision, setting.device), torch.no_grad():
        ready = [_ready(method, inputs, backbone, *query, setting.device) for query in asked]
        numbers, same = cycle(range(len(asked))), cycle(range(len(asked)))

        def whole() -> Tensor:
            picture, text = asked[next(numbers)]
            return model.score(model.encode_query([picture], [text]), there).topk(number).indices

        def bare() -> Tensor:
            i = next(same)
            open_picture(asked[i][0])
            return method.score(ready[i](), there).topk(number).indices

        # Every sample is one call, so that the slow ones show.
        rounds = setting.rounds({"whole": whole, limit: bare}, least=_LEAST_QUERIES, sample_seconds=0)
    read = "picture and 13 patches" if _reads_patches(inputs) else "picture"
    return latencies(rounds, "whole", limit, f"{read} and text, {rows(gallery):,} ranked")


def _ready(
    method: Method, inputs: Inputs, backbone: Backbone | None, picture: Path, text: str, device: torch.device
) -> Callable[[], Encoding]:
    """The forward passes of one query alone: pixels are normalised and texts are tokens beforehand."""
    if isinstance(inputs, PixelInputs):
        pixels, tokens = _decoded(method, inputs, [(picture, text)], device)
        return lambda: method.encode_query(pixels, tokens)
    assert backbone is not None
    image, pipeline = open_picture(picture), backbone.preprocessing
    outputs, tokenized = backbone.picture_outputs, inputs.text == "tokenized"
    kept = {view: getattr(torch, view_output(view, outputs, inputs.grids).dtype) for view in inputs.reference}
    pixels = {
        view: pipeline.normalise(torch.from_numpy(shown).to(device))
        for view in inputs.reference
        for shown in (pipeline.patches(image, inputs.grids) if view == PATCHES else pipeline.picture(image)[None],)
    }
    words = method.tokenize([text]) if tokenized else {_IDS: short_tokens(backbone, [text])}
    words = {name: tensor.to(device) for name, tensor in words.items()}

    def forward() -> Encoding:
        views = {
            view: backbone.encode_image(part)[None]
            if view == PATCHES
            else backbone.encode_picture_outputs(part, [view])[view]
            for view, part in pixels.items()
        }
        modification = words if tokenized else {GLOBAL: backbone.encode_text(words[_IDS]).float()}
        return method.encode_query({view: part.to(kept[view]) for view, part in views.items()}, modification)

    return forward


def _reads_patches(inputs: Inputs) -> bool:
    return isinstance(inputs, FeatureInputs) and "patches" in inputs.reference
