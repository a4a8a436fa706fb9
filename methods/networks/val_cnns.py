"""The CNNs of VAL, cut at three taps: low, mid and high.

TF-slim's two networks are not in timm; the nearest there stand in for them:

- ``resnetv2_50`` for ResNet-50 v2. It strides in the first unit of a stage, slim in the last, so
  that the first two taps are twice as wide and high here: every second position of them is taken,
  as slim's shortcut does. Low and mid pass through an added batch norm and ReLU, as in the release.
- ``mobilenetv1_100`` for MobileNet-V1: low, mid and high are slim's layers 6, 10 and 13. Its batch
  norms keep the eps that timm's weights were trained with (1e-5; slim's is 1e-3), and its padding
  is symmetric.
- ``tiny``, a ResNet of 0.7 M parameters, for the demo data.

Notation: B pictures, S their side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.facts import Initialisation
from benchmark.facts_file import facts_beside

from .cnn import TRUNKS, Trunk, build_trunk, timm_network
from .val import LayerStyle, Level

CnnName = Literal["resnetv2_50", "mobilenetv1_100", "tiny"]
Maps = tuple[Tensor, Tensor, Tensor]

LEVELS = ("low", "mid", "high")

_ASSETS = {asset.name: asset for asset in facts_beside(__file__).assets}


@dataclass(frozen=True)
class ValTrunk:
    """A CNN with its weights' source and what VAL's own layers take over from it."""

    trunk: Trunk
    style: LayerStyle


VAL_TRUNKS: Mapping[str, ValTrunk] = {
    "resnetv2_50": ValTrunk(
        Trunk("resnetv2_50", 2048, 256, _ASSETS["resnetv2_50"]),
        LayerStyle(eps=1e-5, momentum=0.003, activation="relu", start="fan-in"),
    ),
    "mobilenetv1_100": ValTrunk(
        Trunk("mobilenetv1_100", 1024, 224, _ASSETS["mobilenetv1_100"]),
        LayerStyle(eps=1e-3, momentum=0.0003, activation="relu6", start="fixed"),
    ),
    "tiny": ValTrunk(TRUNKS["tiny"], LayerStyle(eps=1e-5, momentum=0.1, activation="relu", start="fan-in")),
}


class ResNetV2Taps(nn.Module):
    """(B, 3, S, S) → 512 × S/16, 1024 × S/32, 2048 × S/32, all after batch norm and ReLU."""

    def __init__(self, trunk: nn.Module, style: LayerStyle) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.low_norm = nn.BatchNorm2d(512, eps=style.eps, momentum=style.momentum)
        self.mid_norm = nn.BatchNorm2d(1024, eps=style.eps, momentum=style.momentum)

    def forward(self, pixels: Tensor) -> Maps:
        trunk = self.trunk
        x = trunk.stages[0](trunk.stem(pixels))
        low = trunk.stages[1](x)
        mid = trunk.stages[2](low)
        high = trunk.norm(trunk.stages[3](mid))
        return _halved(low, self.low_norm), _halved(mid, self.mid_norm), high


def _halved(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return torch.relu(norm(x[:, :, ::2, ::2]))


class MobileNetTaps(nn.Module):
    """(B, 3, S, S) → 512 × S/16, 512 × S/16, 1024 × S/32, all after ReLU6."""

    _taps = ((3, 0), (3, 4), (4, 1))

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Any = trunk

    def forward(self, pixels: Tensor) -> Maps:
        x = self.trunk.bn1(self.trunk.conv_stem(pixels))
        taken = []
        for s, stage in enumerate(self.trunk.blocks):
            for b, block in enumerate(stage):
                x = block(x)
                if (s, b) in self._taps:
                    taken.append(x)
        low, mid, high = taken
        return low, mid, high


class TinyTaps(nn.Module):
    """(B, 3, S, S) → 48 × S/8, 96 × S/16, 192 × S/32, all after ReLU."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Any = trunk

    def forward(self, pixels: Tensor) -> Maps:
        trunk = self.trunk
        x = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(pixels))))
        low = trunk.layer2(trunk.layer1(x))
        mid = trunk.layer3(low)
        return low, mid, trunk.layer4(mid)


def build_taps(name: CnnName, start: Initialisation, assets_root: Path | None) -> nn.Module:
    """The CNN with its three taps; "pretrained" reads ImageNet weights.

    Raises UserError where these are not on this machine, or are no weights of this network.
    """
    chosen = VAL_TRUNKS[name]
    if name == "tiny":
        return TinyTaps(build_trunk("tiny", "random"))
    trunk = timm_network(chosen.trunk, start, assets_root)
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = chosen.style.momentum
    return ResNetV2Taps(trunk, chosen.style) if name == "resnetv2_50" else MobileNetTaps(trunk)


@torch.no_grad()
def levels_of(taps: nn.Module, side: int) -> tuple[Level, ...]:
    """Channels and side of each tap for pictures of that side; nothing of the network changes."""
    was_training = taps.training
    maps = taps.eval()(torch.zeros(1, 3, side, side))
    taps.train(was_training)
    return tuple(Level(name, x.shape[1], x.shape[2]) for name, x in zip(LEVELS, maps, strict=True))
