"""Backbones: CLIP's two encoders with their preprocessing, tokens and a full description.

Architectures are open_clip's, by name, and ``tiny``, a configuration of our own. Weights come from
a tag, a file or a seed, and are always float32. Notation: B batch, S input side, L context length,
d embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.backbone import GLOBAL, TOKENS, Backbone, BackboneIdentity, Output, TextContext
from benchmark.encoders.architectures import (
    Activation,
    Architecture,
    architecture_named,
    architecture_of,
    backbone_configuration,
    own_architecture,
)
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.encoders.clip_tokens import clip_tokenizer, count_tokens
from benchmark.encoders.clip_weights import as_clip
from benchmark.encoders.open_clip_networks import OpenClipBackbone, build_network, with_own_names
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.encoders.pretrained import RANDOM, activation_of, is_path, normalisation_of, published, weights_path
from benchmark.encoders.recognition import recognised
from benchmark.errors import UserError
from benchmark.facts import BackboneDescription
from benchmark.progress import say
from benchmark.settings import BackboneSettings
from benchmark.structured_files import typed
from benchmark.weights.fit import load_into, require_module_fits, shapes_of
from benchmark.weights.reading import WeightsFile, read_state_dict

OPEN_CLIP = "open_clip"
"""The family's name in descriptions."""

class ClipBackbone(Backbone):
    """CLIP's image and text encoders in one space of width d; ``clip`` has OpenAI's names inside.

    Tokens of a picture, where its encoder is a ViT, are all behind the last layer norm, the class token first; those
    of a text are all positions behind the last layer norm, start, end and padding included.
    """

    preprocessing: Preprocessing

    def __init__(self, clip: CLIP, preprocessing: Preprocessing, identity: BackboneIdentity) -> None:
        super().__init__()
        self.clip = clip
        self.preprocessing = preprocessing
        self.identity = identity

    @classmethod
    def of(
        cls, architecture: Architecture, clip: CLIP, preprocessing: Preprocessing, weights: str, activation: Activation
    ) -> ClipBackbone:
        """In evaluation mode; an architecture of the user's own is kept, so that it can be built again without its
        file."""
        configuration = dict(architecture.config) if architecture.is_file else {}
        identity = BackboneIdentity(OPEN_CLIP, architecture.label, weights, activation, configuration)
        return cls(clip, preprocessing, identity).eval()

    def digested_state(self) -> dict[str, Tensor]:
        """By OpenAI's names, as it always was: digests name folders of features and artefacts."""
        return self.openai_state_dict()

    @property
    def width(self) -> int:
        """d."""
        return int(self.clip.text_projection.shape[1])

    def openai_state_dict(self) -> dict[str, Tensor]:
        """The state dict with OpenAI's names and shapes: the logit scale is a scalar there."""
        state: dict[str, Tensor] = self.clip.state_dict()
        return {name: t.reshape(()) if name == "logit_scale" else t for name, t in state.items()}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, d), not normalised."""
        encoded: Tensor = self.clip.encode_image(pixels)
        return encoded

    @property
    def picture_outputs(self) -> Mapping[str, Output]:
        outputs, visual = {GLOBAL: Output((self.width,))}, self.clip.visual
        # Of other ViTs (pooled by attention, or normed behind the pool) these tokens are not what the vector is of.
        if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok":
            if not visual.final_ln_after_pool:
                positions, width = visual.positional_embedding.shape
                outputs[TOKENS] = Output((int(positions), int(width)), "float16")
        return outputs

    @property
    def text_outputs(self) -> Mapping[str, Output]:
        positions, width = self.clip.positional_embedding.shape
        return {GLOBAL: Output((self.width,)), TOKENS: Output((int(positions), int(width)), "float16")}

    def encode_picture_outputs(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """(B, 3, S, S) → "global" (B, d), "tokens" (B, T, w)."""
        if TOKENS not in names:
            return super().encode_picture_outputs(pixels, names)
        visual: Any = self.clip.visual
        tokens = visual.ln_post(visual.transformer(visual._embeds(pixels)))
        outputs = {TOKENS: tokens}
        return {**outputs, GLOBAL: tokens[:, 0] @ visual.proj} if GLOBAL in names else outputs

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, d), not normalised; L may be shorter than the context."""
        return self.encode_embedded(self.embed_tokens(tokens), tokens)

    @property
    def token_width(self) -> int:
        return int(self.clip.token_embedding.weight.shape[1])

    @property
    def cosine_scale(self) -> Tensor:
        scale: Tensor = self.clip.logit_scale.detach().exp().reshape(())
        return scale

    def encode_text_outputs(self, tokens: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """(B, L) → "global" (B, d), "tokens" (B, L, w): a position's depends on it and those before it."""
        states = self._text_states(self.embed_tokens(tokens))
        outputs = {TOKENS: states, GLOBAL: self._pooled(states, tokens)}
        return {name: outputs[name] for name in names}

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, L, w)."""
        embedded: Tensor = self.clip.token_embedding(tokens)
        return embedded

    def encode_embedded(self, embedded: Tensor, tokens: Tensor) -> Tensor:
        """(B, L, w) and (B, L) int64 → (B, d).

        A position sees only those before it and the end token's is read: padding behind the
        longest text changes nothing, so that it need not be computed.
        """
        return self._pooled(self._text_states(embedded), tokens)

    def _text_states(self, embedded: Tensor) -> Tensor:
        """(B, L, w) behind the last layer norm."""
        clip, length = self.clip, embedded.shape[1]
        states = embedded + clip.positional_embedding[:length]
        normed: Tensor = clip.ln_final(clip.transformer(states, attn_mask=clip.attn_mask[:length, :length]))
        return normed

    def _pooled(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The end token's, projected, (B, d)."""
        ends = states[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]
        encoded: Tensor = ends @ self.clip.text_projection
        return encoded

    def shortened(self, tokens: Tensor) -> Tensor:
        """Up to the end token of the longest text, (B, L)."""
        return tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64, padded with 0; longer texts are cut, their end token kept; "" is allowed."""
        tokenizer = clip_tokenizer(int(self.clip.vocab_size))
        tokens: Tensor = tokenizer(list(texts), context_length=int(self.clip.context_length))
        return tokens

    @property
    def text_context(self) -> TextContext:
        vocabulary = int(self.clip.vocab_size)
        return TextContext(
            self.identity.name, int(self.clip.context_length), lambda texts: count_tokens(texts, vocabulary)
        )

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The picture side is `visual`, the text side the rest; the logit scale belongs to neither."""
        names = sorted({name.partition(".")[0] for name, _ in self.clip.named_parameters()} - {"visual", "logit_scale"})
        return {"image": ("clip.visual.",), "text": tuple(f"clip.{name}{_dot(self.clip, name)}" for name in names)}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """CLIP's own scale, and a shift that the attention pool's softmax removes."""
        still = ("clip.logit_scale", "clip.visual.attnpool.k_proj.bias")
        names = {name for name, _ in self.named_parameters()}
        return tuple(name for name in still if name in names)


