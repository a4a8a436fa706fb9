"""Convolutional picture encoders by way of timm: a trunk, a pooling of its last map, a projection.

Serves the methods that bring their own networks. Weights are looked for on disk and never fetched.

Notation: B pictures, S their side, C channels of the last map (h × w), d width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, unknown_name
from benchmark.facts import Asset, Initialisation
from benchmark.facts_file import facts_beside
from benchmark.method import RequiredFile
from benchmark.weights.assets import find_asset, missing
from benchmark.weights.checkpoints import read_weights
from benchmark.weights.fit import load_into

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GEM_POWER = 3.0
GEM_FLOOR = 1e-6

Pooling = Literal["average", "gem"]

_CLASSIFIERS = ("fc.", "head.fc.", "classifier.")
_ASSETS = {asset.name: asset for asset in facts_beside(__file__).assets}


@dataclass(frozen=True)
class Trunk:
    """A CNN by timm's name: C channels of its last map, side of its input, and its weights.

    ``asset`` is None for a trunk that always starts at random.
    """

    name: str
    channels: int
    size: int
    asset: Asset | None = None


TRUNKS: Mapping[str, Trunk] = {
    trunk.name: trunk
    for trunk in (
        Trunk("resnet18", 512, 224, _ASSETS["resnet18"]),
        Trunk("resnet50", 2048, 224, _ASSETS["resnet50"]),
        Trunk("tiny", 192, 64),
    )
}
"""torchvision's two ResNets, and a ResNet of 0.7 M parameters for the demo data."""

TrunkName = Literal["resnet18", "resnet50", "tiny"]


def trunk_named(name: str) -> Trunk:
    """Raises UserError naming the nearest."""
    if name not in TRUNKS:
        raise unknown_name("CNN", name, TRUNKS)
    return TRUNKS[name]


def trunk_start(name: str, asked: Initialisation) -> Initialisation:
    """Where a trunk starts: as asked for, but at random where no weights of it exist."""
    return asked if trunk_named(name).asset else "random"


def build_trunk(name: str, start: Initialisation, assets_root: Path | None = None) -> nn.Module:
    """The network from pixels (B, 3, S, S) to its last map (B, C, S/32, S/32), after its last ReLU.

    timm's ResNets: `layer2`, `layer3`, `layer4` are maps at strides 8, 16 and 32. ``start``: "random"
    is the framework's draw, "pretrained" reads ImageNet weights. Raises UserError where these are not
    on this machine, or are no weights of this network.
    """
    from timm.models.resnet import BasicBlock, ResNet

    trunk = trunk_named(name)
    if trunk.asset is not None:
        return timm_network(trunk, start, assets_root)
    tiny: nn.Module = ResNet(
        BasicBlock,  # type: ignore[arg-type]
        (1, 1, 1, 1), num_classes=0, global_pool="",
        channels=(24, 48, 96, trunk.channels), stem_type="deep", stem_width=12,
    )  # fmt: skip
    return tiny


def timm_network(trunk: Trunk, start: Initialisation, assets_root: Path | None) -> nn.Module:
    """timm's network of that name without pooling and classifier, drawn or with its ImageNet weights.

    These are looked for under ``assets_root`` and in Hugging Face's cache. Raises UserError that names the file,
    its size, where to get it and its licence, or that it holds no weights of this network.
    """
    import timm

    network: nn.Module = timm.create_model(trunk.name, pretrained=False, num_classes=0, global_pool="")
    if start == "pretrained":
        assert trunk.asset is not None, f"{trunk.name} has no weights from outside"
        path = find_asset(trunk.asset, assets_root)
        if path is None:
            raise UserError(f"{missing(trunk.asset, assets_root)}, or start at random with --set method.start=random")
        state = {key: tensor for key, tensor in read_weights(path).items() if not key.startswith(_CLASSIFIERS)}
        load_into(network, state, str(path))
    return network


def trunk_files(trunk: Trunk, start: Initialisation) -> tuple[RequiredFile, ...]:
    """What a trunk needs from outside where it starts like that."""
    return (RequiredFile(trunk.asset.name),) if trunk.asset is not None and start == "pretrained" else ()


class ImageEncoder(nn.Module):
    """Trunk, pooling and projection: pixels (B, 3, S, S) → (B, d), not normalised.

    ``fc`` projects (B, C) → (B, d). Reference and target pass through it in calls of their own,
    each with its own batch statistics.
    """

    def __init__(self, cnn: nn.Module, fc: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.cnn = cnn
        self.fc = fc
        self._pool = average_pool if pooling == "average" else generalised_mean

    def forward(self, pixels: Tensor) -> Tensor:
        return self.embed(self.last_map(pixels))

    def last_map(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, C, h, w)."""
        last: Tensor = self.cnn(pixels)
        return last

    def embed(self, last_map: Tensor) -> Tensor:
        """(B, C, h, w) → (B, d)."""
        embedding: Tensor = self.fc(self._pool(last_map))
        return embedding


def average_pool(last_map: Tensor) -> Tensor:
    """(B, C, h, w) → (B, C), the mean over positions."""
    return last_map.mean(dim=(2, 3))


def generalised_mean(last_map: Tensor) -> Tensor:
    """(B, C, h, w) → (B, C): ``(mean over positions of max(X, 1e-6)^p)^(1/p)`` with p = 3, fixed.

    Radenović, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """
    return last_map.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER)


def require_rows(rows: int, training: bool, method: str) -> None:
    """Raises UserError for a training batch of one row (of a process), whose batch statistics do not exist."""
    if training and rows < 2:
        raise UserError(
            f"{method}: batch norms and in-batch negatives need at least two triplets that see each other in "
            "training, on each process; choose a larger --batch-size or --negative-group, or fewer processes"
        )


def freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def unit(vectors: Tensor) -> Tensor:
    """ℓ(u) = u / ‖u‖ over the last axis; the norm is kept from zero by the smallest normal number."""
    tiny = torch.finfo(vectors.dtype).tiny
    norms: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / norms.clamp(min=tiny)
