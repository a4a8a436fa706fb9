"""The table that says whose weights a misfit most likely is holds the networks as they are now.

After a network has changed: ``python tests/benchmark/weights/test_known_networks.py`` writes the table anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmark.backbone import BackboneChoice
from benchmark.encoders.architectures import TINY
from benchmark.encoders.backbones import build_clip
from benchmark.encoders.families import load_choice
from benchmark.method import BuildContext
from benchmark.registry import discover
from benchmark.weights.fit import KNOWN_NETWORKS, LEAST_NAMES, likely_cause, name_patterns

Names = list[tuple[str, frozenset[str]]]


def known_networks() -> Names:
    """(title, tensor names) of CLIP and of each method as its defaults build it, without memory."""
    registry = discover()
    with torch.device("meta"):
        clip = build_clip(TINY, "quickgelu")
        known = [("CLIP's encoders", frozenset(clip.state_dict()))]
        for name, info in registry.methods().items():
            specification = registry.specification(name)
            settings = specification.settings()
            stage = specification.stages(settings, "pretrained")[-1]
            own = load_choice(BackboneChoice(specification.demo_backbone, "random"))
            method = stage.build(BuildContext(own, settings, stage.settings(), weights_follow=True))
            method.build_extra_state(("red and blue",))
            known.append((info.title, frozenset(method.state_dict())))
    # Methods whose networks bear the same names are one entry.
    titles: dict[frozenset[str], list[str]] = {}
    for title, names in known:
        titles.setdefault(names, []).append(title)
    return [(" or ".join(alike), names) for names, alike in titles.items() if names]


def table(networks: Names) -> str:
    """The table as its file has it."""
    rows = [f"# Written by {Path(__file__).name} from the networks as they are: * stands for the number of a layer.\n"]
    for title, names in networks:
        listed = "".join(f"  {json.dumps(name)},\n" for name in sorted(name_patterns(names)))
        rows.append(f"[[network]]\ntitle = {json.dumps(title, ensure_ascii=False)}\nnames = [\n{listed}]\n")
    return "\n".join(rows)


def test_the_table_is_that_of_the_networks() -> None:
    written = f"a network has changed: python {__file__}"
    assert KNOWN_NETWORKS.read_text(encoding="utf-8") == table(known_networks()), written


def test_every_network_is_known_by_its_names() -> None:
    networks = known_networks()
    shapes = [(title, dict.fromkeys(names, (2, 2))) for title, names in networks]
    for title, found in shapes:
        if len(found) < LEAST_NAMES:
            continue
        told = likely_cause({"another.weight": (2, 2)}, found)
        assert f"the names are those of {title}" in told, (title, told)


if __name__ == "__main__":
    KNOWN_NETWORKS.write_text(table(known_networks()), encoding="utf-8")
