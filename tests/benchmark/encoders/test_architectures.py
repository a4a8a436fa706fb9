"""CLIP's architectures are told from the shapes of a state dict."""

from __future__ import annotations

import pytest
import torch

from benchmark.encoders.architectures import TINY, architecture_of, backbone_configuration, split_name
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.encoders.backbones import build_clip
from benchmark.errors import UserError
from benchmark.weights.fit import Shapes, shapes_of


def shapes(config: dict[str, object]) -> Shapes:
    with torch.device("meta"):
        return shapes_of(build_clip(config, "quickgelu").state_dict())


@pytest.mark.parametrize("name", [*dict.fromkeys(split_name(n)[0] for n, i in BACKBONES.items() if i.family == "open_clip"), "ViT-B-32-256"])
def test_every_architecture_is_told_apart(name: str) -> None:
    assert architecture_of(shapes(dict(backbone_configuration(name))), "file.pt") == name


def test_unknown_sizes_are_told() -> None:
    wide = shapes({**TINY, "embed_dim": 96})
    with pytest.raises(UserError, match=r"file.pt: no architecture of open_clip has these sizes: width 96, image_size 64"):
        architecture_of(wide, "file.pt")
    with pytest.raises(UserError, match="no CLIP with OpenAI's names: text_projection is missing"):
        architecture_of({name: shape for name, shape in wide.items() if name != "text_projection"}, "file.pt")