def _dot(clip: CLIP, name: str) -> str:
    """A module's parameters begin with its name and a dot."""
    return "" if isinstance(getattr(clip, name), Tensor) else "."


def build_clip(config: Mapping[str, Any], activation: Activation, seed: int = 0) -> CLIP:
    """A CLIP model of open_clip from its configuration, random weights by ``seed`` alone.

    Every tensor is float32; the logit scale is a vector of one entry, which DeepSpeed needs. The
    state of torch's global generator is left as it was.
    """
    sizes = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return CLIP(**sizes, quick_gelu=activation == "quickgelu", nonscalar_logit_scale=True)


@dataclass(frozen=True)
class PretrainedClip:
    """Weights as they were read for an architecture, not yet held against it.

    ``tensors`` have OpenAI's names and the file's types, None for random weights; ``label`` is the weights'.
    """

    architecture: Architecture
    path: Path | None
    file: WeightsFile | None
    activation: Activation
    label: str

    def tensors_for(self, clip: nn.Module) -> Mapping[str, Tensor]:
        """The file's tensors by the network's names."""
        assert self.file is not None
        return self.file.state_dict if self.architecture.is_plain else with_own_names(clip, self.file.state_dict)

    @property
    def source(self) -> str:
        return f"{self.path} as {self.architecture.label}"


def read_pretrained(name: str, weights: str | None, assets_root: Path | None = None) -> PretrainedClip:
    """The weights that are asked for, by their CLIP's names; see `load_backbone` for what it raises."""
    architecture = architecture_named(name)
    label = weights or default_weights(architecture.label)
    entry: Mapping[str, Any] = {}
    path = None
    if label != RANDOM:
        path = weights_path(name, label, assets_root)
        if not is_path(label):
            entry = published(architecture.label)[label.lower().replace("-", "_")]
    whole = read_state_dict(path, entry="CLIP") if path is not None else None
    activation = activation_of(architecture, label, whole, entry)
    file = as_clip(whole, str(path)) if whole is not None and architecture.is_plain else whole
    return PretrainedClip(architecture, path, file, activation, path.stem if path and not entry else label)


def require_weights_fit(name: str, weights: str, assets_root: Path | None = None) -> None:
    """Hold a weights file against the architecture without building it; raises UserError as `load_backbone` does."""
    read = read_pretrained(name, weights, assets_root)
    if read.file is not None:
        with torch.device("meta"):
            clip = network_of(read.architecture, read.activation, 0, assets_root)
        with _told_by_its_sizes(read):
            require_module_fits(clip, read.tensors_for(clip), read.source)


