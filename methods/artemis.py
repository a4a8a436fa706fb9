"""ARTEMIS: attention-based retrieval with text-explicit matching and implicit similarity.

Delmas, Sampaio de Rezende, Csurka, Larlus, ICLR 2022. With ℓ(u) = u / ‖u‖ and text attentions A, A'::

    EM(i, j) = ⟨T_i, ℓ(A_i ⊙ t_j)⟩                 what the text asks for, against the attended target
    IS(i, j) = ⟨ℓ(A'_i ⊙ r_i), ℓ(A'_i ⊙ t_j)⟩      reference against target, under the text's attention
    s = EM + IS

The score is no dot product: `score` computes a block by four products of matrices (`networks/artemis.py`).
Encoders, loss and the two phases are in `networks/artemis_encoders.py`. `artemis_clip.py` is the same on the features
of a frozen CLIP.

Deviations: on CIRR the release reads ResNet-152 features from disk, here its ResNet-50 is trained on
pixels; modules that a version does not use are not built.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.method import BuildContext, Method, Specification, Stage

from .networks.artemis import VERSION_HELP, Version, artemis_of_version
from .networks.artemis_encoders import CnnSettings, cnn_encoders, encoder_files, own_networks, pixel_inputs
from .networks.vocabulary import word_vector_remarks


class ArtemisSettings(CnnSettings):
    """ARTEMIS on its own networks; the defaults are the paper's."""

    version: Version = Field("ARTEMIS", description=VERSION_HELP)


def _build(context: BuildContext, frozen: bool) -> Method:
    settings = ArtemisSettings.of(context.method_settings)
    encoders = cnn_encoders(settings, context.assets_root, context.weights_follow)
    return artemis_of_version(encoders, settings.width, settings.version, frozen)


FROZEN = Stage(name="artemis-frozen", build=lambda context: _build(context, frozen=True), inputs=pixel_inputs)
WHOLE = Stage(
    name="artemis",
    build=lambda context: _build(context, frozen=False),
    inputs=pixel_inputs,
    initialise_from="weights and optimiser",
)

METHOD = Specification(
    stages=lambda settings, initialisation: (FROZEN, WHOLE) if initialisation == "pretrained" else (WHOLE,),
    settings=ArtemisSettings,
    own_networks=own_networks,
    required_files=encoder_files,
    remarks=lambda settings: word_vector_remarks(ArtemisSettings.of(settings).word_vectors),
    demo_settings={"cnn": "tiny", "width": 128, "word_width": 64, "lstm_width": 128},
)
