"""What checks and imports CLIP4Cir's Combiner; stage 1's numbers are in `clip_finetuning.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.interop.importing import Release
from benchmark.method import Method
from benchmark.parity.golden import Head, HeadSizes

from ..clip4cir import METHOD, Clip4Cir, CombinerSettings


def _build(sizes: HeadSizes) -> Method:
    return Clip4Cir(sizes.clip_dim, CombinerSettings(projection=sizes.projection_dim, hidden=sizes.hidden_dim))


_GOLDEN = Head(_build, "combiner")
FORMS = {"clip4cir": _GOLDEN.check}
_COMBINER = METHOD.stages(CombinerSettings(), "pretrained")[-1]
TRAINING = {"clip4cir_combiner": lambda file, name, recipe: _GOLDEN.training_case(file, name, recipe, _COMBINER)}


def _released_settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, Any]]:
    """d, and the Combiner's p and h."""
    projection, width = shapes["text_projection_layer.weight"]
    return width, {"projection": projection, "hidden": shapes["output_layer.weight"][1]}


RELEASES = {"clip4cir": Release(part="combiner", settings=_released_settings, entry="Combiner")}
