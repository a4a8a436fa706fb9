"""VAL: a CNN's maps at three levels, each composed with the text by visual and joint attention.

Chen, Gong, Bazzani, "Image Search with Text Feedback by Visiolinguistic Attention Learning", CVPR
2020. Query = the composed maps' averages, target = the CNN's own maps' averages (no layer at all),
each level of unit norm; distance = squared Euclidean over all levels, which ranks as the dot product
does. Loss = a semi-hard triplet loss at each level. The network is `networks/val.py`, the CNNs
`networks/val_cnns.py`, the loss and the released optimiser `networks/val_training.py`.

Deviations from the release: the CNNs are timm's, which differ from TF-slim's a little; training is
whole epochs, the nearest number to the release's updates; moving averages start at the loaded
weights, not before them; the reported loss is without the L2 penalty. The paper's second loss on
side information is in no release and not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.facts import Initialisation
from benchmark.method import (
    BuildContext,
    Method,
    ParameterGroups,
    PixelInputs,
    RequiredFile,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import MethodSettings, TrainingSettings
from benchmark.text_rules import punctuation_words
from benchmark.training.optimisation import standard_optimiser, standard_schedule

from .networks.cnn import require_rows, trunk_files
from .networks.cnn_pictures import Squeezed
from .networks.val import Level, ValNetwork, ValSizes, level_vectors
from .networks.val_cnns import VAL_TRUNKS, CnnName, build_taps, levels_of
from .networks.val_training import ReleasedAdam, dropping_schedule, hierarchical_loss, penalty_groups
from .networks.vocabulary import (
    TOKENISERS,
    Vocabulary,
    find_word_vectors,
    read_word_vectors,
    start_from_vectors,
    word_vector_remarks,
)

_VECTORS = "glove.42B"


class ValSettings(MethodSettings):
    """VAL's design; the defaults are the release's on FashionIQ and Shoes."""

    cnn: CnnName = Field("resnetv2_50", description="the CNN; tiny is for the demo data")
    start: Initialisation = Field("pretrained", description="where the CNN starts: ImageNet weights or a draw")
    image_side: int = Field(0, ge=0, description="side of the pictures; 0: the CNN's own")
    word_width: int = Field(512, ge=1, description="width of word vectors; a given file's must be the same")
    word_vectors: str = Field("", description="a GloVe text file, or its name under --assets-root; else a random start")
    lstm_width: int = Field(1024, ge=1)
    text_width: int = Field(512, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="of the pooled text and of the self-attention")
    tokeniser: Literal["treebank", "plain"] = Field("treebank", description="plain: Fashion200k's")
    evaluation_count: int = Field(2, ge=1, description="words seen less often in training are unknown in evaluation")
    left_out: tuple[str, ...] = Field((), description="words that the vocabulary does not take in")
    padding: Literal["released", "masked"] = Field(
        "released", description="released: zeros behind a text's end take part in the maximum while training"
    )
    mining: Literal["column", "row"] = Field(
        "column", description="a negative is compared with its column's positive (as released) or with its row's"
    )
    margin: float = Field(0.2, ge=0)

    @property
    def side(self) -> int:
        return self.image_side or VAL_TRUNKS[self.cnn].trunk.size

    @property
    def sizes(self) -> ValSizes:
        return ValSizes(self.word_width, self.lstm_width, self.text_width, self.dropout)


class ValTraining(TrainingSettings):
    """Settings of VAL's only stage. ``weight_decay`` is the L2 penalty of convolutions alone."""

    optimisation: Literal["release", "plain"] = Field(
        "plain", description="release: Adam whose bias correction stays at its first step, initial state frozen"
    )
    augmentation: Literal["none", "flip", "flip-and-crop"] = "none"
    drop_at: float = Field(0.0, ge=0, lt=1, description="share of all updates after which the rate is dropped")


