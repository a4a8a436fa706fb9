"""The method contract: what a file of the `methods/` shelf gives, and all that the engine asks of it.

A method is a :class:`Method` (three functions: encode a query, encode a target, the loss) and a
:class:`Specification` (its stages, as data and small factories that the trainer calls). What a
newcomer writes is one file with ``METHOD = Specification(...)``, or ``METHODS = {"name": ...}`` for several;
on the features of a CLIP, ``METHOD = on_clip_features(...)`` says it all (`methods/README.md`).
Titles, citations and recipes stand in the TOML beside it (:mod:`benchmark.facts_file`).

Notation: B batch, d width of the backbone, P patches, S picture side, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.backbone import GLOBAL, Backbone, Output
from benchmark.dataset import Dataset, IntArray, Pictures
from benchmark.encoding import Encoding, dot_products
from benchmark.errors import UserError
from benchmark.facts import Initialisation
from benchmark.settings import MethodSettings, TrainingSettings

if TYPE_CHECKING:
    from PIL.Image import Image

Views = dict[str, Tensor]
"""What is known of a batch of pictures or texts, by view: "global" (B, d) and "patches" (B, P, d)
are stored features, "pixels" (B, 3, S, S) decoded pictures, and of a text "global" (B, d);
a method's own `tokenize` names the rest. A stage's inputs say which views there are."""

REVERSED = "reversed_"
"""What stands before the views of a second text, that of a triplet whose target asks for its reference; in training
alone, and where the text rule has one."""


class Method(nn.Module):
    """Composes a reference with a modification text. All tensors come on the method's device."""

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """Encodings of B queries."""
        raise TypeError(f"{type(self).__name__} must define encode_query")

    def encode_triplet(self, reference: Views, text: Views, target: Views) -> Encoding:
        """Encodings of B queries for the loss, which may look at what training alone knows: each query's target, and
        what `Stage.before_epoch` said of its row, among the views of the text. By default those of `encode_query`."""
        return self.encode_query(reference, text)

    def encode_target(self, target: Views) -> Encoding:
        """Encodings of B pictures as candidates; the gallery is encoded by it too."""
        raise TypeError(f"{type(self).__name__} must define encode_target")

    def loss(self, queries: Encoding, targets: Encoding) -> Tensor:
        """Scalar loss of one negative group; row i of the targets is the right answer of query i.

        It sees encodings only, so that they can be gathered over ranks or kept.
        """
        raise TypeError(f"{type(self).__name__} must define loss, or declare that it trains nothing")

    def loss_parts(self, queries: Encoding, targets: Encoding) -> Mapping[str, Tensor]:
        """The loss by its parts, each with its weight, where it has several: their sum is trained on, and monitors
        write each of them. By default the whole."""
        return {"loss": self.loss(queries, targets)}

    def score(self, queries: Encoding, targets: Encoding) -> Tensor:
        """Scores of a block of b queries against n targets, (b, n); larger is better.

        The dot product; of targets (n, T, d) with T tokens the best of them.
        """
        if not isinstance(queries, Tensor) or not isinstance(targets, Tensor):
            raise TypeError(f"{type(self).__name__} has encodings of several tensors and must define score")
        return dot_products(queries, targets)

    @property
    def encodes_triplets(self) -> bool:
        return type(self).encode_triplet is not Method.encode_triplet

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Strings to tensors, for stages that read pixels; runs on the host."""
        raise TypeError(f"{type(self).__name__} reads no strings")

    def build_extra_state(self, texts: Sequence[str]) -> None:
        """Called once before training with every training string (a vocabulary, say)."""

    def extra_state(self) -> Mapping[str, Any]:
        """What `build_extra_state` made, JSON-like; saved in the checkpoint and given back to `load_extra_state`."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `extra_state` gave, before weights are loaded."""

    def encode_text_alone(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Where the features of texts are not stored: "text" (B, d), what the encoder says of each alone, and of a text
        that a picture's word is put into "prompt" (B, d), with a mere sign in the word's place. By default nothing."""
        return {}

    def explain(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """Attention maps or weights that a report can draw, by name; none by default."""
        return {}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Parameters that the loss cannot move: frozen, unused, or of a gradient that is zero in exact
        arithmetic (a shift that a batch norm or a softmax removes). Names, or beginnings that end with a dot."""
        return ()

    @property
    def rows_depend_on_batch(self) -> bool:
        """Whether, in evaluation, a row's encoding depends on the rows beside it; its record says so then.

        Any other method is refused where it does (:mod:`benchmark.pipeline.contract_probe`).
        """
        return False

    @property
    def scores_by_dot_product(self) -> bool:
        return type(self).score is Method.score


class Transform(Protocol):
    """Turns an opened picture into pixels. A transform without chance is cached by the engine."""

    @property
    def random(self) -> bool: ...

    def key(self) -> Mapping[str, Any]:
        """Everything that changes the pixels."""
        ...

    def picture(self, image: Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(S, S, 3) of 0…255."""
        ...

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) of 0…255 to the float (B, 3, S, S) that the network sees."""
        ...


class Annotator(Protocol):
    """Shows a pair's note (`dataset.SideTexts`) on its reference picture, before any transform sees it."""

    def key(self) -> Mapping[str, Any]:
        """Everything that changes the pixels."""
        ...

    def draw(self, image: Image, note: str) -> Image:
        """The picture with the note on it."""
        ...


@dataclass(frozen=True)
class FeatureInputs:
    """A stage that trains on stored features of a frozen encoder and never opens a picture.

    ``reference``, ``target``: outputs of the backbone by name, and "patches", its global output of the crops of
    ``grids``. ``text``: the backbone's features of a text ("global", stored), or what the method's own `tokenize`
    makes of the strings (token ids and masks), where a text enters a network that is trained.
    ``train``: what the pictures of a stage's `rows` go through in training, where they are opened and encoded anew in
    every epoch, without gradient and in the stage's precision; evaluation reads stored features all the same.
    """

    reference: tuple[str, ...] = ("global",)
    target: tuple[str, ...] = ("global",)
    grids: tuple[int, ...] = (2, 3)
    text: Literal["features", "tokenized"] = "features"
    train: Transform | None = None

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.reference + self.target))


