"""TIRG, TIRG (last conv) and Concat + MLP: a gated picture plus a residual, or a plain MLP on both.

Vo, Jiang, Sun, Murphy, Li, Fei-Fei, Hays, "Composing Text and Image for Image Retrieval: An Empirical
Odyssey", CVPR 2019. With x the picture and t the text (`tirg_modules.py`)::

    q = a₀ · f_g(x, t) ⊙ x + a₁ · f_r(x, t),   logits = s² · cos(q, y)

Two frames. "released" is the authors' code, for Fashion200k: ResNet-18, LSTM, learned scale s, SGD.
"artemis" is the variant in ARTEMIS's release (`artemis_frame.py`), for the datasets that the authors'
code does not know: ResNet-50 with generalised-mean pooling, GRU, a = (1, 1), exp(τ), AdamW in two
phases; of last conv and Concat + MLP no such release exists, and they follow the same frame. The
methods named …_clip put the same composition on the features of a frozen CLIP.

Deviations: unmodifiable pictures of Fashion200k are redrawn properly in every epoch; "replace" of its
template is a word of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.declarations import MethodInfo, Recipe, Start
from benchmark.errors import UserError
from benchmark.method import (
    BuildContext,
    FeatureInputs,
    Method,
    ParameterGroups,
    Parity,
    PixelInputs,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import EncoderChoice, MethodSettings, TrainingSettings

from .artemis_frame import (
    CnnSettings,
    Encoders,
    FramedMethod,
    cnn_encoders,
    cnn_start,
    feature_encoders,
    pixel_inputs,
)
from .clip_finetuning import encoder_stages
from .cnn import ImageEncoder, TrunkName, build_trunk, require_rows, trunk_named, unit
from .cnn_pictures import ShortSide
from .recurrent_texts import LastStateText, text_views, tirg_vocabulary
from .tirg_modules import (
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

METHODS = [
    MethodInfo(
        name="tirg",
        title="TIRG",
        summary="gated picture plus residual on pooled vectors, on a ResNet and a recurrent text encoder",
        paper="CVPR 2019",
        citation=(
            "@inproceedings{vo2019composing, title={Composing Text and Image for Image Retrieval - An Empirical "
            "Odyssey}, author={Vo, Nam and Jiang, Lu and Sun, Chen and Murphy, Kevin and Li, Li-Jia and Fei-Fei, "
            "Li and Hays, James}, booktitle={CVPR}, year={2019}}"
        ),
        needs=("resnet18", "resnet50", "glove"),
    ),
    MethodInfo(
        name="tirg_lastconv",
        title="TIRG (last conv)",
        summary="TIRG's gate and residual as convolutions on the CNN's last map",
        paper="CVPR 2019",
        citation=(
            "@inproceedings{vo2019composing, title={Composing Text and Image for Image Retrieval - An Empirical "
            "Odyssey}, author={Vo, Nam and Jiang, Lu and Sun, Chen and Murphy, Kevin and Li, Li-Jia and Fei-Fei, "
            "Li and Hays, James}, booktitle={CVPR}, year={2019}}"
        ),
        needs=("resnet18", "resnet50", "glove"),
    ),
    MethodInfo(
        name="concat",
        title="Concat + MLP",
        summary="the plainest learned composition: an MLP on picture and text side by side",
        paper="CVPR 2019, baseline of TIRG",
        citation=(
            "@inproceedings{vo2019composing, title={Composing Text and Image for Image Retrieval - An Empirical "
            "Odyssey}, author={Vo, Nam and Jiang, Lu and Sun, Chen and Murphy, Kevin and Li, Li-Jia and Fei-Fei, "
            "Li and Hays, James}, booktitle={CVPR}, year={2019}}"
        ),
        needs=("resnet18", "resnet50", "glove"),
    ),
    MethodInfo(
        name="tirg_clip",
        title="TIRG on CLIP features",
        summary="TIRG's composition on the stored features of a frozen CLIP; a variant of ours",
        paper="CVPR 2019, variant",
        citation=(
            "@inproceedings{vo2019composing, title={Composing Text and Image for Image Retrieval - An Empirical "
            "Odyssey}, author={Vo, Nam and Jiang, Lu and Sun, Chen and Murphy, Kevin and Li, Li-Jia and Fei-Fei, "
            "Li and Hays, James}, booktitle={CVPR}, year={2019}}"
        ),
        needs=("clip",),
    ),
    MethodInfo(
        name="concat_clip",
        title="Concat + MLP on CLIP features",
        summary="an MLP on the stored features of a frozen CLIP, side by side; a variant of ours",
        paper="CVPR 2019, baseline of TIRG, variant",
        citation=(
            "@inproceedings{vo2019composing, title={Composing Text and Image for Image Retrieval - An Empirical "
            "Odyssey}, author={Vo, Nam and Jiang, Lu and Sun, Chen and Murphy, Kevin and Li, Li-Jia and Fei-Fei, "
            "Li and Hays, James}, booktitle={CVPR}, year={2019}}"
        ),
        needs=("clip",),
    ),
]

RECIPES = [
    Recipe(
        stage="tirg", dataset="fashion200k", name="paper",
        source="TIRG, CVPR 2019, released command: 160,000 updates, ended with the epoch",
        settings={
            "epochs": 30, "batch_size": 32, "optimiser": "sgd", "learning_rate": 1e-2, "momentum": 0.9,
            "weight_decay": 1e-6, "decay_updates": 50000, "text_rule": "template", "drawing": "one-per-image",
            "validate_every": 3,
        },
    ),
    Recipe(
        stage="tirg", dataset="fashioniq", name="adapted",
        source="TIRG's variant in ARTEMIS's release; the authors' code does not know this dataset",
        settings={
            "epochs": 50, "batch_size": 32, "optimiser": "sgd", "learning_rate": 1e-2, "momentum": 0.9,
            "weight_decay": 1e-6, "decay_updates": 50000, "text_rule": "both-orders",
        },
        method={"frame": "artemis", "cnn": "resnet50"},
    ),
    Recipe(
        stage="tirg", dataset="*", name="adapted",
        source="TIRG's variant in ARTEMIS's release; the authors' code does not know this dataset",
        settings={
            "epochs": 50, "batch_size": 32, "optimiser": "sgd", "learning_rate": 1e-2, "momentum": 0.9,
            "weight_decay": 1e-6, "decay_updates": 50000,
        },
        method={"frame": "artemis", "cnn": "resnet50"},
    ),
    Recipe(
        stage="tirg", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data",
        settings={
            "epochs": 3, "batch_size": 32, "optimiser": "adamw", "learning_rate": 1e-3, "cnn_rate": 1.0,
            "weight_decay": 0.01, "schedule": "cosine", "warmup": 0.05,
        },
    ),
    Recipe(
        stage="tirg-frozen", dataset="fashioniq", name="adapted",
        source="TIRG's variant in ARTEMIS's release, phase 1",
        settings={
            "epochs": 8, "batch_size": 32, "optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 4, "schedule_factor": 0.5, "text_rule": "both-orders",
        },
    ),
    Recipe(
        stage="tirg-frozen", dataset="fashion200k", name="adapted",
        source="TIRG's variant in ARTEMIS's release, phase 1",
        settings={
            "epochs": 8, "batch_size": 128, "optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 4, "schedule_factor": 0.5, "text_rule": "template",
            "drawing": "one-per-image",
        },
    ),
    Recipe(
        stage="tirg-frozen", dataset="*", name="adapted",
        source="TIRG's variant in ARTEMIS's release, phase 1",
        settings={
            "epochs": 8, "batch_size": 32, "optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 4, "schedule_factor": 0.5, "text_rule": "as-is",
        },
    ),
    Recipe(
        stage="tirg-whole", dataset="fashioniq", name="adapted",
        source="TIRG's variant in ARTEMIS's release, phase 2",
        settings={
            "epochs": 50, "batch_size": 32, "optimiser": "adamw", "learning_rate": 2.5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 10, "schedule_factor": 0.5, "text_rule": "both-orders",
        },
    ),
    Recipe(
        stage="tirg-whole", dataset="fashion200k", name="adapted",
        source="TIRG's variant in ARTEMIS's release, phase 2",
        settings={
            "epochs": 100, "batch_size": 128, "optimiser": "adamw", "learning_rate": 2.5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 20, "schedule_factor": 0.5, "text_rule": "template",
            "drawing": "one-per-image",
        },
    ),
    Recipe(
        stage="tirg-whole", dataset="*", name="adapted",
        source="TIRG's variant in ARTEMIS's release, phase 2",
        settings={
            "epochs": 50, "batch_size": 32, "optimiser": "adamw", "learning_rate": 2.5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 10, "schedule_factor": 0.5, "text_rule": "as-is",
        },
    ),
    Recipe(
        stage="tirg-whole", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data: one phase, since there are no trained weights to protect",
        settings={
            "epochs": 3, "batch_size": 32, "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": "cosine", "warmup": 0.05,
        },
    ),
    Recipe(
        stage="tirg-clip", dataset="*", name="adapted",
        source="ours: phase 2 of TIRG's variant in ARTEMIS's release, at batch 128 on stored features",
        settings={
            "epochs": 50, "batch_size": 128, "optimiser": "adamw", "learning_rate": 2.5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 10, "schedule_factor": 0.5,
        },
    ),
    Recipe(
        stage="tirg-clip", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data",
        settings={
            "epochs": 6, "batch_size": 128, "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": "cosine",
        },
    ),
]  # fmt: skip

SCALE = 4.0
"""norm_s at the start."""

VARIANT_SHARES = (1.0, 1.0)
"""a of the variant in ARTEMIS's release."""

