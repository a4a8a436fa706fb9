"""The contract of a backbone: what it gives of a picture and of a text, and all that the rest asks of it.

Methods, the feature store and the steps of a run know backbones by this file alone. A
:class:`BackboneFamily` loads one by its name: those in :mod:`benchmark.encoders`, and those that plug-ins bring.

Notation: B batch, S side of the input in pixels, L context length, d width, T tokens of width w.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.facts import BackboneDescription, BackboneInfo
from benchmark.settings import BackboneSettings
from benchmark.weights.reading import state_digest

if TYPE_CHECKING:
    from PIL.Image import Image

GLOBAL = "global"
"""One vector (d) of a picture or a text, in one space for both."""

TOKENS = "tokens"
"""A sequence (T, w) of a picture's or a text's tokens, as the backbone's own documentation says which."""


@dataclass(frozen=True)
class Output:
    """One thing that a backbone gives: its shape without the batch, ``(d,)`` or ``(T, w)``.

    ``dtype``: how the feature store keeps it. Sequences of tokens are kept in half precision.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "float16"] = "float32"

    @property
    def bytes(self) -> int:
        """Of one picture or text in the store."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class BackbonePreprocessing(Protocol):
    """From an opened picture to what the backbone sees, without chance."""

    @property
    def size(self) -> int:
        """S."""
        ...

    @property
    def random(self) -> bool:
        """False: the same picture always gives the same pixels."""
        ...

    def key(self) -> dict[str, Any]:
        """Everything that changes a pixel of the picture."""
        ...

    def patch_key(self, grids: tuple[int, ...]) -> dict[str, Any]:
        """Everything that changes a pixel of the crops of these grids."""
        ...

    def picture(self, image: Image, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255; ``rng`` is not drawn from."""
        ...

    def patches(self, image: Image, grids: tuple[int, ...]) -> NDArray[np.uint8]:
        """The crops of every grid, (P, S, S, 3) of 0…255."""
        ...

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) or (B, 3, S, S) of 0…255 → float32 (B, 3, S, S)."""
        ...


@dataclass(frozen=True)
class TextContext:
    """What a text encoder reads of a text: its first ``length`` tokens, those of start and end included.

    ``count``: texts to the number of tokens of each before it is cut. ``name``: the architecture's.
    """

    name: str
    length: int
    count: Callable[[Sequence[str]], Sequence[int]]

    def cut(self, texts: Iterable[str]) -> int:
        """How many of the texts are longer; one that stands there several times counts as often."""
        times = Counter(texts)
        lengths = self.count(list(times))
        return sum(times[text] for text, length in zip(times, lengths, strict=True) if length > self.length)


@dataclass(frozen=True)
class BackboneIdentity:
    """What a backbone was made of, for its description: family, name, weights and, where these leave a choice, more.

    ``configuration``: of an architecture of the user's own, which no name stands for.
    """

    family: str
    name: str
    weights: str
    activation: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)