def load_backbone(
    name: str,
    weights: str | None = None,
    *,
    preprocessing: str = "targetpad",
    rgb_first: bool = False,
    seed: int = 0,
    assets_root: Path | None = None,
    settings: BackboneSettings | None = None,
) -> ClipBackbone | OpenClipBackbone:
    """A backbone in evaluation mode, on the CPU, float32.

    ``name``: ``tiny`` or an architecture of open_clip, with ``-quickgelu`` or ``-gelu`` behind it
    where the weights do not tell, or a JSON file of open_clip's form. ``weights``: a tag, a file, or
    ``random`` (drawn by ``seed``); None for the architecture's default. ``settings``: another mean and std
    than the weights'. Raises UserError for unknown names, weights that are not on disk or do not fit, and an
    activation that contradicts the weights.
    """
    read = read_pretrained(name, weights, assets_root)
    architecture = read.architecture
    clip = network_of(architecture, read.activation, seed, assets_root)
    normalisation = normalisation_of(architecture.label, weights or read.label, read.path, settings)
    if read.file is not None:
        with _told_by_its_sizes(read):
            load_into(clip, read.tensors_for(clip), read.source)
        note = f" ({read.file.note})" if read.file.note else ""
        say(f"encoder {architecture.label}, {read.path}{note}: {normalisation}")
    pipeline = Preprocessing(
        preprocessing,
        architecture.image_size,
        mean=normalisation.mean,
        std=normalisation.std,
        rgb_first=rgb_first,
        interpolation=normalisation.interpolation,
    )
    return _backbone(architecture, clip, pipeline, read.label, read.activation, assets_root)


def rebuild_backbone(
    description: Mapping[str, Any], source: str = "the weights' header", assets_root: Path | None = None
) -> ClipBackbone | OpenClipBackbone:
    """The backbone of a description (its fields as plain values), its weights still to be loaded.

    No weights file is read. Raises UserError where the architecture is not known here, or the description,
    which stands in ``source``, is damaged.
    """
    told = typed(_Rebuilt, dict(description), source, "it is damaged, write the file again")
    pipeline = Preprocessing.of_key(told.preprocessing, source)
    if told.configuration:
        architecture = own_architecture(told.configuration, told.name, f"{source}, the backbone's configuration")
    else:
        architecture = Architecture(told.name, backbone_configuration(told.name), told.activation)
    clip = network_of(architecture, told.activation, 0, assets_root)
    return _backbone(architecture, clip, pipeline, told.weights, told.activation, assets_root)


def network_of(architecture: Architecture, activation: Activation, seed: int, assets_root: Path | None) -> nn.Module:
    """The network of an architecture, random weights by ``seed`` alone, float32."""
    network: nn.Module
    if architecture.is_plain:
        network = build_clip(architecture.config, activation, seed)
        return network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build_network(architecture.label, architecture.config, activation == "quickgelu", assets_root)
    return network


def _backbone(
    architecture: Architecture,
    clip: nn.Module,
    preprocessing: Preprocessing,
    weights: str,
    activation: Activation,
    assets_root: Path | None,
) -> ClipBackbone | OpenClipBackbone:
    if isinstance(clip, CLIP) and architecture.is_plain:
        return ClipBackbone.of(architecture, clip, preprocessing, weights, activation)
    configuration = dict(architecture.config) if architecture.is_file else {}
    identity = BackboneIdentity(OPEN_CLIP, architecture.label, weights, activation, configuration)
    return OpenClipBackbone(clip, architecture.config, preprocessing, identity, assets_root).eval()


@contextmanager
def _told_by_its_sizes(read: PretrainedClip) -> Iterator[None]:
    """Where weights do not fit, which architecture they are of, if their sizes tell."""
    try:
        yield
    except UserError as error:
        assert read.file is not None
        found = ""
        with suppress(UserError):  # no CLIP, or several
            found = architecture_of(shapes_of(as_clip(read.file, read.source).state_dict), read.source)
        found = found or recognised(read.file.state_dict)
        if found and found != read.architecture.label:
            raise UserError(f"{error}; its sizes are those of --backbone {found}") from None
        raise


@dataclass(frozen=True)
class _Rebuilt(BackboneDescription):
    activation: Activation


def default_weights(architecture: str) -> str:
    if architecture in BACKBONES:
        return BACKBONES[architecture].default_weights
    tags = sorted(published(architecture))
    if "openai" in tags or len(tags) == 1:
        return "openai" if "openai" in tags else tags[0]
    choice = ", ".join(tags) or "no published tag"
    raise UserError(
        f"--backbone {architecture} has no default weights; give --weights FILE, random or one of: {choice}"
    )
