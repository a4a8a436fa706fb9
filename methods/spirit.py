"""SPIRIT: style-guided patch interaction on the frozen features of a fine-tuned CLIP.

Chen, Zhou, Peng, "SPIRIT: Style-guided Patch Interaction for Fashion Image Retrieval with Text
Feedback", ACM TOMM 20(6), 2024. Stage 1 (`clip_finetuning.py`) gives the CLIP, whose features of
the whole picture, of 13 patches and of the text are stored; stage 2 trains the network of
`spirit_modules.py` on them with the in-batch contrastive loss, one direction, scale 100.

Deviations from the release: batches are shuffled anew every epoch (the release repeats one order),
and running statistics of batch norms follow the first negative group of each update, as rank 0's
do there.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from benchmark.declarations import MethodInfo, Recipe, Variant
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage, Views
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.layers import contrastive_loss
from .networks.spirit import SpiritDesign, SpiritNetwork

METHODS = [
    MethodInfo(
        name="spirit",
        title="SPIRIT",
        summary="style-guided patch interaction, fused with the text, on a fine-tuned CLIP",
        paper="ACM TOMM 20(6), 2024",
        citation=(
            "@article{chen2024spirit, title={SPIRIT: Style-guided Patch Interaction for Fashion Image "
            "Retrieval with Text Feedback}, author={Chen, Yanzhe and Zhou, Jiahuan and Peng, Yuxin}, "
            "journal={ACM Transactions on Multimedia Computing, Communications and Applications}, "
            "volume={20}, number={6}, year={2024}}"
        ),
        needs=("clip",),
    ),
]

VARIANTS = [
    Variant(
        method="spirit", name="without-psc", title="without style commonality (PSC)", source="SPIRIT, ablations",
        settings={"method.commonality": False}, ablation="modules", without=("PSC",),
    ),
    Variant(
        method="spirit", name="without-psd", title="without style difference (PSD)", source="SPIRIT, ablations",
        settings={"method.difference": False}, ablation="modules", without=("PSD",),
    ),
    Variant(
        method="spirit", name="without-psf", title="without style fusion (PSF)", source="SPIRIT, ablations",
        settings={"method.fusion": False}, ablation="modules", without=("PSF",),
    ),
    Variant(
        method="spirit", name="without-psc-psd-psf", title="without PSC, PSD and PSF", source="SPIRIT, ablations",
        settings={"method.commonality": False, "method.difference": False, "method.fusion": False},
        ablation="modules", without=("PSC", "PSD", "PSF"),
    ),
    Variant(
        method="spirit", name="no-patches", title="no patches", source="SPIRIT, ablations: the whole picture alone",
        settings={"method.grids": []}, ablation="patches",
    ),
    Variant(
        method="spirit", name="2x2", title="patches 2×2", source="SPIRIT, ablations",
        settings={"method.grids": [2]}, ablation="patches",
    ),
    Variant(
        method="spirit", name="3x3", title="patches 3×3", source="SPIRIT, ablations",
        settings={"method.grids": [3]}, ablation="patches",
    ),
    Variant(
        method="spirit", name="4x4", title="patches 4×4", source="ours: a finer grid than the paper's",
        settings={"method.grids": [4]}, ablation="patches",
    ),
    Variant(
        method="spirit", name="2x2-3x3-4x4", title="patches 2×2, 3×3 and 4×4", source="ours: a third grid",
        settings={"method.grids": [2, 3, 4]}, ablation="patches",
    ),
    Variant(
        method="spirit", name="target-without-patches", title="targets without patches", source="SPIRIT, ablations",
        settings={"method.target_patches": False}, ablation="target side",
    ),
    Variant(
        method="spirit", name="global-negatives", title="negatives from the whole batch",
        source="ours: the release sees 1,024 of 8,192 pairs at a time",
        settings={"spirit.negative_group": 0}, ablation="negatives",
    ),
    Variant(
        method="spirit", name="local-negatives", title="negatives from groups of 128",
        source="ours: as eight GPUs would see a batch of 1,024",
        settings={"spirit.negative_group": 128}, ablation="negatives",
    ),
    Variant(
        method="spirit", name="plain-cosine", title="cosine that ends at zero",
        source="ours: the release's cosine rises again after epoch 100",
        settings={"spirit.schedule": "cosine", "spirit.schedule_epochs": 0}, ablation="schedule",
    ),
    Variant(
        method="spirit", name="released-schedule", title="cosine of 100 epochs that rises again",
        source="SPIRIT, released script; for recipes with another schedule",
        settings={"spirit.schedule": "cosine-rising", "spirit.schedule_epochs": 100}, ablation="schedule",
    ),
]  # fmt: skip

_RELEASED = {
    "epochs": 300, "batch_size": 8192, "negative_group": 1024, "optimiser": "adam", "learning_rate": 4e-5,
    "schedule": "cosine-rising", "schedule_epochs": 100, "precision": "fp16",
}  # fmt: skip
_ONE_GPU = {**_RELEASED, "batch_size": 1024, "negative_group": 0}
_FASHION200K = {"epochs": 10, "text_rule": "template", "drawing": "five-per-image", "validate_every": 1000}
_SCRIPT = "SPIRIT, TOMM 2024, released script: 8 GPUs, 1,024 pairs each"
_ONE_GPU_SCRIPT = "SPIRIT's released script on one GPU: batch 1,024 in one group, eight times the updates"

RECIPES = [
    Recipe(
        stage="spirit", dataset="fashioniq", name="paper", source=_SCRIPT,
        settings={**_RELEASED, "weight_decay": 5e-4, "text_rule": "joined"},
    ),
    Recipe(
        stage="spirit", dataset="shoes", name="paper", source=_SCRIPT,
        settings={**_RELEASED, "text_rule": "capitalised"},
    ),
    Recipe(
        stage="spirit", dataset="cirr", name="paper", source=_SCRIPT,
        settings={**_RELEASED, "text_rule": "as-is"},
    ),
    Recipe(
        stage="spirit", dataset="fashion200k", name="paper",
        source=(
            "SPIRIT, TOMM 2024, released script: 8 GPUs, 1,024 pairs each; pairs drawn once, five per image; no "
            "epoch is picked"
        ),
        settings={**_RELEASED, **_FASHION200K},
    ),
    Recipe(
        stage="spirit", dataset="fashioniq", name="one-gpu", source=_ONE_GPU_SCRIPT,
        settings={**_ONE_GPU, "weight_decay": 5e-4, "text_rule": "joined"},
    ),
    Recipe(
        stage="spirit", dataset="fashion200k", name="one-gpu", source=_ONE_GPU_SCRIPT,
        settings={**_ONE_GPU, **_FASHION200K},
    ),
    Recipe(stage="spirit", dataset="*", name="one-gpu", source=_ONE_GPU_SCRIPT, settings=_ONE_GPU),
    Recipe(
        stage="spirit",
        dataset="*",
        name="from-scratch",
        start="random",
        source="ours, tuned on the demo data",
        settings={
            "epochs": 5,
            "batch_size": 256,
            "optimiser": "adam",
            "learning_rate": 3e-4,
            "schedule": "cosine",
        },
    ),
]  # fmt: skip


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

    @property
    def without_gradient(self) -> tuple[str, ...]:
        return tuple(f"network.{name}" for name in self.network.without_gradient)

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return contrastive_loss(queries.float(), targets.float())


def _settings(context: BuildContext) -> SpiritSettings:
    assert isinstance(context.method_settings, SpiritSettings)
    return context.method_settings


def _build(context: BuildContext) -> Method:
    return Spirit(context.width, _settings(context))


def _inputs(context: BuildContext) -> FeatureInputs:
    settings = _settings(context)
    with_patches = ("global", "patches") if settings.grids else ("global",)
    return FeatureInputs(
        reference=with_patches,
        target=with_patches if settings.target_patches else ("global",),
        grids=settings.grids,
    )


HEAD = Stage(name="spirit", build=_build, inputs=_inputs)


def _stages(settings: MethodSettings, start: Literal["pretrained", "random"]) -> tuple[Stage, ...]:
    return (*encoder_stages(settings, start, default="finetuned"), HEAD)


SPECIFICATIONS = {"spirit": Specification(stages=_stages, settings=SpiritSettings)}
