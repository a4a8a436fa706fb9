"""TIRG's composition, and Concat + MLP, on the stored features of a frozen CLIP: variants of ours.

The implementation is TIRG's in ARTEMIS's release (`networks/artemis_encoders.py`), with CLIP's features in the
place of its encoders: beside `tirg` and `concat` a reader can tell what comes from the backbone and what from the
composition. TIRG (last conv) has no such form, since it composes at every position of a map, and of a
picture CLIP gives one pooled vector.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from benchmark.method import Method
from benchmark.settings import EncoderChoice

from .networks.artemis_encoders import feature_encoders
from .networks.clip_finetuning import on_clip_features
from .networks.tirg_implementations import VARIANT_SHARES, ArtemisTirg, Kind, composition


class TirgClipSettings(EncoderChoice):
    """TIRG's composition on stored features."""

    dropout: float = Field(0.1, ge=0, lt=1, description="of Concat + MLP")


def _composed(kind: Kind, width: int, settings: TirgClipSettings) -> Method:
    # The composition is made first: the order decides which random numbers each part starts from.
    composed = composition(kind, width, width, VARIANT_SHARES, settings.dropout)
    return ArtemisTirg(feature_encoders(width), composed)


METHODS = {
    "tirg_clip": on_clip_features(partial(_composed, "tirg"), TirgClipSettings, stage="tirg-clip"),
    "concat_clip": on_clip_features(partial(_composed, "concat"), TirgClipSettings, stage="tirg-clip"),
}
