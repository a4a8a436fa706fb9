"""`import`: the authors' own checkpoints as this program's weights, nothing in them executed.

A method's `Release` says where the released names belong; it stands under the method's name in its
companion (`Registry.companion`) as ``RELEASES``. Every tensor is held against the network
that it is for before anything is written (`import_folder` writes). The settings are those of the
published recipe, as far as the shapes do not tell better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmark.backbone import BackboneChoice
from benchmark.encoders.families import family_of
from benchmark.encoders.open_clip_family import OpenClipFamily
from benchmark.errors import UserError, unknown_name
from benchmark.facts import DatasetInfo, Recipe
from benchmark.files import file_digest
from benchmark.interop.imported_encoder import (
    ImportedEncoder,
    encoder_state,
    read_encoder,
    read_listed_encoder,
    require_state,
)
from benchmark.method import Method, Specification, Stage
from benchmark.pipeline.variants import variant_named
from benchmark.registry import Registry, discover
from benchmark.settings import BackboneSettings, MethodSettings, Settings, TrainingSettings, fill
from benchmark.stage_building import rebuild_stage
from benchmark.weights.checkpoints import EarlierStage, WeightsHeader
from benchmark.weights.fit import require_fit, require_module_fits, shapes_of
from benchmark.weights.reading import WeightsFile, read_state_dict

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class ImportRequest:
    """What to import. ``file`` is None for methods that have no weights of their own.

    ``dataset``: the one that the weights were trained on, "" to take it from the files' names.
    ``backbone``: CLIP's architecture, "" to tell it from the shapes. ``variant``: the method's named
    configuration that the weights are of. ``settings``: as of `--set`.
    """

    method: str
    file: Path | None
    clip: Path | None
    dataset: str = ""
    backbone: str = ""
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """How the authors' own checkpoint of a method is read.

    ``part``: the submodule that bears the released names. ``entry``: the key under which the file has
    the state dict, where it may hold others beside it. ``settings``: shapes by released name to the
    width of the encoder and the method's settings that they tell; KeyError where a tensor is missing.
    ``without_effect``: the beginning of a released name to the reason why it changes no output; ``left_out``: of
    those that our network does not have, and that are not read. ``renamed``: our names within ``part`` ("" for the
    whole method) to the released ones, where they differ. ``holds_encoder``: the CLIP that it trained is in the file.
    ``drawn``: released names of tensors that no released file has, to the reason why; they are drawn, standard normal.
    """

    part: str
    settings: Callable[[Mapping[str, tuple[int, ...]]], tuple[int, dict[str, Any]]]
    entry: str = ""
    without_effect: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    renamed: Callable[[str], str] = str
    holds_encoder: bool = False
    drawn: Mapping[str, str] = field(default_factory=dict)

    def released_name(self, name: str) -> str:
        """Of a tensor of our method."""
        return self.renamed(name.removeprefix(f"{self.part}.") if self.part else name)


@dataclass(frozen=True)
class OwnWeights:
    """The file of a method's own weights; ``width`` (0: untold) and ``settings`` are what shapes tell.

    ``left_out``: names of tensors that are not read, and why.
    """

    path: Path
    file: WeightsFile
    width: int
    settings: dict[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def read(self) -> dict[str, Tensor]:
        """By released names."""
        return {name: tensor for name, tensor in self.file.state_dict.items() if name not in self.left_out}


@dataclass(frozen=True)
class Checked:
    """An import of which every tensor fits. ``state``: the method's weights under our names.

    ``artefact``: the encoder's under the names of the stage that makes it, or under its own where it is
    untouched; empty where the method's weights are the encoder.
    """

    title: str
    header: WeightsHeader
    state: dict[str, Tensor]
    artefact_header: WeightsHeader
    artefact: dict[str, Tensor]
    head: OwnWeights | None
    encoder: ImportedEncoder | None
    release: Release | None


def check_import(request: ImportRequest) -> Checked:
    """Read the files and hold every tensor against its network; nothing is written.

    Raises UserError where a file is refused, is damaged or does not fit, and where a choice is open.
    """
    registry = discover()
    for plugin in request.plugins:
        registry.add_plugin(Path(plugin))
    methods = registry.methods()
    if request.method not in methods:
        raise unknown_name("method", request.method, methods)
    settings = dict(request.settings)
    if request.variant:
        settings |= variant_named(registry.variants(request.method), request.method, request.variant).settings
    return _Import(registry, replace(request, settings=settings), registry.specification(request.method)).checked()


@dataclass(frozen=True)
class _Import:
    registry: Registry
    request: ImportRequest
    specification: Specification

    def checked(self) -> Checked:
        dataset = self._dataset()
        if self._is_encoder_alone:
            if self.request.clip and self.request.file:
                raise UserError(f"--clip {self.request.clip}: {self._title}'s own file is a CLIP; leave one out")
            held, head, encoder = None, None, self._read_encoder(self.request.clip or self.request.file)
        else:
            held = self.request.file if self._release is not None and self._release.holds_encoder else None
            if held is not None and self.request.clip is not None:
                raise UserError(f"--clip {self.request.clip}: {self._title}'s own file holds its CLIP; leave it out")
            head, encoder = self._read_head(), self._read_encoder(self.request.clip or held)
        if head is not None and encoder is not None and head.width not in (0, encoder.backbone.vector_width):
            raise UserError(
                f"{head.path}: made for features of width {head.width}, but {encoder.path} "
                f"({encoder.start()['name']}) gives {encoder.backbone.vector_width}; give the CLIP that it was trained "
                "on with --clip"
            )
        settings = self._method_settings(head, encoder, {})
        stages = self.specification.stages(settings, "pretrained")
        recipe, _ = self._training(stages[-1], dataset)
        if recipe is not None and recipe.method:
            settings = self._method_settings(head, encoder, recipe.method)
            stages = self.specification.stages(settings, "pretrained")
        groups = {"method", "backbone", *(stage.name for stage in stages)}
        for group in {name.partition(".")[0] for name in self.request.settings} - groups:
            raise unknown_name("--set group", group, groups)
        last, training = stages[-1], {stage.name: self._training(stage, dataset) for stage in stages}
        if last.trains and head is None and last.output != "encoder":
            raise UserError(f"FILE is missing: {self._title} has weights of its own; name their file")
        header = self._header(stages, settings, training, dataset, encoder)
        makes_encoder = next((stage for stage in stages[:-1] if stage.output == "encoder"), None)
        artefact: dict[str, Tensor] = {}
        if encoder is not None and last.output != "encoder" and held is None:
            artefact = encoder.tensors
            if makes_encoder is not None:
                built = self._built(makes_encoder, settings, training[makes_encoder.name][1], encoder)
                artefact = encoder_state(built, encoder)
        return Checked(
            title=self._title,
            header=header,
            state=self._state(self._built(last, settings, training[last.name][1], encoder), last, head, encoder),
            artefact_header=_artefact_header(header, makes_encoder),
            artefact=artefact,
            head=head,
            encoder=encoder,
            release=self._release,
        )

    @property
    def _release(self) -> Release | None:
        return _release_of(self.registry, self.request.method)

    @property
    def _title(self) -> str:
        return self.registry.methods()[self.request.method].title

    @property
    def _pads(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [("method", self.specification.backbone_defaults)]

    @property
    def _is_encoder_alone(self) -> bool:
        """Whether the method is a fine-tuned encoder and nothing else: its own file is a CLIP's."""
        if self.specification.own_networks is not None:
            return False
        return self.specification.stages(self.specification.settings(), "pretrained")[-1].output == "encoder"

    def _dataset(self) -> DatasetInfo:
        """The dataset that is named, or the only one whose name stands in a file's name."""
        known, request = self.registry.datasets(), self.request
        if request.dataset and request.dataset not in known:
            raise unknown_name("dataset", request.dataset, known)
        if request.dataset:
            return known[request.dataset]
        names = " ".join(path.name.lower() for path in (request.file, request.clip) if path is not None)
        found = [info for name, info in known.items() if name in names]
        if len(found) != 1:
            raise UserError(
                "--dataset is missing: the files' names do not tell which dataset the weights were trained on; "
                f"known: {', '.join(sorted(known))}"
            )
        return found[0]

    def _read_head(self) -> OwnWeights | None:
        path, release = self.request.file, self._release
        if path is None:
            return None
        if release is None:
            names = [name for name in self.registry.methods() if _release_of(self.registry, name)]
            raise UserError(
                f"{path}: {self._title} has no weights of its own that can be imported; {', '.join(names)} have. "
                "A CLIP is given with --clip"
            )
        file = read_state_dict(path, entry=release.entry)
        try:
            width, told = release.settings(shapes_of(file.state_dict))
        except (KeyError, IndexError, ValueError):
            width, told = 0, {}  # the comparison with the network says what is missing
        left_out = {
            name: reason
            for name in file.state_dict
            for beginning, reason in release.left_out.items()
            if name.startswith(beginning)
        }
        return OwnWeights(path, file, width, told, left_out)

    def _read_encoder(self, path: Path | None) -> ImportedEncoder | None:
        if self.specification.own_networks is not None:
            if path is not None:
                raise UserError(f"--clip {path}: {self._title} brings its own networks; leave it out")
            return None
        name = self.request.backbone or self.specification.default_backbone
        own = self.request.file
        if (family := family_of(name)).name != OpenClipFamily.name and (path or own) is not None:
            stages = self.specification.stages(self.specification.settings(), "pretrained")
            if path is None and any(stage.output == "encoder" for stage in stages[:-1]):
                told = ", ".join(stage.name for stage in stages[:-1])
                raise UserError(
                    f"--clip is missing: {self._title} works on an encoder that a stage of its own fine-tuned; give "
                    f"that stage's file ({told})"
                )
            # Checkpoints of other such methods hold the encoder as well.
            choice = BackboneChoice(name, str(path or own), self._filled(BackboneSettings, self._pads, "backbone"))
            return read_listed_encoder(family, choice)
        if path is None:
            raise UserError(
                f"--clip is missing: {self._title} works on a CLIP; give its weights (tuned_<dataset>.pt of SPIRIT, "
                "tuned_clip_*.pt of CLIP4Cir, or OpenAI's or open_clip's file where it is untouched)"
            )
        named = self.request.backbone
        if not named and self._release is not None and self._release.holds_encoder:
            # The shapes would tell the architecture, but nothing in such a file tells its activation.
            named = self.specification.default_backbone
        return read_encoder(path, named, self._filled(BackboneSettings, self._pads, "backbone"))

    def _method_settings(
        self, head: OwnWeights | None, encoder: ImportedEncoder | None, of_recipe: Mapping[str, Any]
    ) -> MethodSettings:
        model = self.specification.settings
        layers: list[tuple[str, Mapping[str, Any]]] = [("the recipe", of_recipe)]
        if head is not None:
            layers.append((str(head.path), head.settings))
        if encoder is not None and "encoder" in model.model_fields:
            asked = str(self.request.settings.get("method.encoder", ""))
            layers.append((str(encoder.path), {"encoder": require_state(encoder, asked)}))
        return self._filled(model, layers, "method")

    def _training(self, stage: Stage, dataset: DatasetInfo) -> tuple[Recipe | None, TrainingSettings]:
        """The published recipe's settings: what the weights were trained with by all that is known."""
        layers: list[tuple[str, Mapping[str, Any]]] = [("dataset", {"text_rule": dataset.text_rule})]
        recipe = None
        if stage.trains:
            recipe = self.registry.recipe(stage.name, dataset.name, "", "pretrained")
            layers.append((f"recipe {recipe.name}", recipe.settings))
        return recipe, self._filled(stage.settings, layers, stage.name)

    def _filled(self, model: type[S], layers: Sequence[tuple[str, Mapping[str, Any]]], namespace: str) -> S:
        prefix = f"{namespace}."
        own = {k.removeprefix(prefix): v for k, v in self.request.settings.items() if k.startswith(prefix)}
        return fill(model, [*layers, ("--set", own)], namespace)

    def _built(
        self, stage: Stage, settings: MethodSettings, training: TrainingSettings, encoder: ImportedEncoder | None
    ) -> Method:
        """A stage's method without memory: its names and shapes are what counts."""
        with torch.device("meta"):
            backbone = encoder.backbone if encoder is not None else None
            return rebuild_stage(stage, backbone, settings, training).method

    def _state(
        self, method: Method, stage: Stage, head: OwnWeights | None, encoder: ImportedEncoder | None
    ) -> dict[str, Tensor]:
        """The tensors under the method's names, every one of them checked."""
        if stage.output == "encoder" and encoder is not None:
            return encoder_state(method, encoder)
        renamed: dict[str, Tensor] = {}
        release = self._release
        source = f"{self._title}'s file" if head is None else f"{head.path} as {self._title}"
        if head is not None and release is not None:
            module = method.get_submodule(release.part)
            part = shapes_of(module.state_dict())
            released = {release.renamed(name): shape for name, shape in part.items()}
            read, generator = head.read, torch.Generator().manual_seed(0)
            read |= {n: torch.randn(released[n], generator=generator) for n in drawn_of(head, release) if n in released}
            require_fit(released, shapes_of(read), source)
            own = {name: read[release.renamed(name)] for name in part}
            for name, shape in part.items():
                tensor = own[name].reshape(shape)
                place = f"{release.part}.{name}" if release.part else name
                renamed[place] = tensor.float() if tensor.is_floating_point() else tensor
            require_module_fits(module, own, source)
        require_fit(shapes_of(method.state_dict()), shapes_of(renamed), source)
        return renamed

    def _header(
        self,
        stages: Sequence[Stage],
        settings: MethodSettings,
        training: Mapping[str, tuple[Recipe | None, TrainingSettings]],
        dataset: DatasetInfo,
        encoder: ImportedEncoder | None,
    ) -> WeightsHeader:
        sources = [path for path in (self.request.file, self.request.clip) if path is not None]
        start = encoder.start() if encoder is not None else {}
        pads = self._filled(BackboneSettings, self._pads, "backbone").model_dump(mode="json")
        recipe, last = training[stages[-1].name]
        return WeightsHeader(
            method=self.request.method,
            stage=stages[-1].name,
            dataset=dataset.name,
            method_settings=settings.model_dump(mode="json"),
            training_settings=last.model_dump(mode="json"),
            backbone={"name": start["name"], "weights": start["weights"], "digest": "", "settings": pads, "seed": 0}
            if start
            else {},
            width=encoder.backbone.vector_width if encoder is not None else 0,
            seed=0,
            recipe=recipe.name if recipe else "",
            variant=self.request.variant,
            earlier=[
                EarlierStage(stage.name, training[stage.name][1].model_dump(mode="json"), 0, 0, {})
                for stage in stages[:-1]
            ],
            start=start,
            imported={file_label(path, sources): file_digest(path) for path in sources},
        )


def drawn_of(head: OwnWeights, release: Release) -> dict[str, str]:
    """What the file lacks and is drawn, by released names, and why."""
    return {name: reason for name, reason in release.drawn.items() if name not in head.read}


def _release_of(registry: Registry, method: str) -> Release | None:
    release: Release | None = getattr(registry.companion(method), "RELEASES", {}).get(method)
    return release


def _artefact_header(header: WeightsHeader, stage: Stage | None) -> WeightsHeader:
    """What the encoder's own file says of itself."""
    if stage is None:
        return replace(header, method="", stage="", method_settings={}, training_settings={}, earlier=[])
    told = next(earlier for earlier in header.earlier if earlier.name == stage.name)
    return replace(
        header, method=stage.name, stage=stage.name, method_settings={}, training_settings=told.settings, earlier=[]
    )


def file_label(path: Path, sources: Sequence[Path]) -> str:
    """What records call a file: its name, with its folder where another one has the same name."""
    alike = [other for other in sources if other.name == path.name]
    return path.name if len(alike) == 1 else f"{path.parent.name}/{path.name}"
