"""CLIP4Cir: a Combiner on the frozen features of a CLIP fine-tuned for the task.

Baldrati, Bertini, Uricchio, Del Bimbo, "Composed Image Retrieval using Contrastive Learning and
Task-oriented CLIP-based Features", ACM TOMM 2023 (arXiv 2308.11485). Stage 1 is
`clip_finetuning.py`, stage 2 is here. Query = Combiner(I, T), target = normalise(I_target), loss =
cross_entropy(100 · Q · Kᵀ, diagonal). Deviation: features are computed once, not every epoch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from benchmark.declarations import MethodInfo, Recipe, Variant
from benchmark.method import BuildContext, FeatureInputs, Method, Specification, Stage, Views
from benchmark.settings import EncoderChoice, MethodSettings

from .clip_finetuning import encoder_stages
from .networks.layers import Combiner, contrastive_loss, normalise

METHODS = [
    MethodInfo(
        name="clip4cir",
        title="CLIP4Cir",
        summary="Combiner network on a CLIP fine-tuned with the element-wise sum",
        paper="ACM TOMM 2023, arXiv 2308.11485",
        citation=(
            "@article{baldrati2023composed, title={Composed Image Retrieval using Contrastive Learning and "
            "Task-oriented CLIP-based Features}, author={Baldrati, Alberto and Bertini, Marco and Uricchio, "
            "Tiberio and Del Bimbo, Alberto}, journal={ACM Transactions on Multimedia Computing, "
            "Communications and Applications}, year={2023}}"
        ),
        needs=("clip",),
    ),
]

VARIANTS = [
    Variant(
        method="clip4cir", name="both-encoders", title="both encoders tuned, TOMM 2023",
        source="CLIP4Cir, TOMM 2023; the default", settings={},
    ),
    Variant(
        method="clip4cir", name="text-encoder", title="text encoder tuned, CVPRW 2022",
        source="Baldrati et al., CVPRW 2022: stage 1 on the text encoder only",
        settings={"encoders.trained": "text"},
    ),
    Variant(
        method="clip4cir", name="untouched", title="untouched CLIP, CVPR 2022",
        source="Baldrati et al., CVPR 2022 demo: the Combiner on a CLIP of which nothing is fine-tuned",
        settings={"method.encoder": "untouched"},
    ),
]  # fmt: skip

RECIPES = [
    Recipe(
        stage="combiner", dataset="fashioniq", name="paper",
        source="CLIP4Cir, TOMM 2023, released command of stage 2",
        settings={
            "epochs": 300, "batch_size": 4096, "optimiser": "adam", "learning_rate": 2e-5,
            "precision": "fp16", "text_rule": "joined",
        },
    ),
    Recipe(
        stage="combiner", dataset="cirr", name="paper",
        source="CLIP4Cir, TOMM 2023, released command of stage 2",
        settings={
            "epochs": 300, "batch_size": 4096, "optimiser": "adam", "learning_rate": 2e-5,
            "precision": "fp16", "text_rule": "as-is", "criterion": "arithmetic",
        },
    ),
    Recipe(
        stage="combiner", dataset="shoes", name="adapted",
        source="CLIP4Cir's stage 2 with batch 1024; no paper has a recipe for Shoes",
        settings={
            "epochs": 300, "batch_size": 1024, "optimiser": "adam", "learning_rate": 2e-5,
            "precision": "fp16", "text_rule": "capitalised",
        },
    ),
    Recipe(
        stage="combiner", dataset="fashion200k", name="adapted",
        source="CLIP4Cir's stage 2 with TIRG's drawing of pairs, the last epoch; no paper has a recipe for Fashion200k",
        settings={
            "epochs": 10, "batch_size": 4096, "optimiser": "adam", "learning_rate": 2e-5,
            "precision": "fp16", "text_rule": "template", "drawing": "one-per-image",
            "validate_every": 1000,
        },
    ),
    Recipe(
        stage="combiner", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data",
        settings={
            "epochs": 8, "batch_size": 256, "optimiser": "adam", "learning_rate": 3e-4, "schedule": "cosine",
        },
    ),
]


class CombinerSettings(EncoderChoice):
    """Sizes of the Combiner; 0 takes the paper's multiples of the backbone's width."""

    projection: int = Field(0, ge=0, description="width of the two projections; 0: 4 d")
    hidden: int = Field(0, ge=0, description="width of the hidden layers; 0: 8 d")
    dropout: float = Field(0.5, ge=0, lt=1)


class Clip4Cir(Method):
    """The Combiner on stored features of width d."""

    def __init__(self, width: int, settings: CombinerSettings) -> None:
        super().__init__()
        self.combiner = Combiner(
            width, settings.projection or 4 * width, settings.hidden or 8 * width, settings.dropout
        )

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d), unit norm."""
        query: Tensor = self.combiner(reference["global"], text["global"])
        return query

    def encode_target(self, target: Views) -> Tensor:
        """(B, d), unit norm; no layer."""
        return normalise(target["global"])

    def loss(self, queries: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return contrastive_loss(queries.float(), targets.float())


def _build(context: BuildContext) -> Method:
    assert isinstance(context.method_settings, CombinerSettings)
    return Clip4Cir(context.width, context.method_settings)


COMBINER = Stage(name="combiner", build=_build, inputs=lambda context: FeatureInputs())


def _stages(settings: MethodSettings, start: Literal["pretrained", "random"]) -> tuple[Stage, ...]:
    return (*encoder_stages(settings, start, default="finetuned"), COMBINER)


SPECIFICATIONS = {"clip4cir": Specification(stages=_stages, settings=CombinerSettings)}
