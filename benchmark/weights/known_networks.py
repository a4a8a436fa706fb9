"""The tensor names of every known network: what weights of an unknown origin are held against."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from benchmark.encoders.backbones import TINY, ClipBackbone, build_clip
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.method import BuildContext
from benchmark.registry import Registry, discover

LEAST_NAMES = 8
"""Fewer names are those of a plain layer or two, which tell nothing."""

_TEXTS = ("red and blue",)


@cache
def known_networks() -> list[tuple[str, frozenset[str]]]:
    """(title, tensor names) of CLIP and of each method as its defaults build it.

    A method's names are given as its own weights files have them and as each of its parts would
    have them alone, since official files hold a part. Nothing is computed: the networks have no memory.
    """
    registry = discover()
    with torch.device("meta"):
        clip = build_clip(TINY, "quickgelu")
        backbone = ClipBackbone(clip, Preprocessing("targetpad", 64), "tiny", "none", "quickgelu")
        known = [("CLIP's encoders", frozenset(clip.state_dict()))]
        for name, info in registry.methods().items():
            known += [(info.title, names) for names in _names(registry, name, backbone)]
    return known


def _names(registry: Registry, name: str, backbone: ClipBackbone) -> Iterator[frozenset[str]]:
    specification = registry.specification(name)
    settings = specification.settings()
    stage = specification.stages(settings, "pretrained")[-1]
    context = BuildContext(backbone, settings, stage.settings(), weights_follow=True)
    method = stage.build(context)
    method.build_extra_state(_TEXTS)
    whole = frozenset(method.state_dict())
    yield whole
    for part in {entry.partition(".")[0] for entry in whole if "." in entry}:
        names = frozenset(entry.removeprefix(f"{part}.") for entry in whole if entry.startswith(f"{part}."))
        if len(names) >= LEAST_NAMES:
            yield names
