"""A CLIP's weights under OpenAI's names, from files that call them otherwise.

Files of a larger model hold the CLIP behind a prefix (``model.clip.visual.conv1.weight``), and Hugging Face's
`CLIPModel` has names, projections and attentions of its own form; both are the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.weights.reading import OPENAI_SIZES, StateDict, WeightsFile

_HUGGING_FACE = "text_model.embeddings.token_embedding.weight"
_FORMS = (("token_embedding.weight", "visual."), (_HUGGING_FACE, "vision_model."))
"""By form: a name that every CLIP has once, and how its picture side's begin."""

_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
        (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^text_model\.final_layer_norm\.", "ln_final."),
        (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
        (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
        (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
        (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
        (r"^vision_model\.pre_laye?rnorm\.", "visual.ln_pre."),  # transformers' CLIP spells it without the e
        (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
        (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
        (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
        (r"\.layer_norm([12])\.", r".ln_\1."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
)
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
"""Linear layers there, matrices here: transposed."""

_QUERY = re.compile(r"^(.*)\.self_attn\.q_proj\.(weight|bias)$")
_OF_ATTENTION = re.compile(r"\.self_attn\.[kv]_proj\.")


def as_clip(file: WeightsFile, source: str) -> WeightsFile:
    """The file's CLIP alone, by OpenAI's names and without the sizes that are no weights; a note says what was done.

    What is no CLIP comes back as it is. Raises UserError where the file holds several.
    """
    state = {name: tensor for name, tensor in file.state_dict.items() if name not in OPENAI_SIZES}
    prefixes = sorted(_prefixes(state))
    if len(prefixes) > 1:
        raise UserError(
            f"{source}: holds several CLIPs, behind {' and '.join(repr(prefix) for prefix in prefixes)}; "
            "save the tensors of one alone"
        )
    notes = [file.note] if file.note else []
    prefix = prefixes[0] if prefixes else ""
    if prefix:
        others = sum(not name.startswith(prefix) for name in state)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        notes.append(f"'{prefix}' removed from every name" + (f", {others} other tensors left out" if others else ""))
    if _HUGGING_FACE in state:
        state = from_hugging_face(state)
        notes.append("Hugging Face's names")
    return replace(file, state_dict=state, note="; ".join(notes))


def _prefixes(state: Mapping[str, Tensor]) -> set[str]:
    """What stands before the names of each CLIP."""
    found = set()
    for once, picture_side in _FORMS:
        before = {name.removesuffix(once) for name in state if name.endswith(once)}
        found |= {
            prefix
            for prefix in before
            if (not prefix or prefix.endswith(".")) and any(name.startswith(prefix + picture_side) for name in state)
        }
    return found


def from_hugging_face(state: Mapping[str, Tensor]) -> StateDict:
    """`CLIPModel`'s state dict by OpenAI's names. What it does not know keeps its name.

    Queries, keys and values are one matrix here, in this order, and projections multiply from the right.
    """
    converted: StateDict = {}
    for name, tensor in state.items():
        query = _QUERY.match(name)
        if query:
            parts = [state.get(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
            present = [part for part in parts if part is not None]
            converted[f"{_renamed(query[1] + '.')}attn.in_proj_{query[2]}"] = torch.cat(present)
        elif name in _PROJECTIONS:
            converted[_PROJECTIONS[name]] = tensor.T.contiguous()
        elif not _OF_ATTENTION.search(name) and not name.endswith(".position_ids"):
            converted[_renamed(name)] = tensor
    return converted


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
