"""ARTEMIS's scores on the stored features of a frozen CLIP: a variant of ours.

Beside `artemis` a reader can tell what comes from the backbone and what from the scores. Pictures pass
through one linear layer, as on the features that ARTEMIS's release has of CIRR; texts stay as they are.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.facts import Initialisation
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.artemis import VERSION_HELP, Version, artemis_method
from .networks.artemis_frame import feature_encoders


class ArtemisClipSettings(EncoderChoice):
    """ARTEMIS on stored features."""

    version: Version = Field("ARTEMIS", description=VERSION_HELP)


def _build_on_features(context: BuildContext) -> Method:
    settings = context.method_settings
    assert isinstance(settings, ArtemisClipSettings)
    return artemis_method(feature_encoders(context.width), context.width, settings.version)


ON_FEATURES = Stage(name="artemis-clip", build=_build_on_features, inputs=lambda context: FeatureInputs())


def _stages_on_features(settings: MethodSettings, start: Initialisation) -> tuple[Stage, ...]:
    return (*encoder_stages(settings, start, default="untouched"), ON_FEATURES)


METHOD = Specification(stages=_stages_on_features, settings=ArtemisClipSettings)
