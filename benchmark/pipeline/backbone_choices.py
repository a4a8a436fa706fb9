"""Several backbones of one command, each with weights of its own: which can run here, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.backbone import BackboneChoice, BackboneFamily
from benchmark.encoders.backbone_table import backbone_label
from benchmark.errors import UserError, gathered
from benchmark.options import make_options
from benchmark.progress import say
from benchmark.registry import Registry


def backbone_choices(given: Sequence[str], values: Mapping[str, Any], registry: Registry) -> list[dict[str, str]]:
    """``backbone`` and ``weights`` of each run that ``NAME``, ``NAME:TAG`` or ``NAME:FILE`` ask for.

    ``values``: the other options; their weights are those of a backbone that names none. Of several, one that lacks a
    file on this machine is left out and told. Raises UserError for unknown names, and where none is left.
    """
    if len(given) < 2:
        return [{"backbone": name} for name in given] or [{}]
    common, problems = values.get("weights", ""), list[str]()
    chosen = []
    for one in given:
        with gathered(problems):
            own = make_options(method="", dataset="", backbone=one)
            chosen.append(BackboneChoice(own.backbone, own.weights or common, assets_root=_assets(values)))
    if problems:
        raise UserError.collect(problems)
    from benchmark.encoders.families import family_of  # open_clip takes long to import

    foreign = registry.backbone_families()
    families = [family_of(choice.name, foreign) for choice in chosen]
    for choice, family in zip(chosen, families, strict=True):
        with gathered(problems):
            family.require_known(choice.name)
    if problems:
        raise UserError.collect(problems)
    lacking = [_lacking(family, choice) for choice, family in zip(chosen, families, strict=True)]
    if all(lacking):
        raise UserError.collect(["--backbone: none of those named can run here", *lacking])
    for choice, reason in zip(chosen, lacking, strict=True):
        if reason:
            say(f"{choice.name}: left out: {reason}")
    return [
        {"backbone": choice.name, "weights": choice.weights}
        for choice, reason in zip(chosen, lacking, strict=True)
        if not reason
    ]


def _lacking(family: BackboneFamily, choice: BackboneChoice) -> str:
    """Why a backbone cannot be loaded on this machine, "" where all of its files are there."""
    try:
        return next((file.missing for file in family.files(choice) if file.path is None), "")
    except UserError as error:  # of a package or a default that is missing
        return str(error)


def _assets(values: Mapping[str, Any]) -> Path | None:
    return make_options(method="", dataset="", assets_root=values.get("assets_root", "")).assets


def backbone_folder(backbone: str, weights: str = "") -> str:
    """Name of the folder that holds a backbone's runs."""
    label = f"{backbone_label(backbone)}-{Path(weights).stem}" if weights else backbone_label(backbone)
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in label)
