"""Whose weights a file holds that do not fit the backbone they were named for: the architecture is found, not guessed.

Only looked for when something is wrong. A configuration of open_clip's list that agrees with the file in what is
cheap to see is built without memory, and its names and shapes are held against the file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import open_clip
import torch
from torch import Tensor

from benchmark.encoders.architectures import split_name
from benchmark.encoders.backbone_table import CLIP_VOCABULARY
from benchmark.encoders.open_clip_networks import build_network, with_own_names
from benchmark.errors import UserError
from benchmark.weights.fit import require_module_fits

_WORDS = ("text.token_embedding.weight", "token_embedding.weight")
_WIDTHS = (("text.text_projection", -1), ("text_projection", -1), ("text.text_projection.weight", 0))
"""Tensors of which one entry of the shape is d."""
_CLIP_TEXT = {"width": 512, "vocab_size": CLIP_VOCABULARY}


def recognised(state: Mapping[str, Tensor]) -> str:
    """The name of open_clip's architecture that has exactly these tensors; "" where none has."""
    for name, config in _candidates(state):
        # Sizes of a text tower that lie in a file of the hub may not be here.
        with suppress(UserError), torch.device("meta"):
            network = build_network(name, config, quick_gelu=False, assets_root=None)
            require_module_fits(network, with_own_names(network, state), name)
            return split_name(name)[0]
    return ""


def _candidates(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Configurations whose table of words, width and kind of network are the file's."""
    words = next((tuple(state[name].shape) for name in _WORDS if name in state), None)
    width = next((state[name].shape[axis] for name, axis in _WIDTHS if name in state), None)
    has_decoder, is_timm = (any(n.startswith(part) for n in state) for part in ("text_decoder.", "visual.trunk."))
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if config is None or words is None or ("multimodal_cfg" in config) != has_decoder:
            continue
        if ("timm_model_name" in config["vision_cfg"]) != is_timm or config["embed_dim"] != width:
            continue
        text = {**_CLIP_TEXT, **config["text_cfg"]}
        if (text["vocab_size"], text["width"]) == words and "hf_model_name" not in text:
            yield name, config
