"""ARTEMIS: attention-based retrieval with text-explicit matching and implicit similarity.

Delmas, Sampaio de Rezende, Csurka, Larlus, ICLR 2022. With ℓ(u) = u / ‖u‖ and text attentions A, A'::

    EM(i, j) = ⟨T_i, ℓ(A_i ⊙ t_j)⟩                 what the text asks for, against the attended target
    IS(i, j) = ⟨ℓ(A'_i ⊙ r_i), ℓ(A'_i ⊙ t_j)⟩      reference against target, under the text's attention
    s = EM + IS

The score is no dot product: `score` computes a block by four products of matrices. Encoders, loss and
the two phases are in `artemis_frame.py`. `artemis_clip` is the same on the features of a frozen CLIP.

Deviations: on CIRR the release reads ResNet-152 features from disk, here its ResNet-50 is trained on
pixels; modules that a version does not use are not built.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.declarations import MethodInfo, Recipe, Start, Variant
from benchmark.encoding import Encoding
from benchmark.method import (
    BuildContext,
    FeatureInputs,
    Method,
    Need,
    Parity,
    Part,
    PublishedSizes,
    Specification,
    Stage,
    Views,
)
from benchmark.settings import EncoderChoice, MethodSettings

from .artemis_frame import (
    CnnSettings,
    Encoders,
    FramedMethod,
    cnn_encoders,
    cnn_start,
    feature_encoders,
    frame_needs,
    frame_remarks,
    pixel_inputs,
)
from .artemis_modules import Attention, implicit_reference, matching
from .clip_finetuning import encoder_stages
from .cnn import unit

METHODS = [
    MethodInfo(
        name="artemis",
        title="ARTEMIS",
        summary="text-attended matching of text and target, and of reference and target, on a ResNet and a GRU",
        paper="ICLR 2022",
        citation=(
            "@inproceedings{delmas2022artemis, title={ARTEMIS: Attention-based Retrieval with Text-Explicit "
            "Matching and Implicit Similarity}, author={Delmas, Ginger and Sampaio de Rezende, Rafael and "
            "Csurka, Gabriela and Larlus, Diane}, booktitle={International Conference on Learning "
            "Representations (ICLR)}, year={2022}}"
        ),
        needs=("resnet50", "resnet18", "glove.840B"),
        outside_fair="trains a ResNet and a GRU of its own on pixels; ARTEMIS on CLIP features stands for it",
    ),
    MethodInfo(
        name="artemis_clip",
        title="ARTEMIS on CLIP features",
        summary="ARTEMIS's scores on the stored features of a frozen CLIP; a variant of ours",
        paper="ICLR 2022, variant",
        citation=(
            "@inproceedings{delmas2022artemis, title={ARTEMIS: Attention-based Retrieval with Text-Explicit "
            "Matching and Implicit Similarity}, author={Delmas, Ginger and Sampaio de Rezende, Rafael and "
            "Csurka, Gabriela and Larlus, Diane}, booktitle={International Conference on Learning "
            "Representations (ICLR)}, year={2022}}"
        ),
        needs=("clip",),
    ),
]

_RELEASE = "ARTEMIS, ICLR 2022, release: model_version"
_OURS = "ours: a version of the release on CLIP features"

VARIANTS = [
    Variant(
        method="artemis", name="em-only", title="explicit matching alone (EM)", source=_RELEASE,
        settings={"method.version": "EM-only"}, ablation="scores", without=("IS",),
    ),
    Variant(
        method="artemis", name="is-only", title="implicit similarity alone (IS)", source=_RELEASE,
        settings={"method.version": "IS-only"}, ablation="scores", without=("EM",),
    ),
    Variant(
        method="artemis", name="late-fusion", title="late fusion", source=_RELEASE,
        settings={"method.version": "late-fusion"}, ablation="scores",
    ),
    Variant(
        method="artemis", name="cross-modal", title="text against target", source=_RELEASE,
        settings={"method.version": "cross-modal"},
    ),
    Variant(
        method="artemis", name="visual-search", title="reference against target", source=_RELEASE,
        settings={"method.version": "visual-search"},
    ),
    Variant(
        method="artemis_clip", name="em-only", title="explicit matching alone (EM)", source=_OURS,
        settings={"method.version": "EM-only"}, ablation="scores", without=("IS",),
    ),
    Variant(
        method="artemis_clip", name="is-only", title="implicit similarity alone (IS)", source=_OURS,
        settings={"method.version": "IS-only"}, ablation="scores", without=("EM",),
    ),
    Variant(
        method="artemis_clip", name="late-fusion", title="late fusion", source=_OURS,
        settings={"method.version": "late-fusion"}, ablation="scores",
    ),
    Variant(
        method="artemis_clip", name="cross-modal", title="text against target", source=_OURS,
        settings={"method.version": "cross-modal"},
    ),
    Variant(
        method="artemis_clip", name="visual-search", title="reference against target", source=_OURS,
        settings={"method.version": "visual-search"},
    ),
    Variant(
        method="artemis", name="lstm", title="LSTM text encoder", source="ARTEMIS, ICLR 2022: the paper's other rows",
        settings={"method.text_encoder": "lstm"},
    ),
]  # fmt: skip

_PHASE_1 = {
    "epochs": 8, "batch_size": 32, "optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01,
    "schedule": "step", "schedule_epochs": 4, "schedule_factor": 0.5,
}  # fmt: skip
_PHASE_2 = {**_PHASE_1, "epochs": 50, "learning_rate": 2.5e-4, "schedule_epochs": 10}
_FASHION200K = {"batch_size": 128, "text_rule": "template", "drawing": "one-per-image"}
_SOURCE_1 = "ARTEMIS, ICLR 2022, released command of phase 1"
_SOURCE_2 = "ARTEMIS, ICLR 2022, released command of phase 2, which goes on with phase 1's rate"

RECIPES = [
    Recipe(
        stage="artemis-frozen", dataset="fashioniq", name="paper", source=_SOURCE_1,
        settings={**_PHASE_1, "text_rule": "both-orders"},
    ),
    Recipe(
        stage="artemis-frozen", dataset="shoes", name="paper", source=_SOURCE_1,
        settings={**_PHASE_1, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis-frozen", dataset="fashion200k", name="paper", source=_SOURCE_1,
        settings={**_PHASE_1, **_FASHION200K},
    ),
    Recipe(
        stage="artemis-frozen", dataset="cirr", name="adapted",
        source="ARTEMIS's phase 1; its release has features of a ResNet-152 instead of pictures of CIRR",
        settings={**_PHASE_1, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis", dataset="fashioniq", name="paper", source=_SOURCE_2,
        settings={**_PHASE_2, "text_rule": "both-orders"},
    ),
    Recipe(
        stage="artemis", dataset="shoes", name="paper", source=_SOURCE_2,
        settings={**_PHASE_2, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis", dataset="fashion200k", name="paper", source=_SOURCE_2,
        settings={**_PHASE_2, **_FASHION200K, "epochs": 100, "schedule_epochs": 20},
        method={"cnn": "resnet18"},
    ),
    Recipe(
        stage="artemis", dataset="cirr", name="adapted",
        source="ARTEMIS's phase 2; its release has features of a ResNet-152 instead of pictures of CIRR",
        settings={**_PHASE_2, "text_rule": "as-is"},
    ),
    Recipe(
        stage="artemis", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data: one phase, since there are no trained weights to protect",
        settings={
            "epochs": 3, "batch_size": 32, "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": "cosine", "warmup": 0.05,
        },
        method={"augmentation": False},
    ),
    Recipe(
        stage="artemis-clip", dataset="*", name="adapted",
        source="ours: ARTEMIS's phase 2 at batch 128 on stored features",
        settings={**_PHASE_2, "batch_size": 128},
    ),
    Recipe(
        stage="artemis-clip", dataset="*", name="from-scratch", start="random",
        source="ours, tuned on the demo data",
        settings={
            "epochs": 6, "batch_size": 128, "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": "cosine",
        },
    ),
]  # fmt: skip

Version = Literal["ARTEMIS", "EM-only", "IS-only", "late-fusion", "cross-modal", "visual-search"]
_VERSION = "which score: the sum, one of its halves, or a plain dot product"


class ArtemisSettings(CnnSettings):
    """ARTEMIS on its own networks; the defaults are the paper's."""

    version: Version = Field("ARTEMIS", description=_VERSION)


