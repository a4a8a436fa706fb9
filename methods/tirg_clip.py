"""TIRG's composition, and Concat + MLP, on the stored features of a frozen CLIP: variants of ours.

The frame is that of TIRG in ARTEMIS's release (`artemis_frame.py`), with CLIP's features in the place of
its encoders: beside `tirg` and `concat` a reader can tell what comes from the backbone and what from the
composition. TIRG (last conv) has no such form, since it composes at every position of a map, and of a
picture CLIP gives one pooled vector.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.declarations import MethodInfo, Recipe, Start
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.artemis_frame import feature_encoders
from .networks.tirg_frames import VARIANT_SHARES, FramedTirg, Kind, composition

_CITATION = (
    "@inproceedings{vo2019composing, title={Composing Text and Image for Image Retrieval - An Empirical "
    "Odyssey}, author={Vo, Nam and Jiang, Lu and Sun, Chen and Murphy, Kevin and Li, Li-Jia and Fei-Fei, "
    "Li and Hays, James}, booktitle={CVPR}, year={2019}}"
)

METHODS = [
    MethodInfo(
        name="tirg_clip",
        title="TIRG on CLIP features",
        summary="TIRG's composition on the stored features of a frozen CLIP; a variant of ours",
        paper="CVPR 2019, variant",
        citation=_CITATION,
        needs=("clip",),
    ),
    MethodInfo(
        name="concat_clip",
        title="Concat + MLP on CLIP features",
        summary="an MLP on the stored features of a frozen CLIP, side by side; a variant of ours",
        paper="CVPR 2019, baseline of TIRG, variant",
        citation=_CITATION,
        needs=("clip",),
    ),
]

RECIPES = [
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


class TirgClipSettings(EncoderChoice):
    """TIRG's composition on stored features."""

    dropout: float = Field(0.1, ge=0, lt=1, description="of Concat + MLP")


def _build_on_features(context: BuildContext, kind: Kind) -> Method:
    settings, width = context.method_settings, context.width
    assert isinstance(settings, TirgClipSettings)
    composed = composition(kind, width, width, VARIANT_SHARES, settings.dropout)
    return FramedTirg(feature_encoders(width), composed)


def _specification_on_features(kind: Kind) -> Specification:
    stage = Stage(
        name="tirg-clip",
        build=lambda context: _build_on_features(context, kind),
        inputs=lambda context: FeatureInputs(),
    )

    def stages(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
        return (*encoder_stages(settings, start, default="untouched"), stage)

    return Specification(stages=stages, settings=TirgClipSettings)


SPECIFICATIONS = {
    "tirg_clip": _specification_on_features("tirg"),
    "concat_clip": _specification_on_features("concat"),
}
