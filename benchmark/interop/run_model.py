"""A run's method as a model for any picture and string, straight from the run's folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmark.backbone import Backbone, BackboneChoice
from benchmark.encoders.families import load_choice, rebuild
from benchmark.errors import UserError
from benchmark.interop.exported import (
    Model,
    build_method,
    frozen_encoder,
    method_settings,
    rule_of_run,
    stages_of,
)
from benchmark.method import FeatureInputs
from benchmark.pipeline.checkpoint_evaluation import encoder_file
from benchmark.pipeline.run_folder import checked_weights
from benchmark.registry import Registry, discover
from benchmark.settings import BackboneSettings, fill
from benchmark.stage_building import rebuild_stage
from benchmark.weights.checkpoints import WeightsHeader, read_header, read_weights
from benchmark.weights.fit import load_into


def model_of_run(
    run: Path, *, encoder: str = "", assets_root: Path | None = None, plugins: tuple[str, ...] = (), device: str = "cpu"
) -> Model:
    """The model that an export of the run would give; see :func:`benchmark.interop.export.export`."""
    registry = discover()
    for plugin in plugins:
        registry.add_plugin(Path(plugin))
    file, place = checked_weights(run), torch.device(device)
    header = read_header(file)
    if header.exported:
        raise UserError(f"{file}: an export, no run; read it with benchmark.interop.exported.load")
    start = header.start
    backbone = rebuild(start, str(file), registry.backbone_families(), assets_root) if start else None
    method, inputs = build_method(registry, header, backbone)
    load_into(method, read_weights(file), str(file))
    frozen = None
    if isinstance(inputs, FeatureInputs):
        backbone = encoder_of_run(registry, header, file, encoder, assets_root)
        header = replace(header, start=asdict(backbone.description))
        frozen = frozen_encoder(backbone, header, place)
    return Model(header, method.to(place).eval(), inputs, frozen, rule_of_run(header), place)


def encoder_of_run(
    registry: Registry, header: WeightsHeader, file: Path, named: str, assets_root: Path | None
) -> Backbone:
    """The encoder whose features the method reads, with its weights."""
    if not header.encoder:
        start = header.backbone
        settings = fill(BackboneSettings, [(str(file), start["settings"])], "backbone")
        choice = BackboneChoice(start["name"], start["weights"], settings, assets_root, start["seed"])
        return load_choice(choice, registry.backbone_families())
    path = encoder_file(header, file, named)
    backbone = rebuild(header.start, str(file), registry.backbone_families(), assets_root)
    stage = next((s for s in stages_of(registry, header) if s.output == "encoder" and s.name != header.stage), None)
    if stage is None:
        load_into(backbone, read_weights(path), str(path))
        backbone.relabel(str(header.start["weights"]))
        return backbone
    told = next(earlier for earlier in header.earlier if earlier.name == stage.name)
    training = fill(stage.settings, [(str(path), told.settings)], stage.name)
    built = rebuild_stage(stage, backbone, method_settings(registry, header), training)
    load_into(built.method, read_weights(path), str(path))
    backbone.relabel(f"{header.backbone['weights']}+{stage.name}")
    return backbone