class Val(Method):
    """Takes pixels and word numbers; encodings are (B, ΣC), 3584 with the ResNet."""

    def __init__(
        self, cnn: nn.Module, levels: Sequence[Level], settings: ValSettings, word_vectors: str = ""
    ) -> None:
        super().__init__()
        self.cnn = cnn
        self.network = ValNetwork(levels, settings.sizes, VAL_TRUNKS[settings.cnn].style)
        self.vocabulary = Vocabulary.of([])
        self._settings, self._word_vectors = settings, word_vectors
        self._widths = tuple(level.channels for level in levels)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """Composed averages of the three levels, each of unit norm."""
        require_rows(len(text["tokens"]), self.network.text.norm.training, "val")
        maps = self.cnn(reference["pixels"])
        return level_vectors(self.network.compose(maps, self._text(text)))

    def encode_target(self, target: Views) -> Tensor:
        """Averages of the CNN's own maps, each of unit norm; no layer."""
        return level_vectors(self.cnn(target["pixels"]))

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """The constant bias of the forget gate, a shift that the next batch norm removes, and, as released,
        the LSTM's initial state."""
        state = () if self.network.text.cell.requires_grad else ("network.text.cell", "network.text.hidden")
        return ("network.text.lstm.bias_hh_l0", "network.text.norm.bias", *state)

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return hierarchical_loss(queries, targets, self._widths, self._settings.margin, self._settings.mining)

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Word numbers (B, L) and lengths (B,); in evaluation rare words are unknown."""
        least = 1 if self.training else self._settings.evaluation_count
        tokens, lengths = self.vocabulary.encode([self._words(text) for text in texts], least)
        return {"tokens": tokens, "lengths": lengths}

    def build_extra_state(self, texts: Sequence[str]) -> None:
        left_out = set(self._settings.left_out)
        self._use(Vocabulary.of([w for w in self._words(text) if w not in left_out] for text in texts))
        if self._word_vectors:
            words, width = self.vocabulary.words, self._settings.word_width
            vectors = read_word_vectors(self._word_vectors, words, width)
            start_from_vectors(self.network.text.words, words, vectors)

    def extra_state(self) -> Mapping[str, Any]:
        return self.vocabulary.as_json()

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._use(Vocabulary.from_json(state))

    def explain(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """Joint attention of each level, its mean over channels, (B, h, h)."""
        gates = self.network.joint_gates(self.cnn(reference["pixels"]), self._text(text))
        return {f"joint attention, {level}": gate for level, gate in gates.items()}

    def _use(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.network.text.use_words(len(vocabulary))

    def _words(self, text: str) -> list[str]:
        return TOKENISERS[self._settings.tokeniser](punctuation_words(text))

    def _text(self, views: Views) -> Tensor:
        zero_padding = self.training and self._settings.padding == "released"
        encoded: Tensor = self.network.text(views["tokens"], views["lengths"], zero_padding)
        return encoded


def _build(context: BuildContext) -> Method:
    settings = ValSettings.of(context.method_settings)
    cnn = build_taps(settings.cnn, context.start(settings.start), context.assets_root)
    given = "" if context.weights_follow else settings.word_vectors
    vectors = find_word_vectors(_VECTORS, given, context.assets_root)
    method = Val(cnn, levels_of(cnn, settings.side), settings, vectors)
    if ValTraining.of(context.training_settings).optimisation == "release":
        method.network.text.cell.requires_grad_(False)
        method.network.text.hidden.requires_grad_(False)
    return method


def _inputs(context: BuildContext) -> PixelInputs:
    side, kind = ValSettings.of(context.method_settings).side, ValTraining.of(context.training_settings).augmentation
    # FashionIQ: 256 to 279, the release's range, for pictures of 256.
    enlarged = side * 279 // 256 if kind == "flip-and-crop" else 0
    return PixelInputs(train=Squeezed(side, kind != "none", enlarged), evaluate=Squeezed(side))


def _parameter_groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    return penalty_groups(method)


def _optimiser(groups: ParameterGroups, settings: TrainingSettings) -> torch.optim.Optimizer:
    if ValTraining.of(settings).optimisation == "plain":
        return standard_optimiser(groups, settings)
    return ReleasedAdam(groups, settings.learning_rate, settings.betas, settings.eps, settings.weight_decay)


def _schedule(settings: TrainingSettings, updates_per_epoch: int) -> Callable[[int], float]:
    drop_at = ValTraining.of(settings).drop_at
    if not drop_at:
        return standard_schedule(settings, updates_per_epoch)
    return dropping_schedule(settings, settings.epochs * updates_per_epoch, drop_at)


STAGE = Stage(
    name="val",
    build=_build,
    inputs=_inputs,
    settings=ValTraining,
    parameter_groups=_parameter_groups,
    optimiser=_optimiser,
    schedule=_schedule,
)


def _own_networks(given: MethodSettings) -> Initialisation:
    settings = ValSettings.of(given)
    return settings.start if VAL_TRUNKS[settings.cnn].trunk.asset else "random"


def _required_files(given: MethodSettings) -> tuple[RequiredFile, ...]:
    settings = ValSettings.of(given)
    trunk = VAL_TRUNKS[settings.cnn].trunk
    return (*trunk_files(trunk, settings.start), RequiredFile(_VECTORS, settings.word_vectors))


METHOD = Specification(
    stages=lambda settings, initialisation: (STAGE,),
    settings=ValSettings,
    own_networks=_own_networks,
    demo_settings={"cnn": "tiny"},
    required_files=_required_files,
    remarks=lambda settings: word_vector_remarks(ValSettings.of(settings).word_vectors),
)
