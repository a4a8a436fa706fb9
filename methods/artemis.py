"""ARTEMIS: attention-based retrieval with text-explicit matching and implicit similarity.

Delmas, Sampaio de Rezende, Csurka, Larlus, ICLR 2022. With ℓ(u) = u / ‖u‖ and text attentions A, A'::

    EM(i, j) = ⟨T_i, ℓ(A_i ⊙ t_j)⟩                 what the text asks for, against the attended target
    IS(i, j) = ⟨ℓ(A'_i ⊙ r_i), ℓ(A'_i ⊙ t_j)⟩      reference against target, under the text's attention
    s = EM + IS

The score is no dot product: `score` computes a block by four products of matrices (`artemis_modules.py`).
Encoders, loss and the two phases are in `artemis_frame.py`. `artemis_clip.py` is the same on the features
of a frozen CLIP.

Deviations: on CIRR the release reads ResNet-152 features from disk, here its ResNet-50 is trained on
pixels; modules that a version does not use are not built.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.facts import Initialisation
from benchmark.method import BuildContext, Method, RequiredFile, Specification, Stage
from benchmark.settings import MethodSettings

from .networks.artemis import VERSION_HELP, Version, artemis_method
from .networks.artemis_frame import CnnSettings, cnn_encoders, cnn_start, encoder_files, encoder_remarks, pixel_inputs


class ArtemisSettings(CnnSettings):
    """ARTEMIS on its own networks; the defaults are the paper's."""

    version: Version = Field("ARTEMIS", description=VERSION_HELP)


def _build(context: BuildContext, frozen: bool) -> Method:
    settings = context.method_settings
    assert isinstance(settings, ArtemisSettings)
    encoders = cnn_encoders(settings, context.assets_root, context.weights_follow)
    return artemis_method(encoders, settings.width, settings.version, frozen)


FROZEN = Stage(name="artemis-frozen", build=lambda context: _build(context, frozen=True), inputs=pixel_inputs)
WHOLE = Stage(
    name="artemis",
    build=lambda context: _build(context, frozen=False),
    inputs=pixel_inputs,
    initialise_from="weights and optimiser",
)


def _stages(settings: MethodSettings, start: Initialisation) -> tuple[Stage, ...]:
    return (FROZEN, WHOLE) if start == "pretrained" else (WHOLE,)


def _start(settings: MethodSettings) -> Initialisation:
    assert isinstance(settings, ArtemisSettings)
    return cnn_start(settings)


def _required_files(settings: MethodSettings) -> tuple[RequiredFile, ...]:
    assert isinstance(settings, ArtemisSettings)
    return encoder_files(settings)


def _remarks(settings: MethodSettings) -> tuple[str, ...]:
    assert isinstance(settings, ArtemisSettings)
    return encoder_remarks(settings)


METHOD = Specification(
    stages=_stages,
    settings=ArtemisSettings,
    own_networks=_start,
    required_files=_required_files,
    remarks=_remarks,
    demo_settings={"cnn": "tiny", "width": 128, "word_width": 64, "lstm_width": 128},
)
