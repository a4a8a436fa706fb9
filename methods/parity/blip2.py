"""Golden numbers of BLIP-2's first stage, alone and as SPRC's and TME's files share it: sizes, weights, inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from benchmark.encoders.blip2 import EvaSizes, build_eva, picture_tokens
from benchmark.encoders.wordpiece import encode, padded
from benchmark.method import Views
from benchmark.parity.comparison import Deviation, GradientTolerance, compare_count, compare_names, compare_output
from benchmark.parity.files import Form, GoldenFile, Listed, StateDict
from benchmark.parity.golden import Golden
from benchmark.parity.rules import Array, clip_images, draw_input, draw_weights, gain_or_bias, names_sha256, weight_rule
from benchmark.text_rules import joined
from benchmark.weights.fit import shapes_of

from ..networks.blip2 import TEXT_LENGTH, VOCABULARY, Blip2Sizes, FirstStage, PromptedStage, cleaned
from ..networks.blip2_stage import Blip2Settings, N

TOLERANCE = 2e-5
GRADIENTS = GradientTolerance(2e-5, is_noise=lambda name: name.endswith("key.bias"))
"""A key's bias shifts a softmax's row: its gradient is rounding noise."""


_HEAD = "Qformer.cls.predictions"
_TIED = {
    f"{_HEAD}.decoder.weight": "Qformer.bert.embeddings.word_embeddings.weight",
    f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
}
"""Names under which a tensor stands a second time in released files."""


class GoldenVit(Form):
    image_size: PositiveInt
    patch_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt


class _GoldenEva(GoldenVit):
    mlp_ratio: PositiveFloat


class GoldenBert(Form):
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    mlp_width: PositiveInt


class FirstStageSizes(Form):
    """``config`` of a file."""

    vit: _GoldenEva
    qformer: GoldenBert
    queries: PositiveInt
    embedding: PositiveInt
    max_text_tokens: PositiveInt = TEXT_LENGTH
    batch: PositiveInt = 1
    coarse: PositiveInt = 1

    @property
    def eva(self) -> EvaSizes:
        vit = self.vit
        inner = int(vit.width * vit.mlp_ratio)
        return EvaSizes(vit.image_size, vit.patch_size, vit.width, vit.layers, vit.heads, inner)

    def behind(self) -> dict[str, Any]:
        """What is behind the ViT, as settings."""
        own = self.qformer
        return {
            "width": own.width, "layers": own.layers, "heads": own.heads, "inner": own.mlp_width,
            "queries": self.queries, "embedding": self.embedding, "dropout": 0.0,
        }  # fmt: skip


SMALL = {
    "vit": {"image_size": 56, "patch_size": 14, "width": 80, "layers": 2, "heads": 5, "mlp_ratio": 4.3637},
    "qformer": {"width": 64, "layers": 3, "heads": 4, "mlp_width": 128}, "queries": 32, "embedding": 32,
}  # fmt: skip
"""The model of `sprc.json` and `tme.json`."""


def model_named(file: GoldenFile, model: str, small: Mapping[str, Any]) -> Mapping[str, Any]:
    """``config`` of the file that a training file names, where it lies beside; otherwise ``small``."""
    beginning = file.path.name.partition("training")[0]
    beside = [file.path.with_name(name) for name in (beginning + model, model)]
    return next((GoldenFile.read(path).content["config"] for path in beside if path.is_file()), small)


def sizes_named(file: GoldenFile, model: str, batch: int, coarse: int) -> FirstStageSizes:
    """Of the model that a training file names by another file's name."""
    found = model_named(file, model, SMALL)
    return FirstStageSizes.model_validate({**found, "batch": batch, "coarse": coarse})


class Text(Form):
    """A caption, or two that FashionIQ's rule joins."""

    raw: str | tuple[str, str]
    cleaned: str
    token_ids: list[int]


