"""TIRG, TIRG (last conv) and Concat + MLP: a gated picture plus a residual, or a plain MLP on both.

Vo, Jiang, Sun, Murphy, Li, Fei-Fei, Hays, "Composing Text and Image for Image Retrieval: An Empirical
Odyssey", CVPR 2019. With x the picture and t the text (`networks/tirg.py`)::

    q = a₀ · f_g(x, t) ⊙ x + a₁ · f_r(x, t),   logits = s² · cos(q, y)

Two implementations. "original" is the authors' code, for Fashion200k: ResNet-18, LSTM, learned scale s, SGD.
"artemis" is the variant in ARTEMIS's release (`networks/artemis_encoders.py`), for the datasets that the authors'
code does not know: ResNet-50 with generalised-mean pooling, GRU, a = (1, 1), exp(τ), AdamW in two
phases; of last conv and Concat + MLP no such release exists, and they follow the same implementation. Both are
in `networks/tirg_implementations.py`. `tirg_clip.py` puts the same compositions on the features of a frozen CLIP.

Deviation: unmodifiable pictures of Fashion200k are redrawn properly in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from benchmark.facts import Initialisation
from benchmark.method import (
    BuildContext,
    Method,
    ParameterGroups,
    PixelInputs,
    RequiredFile,
    Specification,
    Stage,
)
from benchmark.settings import MethodSettings, TrainingSettings

from .networks.artemis_encoders import cnn_encoders, encoder_files, own_networks, pixel_inputs
from .networks.cnn import build_trunk, trunk_named
from .networks.cnn_pictures import ShortSide
from .networks.tirg_implementations import Kind, OriginalTirg, TirgSettings, artemis_tirg, original_tirg
from .networks.vocabulary import word_vector_remarks


class TirgTrainingSettings(TrainingSettings):
    """Settings of the original implementation's stage."""

    cnn_rate: float = Field(0.1, gt=0, description="factor of the CNN's rate, its projection excepted")
    decay_updates: int = Field(0, ge=0, description="updates between two factors of schedule_factor; 0: none")


def _build_original(context: BuildContext, kind: Kind) -> Method:
    settings = TirgSettings.of(context.method_settings)
    cnn = build_trunk(settings.cnn, context.start(own_networks(settings)), context.assets_root)
    return original_tirg(kind, settings, cnn, trunk_named(settings.cnn).channels)


def _build_artemis(context: BuildContext, kind: Kind, frozen: bool) -> Method:
    settings = TirgSettings.of(context.method_settings)
    encoders = cnn_encoders(settings, context.assets_root, context.weights_follow)
    return artemis_tirg(kind, settings, encoders, trunk_named(settings.cnn).channels, frozen)


def _short_side(context: BuildContext) -> PixelInputs:
    transform = ShortSide(trunk_named(TirgSettings.of(context.method_settings).cnn).size)
    return PixelInputs(train=transform, evaluate=transform)


def _parameter_groups(method: Method, settings: TrainingSettings) -> ParameterGroups:
    """The CNN has a rate of its own; its projection goes with the rest."""
    assert isinstance(method, OriginalTirg)
    cnn = list(method.img_model.cnn.parameters())
    mine = set(cnn)
    rest = [parameter for parameter in method.parameters() if parameter not in mine]
    rate = TirgTrainingSettings.of(settings).cnn_rate * settings.learning_rate
    return [{"params": rest}, {"params": cnn, "lr": rate}]


def _schedule(settings: TrainingSettings, updates_per_epoch: int) -> Callable[[int], float]:
    """Steps by the number of updates where the recipe counts them, else the standard schedules."""
    from benchmark.training.optimisation import standard_schedule

    every, factor = TirgTrainingSettings.of(settings).decay_updates, settings.schedule_factor
    if not every:
        return standard_schedule(settings, updates_per_epoch)
    return lambda update: factor ** (update // every)


def _required_files(given: MethodSettings) -> tuple[RequiredFile, ...]:
    """The authors' implementation has no place for word vectors."""
    settings = TirgSettings.of(given)
    files = encoder_files(settings)
    return files if settings.implementation == "artemis" else tuple(f for f in files if f.asset == settings.cnn)


def _remarks(given: MethodSettings) -> tuple[str, ...]:
    settings = TirgSettings.of(given)
    if settings.implementation == "original":
        return ("words start at random, as released",)
    return word_vector_remarks(settings.word_vectors)


def _specification(kind: Kind) -> Specification:
    original = Stage(
        name="tirg",
        build=lambda context: _build_original(context, kind),
        inputs=_short_side,
        settings=TirgTrainingSettings,
        parameter_groups=_parameter_groups,
        schedule=_schedule,
    )
    frozen = Stage(
        name="tirg-frozen", build=lambda context: _build_artemis(context, kind, frozen=True), inputs=pixel_inputs
    )
    whole = Stage(
        name="tirg-whole",
        build=lambda context: _build_artemis(context, kind, frozen=False),
        inputs=pixel_inputs,
        initialise_from="weights and optimiser",
    )

    def stages(settings: MethodSettings, initialisation: Initialisation) -> tuple[Stage, ...]:
        if TirgSettings.of(settings).implementation == "original":
            return (original,)
        return (frozen, whole) if initialisation == "pretrained" else (whole,)

    return Specification(
        stages=stages,
        settings=TirgSettings,
        own_networks=own_networks,
        required_files=_required_files,
        remarks=_remarks,
        demo_settings={"cnn": "tiny", "width": 128},
    )


METHODS: dict[str, Specification] = {
    "tirg": _specification("tirg"),
    "tirg_lastconv": _specification("tirg_lastconv"),
    "concat": _specification("concat"),
}