Kind = Literal["tirg", "tirg_lastconv", "concat"]


class TirgSettings(CnnSettings):
    """TIRG's networks; "released" reads `loss`, "artemis" the text encoder and word vectors."""

    cnn: TrunkName = Field("resnet18", description="picture encoder; `tiny` starts at random")
    frame: Literal["released", "artemis"] = Field("released", description="the authors' code, or ARTEMIS's variant")
    loss: Literal["batch_based_classification", "soft_triplet"] = Field(
        "batch_based_classification", description="loss of the released frame"
    )


class TirgClipSettings(EncoderChoice):
    """TIRG's composition on stored features."""

    dropout: float = Field(0.1, ge=0, lt=1, description="of Concat + MLP")


class TirgTrainingSettings(TrainingSettings):
    """Settings of the released frame's stage."""

    cnn_rate: float = Field(0.1, gt=0, description="factor of the CNN's rate, its projection excepted")
    decay_updates: int = Field(0, ge=0, description="updates between two factors of schedule_factor; 0: none")


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


class ReleasedTirg(Method):
    """The authors' frame: x and t as the encoders give them, neither normalised."""

    def __init__(
        self, img_model: ImageEncoder, make_text: Callable[[int], LastStateText], composed: Composition, loss: str
    ) -> None:
        super().__init__()
        self.img_model = img_model
        self.composition = composed
        self.normalization_layer = NormScale()
        self.vocabulary: Vocabulary | None = None
        self._make_text, self._loss = make_text, loss

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

    def prepare(self, texts: Sequence[str]) -> None:
        self.use(tirg_vocabulary(texts))

    def prepared(self) -> Mapping[str, Any]:
        return {} if self.vocabulary is None else self.vocabulary.as_json()

    def restore(self, prepared: Mapping[str, Any]) -> None:
        self.use(Vocabulary.from_json(prepared))

    def use(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.text_model = self._make_text(len(vocabulary))

    def tokenize(self, texts: Sequence[str]) -> Views:
        if self.vocabulary is None:
            raise UserError("the vocabulary is made from training captions; this method has seen none")
        return text_views(self.vocabulary, [plain_words(text) for text in texts])


class FramedTirg(FramedMethod):
    """The composition in ARTEMIS's frame: r and m of unit norm, and so is the query; score ⟨q, t⟩."""

    def __init__(self, encoders: Encoders, composed: Composition, frozen: bool = False) -> None:
        super().__init__(encoders, frozen)
        self.composition = composed

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d), of unit norm."""
        vectors = self.encoders.text(text)
        self._require_rows(len(vectors))
        if isinstance(self.composition, MapGatedResidual):
            image = self.encoders.img_enc
            assert isinstance(image, ImageEncoder)
            return unit(composed_query(self.composition, image, reference["pixels"], vectors, unit))
        return unit(self.composition(self.encoders.picture(reference), vectors))


def composed_query(
    composed: Composition, image: ImageEncoder, pixels: Tensor, text: Tensor, embedded: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B, d): on the last map, then pooled and projected; or on the ``embedded`` pooled vector."""
    if isinstance(composed, MapGatedResidual):
        return image.embed(composed(image.last_map(pixels), text))
    query: Tensor = composed(embedded(image(pixels)), text)
    return query