@weight_rule
def blip2_weight(name: str, g: Array) -> NDArray[Any]:
    """The rule for an entry of a state dict; the first line that fits."""
    if name.endswith("position_ids"):
        return np.arange(g.size).reshape(g.shape)
    if name == "temp":
        return 0.07 + 0.01 * g
    if name.endswith(("query.weight", "key.weight", "attn.qkv.weight")):
        return np.asarray(2 * g / np.sqrt(g.shape[-1]))
    if name.endswith(("_tokens", "cls_token", "pos_embed", "embeddings.weight")):
        return 0.5 * g
    if g.ndim == 4:
        return np.asarray(g / np.sqrt(np.prod(g.shape[1:])))
    return np.asarray(g / np.sqrt(g.shape[-1])) if g.ndim >= 2 else gain_or_bias(name, g)


def draw_released(network: nn.Module, file: GoldenFile) -> None:
    """Fill a network with the released names by the rule."""
    draw_weights(network, blip2_weight, file.prefix, lambda name: _TIED.get(name, name))


class _LanguageHead(nn.Module):
    """``Qformer.cls``, which no retrieval uses; its output matrix is the word embedding."""

    def __init__(self, width: int, words: Tensor) -> None:
        super().__init__()
        self.predictions = nn.Module()
        self.predictions.transform = nn.Module()
        self.predictions.transform.dense = nn.Linear(width, width)
        self.predictions.transform.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.predictions.bias = nn.Parameter(torch.zeros(VOCABULARY))
        self.requires_grad_(False)
        self.predictions.decoder = nn.Linear(1, 1)
        self.predictions.decoder.weight, self.predictions.decoder.bias = words, self.predictions.bias


def complete(network: FirstStage, eva: EvaSizes) -> FirstStage:
    """Add the frozen ViT and what no retrieval uses, so that its state dict is a released file's."""
    width, bert = network.vision_proj.in_features, network.bert
    network.visual_encoder = build_eva(eva).requires_grad_(False)
    network.Qformer.cls = _LanguageHead(width, bert.embeddings.word_embeddings.weight)
    network.itm_head = nn.Linear(width, 2).requires_grad_(False)
    bert.embeddings.register_buffer("position_ids", torch.zeros(1, 512, dtype=torch.int64))
    return network


def golden_network(file: GoldenFile, sizes: FirstStageSizes, build: Callable[[int, Blip2Settings], N]) -> N:
    """A network with golden weights and the whole of the released state dict."""
    network = build(sizes.vit.width, Blip2Settings(**sizes.behind()))
    complete(network, sizes.eva)
    draw_released(network, file)
    return network


def pixels(file: GoldenFile, sizes: FirstStageSizes, name: str) -> Tensor:
    """(B, 3, S, S) of that name."""
    return torch.from_numpy(clip_images(name, sizes.batch, sizes.vit.image_size, sizes.coarse, file.prefix))


@torch.no_grad()
def seen_by_vit(network: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Views, Views]:
    """Tokens of the reference's and the target's pixels, as the feature store has them of the frozen ViT."""
    vit: Any = network.visual_encoder
    reference, target = ({"tokens": picture_tokens(vit, inputs[side])} for side in ("reference", "target"))
    return reference, target


def golden_inputs(file: GoldenFile, sizes: FirstStageSizes, texts: list[Text]) -> dict[str, Tensor]:
    """Pixels of both pictures, and token numbers."""
    inputs = {side: pixels(file, sizes, f"input.{side}") for side in ("reference", "target")}
    return {**inputs, "words": words_of(texts, sizes.max_text_tokens)}


def check_texts(output: str, texts: list[Text], longest: int) -> Deviation:
    """Cleaning and tokens of every text, equal in each character and number."""
    wrong = []
    for text in texts:
        found = cleaned(text.raw if isinstance(text.raw, str) else joined(*text.raw))
        if found != text.cleaned or encode(found, longest) != text.token_ids:
            wrong.append(repr(text.raw))
    return Deviation(output, len(wrong), 0, wrong[0] if wrong else "", f"{len(texts)} texts")


def words_of(texts: list[Text], length: int) -> Tensor:
    """(B, L) token numbers as listed."""
    return padded([text.token_ids for text in texts], length)


def itm_logits(network: FirstStage, picture: Tensor, words: Tensor) -> Tensor:
    """BLIP-2's matching score of pairs (B,): the mean over the queries of output 1 of its head."""
    head: nn.Linear = network.itm_head  # type: ignore[assignment]
    logits: Tensor = head(network.joint(picture, words)[:, : network.queries])[..., 1].mean(dim=1)
    return logits