class Backbone(nn.Module):
    """Encodes pictures, and texts where it has a text side.

    A family defines `encode_image` and `width` for a global vector, or `picture_outputs` and
    `encode_picture_outputs` for more or other outputs; for a text side `encode_text` and `tokenize` (with
    `text_outputs` and `encode_text_outputs` for more), or an empty `text_outputs` where there is none. ``identity``
    and ``preprocessing`` are set by what loads it.
    """

    identity: BackboneIdentity
    preprocessing: BackbonePreprocessing
    _digest: str | None = None

    @property
    def description(self) -> BackboneDescription:
        """The digest is taken once; see :meth:`relabel` after training."""
        if self._digest is None:
            self._digest = state_digest(self.digested_state())
        identity, context = self.identity, self.text_context
        return BackboneDescription(
            name=identity.name,
            weights=identity.weights,
            width=self.vector_width,
            image_size=self.preprocessing.size,
            context_length=context.length if context is not None else 0,
            activation=identity.activation,
            digest=self._digest,
            preprocessing=self.preprocessing.key(),
            parameters=sum(parameter.numel() for parameter in self.parameters()),
            configuration=dict(identity.configuration),
            family=identity.family,
        )

    def digested_state(self) -> Mapping[str, Tensor]:
        """The tensors that the description's digest is of."""
        return self.state_dict()

    def relabel(self, weights: str) -> None:
        """Name the weights anew after they changed; the next description takes a new digest."""
        self.identity = replace(self.identity, weights=weights)
        self._digest = None

    @property
    def width(self) -> int:
        """d of the global vector."""
        raise TypeError(f"{type(self).__name__} must define width, or have picture_outputs without 'global'")

    @property
    def vector_width(self) -> int:
        """d, or 0 where it gives no global vector of a picture."""
        return self.width if GLOBAL in self.picture_outputs else 0

    @property
    def picture_outputs(self) -> Mapping[str, Output]:
        """What it gives of a picture, by name."""
        return {GLOBAL: Output((self.width,))}

    @property
    def text_outputs(self) -> Mapping[str, Output]:
        """What it gives of a text, by name; empty where it has no text side."""
        return {GLOBAL: Output((self.width,))}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, d), not normalised."""
        raise TypeError(f"{type(self).__name__} must define encode_image, or have picture_outputs without 'global'")

    def encode_picture_outputs(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """(B, 3, S, S) normalised pixels → each output that is asked for, (B, *shape), in one pass."""
        return {name: self.encode_image(pixels) for name in names if name == GLOBAL}

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, d), not normalised; L may be shorter than the context."""
        raise TypeError(f"{type(self).__name__} must define encode_text, or have no text_outputs")

    @property
    def token_width(self) -> int:
        """w of `embed_tokens`."""
        raise TypeError(f"{type(self).__name__} has no text tower that words can be put into")

    @property
    def cosine_scale(self) -> Tensor:
        """What the pretraining's loss multiplied cosines by, one number, without a gradient."""
        raise TypeError(f"{type(self).__name__} must define cosine_scale, or serves no loss that asks for it")

    def encode_text_outputs(self, tokens: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """(B, L) int64 → each output that is asked for, (B, *shape), of sequences L tokens, in one pass."""
        return {name: self.encode_text(tokens) for name in names if name == GLOBAL}

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 → (B, L, w): each token's vector as it enters the text tower, without its position.

        A method may put vectors of its own in their place (pseudo words) and hand them to `encode_embedded`.
        """
        raise TypeError(f"{type(self).__name__} has no text tower that words can be put into")

    def encode_embedded(self, embedded: Tensor, tokens: Tensor) -> Tensor:
        """(B, L, w) vectors of `embed_tokens`, changed or not, and the tokens that they stand for → (B, d)."""
        raise TypeError(f"{type(self).__name__} has no text tower that words can be put into")

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64; longer texts are cut."""
        raise TypeError(f"{type(self).__name__} must define tokenize, or have no text_outputs")

    def shortened(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) without the last columns that change no encoding; by default all of them."""
        return tokens

    @property
    def text_context(self) -> TextContext | None:
        """What `tokenize` keeps of a text; None where that is not known, or everything."""
        return None

    @property
    def files_beside(self) -> Mapping[str, Path]:
        """Small files that it reads besides its weights, by the place under an assets folder where they are looked
        for: an export brings them along."""
        return {}

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """What can be fine-tuned apart from the rest: "image", "text", to beginnings of their parameters' names."""
        return {}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Parameters that no loss on the outputs can move; names, or beginnings that end with a dot."""
        return ()


@dataclass(frozen=True)
class BackboneChoice:
    """A backbone as it is asked for. ``weights``: a tag, a file or "random" (drawn by ``seed``); "" for the default."""

    name: str
    weights: str = ""
    settings: BackboneSettings = field(default_factory=BackboneSettings)
    assets_root: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class BackboneFile:
    """A file that a backbone is loaded from. ``path``: None where it is not on this machine; ``missing`` says then
    what was looked for, and where to get it."""

    what: str
    path: Path | None
    missing: str = ""


class BackboneFamily(Protocol):
    """Loads the backbones of one kind. ``name`` stands in descriptions, by which weights' headers find it again."""

    @property
    def name(self) -> str: ...

    @property
    def backbones(self) -> Mapping[str, BackboneInfo]:
        """Those that are listed, by name."""
        ...

    def require_known(self, name: str) -> None:
        """Raises UserError for a name that is none of its backbones."""
        ...

    def default_weights(self, name: str) -> str:
        """The tag that no `--weights` means, or "random"; raises UserError where there is none."""
        ...

    def settled(self, choice: BackboneChoice) -> BackboneSettings:
        """The settings with what the weights decide (mean and std, where they are not CLIP's), to be recorded."""
        ...

    def files(self, choice: BackboneChoice) -> tuple[BackboneFile, ...]:
        """All that is read from outside. Raises UserError for a name or a tag that is not known."""
        ...

    def pixels(self, choice: BackboneChoice) -> str:
        """What pixels are normalised with and how that is known, in words."""
        ...

    def outline(self, choice: BackboneChoice) -> Backbone:
        """The network on torch's "meta" device, without memory and without reading weights: its outputs, sizes and
        preprocessing. Raises UserError for an unknown name."""
        ...

    def require_fit(self, choice: BackboneChoice) -> None:
        """Hold the weights' file against the architecture without building it; raises UserError as `load` does."""
        ...

    def load(self, choice: BackboneChoice) -> Backbone:
        """In evaluation mode, on the CPU, float32. Raises UserError for unknown names, and weights that are not on
        disk or do not fit."""
        ...

    def rebuild(self, description: Mapping[str, Any], source: str, assets_root: Path | None = None) -> Backbone:
        """The backbone of a description (its fields as plain values), its weights still to be loaded; of files only
        sizes and tokenizers of the hub are read, under ``assets_root``. Raises UserError where the description, which
        stands in ``source``, is damaged or not known here."""
        ...
