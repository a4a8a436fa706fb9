"""Official checkpoints of exactly their names, shapes and nestings, with weights by the golden rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.encoders.backbones import build_clip
from benchmark.parity.rules import clip_weight, head_weight
from benchmark.weights.fit import shapes_of

SIZES = {"input_resolution": 64, "context_length": 32, "vocab_size": 4096}


def drawn(shapes: Mapping[str, tuple[int, ...]], rule: Callable[..., Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(rule(name, shape, "")) for name, shape in shapes.items()}


def clip_state(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A CLIP with OpenAI's names: the logit scale is a scalar."""
    with torch.device("meta"):
        shapes = shapes_of(build_clip(config, "quickgelu").state_dict())
    return drawn({**shapes, "logit_scale": ()}, clip_weight)


def spirit_state(width: int) -> dict[str, Tensor]:
    from benchmark.methods.networks.spirit import SpiritNetwork

    with torch.device("meta"):
        return drawn(shapes_of(SpiritNetwork(width).state_dict()), head_weight)


def combiner_state(width: int) -> dict[str, Tensor]:
    from benchmark.methods.networks.layers import Combiner

    with torch.device("meta"):
        return drawn(shapes_of(Combiner(width, 4 * width, 8 * width).state_dict()), head_weight)


def write_clip(path: Path, state: dict[str, Tensor], form: str) -> Path:
    """``form``: tuned (CLIP4Cir's and SPIRIT's dict), open_clip, plain, safetensors or torchscript."""
    if form == "safetensors":
        save_file(state, path)
    elif form == "torchscript":
        sizes = {name: torch.tensor(size) for name, size in SIZES.items()}
        torch.jit.script(_tree({**state, **sizes})).save(str(path))
    else:
        contents = {
            "tuned": {"epoch": 31, "CLIP": state},
            "open_clip": {"epoch": 3, "name": "x", "state_dict": {f"module.{n}": t for n, t in state.items()}},
            "plain": state,
        }
        torch.save(contents[form], path)
    return path


def _tree(state: dict[str, Tensor]) -> nn.Module:
    """A tree of modules with these parameters, half precision, as OpenAI's archives are."""
    root = _Node()
    for name, tensor in state.items():
        *places, last = name.split(".")
        node: nn.Module = root
        for place in places:
            if place not in dict(node.named_children()):
                node.add_module(place, _Node())
            node = dict(node.named_children())[place]
        half = tensor.half() if tensor.is_floating_point() else tensor
        if half.is_floating_point() and "running" not in name:
            node.register_parameter(last, nn.Parameter(half))
        else:
            node.register_buffer(last, half)
    return root


class _Node(nn.Module):
    def forward(self) -> int:
        return 0
