"""What ARTEMIS's release shares between its methods, TIRG's variant in it too: encoders, temperature and loss.

Pictures pass through a CNN with generalised-mean pooling and a linear layer, texts through a recurrent
encoder on a vocabulary of the training captions; on the features of a frozen encoder, pictures through
one linear layer and texts as they are. The loss is a cross-entropy over the batch's targets, query to
target only, of the scores times a learned factor exp(τ). Training has two phases: CNN and word vectors
are frozen in the first, and all is trained in the second, which goes on with the optimiser's moments.

Deviation: word vectors are drawn at random unless a file of them is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.facts import Initialisation
from benchmark.method import BuildContext, Method, PixelInputs, RequiredFile, Views
from benchmark.settings import MethodSettings, OnlyWith

from .cnn import (
    ImageEncoder,
    TrunkName,
    build_trunk,
    freeze,
    require_rows,
    trunk_files,
    trunk_named,
    trunk_start,
    unit,
)
from .cnn_pictures import WhiteSquare
from .recurrent_texts import (
    BiGruText,
    MaximumText,
    artemis_tokens,
    artemis_vocabulary,
    text_views,
)
from .vocabulary import Vocabulary, find_word_vectors, read_word_vectors

TEMPERATURE = 2.65926
"""τ at the start, a factor of 14.29."""

_ENLARGED = 256 / 224
_VECTORS = "glove.840B"


class CnnSettings(MethodSettings):
    """The networks of a method that brings its own."""

    cnn: TrunkName = Field("resnet50", description="picture encoder; `tiny` starts at random")
    start: Initialisation = Field("pretrained", description="weights of the CNN: ImageNet's, or random")
    width: int = Field(512, ge=2, multiple_of=2, description="width of the embeddings")
    word_width: int = Field(300, ge=1, description="width of the word vectors")
    word_vectors: str = Field("", description="a GloVe text file, or its name under --assets-root; else a random start")
    text_encoder: Literal["bigru", "lstm"] = Field("bigru", description="GRU both ways, or LSTM and maximum")
    lstm_width: int = Field(1024, ge=1, description="hidden width of the text encoder lstm")
    padding: Literal["masked", "released"] = Field(
        "masked", description="lstm: whether padding takes part in the maximum over time, as released"
    )
    augmentation: bool = Field(True, description="flip and random crop of training pictures")
    dropout: float = Field(0.1, ge=0, lt=1)

    counts_only_with: ClassVar[OnlyWith] = {
        "lstm_width": {"text_encoder": ("lstm",)},
        "padding": {"text_encoder": ("lstm",)},
    }


class StoredText(nn.Module):
    """A stored text feature (B, d), as it is."""

    def forward(self, text: Views) -> Tensor:
        return text["global"]


class LinearPicture(nn.Module):
    """A stored picture feature (B, c) through one linear layer, (B, d); the release's encoder on CIRR."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.linear(features)
        return embedding


class Encoders(nn.Module):
    """Picture and text encoder under their released names, and the vocabulary between strings and ids.

    ``make_text`` builds the text encoder once the number of words is known; None for stored texts.
    Pictures are normalised where they are pixels.
    """

    def __init__(
        self, img_enc: nn.Module, make_text: Callable[[int], nn.Module] | None, word_vectors: str = ""
    ) -> None:
        super().__init__()
        self.img_enc = img_enc
        self._make_text, self._word_vectors = make_text, word_vectors
        self.vocabulary: Vocabulary | None = None
        if make_text is None:
            self.txt_enc: nn.Module = StoredText()

    def picture(self, views: Views) -> Tensor:
        """(B, d): of unit norm from pixels, as the linear layer gives it from features."""
        if "pixels" in views:
            return unit(self.img_enc(views["pixels"]))
        embedding: Tensor = self.img_enc(views["global"])
        return embedding

    def text(self, views: Views) -> Tensor:
        """m, (B, d), of unit norm."""
        return unit(self.txt_enc(views))

    def build_extra_state(self, texts: Sequence[str]) -> None:
        if self._make_text is None:
            return
        self.use(artemis_vocabulary(texts))
        if self._word_vectors:
            self._read_vectors(self._word_vectors)

    def use(self, vocabulary: Vocabulary) -> None:
        assert self._make_text is not None, "stored texts need no vocabulary"
        self.vocabulary = vocabulary
        self.txt_enc = self._make_text(len(vocabulary))

    @torch.no_grad()
    def _read_vectors(self, path: str) -> None:
        """Words without a vector in the file keep their start, N(0, 1)."""
        assert self.vocabulary is not None and isinstance(self.txt_enc, BiGruText | MaximumText)
        table = self.txt_enc.vectors.weight
        for word, vector in read_word_vectors(path, self.vocabulary.words, table.shape[1]).items():
            table[self.vocabulary.numbers[word]] = vector

    def tokenize(self, texts: Sequence[str]) -> Views:
        if self.vocabulary is None:
            raise UserError("the vocabulary is made from training captions; this method has seen none")
        return text_views(self.vocabulary, [artemis_tokens(text) for text in texts])

    def freeze_cnn(self) -> None:
        """No gradient for the CNN; its batch norms still follow the pictures."""
        if isinstance(self.img_enc, ImageEncoder):
            freeze(self.img_enc.cnn)

    def freeze_words(self) -> None:
        if isinstance(self.txt_enc, BiGruText | MaximumText):
            freeze(self.txt_enc.vectors)


