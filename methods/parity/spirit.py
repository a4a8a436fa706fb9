"""What checks and imports SPIRIT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from benchmark.interop.importing import Release
from benchmark.method import Method
from benchmark.parity.golden import Head, HeadSizes
from benchmark.training.batches import Batch

from ..spirit import METHOD, Spirit, SpiritSettings


def _build(sizes: HeadSizes) -> Method:
    # Only the number of patches counts here, not the grids that they are cut by.
    grids = (1,) * (sizes.patches or 0)
    return Spirit(sizes.clip_dim, SpiritSettings(grids=grids, projection=sizes.projection_dim, hidden=sizes.hidden_dim))


def _outputs(method: Method, batch: Batch) -> dict[str, Tensor]:
    assert isinstance(method, Spirit)
    return {f"target_{name}": style for name, style in method.network.local(batch.target["patches"]).items()}


_GOLDEN = Head(_build, "network", _outputs)
FORMS = {"spirit": _GOLDEN.check}
_HEAD = METHOD.stages(SpiritSettings(), "pretrained")[-1]
TRAINING = {"spirit": lambda file, name, recipe: _GOLDEN.training_case(file, name, recipe, _HEAD)}

_GRIDS = {13: (2, 3), 9: (3,), 4: (2,)}


def _released_settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, Any]]:
    """d, p and h of the visual-textual fusion, which works at 2d, and the patch grids."""
    double, hidden = shapes["combiner.output_layer.weight"]
    patches = shapes["visual_attn.transformer.positional_embedding"][1]
    sizes = {"projection": shapes["combiner.text_projection_layer.weight"][0], "hidden": hidden}
    return double // 2, {**sizes, "grids": _GRIDS.get(patches, _GRIDS[13])}


_NOT_COMPUTED = "multiplies a softmax over one entry, which is always 1"
RELEASES = {
    "spirit": Release(
        part="network",
        settings=_released_settings,
        without_effect={
            "combiner.image_mlp.": _NOT_COMPUTED,
            "combiner.text_mlp.": _NOT_COMPUTED,
            "simi_loss.": "a triplet loss that the release never uses",
        },
    )
}
