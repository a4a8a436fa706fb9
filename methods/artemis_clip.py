"""ARTEMIS's scores on the stored features of a frozen CLIP: a variant of ours.

Beside `artemis` a reader can tell what comes from the backbone and what from the scores. Pictures pass
through one linear layer, as on the features that ARTEMIS's release has of CIRR; texts stay as they are.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.declarations import MethodInfo, Recipe, Start, Variant
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.artemis import VERSION_HELP, Version, artemis_method
from .networks.artemis_frame import feature_encoders

METHODS = [
    MethodInfo(
        name="artemis_clip",
        title="ARTEMIS on CLIP features",
        summary="ARTEMIS's scores on the stored features of a frozen CLIP; a variant of ours",
        paper="ICLR 2022, variant",
        citation=(
            "@inproceedings{delmas2022artemis, title={ARTEMIS: Attention-based Retrieval with Text-Explicit "
            "Matching and Implicit Similarity}, author={Delmas, Ginger and Sampaio de Rezende, Rafael and "
            "Csurka, Gabriela and Larlus, Diane}, booktitle={International Conference on Learning "
            "Representations (ICLR)}, year={2022}}"
        ),
        needs=("clip",),
    ),
]

_OURS = "ours: a version of the release on CLIP features"

VARIANTS = [
    Variant(
        method="artemis_clip", name="em-only", title="explicit matching alone (EM)", source=_OURS,
        settings={"method.version": "EM-only"}, ablation="scores", without=("IS",),
    ),
    Variant(
        method="artemis_clip", name="is-only", title="implicit similarity alone (IS)", source=_OURS,
        settings={"method.version": "IS-only"}, ablation="scores", without=("EM",),
    ),
    Variant(
        method="artemis_clip", name="late-fusion", title="late fusion", source=_OURS,
        settings={"method.version": "late-fusion"}, ablation="scores",
    ),
    Variant(
        method="artemis_clip", name="cross-modal", title="text against target", source=_OURS,
        settings={"method.version": "cross-modal"},
    ),
    Variant(
        method="artemis_clip", name="visual-search", title="reference against target", source=_OURS,
        settings={"method.version": "visual-search"},
    ),
]  # fmt: skip

RECIPES = [
    Recipe(
        stage="artemis-clip", dataset="*", name="adapted",
        source="ours: ARTEMIS's phase 2 at batch 128 on stored features",
        settings={
            "epochs": 50, "batch_size": 128, "optimiser": "adamw", "learning_rate": 2.5e-4, "weight_decay": 0.01,
            "schedule": "step", "schedule_epochs": 10, "schedule_factor": 0.5,
        },
    ),
    Recipe(
        stage="artemis-clip", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data",
        settings={
            "epochs": 6, "batch_size": 128, "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": "cosine",
        },
    ),
]  # fmt: skip


class ArtemisClipSettings(EncoderChoice):
    """ARTEMIS on stored features."""

    version: Version = Field("ARTEMIS", description=VERSION_HELP)


def _build_on_features(context: BuildContext) -> Method:
    settings = context.method_settings
    assert isinstance(settings, ArtemisClipSettings)
    return artemis_method(feature_encoders(context.width), context.width, settings.version)


ON_FEATURES = Stage(name="artemis-clip", build=_build_on_features, inputs=lambda context: FeatureInputs())


def _stages_on_features(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
    return (*encoder_stages(settings, start, default="untouched"), ON_FEATURES)


SPECIFICATIONS = {"artemis_clip": Specification(stages=_stages_on_features, settings=ArtemisClipSettings)}
