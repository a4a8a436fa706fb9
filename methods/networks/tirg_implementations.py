"""TIRG's two implementations around its compositions: encoders, scale and loss.

"original" is the authors' code: ResNet-18, LSTM, logits = s² · cos(q, y) with a learned scale s.
"artemis" is the variant in ARTEMIS's release (`artemis_encoders.py`): ResNet-50 with generalised-mean
pooling, GRU, a = (1, 1), scores times exp(τ). The compositions are `tirg.py`.

Notation: B batch, d width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import Method, Views
from benchmark.settings import OnlyWith, Renamed

from .artemis_encoders import ArtemisMethod, CnnSettings, Encoders, LinearPicture
from .cnn import ImageEncoder, TrunkName, require_rows, unit
from .recurrent_texts import LastStateText, text_views, tirg_vocabulary
from .tirg import (
    RELEASED_SHARES,
    Composition,
    Concatenation,
    GatedResidual,
    MapGatedResidual,
    classification_loss,
    draw_triplets,
    soft_triplet_loss,
)
from .vocabulary import Vocabulary, plain_words

SCALE = 4.0
"""norm_s at the start."""

VARIANT_SHARES = (1.0, 1.0)
"""a of the variant in ARTEMIS's release."""

Kind = Literal["tirg", "tirg_lastconv", "concat"]


