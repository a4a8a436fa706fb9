"""Backbones: CLIP's two encoders with their preprocessing, tokens and a full description.

Architectures are open_clip's, by name, and ``tiny``, a configuration of our own. Weights come from
a tag, a file or a seed, and are always float32. Notation: B batch, S input side, L context length,
d embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from benchmark.backbone import Backbone, BackboneDescription, TextContext
from benchmark.encoders.architectures import Activation, backbone_configuration, split_name
from benchmark.encoders.backbone_table import BACKBONES, CLIP_VOCABULARY
from benchmark.encoders.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from benchmark.encoders.pretrained import RANDOM, activation_of, find_weights, is_path, published
from benchmark.errors import UserError
from benchmark.weights.fit import load_into
from benchmark.weights.reading import OPENAI_SIZES, read_state_dict, state_digest

_SINGLE_BYTE_TOKENS = 512  # 256 bytes, each inside a word and at its end
_START, _END = "<start_of_text>", "<end_of_text>"


class ClipBackbone(Backbone):
    """CLIP's image and text encoders in one space of width d; ``clip`` has OpenAI's names inside."""

    preprocessing: Preprocessing

    def __init__(
        self, clip: CLIP, preprocessing: Preprocessing, name: str, weights: str, activation: Activation
    ) -> None:
        super().__init__()
        self.clip = clip
        self.preprocessing = preprocessing
        self._name = name
        self._weights = weights
        self._activation = activation
        self._digest: str | None = None

    @property
    def description(self) -> BackboneDescription:
        """The digest is taken once; see :meth:`relabel` after training."""
        if self._digest is None:
            self._digest = state_digest(self.openai_state_dict())
        return BackboneDescription(
            name=self._name,
            weights=self._weights,
            width=self.width,
            image_size=self.preprocessing.size,
            context_length=int(self.clip.context_length),
            activation=self._activation,
            digest=self._digest,
            preprocessing=self.preprocessing.key(),
            parameters=sum(parameter.numel() for parameter in self.clip.parameters()),
        )

    @property
    def width(self) -> int:
        """d."""
        return int(self.clip.text_projection.shape[1])

    def relabel(self, weights: str) -> None:
        """Name the weights anew after they changed; the next description takes a new digest."""
        self._weights = weights
        self._digest = None

    def openai_state_dict(self) -> dict[str, Tensor]:
        """The state dict with OpenAI's names and shapes: the logit scale is a scalar there."""
        state: dict[str, Tensor] = self.clip.state_dict()
        return {name: t.reshape(()) if name == "logit_scale" else t for name, t in state.items()}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, d), not normalised."""
        encoded: Tensor = self.clip.encode_image(pixels)
        return encoded

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, d), not normalised; L may be shorter than the context.

        A position sees only those before it and the end token's is read: padding behind the
        longest text changes nothing, so that it need not be computed.
        """
        clip, length = self.clip, tokens.shape[1]
        states = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        states = clip.ln_final(clip.transformer(states, attn_mask=clip.attn_mask[:length, :length]))
        ends = states[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]
        encoded: Tensor = ends @ clip.text_projection
        return encoded

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64, padded with 0; longer texts are cut, their end token kept; "" is allowed."""
        tokenizer = _tokenizer(int(self.clip.vocab_size))
        tokens: Tensor = tokenizer(list(texts), context_length=int(self.clip.context_length))
        return tokens

    @property
    def text_context(self) -> TextContext:
        return _context(self._name, int(self.clip.context_length), int(self.clip.vocab_size))


def text_context(name: str) -> TextContext:
    """What an architecture reads of a text; no network is built. Raises UserError for an unknown name."""
    architecture, _ = split_name(name)
    texts = backbone_configuration(name)["text_cfg"]
    return _context(architecture, int(texts.get("context_length", 77)), int(texts.get("vocab_size", CLIP_VOCABULARY)))


def _context(name: str, length: int, vocabulary: int) -> TextContext:
    def count(texts: Sequence[str]) -> list[int]:
        tokenizer = _tokenizer(vocabulary)
        return [len(tokenizer.encode(text)) + len((_START, _END)) for text in texts]

    return TextContext(name, length, count)


@lru_cache
def _tokenizer(vocabulary: int) -> SimpleTokenizer:
    """CLIP's tokenizer, or one of its first merges only: they are ordered by frequency.

    The end token keeps the highest number, since CLIP's text encoder finds it by that.
    """
    tokenizer = SimpleTokenizer()
    if vocabulary == CLIP_VOCABULARY:
        return tokenizer
    kept = vocabulary - len((_START, _END))
    names = [*list(tokenizer.encoder)[:kept], _START, _END]
    tokenizer.encoder = {name: number for number, name in enumerate(names)}
    tokenizer.decoder = dict(enumerate(names))
    merges = kept - _SINGLE_BYTE_TOKENS
    tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < merges}
    tokenizer.vocab_size = vocabulary
    tokenizer.sot_token_id, tokenizer.eot_token_id = kept, kept + 1
    tokenizer.all_special_ids = [kept, kept + 1]
    return tokenizer


def build_clip(config: Mapping[str, Any], activation: Activation, seed: int = 0) -> CLIP:
    """A CLIP model of open_clip from its configuration, random weights by ``seed`` alone.

    Every tensor is float32; the logit scale is a vector of one entry, which DeepSpeed needs. The
    state of torch's global generator is left as it was.
    """
    sizes = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return CLIP(**sizes, quick_gelu=activation == "quickgelu", nonscalar_logit_scale=True)


def load_backbone(
    name: str,
    weights: str | None = None,
    *,
    preprocessing: str = "targetpad",
    rgb_first: bool = False,
    seed: int = 0,
    assets_root: Path | None = None,
) -> ClipBackbone:
    """A backbone in evaluation mode, on the CPU, float32.

    ``name``: ``tiny`` or an architecture of open_clip, with ``-quickgelu`` or ``-gelu`` behind it
    where the weights do not tell. ``weights``: a tag, a file, or ``random`` (drawn by ``seed``);
    None for the architecture's default. Raises UserError for unknown names, weights that are not
    on disk or do not fit, and an activation that contradicts the weights.
    """
    architecture, _ = split_name(name)
    config = backbone_configuration(name)
    weights = weights or _default_weights(architecture)
    entry: Mapping[str, Any] = {}
    path = None
    if is_path(weights):
        path = Path(weights)
    elif weights != RANDOM:
        path = find_weights(architecture, weights, assets_root)
        entry = published(architecture)[weights.lower().replace("-", "_")]
    file = read_state_dict(path) if path is not None else None
    activation = activation_of(name, weights, file, entry)
    clip = build_clip(config, activation, seed)
    if file is not None:
        tensors = {k: v for k, v in file.state_dict.items() if k not in OPENAI_SIZES}
        load_into(clip, tensors, f"{path} as {architecture}")
    pipeline = Preprocessing(
        preprocessing,
        int(config["vision_cfg"]["image_size"]),
        mean=tuple(entry.get("mean", CLIP_MEAN)),
        std=tuple(entry.get("std", CLIP_STD)),
        rgb_first=rgb_first,
    )
    label = path.stem if path is not None and not entry else weights
    return ClipBackbone(clip, pipeline, architecture, label, activation).eval()


def rebuild_backbone(description: Mapping[str, Any]) -> ClipBackbone:
    """The backbone of a description (its fields as plain values), its weights still to be loaded.

    No weights file is read. Raises UserError where the architecture is not known here.
    """
    named, key = str(description["name"]), description["preprocessing"]
    activation: Activation = description["activation"]
    mean, std = (tuple(float(value) for value in key[name]) for name in ("mean", "std"))
    assert len(mean) == len(std) == 3
    pipeline = Preprocessing(
        key["pad"], key["size"], mean=mean, std=std, rgb_first=key["rgb_first"], ratio=key["ratio"] or 1.25
    )
    clip = build_clip(backbone_configuration(named), activation)
    return ClipBackbone(clip, pipeline, named, str(description["weights"]), activation).eval()


def _default_weights(architecture: str) -> str:
    if architecture in BACKBONES:
        return BACKBONES[architecture].default_weights
    tags = sorted(published(architecture))
    if "openai" in tags:
        return "openai"
    choice = ", ".join(tags) or "no published tag"
    raise UserError(
        f"--backbone {architecture} has no default weights; give --weights FILE, random or one of: {choice}"
    )
