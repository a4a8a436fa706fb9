"""ARTEMIS's scores on the stored features of a frozen CLIP: a variant of ours.

Beside `artemis` a reader can tell what comes from the backbone and what from the scores. Pictures pass
through one linear layer, as on the features that ARTEMIS's release has of CIRR; texts stay as they are.
"""

from __future__ import annotations

from pydantic import Field

from benchmark.method import Method
from benchmark.settings import EncoderChoice

from .networks.artemis import VERSION_HELP, Version, artemis_of_version
from .networks.artemis_encoders import feature_encoders
from .networks.clip_finetuning import on_clip_features


class ArtemisClipSettings(EncoderChoice):
    """ARTEMIS on stored features."""

    version: Version = Field("ARTEMIS", description=VERSION_HELP)


def _scored(width: int, settings: ArtemisClipSettings) -> Method:
    return artemis_of_version(feature_encoders(width), width, settings.version)


METHOD = on_clip_features(_scored, ArtemisClipSettings, stage="artemis-clip")
