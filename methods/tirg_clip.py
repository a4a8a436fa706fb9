"""TIRG's composition, and Concat + MLP, on the stored features of a frozen CLIP: variants of ours.

The frame is that of TIRG in ARTEMIS's release (`artemis_frame.py`), with CLIP's features in the place of
its encoders: beside `tirg` and `concat` a reader can tell what comes from the backbone and what from the
composition. TIRG (last conv) has no such form, since it composes at every position of a map, and of a
picture CLIP gives one pooled vector.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.facts import Initialisation
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.artemis_frame import feature_encoders
from .networks.tirg_frames import VARIANT_SHARES, FramedTirg, Kind, composition


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

    def stages(settings: MethodSettings, start: Initialisation) -> tuple[Stage, ...]:
        return (*encoder_stages(settings, start, default="untouched"), stage)

    return Specification(stages=stages, settings=TirgClipSettings)


METHODS = {
    "tirg_clip": _specification_on_features("tirg"),
    "concat_clip": _specification_on_features("concat"),
}
