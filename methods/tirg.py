"""TIRG, TIRG (last conv) and Concat + MLP: a gated picture plus a residual, or a plain MLP on both.

Vo, Jiang, Sun, Murphy, Li, Fei-Fei, Hays, "Composing Text and Image for Image Retrieval: An Empirical
Odyssey", CVPR 2019. With x the picture and t the text (`tirg_modules.py`)::

    q = a₀ · f_g(x, t) ⊙ x + a₁ · f_r(x, t),   logits = s² · cos(q, y)

Two frames. "released" is the authors' code, for Fashion200k: ResNet-18, LSTM, learned scale s, SGD.
"artemis" is the variant in ARTEMIS's release (`artemis_frame.py`), for the datasets that the authors'
code does not know: ResNet-50 with generalised-mean pooling, GRU, a = (1, 1), exp(τ), AdamW in two
phases; of last conv and Concat + MLP no such release exists, and they follow the same frame. Both are
in `tirg_frames.py`. `tirg_clip.py` puts the same compositions on the features of a frozen CLIP.

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

from .networks.artemis_frame import cnn_encoders, cnn_start, encoder_files, encoder_remarks, pixel_inputs
from .networks.cnn import build_trunk, trunk_named
from .networks.cnn_pictures import ShortSide
from .networks.tirg_frames import Kind, ReleasedTirg, TirgSettings, framed_method, released_method


class TirgTrainingSettings(TrainingSettings):
    """Settings of the released frame's stage."""

    cnn_rate: float = Field(0.1, gt=0, description="factor of the CNN's rate, its projection excepted")
    decay_updates: int = Field(0, ge=0, description="updates between two factors of schedule_factor; 0: none")


def _settings(context: BuildContext) -> TirgSettings:
    assert isinstance(context.method_settings, TirgSettings)
    return context.method_settings


def _build_released(context: BuildContext, kind: Kind) -> Method:
    settings = _settings(context)
    cnn = build_trunk(settings.cnn, context.start(cnn_start(settings)), context.assets_root)
    return released_method(kind, settings, cnn, trunk_named(settings.cnn).channels)


def _build_framed(context: BuildContext, kind: Kind, frozen: bool) -> Method:
    settings = _settings(context)
    encoders = cnn_encoders(settings, context.assets_root, context.weights_follow)
    return framed_method(kind, settings, encoders, trunk_named(settings.cnn).channels, frozen)


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
    from benchmark.training.optimisation import standard_schedule

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
            initialise_from="weights and optimiser",
        ),
    )


def _start(settings: MethodSettings) -> Initialisation:
    assert isinstance(settings, TirgSettings)
    return cnn_start(settings)


def _required_files(settings: MethodSettings) -> tuple[RequiredFile, ...]:
    """The released frame has no place for word vectors."""
    assert isinstance(settings, TirgSettings)
    files = encoder_files(settings)
    return files if settings.frame == "artemis" else tuple(file for file in files if file.asset == settings.cnn)


def _remarks(settings: MethodSettings) -> tuple[str, ...]:
    assert isinstance(settings, TirgSettings)
    return encoder_remarks(settings) if settings.frame == "artemis" else ("words start at random, as released",)


def _specification(kind: Kind) -> Specification:
    released, (frozen, whole) = _released_stage(kind), _framed_stages(kind)

    def stages(settings: MethodSettings, start: Initialisation) -> tuple[Stage, ...]:
        assert isinstance(settings, TirgSettings)
        if settings.frame == "released":
            return (released,)
        return (frozen, whole) if start == "pretrained" else (whole,)

    return Specification(
        stages=stages,
        settings=TirgSettings,
        own_networks=_start,
        demo_settings={"cnn": "tiny", "width": 128},
        required_files=_required_files,
        remarks=_remarks,
    )


METHODS = {
    "tirg": _specification("tirg"),
    "tirg_lastconv": _specification("tirg_lastconv"),
    "concat": _specification("concat"),
}
