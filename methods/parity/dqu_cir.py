"""What checks and imports DQU-CIR: drawn pictures, both features and their fusion, ten steps, rankings."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from benchmark.dataset import IntArray, Queries, Ragged, Task, TaskKey
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.evaluation.evaluator import EncodedTask, score_task
from benchmark.interop.importing import Release
from benchmark.parity.comparison import Deviation, Difference, GradientTolerance, compare_count, worst
from benchmark.parity.files import ExpectedTraining, Form, GoldenFile, Listed, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import draw_input, draw_weights, names_sha256, without_dropout
from benchmark.parity.training import BATCHES, GoldenRecipe, TrainingCase, check_recipe
from benchmark.training.batches import Batch
from benchmark.weights.fit import shapes_of

from ..dqu_cir import METHOD, DquCir, DquSettings, DquTraining
from ..networks.drawn_words import Manner, WordDrawer
from .tuned_clip import TunedClipSizes, check_tokens, tuned_clip_weight

TOLERANCE = 2e-5
GRADIENTS = GradientTolerance(5e-5, floor=1e-7)
CHANGES = 1e-3
_EVALUATED = 224
_MANNERS: Mapping[str, Manner] = {
    "fashioniq": "resized", "shoes": "resized", "cirr": "own-size", "fashion200k": "one-word",
}  # fmt: skip


def golden_dqu(file: GoldenFile, sizes: TunedClipSizes) -> DquCir:
    """The method with golden weights and no dropout."""
    method = DquCir(sizes.backbone(), 0.5)
    draw_weights(method, tuned_clip_weight, file.prefix, released_name)
    without_dropout(method)
    return method


def released_name(name: str) -> str:
    """The release's model holds the CLIP itself."""
    return name.removeprefix("backbone.")


def _released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # A vector of one entry here, which DeepSpeed needs.
    return {released_name(n): t.reshape(()) if n.endswith("logit_scale") else t for n, t in tensors.items()}


def _check(file: GoldenFile) -> Iterator[Deviation]:
    sizes = file.parse(TunedClipSizes, "config")
    texts, ids = file.parse(list[str], "texts"), file.parse(list[list[int]], "token_ids")
    inputs = {name: sizes.pixels(file, f"input.{name}") for name in ("visual", "target")}
    inputs["tokens"] = sizes.words(ids)
    golden = Golden(
        file, "", golden_dqu(file, sizes), inputs, _outputs, TOLERANCE, GRADIENTS, _released, loss_floor=1e-6
    )
    method = golden.network
    assert isinstance(method, DquCir)
    yield from golden.check_state_dict(file.parse(StateDict, "state_dict").root, file.parse(int, "parameters"))
    shapes = shapes_of(golden.released(method.state_dict()))
    yield compare_count("sha256 of names", int(names_sha256(shapes) == file.parse(str, "names_sha256")), 1)
    yield check_tokens("texts", method.tokenize(texts)["tokens"], texts, ids)
    yield from golden.compare("eval", golden.evaluated(), file.parse(Listed, "eval").outputs)
    yield from golden.check_training("train", golden.passes("loss"), file.parse(ExpectedTraining, "train_dropout_off"))
    for picture in file.parse(list[_Drawn], "drawn_words", "pictures"):
        yield _check_picture(file.prefix, picture)
    yield from _check_training(file, sizes)
    yield from _check_ranking(file)


