"""SPIRIT: style-guided patch interaction on the frozen features of a fine-tuned CLIP.

Chen, Zhou, Peng, "SPIRIT: Style-guided Patch Interaction for Fashion Image Retrieval with Text
Feedback", ACM TOMM 20(6), 2024. Stage 1 (`clip_finetuning.py`) gives the CLIP, whose features of
the whole picture, of 13 patches and of the text are stored; stage 2 trains the network of
`networks/spirit.py` on them with the in-batch contrastive loss, one direction, scale 100.

Deviations from the release: batches are shuffled anew every epoch (the release repeats one order),
and running statistics of batch norms follow the first negative group of each update, as rank 0's
do there.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from benchmark.method import FeatureInputs, Method, Views
from benchmark.settings import EncoderChoice

from .networks.clip_finetuning import on_clip_features
from .networks.layers import contrastive_loss
from .networks.spirit import SpiritDesign, SpiritNetwork


class SpiritSettings(EncoderChoice):
    """SPIRIT's design; the defaults are the paper's, the others its ablations."""

    grids: tuple[int, ...] = Field((2, 3), description="patch grids: 2 is 2×2, 3 is 3×3; () for none")
    commonality: bool = Field(True, description="style commonality, PSC")
    difference: bool = Field(True, description="style difference, PSD")
    fusion: bool = Field(True, description="style fusion, PSF")
    target_patches: bool = Field(True, description="patches on the target side")
    projection: int = Field(0, ge=0, description="p of the visual-textual fusion; 0: 4 d")
    hidden: int = Field(0, ge=0, description="h of the visual-textual fusion; 0: 8 d")
    dropout: float = Field(0.5, ge=0, lt=1)


class Spirit(Method):
    """SPIRIT on stored features of width d: query and target are (B, 2d), unit norm."""

    def __init__(self, width: int, settings: SpiritSettings) -> None:
        super().__init__()
        self.network = SpiritNetwork(
            width,
            patches=sum(grid * grid for grid in settings.grids),
            projection=settings.projection or None,
            hidden=settings.hidden or None,
            design=SpiritDesign(
                commonality=settings.commonality,
                difference=settings.difference,
                fusion=settings.fusion,
                target_patches=settings.target_patches,
            ),
            dropout=settings.dropout,
        )

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """Reference I (B, d), P (B, 13, d) and text T (B, d)."""
        return self.network.encode_query(reference["global"], text["global"], reference.get("patches"))

    def encode_target(self, target: Views) -> Tensor:
        """I (B, d) and P (B, 13, d); gradient flows into it."""
        return self.network.encode_target(target["global"], target.get("patches"))

    def explain(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """What attends to what among the reference's patches; none where the design has no patches."""
        local = self.network.visual_attn
        return {} if local is None else local.attention(reference["patches"])

    @property
    def without_gradient(self) -> tuple[str, ...]:
        return tuple(f"network.{name}" for name in self.network.without_gradient)

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return contrastive_loss(queries.float(), targets.float())


def _inputs(settings: SpiritSettings) -> FeatureInputs:
    with_patches = ("global", "patches") if settings.grids else ("global",)
    target = with_patches if settings.target_patches else ("global",)
    return FeatureInputs(reference=with_patches, target=target, grids=settings.grids)


METHOD = on_clip_features(Spirit, SpiritSettings, encoder="finetuned", inputs=_inputs)
