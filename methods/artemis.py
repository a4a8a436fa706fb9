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

from benchmark.declarations import MethodInfo, Recipe, Start, Variant
from benchmark.method import BuildContext, Method, Need, Specification, Stage
from benchmark.settings import MethodSettings

from .networks.artemis import VERSION_HELP, Version, artemis_method
from .networks.artemis_frame import CnnSettings, cnn_encoders, cnn_start, frame_needs, frame_remarks, pixel_inputs

_CITATION = (
    "@inproceedings{delmas2022artemis, title={ARTEMIS: Attention-based Retrieval with Text-Explicit "
    "Matching and Implicit Similarity}, author={Delmas, Ginger and Sampaio de Rezende, Rafael and "
    "Csurka, Gabriela and Larlus, Diane}, booktitle={International Conference on Learning "
    "Representations (ICLR)}, year={2022}}"
)

METHODS = [
    MethodInfo(
        name="artemis",
        title="ARTEMIS",
        summary="text-attended matching of text and target, and of reference and target, on a ResNet and a GRU",
        paper="ICLR 2022",
        citation=_CITATION,
        needs=("resnet50", "resnet18", "glove.840B"),
        outside_fair="trains a ResNet and a GRU of its own on pixels; ARTEMIS on CLIP features stands for it",
    ),
]

_RELEASE = "ARTEMIS, ICLR 2022, release: model_version"

VARIANTS = [
    Variant(
        method="artemis", name="em-only", title="explicit matching alone (EM)", source=_RELEASE,
        settings={"method.version": "EM-only"}, ablation="scores", without=("IS",),
    ),
    Variant(
        method="artemis", name="is-only", title="implicit similarity alone (IS)", source=_RELEASE,
        settings={"method.version": "IS-only"}, ablation="scores", without=("EM",),
    ),
    Variant(
        method="artemis", name="late-fusion", title="late fusion", source=_RELEASE,
        settings={"method.version": "late-fusion"}, ablation="scores",
    ),
    Variant(
        method="artemis", name="cross-modal", title="text against target", source=_RELEASE,
        settings={"method.version": "cross-modal"},
    ),
    Variant(
        method="artemis", name="visual-search", title="reference against target", source=_RELEASE,
        settings={"method.version": "visual-search"},
    ),
    Variant(
        method="artemis", name="lstm", title="LSTM text encoder", source="ARTEMIS, ICLR 2022: the paper's other rows",
        settings={"method.text_encoder": "lstm"},
    ),
]  # fmt: skip

_PHASE_1 = {
    "epochs": 8, "batch_size": 32, "optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01,
    "schedule": "step", "schedule_epochs": 4, "schedule_factor": 0.5,
}  # fmt: skip
_PHASE_2 = {**_PHASE_1, "epochs": 50, "learning_rate": 2.5e-4, "schedule_epochs": 10}
_FASHION200K = {"batch_size": 128, "text_rule": "template", "drawing": "one-per-image"}
_SOURCE_1 = "ARTEMIS, ICLR 2022, released command of phase 1"
_SOURCE_2 = "ARTEMIS, ICLR 2022, released command of phase 2, which goes on with phase 1's rate"

RECIPES = [
    Recipe(
        stage="artemis-frozen", dataset="fashioniq", name="paper", source=_SOURCE_1,
        settings={**_PHASE_1, "text_rule": "both-orders"},
    ),
    Recipe(
        stage="artemis-frozen", dataset="shoes", name="paper", source=_SOURCE_1,
        settings={**_PHASE_1, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis-frozen", dataset="fashion200k", name="paper", source=_SOURCE_1,
        settings={**_PHASE_1, **_FASHION200K},
    ),
    Recipe(
        stage="artemis-frozen", dataset="cirr", name="adapted",
        source="ARTEMIS's phase 1; its release has features of a ResNet-152 instead of pictures of CIRR",
        settings={**_PHASE_1, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis", dataset="fashioniq", name="paper", source=_SOURCE_2,
        settings={**_PHASE_2, "text_rule": "both-orders"},
    ),
    Recipe(
        stage="artemis", dataset="shoes", name="paper", source=_SOURCE_2,
        settings={**_PHASE_2, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis", dataset="fashion200k", name="paper", source=_SOURCE_2,
        settings={**_PHASE_2, **_FASHION200K, "epochs": 100, "schedule_epochs": 20},
        method={"cnn": "resnet18"},
    ),
    Recipe(
        stage="artemis", dataset="cirr", name="adapted",
        source="ARTEMIS's phase 2; its release has features of a ResNet-152 instead of pictures of CIRR",
        settings={**_PHASE_2, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data: one phase, since there are no trained weights to protect",
        settings={
            "epochs": 3, "batch_size": 32, "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": "cosine", "warmup": 0.05,
        },
        method={"augmentation": False},
    ),
]  # fmt: skip


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


def _stages(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
    return (FROZEN, WHOLE) if start == "pretrained" else (WHOLE,)


def _start(settings: MethodSettings) -> Start:
    assert isinstance(settings, ArtemisSettings)
    return cnn_start(settings)


def _needs(settings: MethodSettings) -> tuple[Need, ...]:
    assert isinstance(settings, ArtemisSettings)
    return frame_needs(settings)


def _remarks(settings: MethodSettings) -> tuple[str, ...]:
    assert isinstance(settings, ArtemisSettings)
    return frame_remarks(settings)


SPECIFICATIONS = {
    "artemis": Specification(
        stages=_stages,
        settings=ArtemisSettings,
        own_networks=_start,
        needs=_needs,
        remarks=_remarks,
        demo_settings={"cnn": "tiny", "width": 128, "word_width": 64, "lstm_width": 128},
    ),
}