class ArtemisClipSettings(EncoderChoice):
    """ARTEMIS on stored features."""

    version: Version = Field("ARTEMIS", description=_VERSION)


class Artemis(FramedMethod):
    """EM + IS, or one of the two alone."""

    def __init__(self, encoders: Encoders, width: int, version: Version, frozen: bool = False) -> None:
        super().__init__(encoders, frozen)
        self._matches, self._compares = version != "IS-only", version != "EM-only"
        if self._matches:
            self.Transform_m = nn.Sequential(nn.Linear(width, width))
            self.Attention_EM = Attention(width)
        if self._compares:
            self.Attention_IS = Attention(width)

    def encode_query(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """(B, d) each: "wanted" T and "explicit" A for EM, "reference" ℓ(A' ⊙ r) and "implicit" A' for IS."""
        vectors = self.encoders.text(text)
        self._require_rows(len(vectors))
        encoding: dict[str, Tensor] = {}
        if self._matches:
            encoding |= {"wanted": unit(self.Transform_m(vectors)), "explicit": self.Attention_EM(vectors)}
        if self._compares:
            attention = self.Attention_IS(vectors)
            picture = self.encoders.picture(reference)
            encoding |= {"reference": implicit_reference(attention, picture), "implicit": attention}
        return encoding

    def score(self, queries: Encoding, targets: Encoding) -> Tensor:
        """(b, n) from blocks of queries and targets, in [−2, 2]."""
        assert isinstance(queries, dict) and isinstance(targets, Tensor)
        scores = []
        if self._matches:
            scores.append(matching(queries["wanted"], queries["explicit"], targets))
        if self._compares:
            scores.append(matching(queries["reference"], queries["implicit"], targets))
        return torch.stack(scores).sum(dim=0)

    def explain(self, reference: Views, text: Views) -> dict[str, Tensor]:
        """The attentions over the d coordinates, (B, d)."""
        encoding = self.encode_query(reference, text)
        return {name: encoding[name] for name in ("explicit", "implicit") if name in encoding}


class PlainFusion(FramedMethod):
    """The release's versions whose score is a dot product: ⟨ℓ(r + m), t⟩, ⟨m, t⟩, ⟨r, t⟩."""

    def __init__(self, encoders: Encoders, version: Version, frozen: bool = False) -> None:
        super().__init__(encoders, frozen)
        self._kind = version

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """The version that reads no text leaves the text encoder alone."""
        reads_text = self._kind != "visual-search" or self.encoders.vocabulary is None
        return super().without_gradient if reads_text else (*super().without_gradient, "encoders.txt_enc.")

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        """(B, d)."""
        if self._kind == "cross-modal":
            return self.encoders.text(text)
        picture = self.encoders.picture(reference)
        self._require_rows(len(picture))
        return picture if self._kind == "visual-search" else unit(picture + self.encoders.text(text))


def artemis_method(encoders: Encoders, width: int, version: Version, frozen: bool = False) -> FramedMethod:
    """The method of a version."""
    if version in ("ARTEMIS", "EM-only", "IS-only"):
        return Artemis(encoders, width, version, frozen)
    return PlainFusion(encoders, version, frozen)


def _build(context: BuildContext, frozen: bool) -> Method:
    settings = context.method_settings
    assert isinstance(settings, ArtemisSettings)
    encoders = cnn_encoders(settings, context.assets_root, context.weights_follow)
    return artemis_method(encoders, settings.width, settings.version, frozen)


def _build_on_features(context: BuildContext) -> Method:
    settings = context.method_settings
    assert isinstance(settings, ArtemisClipSettings)
    return artemis_method(feature_encoders(context.width), context.width, settings.version)


FROZEN = Stage(name="artemis-frozen", build=lambda context: _build(context, frozen=True), inputs=pixel_inputs)
WHOLE = Stage(
    name="artemis",
    build=lambda context: _build(context, frozen=False),
    inputs=pixel_inputs,
    takes="weights and optimiser",
)
ON_FEATURES = Stage(name="artemis-clip", build=_build_on_features, inputs=lambda context: FeatureInputs())


def _stages(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
    return (FROZEN, WHOLE) if start == "pretrained" else (WHOLE,)


def _stages_on_features(settings: MethodSettings, start: Start) -> tuple[Stage, ...]:
    return (*encoder_stages(settings, start, default="untouched"), ON_FEATURES)


def _start(settings: MethodSettings) -> Start:
    assert isinstance(settings, ArtemisSettings)
    return cnn_start(settings)


def _needs(settings: MethodSettings) -> tuple[Need, ...]:
    assert isinstance(settings, ArtemisSettings)
    return frame_needs(settings)


def _remarks(settings: MethodSettings) -> tuple[str, ...]:
    assert isinstance(settings, ArtemisSettings)
    return frame_remarks(settings)


def _check(file: Any) -> Any:
    from .artemis_golden import check_artemis

    return check_artemis(file)


_BESIDES_THE_CNN = ("encoders.txt_enc.", "encoders.img_enc.fc.", "Transform_m.", "Attention_", "temperature")
_SIZES = {
    "GRU, 40 words": PublishedSizes(
        (
            Part("all but the CNN", _BESIDES_THE_CNN, 3_231_457),
            Part("GRU", ("encoders.txt_enc.sent_enc.",), 857_088),
            Part("words", ("encoders.txt_enc.embed.",), 12_000),
            Part("image linear", ("encoders.img_enc.fc.",), 1_049_088),
            Part("T", ("Transform_m.",), 262_656),
            Part("attention of EM", ("Attention_EM.",), 525_312),
            Part("attention of IS", ("Attention_IS.",), 525_312),
        ),
        settings={"start": "random"},
        words=35,
    ),
    "LSTM, 40 words": PublishedSizes(
        (Part("all but the CNN", _BESIDES_THE_CNN, 8_330_465),),
        settings={"start": "random", "text_encoder": "lstm"},
        words=35,
    ),
}

SPECIFICATIONS = {
    "artemis": Specification(
        stages=_stages,
        settings=ArtemisSettings,
        own_networks=_start,
        sizes=_SIZES,
        parity=Parity(forms={"artemis": _check}),
        needs=_needs,
        remarks=_remarks,
        demo_settings={"cnn": "tiny", "width": 128, "word_width": 64, "lstm_width": 128},
    ),
    "artemis_clip": Specification(stages=_stages_on_features, settings=ArtemisClipSettings),
}