def released_method(kind: Kind, settings: TirgSettings, cnn: nn.Module, channels: int) -> ReleasedTirg:
    """The released frame on a CNN with so many channels in its last map."""
    width = settings.width
    image = ImageEncoder(cnn, nn.Sequential(nn.Linear(channels, width)), "average")
    picture = channels if kind == "tirg_lastconv" else width
    composed = composition(kind, picture, width, RELEASED_SHARES, settings.dropout)
    return ReleasedTirg(
        image, lambda words: LastStateText(words, width, width, settings.dropout), composed, settings.loss
    )


def framed_method(kind: Kind, settings: TirgSettings, encoders: Encoders, channels: int, frozen: bool) -> FramedTirg:
    """ARTEMIS's frame around a composition."""
    picture = channels if kind == "tirg_lastconv" else settings.width
    composed = composition(kind, picture, settings.width, VARIANT_SHARES, settings.dropout)
    return FramedTirg(encoders, composed, frozen)


def _settings(context: BuildContext) -> TirgSettings:
    assert isinstance(context.method_settings, TirgSettings)
    return context.method_settings


def _build_released(context: BuildContext, kind: Kind) -> Method:
    settings = _settings(context)
    cnn = build_trunk(settings.cnn, cnn_start(settings), context.assets_root)
    return released_method(kind, settings, cnn, trunk_named(settings.cnn).channels)