def _outputs(network: PromptedStage, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    words, n = inputs["words"], network.queries
    vit = picture_tokens(network.visual_encoder, inputs["reference"])  # type: ignore[arg-type]
    picture = network.vision(vit)
    queries, joint = network.picture_queries(picture), network.joint(picture, words)
    pictures, text = network.targets(queries), network.text_alone(words)[:, 0]
    texts = network.query(text)
    return {
        "vit": vit, "vision": picture, "image_queries": queries, "image_embedding": pictures, "text_cls": text,
        "text_embedding": texts, "itc_scores": torch.einsum("pne,te->ptn", pictures, texts).amax(dim=2),
        "joint": joint, "second_pass": network.second_pass(joint[:, :n], words), "prompted": network.prompted(words),
        "itm_logits": itm_logits(network, picture, words),
    }  # fmt: skip


class _Counts(Form):
    entries: int
    parameters: int = Field(validation_alias=AliasChoices("parameters", "parameters_tied_once"))
    names_sha256: str


class _FullSize(Form):
    config: FirstStageSizes
    sprc_checkpoint: _Counts
    without_vit_and_prompts: _Counts
    vit: _Counts


def check_first_stage(file: GoldenFile) -> Iterator[Deviation]:
    """A deviation for every output; raises UserError where the file is not of this form."""
    sizes, texts = file.parse(FirstStageSizes, "config"), file.parse(list[Text], "texts")
    network, inputs = golden_network(file, sizes, PromptedStage), golden_inputs(file, sizes, texts)
    golden = Golden(file, "", network, inputs, _outputs, TOLERANCE, GRADIENTS)
    yield compare_names("state dict", shapes_of(network.state_dict()), file.parse(StateDict, "state_dict").root)
    yield check_texts("texts", texts, sizes.max_text_tokens)
    yield check_texts("awkward texts", file.parse(list[Text], "tokenization"), sizes.max_text_tokens)
    yield from golden.compare("eval", golden.evaluated(), file.parse(Listed, "eval").outputs)
    yield from _check_norms(file, network)
    yield from _check_full_size(file.parse(_FullSize, "full_size"))


def _check_norms(file: GoldenFile, network: FirstStage) -> Iterator[Deviation]:
    """Layer norms of small inputs, the one place where their eps can be told."""
    for name, expected in file.parse(Listed, "small_norms").outputs.items():
        norm = network.get_submodule(name)
        small = draw_input(file.prefix, f"input.small.{name}", (2, *norm.normalized_shape), 0.001)  # type: ignore[misc]
        with torch.no_grad():
            found = network.vision(small[:, None])[:, 0] if name == "ln_vision" else norm(small)
        yield compare_output(f"small {name}", found, expected, TOLERANCE)


def _check_full_size(form: _FullSize) -> Iterator[Deviation]:
    sizes = form.config
    with torch.device("meta"):
        network = complete(PromptedStage(sizes.vit.width, Blip2Sizes(**sizes.behind())), sizes.eva)
    beginning = "visual_encoder."
    aside = (beginning, "prompt_tokens")
    shapes = shapes_of(network.state_dict())
    chosen: dict[str, tuple[_Counts, Callable[[str], bool]]] = {
        "checkpoint": (form.sprc_checkpoint, lambda name: True),
        "without ViT and prompts": (form.without_vit_and_prompts, lambda name: not name.startswith(aside)),
        "ViT": (form.vit, lambda name: name.startswith(beginning)),
    }
    for what, (counts, is_part) in chosen.items():
        part = {name.removeprefix(beginning if what == "ViT" else ""): s for name, s in shapes.items() if is_part(name)}
        parameters = sum(p.numel() for name, p in network.named_parameters() if is_part(name))
        yield compare_count(f"full size, {what}: entries", len(part), counts.entries)
        yield compare_count(f"full size, {what}: parameters", parameters, counts.parameters)
        same = names_sha256(part) == counts.names_sha256
        yield Deviation(f"full size, {what}: names", float(not same), 0.0, note="" if same else "the digest differs")