class TirgSettings(CnnSettings):
    """TIRG's networks; "original" reads `loss`, "artemis" the text encoder and word vectors."""

    cnn: TrunkName = Field("resnet18", description="picture encoder; resnet50 in the implementation artemis")
    implementation: Literal["original", "artemis"] = Field(
        "original", description="the authors' code, or ARTEMIS's variant"
    )
    loss: Literal["batch_based_classification", "soft_triplet"] = Field(
        "batch_based_classification", description="loss of the original implementation"
    )
    left_out: tuple[str, ...] = Field(
        (), description="words that the original implementation's vocabulary does not take in"
    )

    counts_only_with: ClassVar[OnlyWith] = {
        **{
            name: {"implementation": ("artemis",), **CnnSettings.counts_only_with.get(name, {})}
            for name in ("word_width", "word_vectors", "text_encoder", "lstm_width", "padding", "augmentation")
        },
        **dict.fromkeys(("loss", "left_out"), {"implementation": ("original",)}),
    }

    formerly: ClassVar[Mapping[str, Renamed]] = {"frame": Renamed("implementation", {"released": "original"})}

    @model_validator(mode="before")
    @classmethod
    def _cnn_of_the_implementation(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Each has a CNN of its own where none is named."""
        return {"cnn": "resnet50" if given.get("implementation") == "artemis" else "resnet18", **given}


def composition(kind: Kind, picture: int, text: int, shares: Sequence[float], dropout: float) -> Composition:
    """The composition of pictures `picture` and texts `text` wide."""
    if kind == "tirg":
        return GatedResidual(picture, text, shares)
    if kind == "tirg_lastconv":
        return MapGatedResidual(picture, text, shares)
    return Concatenation(picture, text, dropout)


class NormScale(nn.Module):
    """n(u) = s · u / ‖u‖ with one learned scalar s, in the loss only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_s = nn.Parameter(torch.tensor([SCALE]))

    def forward(self, vectors: Tensor) -> Tensor:
        scaled: Tensor = self.norm_s * unit(vectors)
        return scaled


class OriginalTirg(Method):
    """The authors' implementation: x and t as the encoders give them, neither normalised."""

    def __init__(
        self,
        img_model: ImageEncoder,
        make_text: Callable[[int], LastStateText],
        composed: Composition,
        loss: str,
        left_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.img_model = img_model
        self.composition = composed
        self.normalization_layer = NormScale()
        self.vocabulary: Vocabulary | None = None
        self._make_text, self._loss, self._left_out = make_text, loss, frozenset(left_out)

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Shifts that the batch norm behind the text encoder, or inside the composition, removes."""
        return ("text_model.fc_output.1.bias", *shifts_of(self.composition))

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d), of unit norm."""
        require_rows(len(text["tokens"]), self.training, "TIRG")
        return unit(self.compose(reference["pixels"], self.text_model(text)))

    def encode_target(self, target: Views) -> Tensor:
        """(B, d), of unit norm."""
        return unit(self.img_model(target["pixels"]))

    def compose(self, pixels: Tensor, text: Tensor) -> Tensor:
        """q before its normalisation, (B, d)."""
        return composed_query(self.composition, self.img_model, pixels, text, lambda vectors: vectors)

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        queries, targets = (self.normalization_layer(vectors.float()) for vectors in (queries, targets))
        if self._loss == "soft_triplet":
            return soft_triplet_loss(queries, targets, draw_triplets(len(queries)))
        return classification_loss(queries, targets)

    def build_extra_state(self, texts: Sequence[str]) -> None:
        self.use(tirg_vocabulary(texts, self._left_out))

    def extra_state(self) -> Mapping[str, Any]:
        return {} if self.vocabulary is None else self.vocabulary.as_json()

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self.use(Vocabulary.from_json(state))

    def use(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.text_model = self._make_text(len(vocabulary))

    def tokenize(self, texts: Sequence[str]) -> Views:
        if self.vocabulary is None:
            raise UserError("the vocabulary is made from training captions; this method has seen none")
        return text_views(self.vocabulary, [plain_words(text) for text in texts])


class ArtemisTirg(ArtemisMethod):
    """The composition on ARTEMIS's encoders: r and m of unit norm, and so is the query; score ⟨q, t⟩."""

    def __init__(self, encoders: Encoders, composed: Composition, frozen: bool = False) -> None:
        super().__init__(encoders, frozen)
        self.composition = composed

    @property
    def without_gradient(self) -> tuple[str, ...]:
        shifts = shifts_of(self.composition)
        if shifts and isinstance(self.encoders.img_enc, LinearPicture):
            # A shift of all references, which the batch norm removes, and of all targets, which the softmax does.
            shifts = (*shifts, "encoders.img_enc.linear.bias")
        return (*super().without_gradient, *shifts)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d), of unit norm."""
        vectors = self.encoders.text(text)
        self._require_rows(len(vectors))
        if isinstance(self.composition, MapGatedResidual):
            image = self.encoders.img_enc
            assert isinstance(image, ImageEncoder)
            return unit(composed_query(self.composition, image, reference["pixels"], vectors, unit))
        return unit(self.composition(self.encoders.picture(reference), vectors))


def shifts_of(composed: Composition) -> tuple[str, ...]:
    """The bias of Concat + MLP's first linear layer, which the batch norm behind it removes."""
    return ("composition.m.2.bias",) if isinstance(composed, Concatenation) else ()


def composed_query(
    composed: Composition, image: ImageEncoder, pixels: Tensor, text: Tensor, embedded: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B, d): on the last map, then pooled and projected; or on the ``embedded`` pooled vector."""
    if isinstance(composed, MapGatedResidual):
        return image.embed(composed(image.last_map(pixels), text))
    query: Tensor = composed(embedded(image(pixels)), text)
    return query


def original_tirg(kind: Kind, settings: TirgSettings, cnn: nn.Module, channels: int) -> OriginalTirg:
    """The authors' implementation on a CNN with so many channels in its last map."""
    width = settings.width
    image = ImageEncoder(cnn, nn.Sequential(nn.Linear(channels, width)), "average")
    picture = channels if kind == "tirg_lastconv" else width
    composed = composition(kind, picture, width, RELEASED_SHARES, settings.dropout)
    return OriginalTirg(
        image,
        lambda words: LastStateText(words, width, width, settings.dropout),
        composed,
        settings.loss,
        settings.left_out,
    )


def artemis_tirg(kind: Kind, settings: TirgSettings, encoders: Encoders, channels: int, frozen: bool) -> ArtemisTirg:
    """ARTEMIS's implementation of a composition."""
    picture = channels if kind == "tirg_lastconv" else settings.width
    composed = composition(kind, picture, settings.width, VARIANT_SHARES, settings.dropout)
    return ArtemisTirg(encoders, composed, frozen)