@dataclass(frozen=True)
class PixelInputs:
    """A stage that trains on pictures; texts pass through the method's `tokenize`.

    ``evaluate_reference``: of queries' references where theirs is another one. What it draws in evaluation depends
    on the run's seed and the query alone. ``annotator``: what shows each pair's note on its reference, in training and
    evaluation; its stage says so by `Stage.shows_notes`.
    """

    train: Transform
    evaluate: Transform
    evaluate_reference: Transform | None = None
    annotator: Annotator | None = None


Inputs = FeatureInputs | PixelInputs


@dataclass(frozen=True)
class BuildContext:
    """What a stage's `build` may use.

    ``backbone`` may be kept and trained (the feature store has its own then), with the weights of
    the earlier encoder stage if there was one; None for methods that bring their own networks.
    ``assets_root``: the folder of files from outside. ``earlier`` holds the methods of earlier stages
    by stage name: trained in a run; only built, with what they prepared, where a checkpoint's weights
    are loaded next. ``weights_follow``: that is the case, so that nothing from outside (pretrained
    weights, word vectors) need be read or asked for.
    """

    backbone: Backbone | None
    method_settings: MethodSettings
    training_settings: TrainingSettings
    assets_root: Path | None = None
    earlier: Mapping[str, Method] = field(default_factory=dict)
    weights_follow: bool = False

    @property
    def width(self) -> int:
        if self.backbone is None:
            raise TypeError("this method has no backbone of the engine's")
        return self.picture_output(GLOBAL).shape[0]

    def picture_output(self, name: str) -> Output:
        """Shape and type of what the backbone gives of a picture. Raises UserError where it does not give it."""
        given = self.backbone.picture_outputs if self.backbone is not None else {}
        if name not in given:
            told = self.backbone.identity.name if self.backbone is not None else "none"
            raise UserError(
                f"--backbone {told}: gives {', '.join(given) or 'nothing'} of a picture, but '{name}' is read; "
                "choose another one (`list backbones`)"
            )
        return given[name]

    def start(self, asked: Initialisation) -> Initialisation:
        """Where a network of the method's own starts: as asked for, but anyhow where its weights follow."""
        return "random" if self.weights_follow else asked


ParameterGroups = list[dict[str, Any]]


def all_parameters(method: Method, settings: TrainingSettings) -> ParameterGroups:
    """One group of every parameter that asks for a gradient."""
    return [{"params": [p for p in method.parameters() if p.requires_grad]}]


RowValues = dict[str, Tensor]
"""By name what is known of every entry of an epoch, (N, …)."""


@dataclass(frozen=True)
class ComingEpoch:
    """An epoch that is about to begin, or to be gone on with.

    ``number``: from 0. ``entries``: N. ``kept``: what was said at its beginning, where it is gone on with.
    ``groups``: its negative groups in the order of training, all of them on every process: entries (B,), and the
    views of reference, text and target. ``seed``: of all that is drawn for it.
    """

    number: int
    entries: int
    seed: int
    kept: RowValues
    groups: Callable[[], Iterator[tuple[NDArray[np.int64], Views, Views, Views]]]