def _build_framed(context: BuildContext, kind: Kind, frozen: bool) -> Method:
    settings = _settings(context)
    encoders = cnn_encoders(settings, context.assets_root)
    return framed_method(kind, settings, encoders, trunk_named(settings.cnn).channels, frozen)


def _build_on_features(context: BuildContext, kind: Kind) -> Method:
    settings, width = context.method_settings, context.width
    assert isinstance(settings, TirgClipSettings)
    composed = composition(kind, width, width, VARIANT_SHARES, settings.dropout)
    return FramedTirg(feature_encoders(width), composed)


def _short_side(context: BuildContext) -> PixelInputs:
    transform = ShortSide(trunk_named(_settings(context).cnn).size)
    return PixelInputs(train=transform, evaluate=transform)


def _parameter_groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    """The CNN has a rate of its own; its projection goes with the rest."""
    assert isinstance(method, ReleasedTirg) and isinstance(settings, TirgTrainingSettings)
    cnn = list(method.img_model.cnn.parameters())
    mine = set(cnn)
    rest = [parameter for parameter in method.parameters() if parameter not in mine]
    return [{"params": rest}, {"params": cnn, "lr": settings.cnn_rate * settings.learning_rate}]


def _schedule(settings: TrainingSettings, updates_per_epoch: int) -> Callable[[int], float]:
    """Steps by the number of updates where the recipe counts them, else the standard schedules."""
    from benchmark.optimisation import standard_schedule

    assert isinstance(settings, TirgTrainingSettings)
    every, factor = settings.decay_updates, settings.schedule_factor
    if not every:
        return standard_schedule(settings, updates_per_epoch)
    return lambda update: factor ** (update // every)


def _released_stage(kind: Kind) -> Stage:
    return Stage(
        name="tirg",
        build=lambda context: _build_released(context, kind),
        inputs=_short_side,
        settings=TirgTrainingSettings,
        parameter_groups=_parameter_groups,
        schedule=_schedule,
    )


def _framed_stages(kind: Kind) -> tuple[Stage, Stage]:
    return (
        Stage(
            name="tirg-frozen",
            build=lambda context: _build_framed(context, kind, frozen=True),
            inputs=pixel_inputs,
        ),
        Stage(
            name="tirg-whole",
            build=lambda context: _build_framed(context, kind, frozen=False),
            inputs=pixel_inputs,
            takes="weights and optimiser",
        ),
    )


def _start(settings: MethodSettings) -> Start:
    assert isinstance(settings, TirgSettings)
    return cnn_start(settings)


def _specification(kind: Kind, parity: Parity | None = None) -> Specification:
    released, (frozen, whole) = _released_stage(kind), _framed_stages(kind)

    def stages(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
        assert isinstance(settings, TirgSettings)
        if settings.frame == "released":
            return (released,)
        return (frozen, whole) if start == "pretrained" else (whole,)

    return Specification(
        stages=stages,
        settings=TirgSettings,
        own_networks=_start,
        parity=parity,
        demo_settings={"cnn": "tiny", "width": 128},
    )


def _specification_on_features(kind: Kind) -> Specification:
    stage = Stage(
        name="tirg-clip",
        build=lambda context: _build_on_features(context, kind),
        inputs=lambda context: FeatureInputs(),
    )

    def stages(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
        return (*encoder_stages(settings, start, default="untouched"), stage)

    return Specification(stages=stages, settings=TirgClipSettings)


def _check(file: Any) -> Any:
    from .tirg_golden import check_tirg

    return check_tirg(file)


SPECIFICATIONS = {
    "tirg": _specification("tirg", Parity(forms={"tirg": _check})),
    "tirg_lastconv": _specification("tirg_lastconv"),
    "concat": _specification("concat"),
    "tirg_clip": _specification_on_features("tirg"),
    "concat_clip": _specification_on_features("concat"),
}