def _outputs(method: DquCir, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    text, picture = method.backbone.encode_text(inputs["tokens"]), method.backbone.encode_image(inputs["visual"])
    combined = method.combined(text / text.norm(dim=1, keepdim=True), picture / picture.norm(dim=1, keepdim=True))
    query = method.encode_query({"pixels": inputs["visual"]}, {"tokens": inputs["tokens"]})
    target = method.encode_target({"pixels": inputs["target"]})
    return {
        "text_feature": text, "visual_feature": picture, "combined": combined,
        "dynamic_scaler": method.share(combined).flatten(), "query": query, "target": target,
        "logits": method.loss_weight * query @ target.T, "loss": method.loss(query, target),
    }  # fmt: skip


class _Pixels(Form):
    sha256: str


class _Drawn(Form):
    name: str
    dataset: str
    kind: str
    size: tuple[PositiveInt, PositiveInt]
    words: str
    source_sha256: str
    sha256: str
    evaluation_224: _Pixels


def _check_picture(prefix: str, drawn: _Drawn) -> Deviation:
    """The picture by its rule, with its words on it, and as evaluation sees it: the number that are other bits."""
    draw, (width, height) = np.random.default_rng(zlib.crc32(f"{prefix}picture.{drawn.name}".encode())), drawn.size
    shape = (height, width, 3) if drawn.kind == "noise" else (1, 1, 3)
    source = np.broadcast_to(draw.integers(0, 256, shape, dtype=np.uint8), (height, width, 3))
    shown = WordDrawer(_MANNERS[drawn.dataset]).draw(Image.fromarray(np.ascontiguousarray(source)), drawn.words)
    evaluated = Preprocessing("clip", _EVALUATED, rgb_first=True).picture(shown)
    told = (drawn.source_sha256, drawn.sha256, drawn.evaluation_224.sha256)
    other = sum(
        hashlib.sha256(pixels.tobytes()).hexdigest() != expected
        for pixels, expected in zip((source, np.asarray(shown), evaluated), told, strict=True)
    )
    return Deviation(f"picture {drawn.name}", float(other), 0.0, note=f"{drawn.words[:40]!r}")


class _Config(Form):
    batch: PositiveInt
    lr: PositiveFloat
    clip_lr: PositiveFloat
    betas: tuple[float, float]
    eps: PositiveFloat
    weight_decay: PositiveFloat


class _Steps(Form):
    config: _Config
    texts: list[list[str]] = Field(min_length=BATCHES, max_length=BATCHES)
    token_ids: list[list[list[int]]] = Field(min_length=BATCHES, max_length=BATCHES)
    learning_rate: list[tuple[float, float]]


def _check_training(file: GoldenFile, sizes: TunedClipSizes) -> Iterator[Deviation]:
    """Ten steps, an epoch each: both rates fall before the eighth."""
    steps = file.parse(_Steps, "training")
    config, method = steps.config, golden_dqu(file, sizes)
    settings = DquTraining(
        epochs=len(steps.learning_rate), batch_size=config.batch, optimiser="adamw", learning_rate=config.lr,
        rates={"backbone.": config.clip_lr}, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay,
        schedule="step", milestones=(8,),
    )  # fmt: skip
    tokens = [sizes.words(ids) for ids in steps.token_ids]
    batches = []
    for number, own in enumerate(tokens):
        texts = steps.texts[number]
        found = method.tokenize(texts)["tokens"]
        yield check_tokens(f"training texts {number}", found, texts, steps.token_ids[number])
        visual, target = (
            {"pixels": sizes.pixels(file, f"training.batch{number}.{name}", config.batch)}
            for name in ("visual", "target")
        )
        batches.append(Batch(reference=visual, target=target, text={"tokens": own}))
    case = TrainingCase(
        method, _under_released_names(method), METHOD.stages(DquSettings(), "pretrained")[-1], settings, batches,
        CHANGES, torch.unique(torch.cat(tokens)), updates_per_epoch=1,
    )  # fmt: skip
    rest = [of_the_rest for _, of_the_rest in steps.learning_rate]
    recipe = {**file.parse(dict[str, object], "training"), "learning_rate": rest}
    yield from check_recipe("training", GoldenRecipe.model_validate(recipe), case)


def _under_released_names(method: DquCir) -> nn.Module:
    """The same parameters in a module whose names are the release's."""
    part = nn.Module()
    part.loss_weight = method.loss_weight
    part.clip = method.backbone.clip
    part.combiner_fc, part.scaler_fc = method.combiner_fc, method.scaler_fc
    return part


class _Subsets(Form):
    recall_1_5_10_50: list[float]
    subset_1_2_3: list[float]


class _Ranking(Form):
    source: list[int]
    target: list[int]
    subset: list[list[int]]
    captions: list[str]
    recall_1_10_50: list[float]
    cirr: _Subsets
    fashion200k_1_10_50_as_shares: list[float]


def _check_ranking(file: GoldenFile) -> Iterator[Deviation]:
    """Recalls by the evaluator, the reference left out, on drawn encodings."""
    form = file.parse(_Ranking, "ranking")
    width, count = 16, len(form.captions)
    gallery = draw_input(file.prefix, "ranking.gallery", (count, width))
    drawn = draw_input(file.prefix, "ranking.query", (len(form.source), width), 0.35)
    queries = drawn + 0.6 * gallery[form.source] + 0.5 * gallery[form.target]
    alike = [[i for i, caption in enumerate(form.captions) if caption == form.captions[t]] for t in form.target]
    one, shares = Ragged.single(np.asarray(form.target)), form.fashion200k_1_10_50_as_shares
    encodings = [nn.functional.normalize(rows, dim=1) for rows in (queries, gallery)]
    for output, positives, cutoffs, expected in (
        ("R@", one, (1, 10, 50), form.recall_1_10_50),
        ("CIRR R@", one, (1, 5, 10, 50), form.cirr.recall_1_5_10_50),
        ("CIRR R_subset@", one, (1, 2, 3), form.cirr.subset_1_2_3),
        ("Fashion200k R@", Ragged.of(alike), (1, 10, 50), [100 * share for share in shares]),
    ):
        task, name = _task(form, positives, cutoffs, count), output.rpartition(" ")[2]
        found = score_task(None, EncodedTask(task, *encodings)).metrics
        yield worst(
            f"{output}{','.join(map(str, cutoffs))}",
            [Difference(f"{name}{k}", found[f"{name}{k}"], e, 0, 1e-4) for k, e in zip(cutoffs, expected, strict=True)],
        )


def _task(form: _Ranking, positives: Ragged, cutoffs: tuple[int, ...], count: int) -> Task:
    source: IntArray = np.asarray(form.source, dtype=np.int64)
    queries = Queries(
        ids=tuple(map(str, range(len(source)))),
        reference_picture=source,
        reference_in_gallery=source,
        texts=("",) * len(source),
        positives=positives,
        group=np.arange(len(source), dtype=np.int64),
        subset=np.asarray(form.subset, dtype=np.int64),
    )
    return Task(
        key=TaskKey("golden", "val", "noref", "single"), queries=queries, gallery=np.arange(count, dtype=np.int64),
        exclude_reference=True, cutoffs=cutoffs, subset_cutoffs=(1, 2, 3),
    )  # fmt: skip


def _released_settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, object]]:
    return shapes["combiner_fc.0.weight"][0], {}


RELEASES = {
    "dqu_cir": Release(
        part="",
        settings=_released_settings,
        renamed=released_name,
        holds_encoder=True,
        without_effect={"clip.logit_scale": "CLIP's own factor, which this loss does not use"},
    )
}
FORMS = {"dqu_cir": _check}
