"""What puts a method on BLIP-2's first stage: its picture encoder's tokens, its texts, its files, its stage.

The picture encoder is the backbone. With pretrained weights it is frozen and its raw tokens are stored; one that
starts at random gives poor tokens, and trains together with the method, on pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from benchmark.backbone import TOKENS, Backbone
from benchmark.errors import UserError
from benchmark.facts import Initialisation
from benchmark.facts_file import facts_beside
from benchmark.method import (
    BuildContext,
    FeatureInputs,
    Inputs,
    Method,
    PixelInputs,
    RequiredFile,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import MethodSettings, TrainingSettings
from benchmark.weights.assets import RequiredAsset

from .blip2 import Blip2Sizes, PromptedStage, text_tokens

_QFORMER = "blip2"
_ASSET = next(asset for asset in facts_beside(__file__).assets if asset.name == _QFORMER)
_SMALL = {
    "width": 64, "layers": 2, "heads": 4, "inner": 128, "queries": 8, "embedding": 32, "dropout": 0.0,
    "qformer": "random",
}  # fmt: skip


class Blip2Settings(Blip2Sizes):
    """Sizes, and where the two networks start."""

    qformer: str = Field("", description="the Q-Former's weights: a file in place of BLIP-2's, or 'random'")
    picture_encoder: Literal["", "frozen", "trained"] = Field(
        "", description="by default frozen, with its tokens stored; trained, on pixels, where its weights are random"
    )


class PictureTokens(nn.Module):
    """Raw tokens of a picture (B, T, w): those that are stored, or those of an encoder that trains, too."""

    def __init__(self, trained: Backbone | None) -> None:
        super().__init__()
        self.backbone = trained

    def forward(self, views: Views) -> Tensor:
        if self.backbone is None:
            return views[TOKENS]
        return self.backbone.encode_picture_outputs(views["pixels"], (TOKENS,))[TOKENS]


S = TypeVar("S", bound=Blip2Settings)
N = TypeVar("N", bound=PromptedStage)
T = TypeVar("T", bound=TrainingSettings)


class OnFirstStage(Method, Generic[N]):
    """What methods on BLIP-2's first stage have in common: how they see pictures, targets and texts."""

    def __init__(self, network: N, pictures: PictureTokens) -> None:
        super().__init__()
        self.network: N = network
        self.pictures = pictures

    def seen(self, views: Views) -> Tensor:
        """A picture's tokens behind ln_vision, (B, T, w)."""
        return self.network.vision(self.pictures(views))

    def encode_target(self, target: Views) -> Tensor:
        """(B, n, e), each of unit norm."""
        return self.network.targets(self.network.picture_queries(self.seen(target)))

    def tokenize(self, texts: Sequence[str]) -> Views:
        return {"tokens": text_tokens(texts)}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """A bias of all keys alike shifts a softmax's row."""
        return tuple(name for name, _ in self.named_parameters() if name.endswith(".key.bias"))


def on_blip2(
    name: str,
    network: Callable[[int, S], N],
    build: Callable[[N, PictureTokens, T], Method],
    settings: type[S],
    training: type[T],
    **of_the_stage: Any,
) -> Specification:
    """A method of one stage, ``name``, on BLIP-2's first stage; ``of_the_stage``: what else it declares.

    ``network`` makes what it trains from the width of the picture's tokens and the settings, ``build`` the method
    on it. Raises UserError where the backbone gives no tokens, or the Q-Former's file is missing or does not fit.
    """

    def make(trained: bool, context: BuildContext) -> Method:
        chosen = settings.of(context.method_settings)
        first_stage = network(context.picture_output(TOKENS).shape[-1], chosen)
        if chosen.qformer != "random" and not context.weights_follow:
            path = RequiredAsset(_ASSET, chosen.qformer).find(context.assets_root)
            if path is None:
                problem = RequiredAsset(_ASSET, chosen.qformer).problem(context.assets_root)
                raise UserError(f"{problem}, or start at random with --set method.qformer=random")
            first_stage.load_pretrained(path)
        pictures = PictureTokens(context.backbone if trained else None).requires_grad_(True)
        return build(first_stage, pictures, training.of(context.training_settings))

    def stages(given: MethodSettings, initialisation: Initialisation) -> tuple[Stage, ...]:
        chosen = settings.of(given).picture_encoder or ("trained" if initialisation == "random" else "frozen")
        trained = chosen == "trained"
        return (Stage(name, partial(make, trained), _pixels if trained else _tokens, training, **of_the_stage),)

    return Specification(
        stages=stages,
        settings=settings,
        demo_settings=_SMALL,
        default_backbone="blip2-vit-g",
        demo_backbone="blip2-tiny",
        required_files=_required_files,
    )


def _tokens(context: BuildContext) -> Inputs:
    return FeatureInputs(reference=(TOKENS,), target=(TOKENS,), text="tokenized")


def _pixels(context: BuildContext) -> Inputs:
    assert context.backbone is not None
    return PixelInputs(train=context.backbone.preprocessing, evaluate=context.backbone.preprocessing)


def _required_files(given: MethodSettings) -> tuple[RequiredFile, ...]:
    qformer = Blip2Settings.of(given).qformer
    return () if qformer == "random" else (RequiredFile(_QFORMER, qformer),)
