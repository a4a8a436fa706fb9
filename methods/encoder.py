"""ENCODER: entities of pictures and actions of texts, mined from all tokens of a CLIP that trains with the head.

Li, Chen, Wen, Fu, Hu, Guan, "ENCODER: Entity Mining and Modification Relation Binding for Composed Image Retrieval",
AAAI 2025, as released (iLearn-Lab/AAAI25-ENCODER). What of its design has no effect there is named in
`networks/encoder.py`; each quirk is a setting, and `--ablations` shows what it is worth.

Deviations: of the 66 tensors that nothing ever moves CLIP's own scale and the teacher's weights are kept, the others
are left out; R is saved; attention is over tokens under any version of open_clip.
Notation: B batch, d width of CLIP's vectors, L tokens of a side, N entities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, normalize

from benchmark.backbone import GLOBAL, TOKENS, Backbone
from benchmark.encoding import Encoding
from benchmark.errors import UserError
from benchmark.method import BuildContext, Method, PixelInputs, Specification, Stage, Views
from benchmark.settings import TrainingSettings

from .networks.clip_pictures import RandomResizedCrop
from .networks.encoder import EncoderHead, EncoderSettings

TEMPERATURE = 0.1


class EncoderTraining(TrainingSettings):
    """Weights of the losses beside the ranking's own, and how pictures are cut."""

    distillation_weight: float = Field(0.5, ge=0, description="weight of the distillation of targets' likeness")
    entity_weight: float = Field(1.0, ge=0, description="weight of the loss of actions with entities")
    crop: bool = Field(True, description="train on a random part of each picture; without, on the evaluation's pixels")
    evaluate_cropped: bool = Field(
        False, description="a query's reference is evaluated on a random part, too, drawn once by seed and query: the "
        "release on FashionIQ"
    )


class Encoder(Method):
    """In evaluation query and target are (B, d), of unit norm; in training what the losses read stands beside them."""

    def __init__(self, backbone: Backbone, head: EncoderHead, training: EncoderTraining) -> None:
        super().__init__()
        self.backbone, self.head, self._training = backbone, head, training
        for name, parameter in backbone.named_parameters():
            # DeepSpeed would decay what asks for a gradient and never gets one.
            parameter.requires_grad_(name not in backbone.without_gradient)

    def encode_query(self, reference: Views, text: Views) -> Encoding:
        """In training "query" (B, d), "entities" of the reference and "actions" of the text, both (B, N, d)."""
        head, pictures, words = self.head, self.picture_tokens(reference), self.text_tokens(text)
        query = _mean(head.affine(pictures, words))
        if not self.training:
            return query
        return {"query": query, "entities": head.entities(pictures), "actions": head.entities(words)}

    def encode_target(self, target: Views) -> Encoding:
        """In training "target" (B, d) and its "tokens" (B, L, d)."""
        tokens = self.picture_tokens(target)
        return {"target": _mean(tokens), "tokens": tokens} if self.training else _mean(tokens)

    def loss(self, queries: Encoding, targets: Encoding) -> Tensor:
        return torch.stack(list(self.loss_parts(queries, targets).values())).sum()

    def loss_parts(self, queries: Encoding, targets: Encoding) -> dict[str, Tensor]:
        """The weighted ones, of the ranking, the distillation, and entities; of a drawn R the last is a constant."""
        parts, own = self.losses(queries, targets), self._training
        weights = {"kl": own.distillation_weight, "entity": own.entity_weight}
        return {name: weights.get(name, 1.0) * part for name, part in parts.items()}

    def losses(self, queries: Encoding, targets: Encoding) -> dict[str, Tensor]:
        """The four, each alone, by the release's names."""
        assert isinstance(queries, dict) and isinstance(targets, dict)
        head, scale = self.head, self.head.loss_T.float()
        cosines = queries["query"].float() @ targets["target"].float().T
        right = torch.arange(len(cosines), device=cosines.device)
        teacher = head.teacher(targets["tokens"].float())
        likeness = (teacher @ teacher.T / TEMPERATURE).softmax(dim=1)
        if not head.local_weight.requires_grad:
            likeness = likeness.detach()
        matches = scale * head.matches(queries["actions"].float(), queries["entities"].float())
        return {
            "stu_rank": cross_entropy(scale * cosines, right),
            "kl": kl_div((cosines / TEMPERATURE).log_softmax(dim=1), likeness, reduction="batchmean"),
            "entity": (cross_entropy(matches, right) + cross_entropy(matches.T, right)) / 2,
            "ortho": head.binding_decoder.orthogonality(),
        }

    def picture_tokens(self, views: Views) -> Tensor:
        """(B, L, d)."""
        outputs = self.backbone.encode_picture_outputs(views["pixels"], (GLOBAL, TOKENS))
        return self.head.picture(outputs[GLOBAL], outputs[TOKENS])

    def text_tokens(self, views: Views) -> Tensor:
        """(B, L, d)."""
        outputs = self.backbone.encode_text_outputs(views["tokens"], (GLOBAL, TOKENS))
        return self.head.text(outputs[GLOBAL], outputs[TOKENS])

    def tokenize(self, texts: Sequence[str]) -> Views:
        """Padded to the whole context, whatever the batch's longest: positions behind a text's end are read."""
        return {"tokens": self.backbone.tokenize(texts)}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """A shift that a softmax removes, and where N is 1 what a layer norm or the norm of one number leaves."""
        still = [f"backbone.{name}" for name in self.backbone.without_gradient]
        head = ["fac_net.weight.3.bias", *(["local_weight"] if not self.head.local_weight.requires_grad else [])]
        if self.head.relations == 1:
            head += ["binding_decoder.mlp_p.0.weight", "t_weight_phrases.", "v_weight_phrases."]
        return (*still, *(f"head.{name}" for name in head))


def _mean(tokens: Tensor) -> Tensor:
    """(B, L, d) → (B, d), unit norm."""
    return normalize(tokens.mean(dim=1), dim=-1)


def _build(context: BuildContext) -> Method:
    backbone = context.backbone
    assert backbone is not None
    if TOKENS not in backbone.text_outputs:
        told = "gives no tokens of a text, and all of them are read; choose a plain CLIP with a ViT"
        raise UserError(f"--backbone {backbone.identity.name}: {told}")
    picture, text = context.picture_output(TOKENS).shape[-1], backbone.text_outputs[TOKENS].shape[-1]
    head = EncoderHead(context.width, picture, text, EncoderSettings.of(context.method_settings))
    return Encoder(backbone, head, EncoderTraining.of(context.training_settings))


def _inputs(context: BuildContext) -> PixelInputs:
    assert context.backbone is not None
    settings, evaluated = EncoderTraining.of(context.training_settings), context.backbone.preprocessing
    cropped = RandomResizedCrop(evaluated)
    return PixelInputs(
        train=cropped if settings.crop else evaluated,
        evaluate=evaluated,
        evaluate_reference=cropped if settings.evaluate_cropped else None,
    )


METHOD = Specification(
    stages=lambda settings, initialisation: (Stage("encoder", _build, _inputs, EncoderTraining),),
    settings=EncoderSettings,
    demo_settings={"hidden": 128},
    # Opened as open_clip does: RGB first, no padding.
    backbone_defaults={"preprocessing": "clip", "rgb_first": True},
    default_backbone="ViT-B-32-gelu",
    demo_backbone="tiny-vit",
)