class ArtemisMethod(Method):
    """A method on these encoders, with this loss; what composes and scores is the subclass's.

    ``frozen``: the first phase. State-dict names of the encoders and of τ are the released ones,
    behind "encoders." for the former.
    """

    def __init__(self, encoders: Encoders, frozen: bool) -> None:
        super().__init__()
        self.encoders = encoders
        self.temperature = nn.Parameter(torch.tensor([TEMPERATURE]))
        self._frozen = frozen
        if frozen:
            encoders.freeze_cnn()

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """What the first phase does not train."""
        return ("encoders.img_enc.cnn.", "encoders.txt_enc.embed.") if self._frozen else ()

    @property
    def rows_depend_on_batch(self) -> bool:
        """With padding as released, a text's maximum over time is over the padding of its batch as well."""
        text = getattr(self.encoders, "txt_enc", None)
        return isinstance(text, MaximumText) and not text.masked

    def encode_target(self, target: Views) -> Tensor:
        """t, (B, d)."""
        return self.encoders.picture(target)

    def loss(self, queries: Any, targets: Any) -> Tensor:
        """``mean_i cross_entropy(exp(τ) · s_i, i)``; evaluation ranks s itself."""
        scores = self.temperature.exp() * self.score(queries, targets).float()
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def build_extra_state(self, texts: Sequence[str]) -> None:
        self.encoders.build_extra_state(texts)
        self._freeze_words()

    def extra_state(self) -> Mapping[str, Any]:
        vocabulary = self.encoders.vocabulary
        return {} if vocabulary is None else vocabulary.as_json()

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        if state:
            self.encoders.use(Vocabulary.from_json(state))
            self._freeze_words()

    def tokenize(self, texts: Sequence[str]) -> Views:
        return self.encoders.tokenize(texts)

    def _freeze_words(self) -> None:
        if self._frozen:
            self.encoders.freeze_words()

    def _require_rows(self, rows: int) -> None:
        require_rows(rows, self.training, type(self).__name__)


def cnn_encoders(settings: CnnSettings, assets_root: Path | None, weights_follow: bool = False) -> Encoders:
    """The encoders on pixels and strings. Raises UserError where weights or word vectors are missing.

    ``weights_follow``: all weights are loaded next, so that neither is looked for.
    """
    vectors = "" if weights_follow else find_word_vectors(_VECTORS, settings.word_vectors, assets_root)
    start: Initialisation = "random" if weights_follow else trunk_start(settings.cnn, settings.start)
    cnn = build_trunk(settings.cnn, start, assets_root)
    channels = trunk_named(settings.cnn).channels
    image = ImageEncoder(cnn, nn.Linear(channels, settings.width), "gem")
    return Encoders(image, text_maker(settings), vectors)


def own_networks(given: MethodSettings) -> Initialisation:
    """Where the CNN starts, of which alone there are pretrained weights."""
    settings = CnnSettings.of(given)
    return trunk_start(settings.cnn, settings.start)


def encoder_files(given: MethodSettings) -> tuple[RequiredFile, ...]:
    """ImageNet weights where the CNN starts from them, and word vectors, which a run may do without."""
    settings = CnnSettings.of(given)
    trunk = trunk_named(settings.cnn)
    return (*trunk_files(trunk, settings.start), RequiredFile(_VECTORS, settings.word_vectors))


def text_maker(settings: CnnSettings) -> Callable[[int], nn.Module]:
    """The recurrent text encoder of a given number of words."""

    def make(words: int) -> nn.Module:
        if settings.text_encoder == "bigru":
            return BiGruText(words, settings.word_width, settings.width)
        return MaximumText(
            words, settings.word_width, settings.lstm_width, settings.width, settings.padding, settings.dropout
        )

    return make


def feature_encoders(width: int) -> Encoders:
    """The encoders on stored features of one backbone, d its width."""
    return Encoders(LinearPicture(width, width), None)


def pixel_inputs(context: BuildContext) -> PixelInputs:
    """White squares of the CNN's size, cropped and mirrored by chance in training."""
    settings = CnnSettings.of(context.method_settings)
    size = trunk_named(settings.cnn).size
    enlarged = round(size * _ENLARGED)
    return PixelInputs(
        train=WhiteSquare(enlarged, size, settings.augmentation), evaluate=WhiteSquare(enlarged, size, False)
    )