@dataclass(frozen=True)
class TrainingRows:
    """What a stage trains on in place of a dataset's triplets: N pictures or sentences that nobody labelled.

    ``pictures``: one per row, whose features are the views of reference and target alike. ``sentences``: where
    there are no pictures, a text per row, whose stored feature stands for both as "global". ``text``: the method, rows
    (B,) and a generator of their draws to the views of their texts. ``label``: what the feature store calls the
    pictures. ``files``: those that were read, name to sha256.
    """

    text: Callable[[Any, IntArray, np.random.Generator], Views]
    label: str
    pictures: Pictures = Pictures((), ())
    sentences: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sentences) or len(self.pictures)

    def first(self, rows: int) -> TrainingRows:
        """No more than so many."""
        pictures = Pictures(self.pictures.names[:rows], self.pictures.paths[:rows])
        return replace(self, pictures=pictures, sentences=self.sentences[:rows])


RowsFactory = Callable[[MethodSettings, Dataset, Path | None], TrainingRows]
"""(settings, the dataset that is evaluated, the folder of files from outside) to what a stage trains on. Demo data may
stand in for files that nobody named; raises UserError where they are missing elsewhere."""

Fit = Callable[[Method, Callable[[], float]], str]
"""Sets what a method asks for, told the score on held-out triplets of the method as it stands; says in a line what was
set."""

OptimiserFactory = Callable[[ParameterGroups, TrainingSettings], torch.optim.Optimizer]
ScheduleFactory = Callable[[TrainingSettings, int], Callable[[int], float]]
"""(settings, updates per epoch) to the factor of the learning rate at update n (from 0)."""


@dataclass(frozen=True)
class Stage:
    """One training stage, declared as data.

    ``output``: "encoder" where what was trained is the frozen backbone of later stages (an
    artefact shared by all methods with the same stage, configuration and seed), "method" where it
    is the method itself. ``initialise_from``: what the stage starts from besides the encoder: nothing; the
    weights that the earlier stage selected, of all tensors that bear the same name in both (and
    what it prepared: a vocabulary is not made anew); or these with the moments of the optimiser,
    parameter by parameter, and the best score, which the stage then has to beat. The rate is always
    the stage's own.
    ``before_epoch`` is called with the method before each epoch; what it says of the entries joins their texts' views.
    ``shows_notes``: its references bear their pairs' notes, so that the files that have them are needed.
    ``rows``: what it trains on in place of triplets, whose method is zero-shot then.
    ``trains`` is False for methods that have nothing to train: they are built and evaluated; ``fit``: what is chosen
    of such a method on held-out triplets before that.
    """

    name: str
    build: Callable[[BuildContext], Method]
    inputs: Callable[[BuildContext], Inputs]
    settings: type[TrainingSettings] = TrainingSettings
    parameter_groups: Callable[[Method, TrainingSettings], ParameterGroups] = all_parameters
    optimiser: OptimiserFactory | None = None
    schedule: ScheduleFactory | None = None
    output: Literal["encoder", "method"] = "method"
    initialise_from: Literal["nothing", "weights", "weights and optimiser"] = "nothing"
    before_epoch: Callable[[Method, TrainingSettings, ComingEpoch], RowValues] | None = None
    shows_notes: bool = False
    rows: RowsFactory | None = None
    trains: bool = True
    fit: Fit | None = None


@dataclass(frozen=True)
class RequiredFile:
    """A declared asset that a run reads; ``given``: the file that the user named for it, or ""."""

    asset: str
    given: str = ""


@dataclass(frozen=True)
class Specification:
    """All stages of a method as its settings ask, earliest first; the last one is evaluated.

    ``own_networks`` is None for methods on the engine's backbone; a method that brings all of its
    networks tells by it, from its settings, whether they start from pretrained weights.
    ``demo_settings`` take the place of the settings' defaults on demo data (a small network, say).
    ``backbone_defaults``: of the backbone's settings, where the method's are others than the engine's; an encoder that
    an earlier stage tunes, for other methods as well, and that of a controlled comparison are not read by them.
    ``default_backbone``, ``demo_backbone``: what no `--backbone` means on real data and on demo data.
    ``required_files``: those that the settings ask for, the backbone's weights excepted. ``remarks``:
    what every output of a run says of its settings (words that start at random, say).

    What checks, imports and counts a method is no part of this: see `Registry.companion`.
    """

    stages: Callable[[MethodSettings, Initialisation], tuple[Stage, ...]]
    settings: type[MethodSettings] = MethodSettings
    own_networks: Callable[[MethodSettings], Initialisation] | None = None
    demo_settings: Mapping[str, Any] = field(default_factory=dict)
    backbone_defaults: Mapping[str, Any] = field(default_factory=dict)
    default_backbone: str = "RN50x4"
    demo_backbone: str = "tiny"
    required_files: Callable[[MethodSettings], tuple[RequiredFile, ...]] = lambda settings: ()
    remarks: Callable[[MethodSettings], tuple[str, ...]] = lambda settings: ()
