"""The families of backbones: which one loads a name, or builds a description again.

A family of the engine is named in `_families`; plug-ins hand theirs in as ``foreign``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmark.backbone import Backbone, BackboneChoice, BackboneFamily
from benchmark.encoders import blip, blip2
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.encoders.open_clip_family import OpenClipFamily
from benchmark.errors import UserError


def _families() -> tuple[BackboneFamily, ...]:
    """The engine's own; the last one takes every name that is left."""
    return (blip.FAMILY, blip2.FAMILY, OpenClipFamily())


def family_of(name: str, foreign: Sequence[BackboneFamily] = ()) -> BackboneFamily:
    """What loads a backbone of this name (`--backbone`); open_clip's where no other family lists it.

    ``foreign`` is looked at only for a name that the engine does not list: it may have to be imported.
    """
    own = _families()
    families = own if name in BACKBONES else (*foreign, *own)
    return next((family for family in families if name in family.backbones), own[-1])


def load_choice(choice: BackboneChoice, foreign: Sequence[BackboneFamily] = ()) -> Backbone:
    """See `BackboneFamily.load`."""
    return family_of(choice.name, foreign).load(choice)


def rebuild(
    description: Mapping[str, Any],
    source: str,
    foreign: Sequence[BackboneFamily] = (),
    assets_root: Path | None = None,
) -> Backbone:
    """See `BackboneFamily.rebuild`; the description's family is looked for by its name."""
    wanted = description.get("family", OpenClipFamily.name)
    for family in chain(_families(), foreign):
        if family.name == wanted:
            return family.rebuild(description, source, assets_root)
    raise UserError(
        f"{source}: its backbone {description.get('name')} is of the family '{wanted}', which is not known here; give "
        "the file that brings it with --plugin"
    )
