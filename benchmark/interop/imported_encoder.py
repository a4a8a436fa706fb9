"""A CLIP from a file of OpenAI, open_clip or CLIP4Cir, checked tensor by tensor against its architecture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark.backbone import Backbone, BackboneChoice, BackboneFamily
from benchmark.encoders.architectures import architecture_named, architecture_of
from benchmark.encoders.backbones import ClipBackbone, build_clip
from benchmark.encoders.clip_weights import as_clip
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.encoders.pretrained import activation_of, normalisation_of
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.settings import BackboneSettings
from benchmark.weights.fit import require_fit, require_module_fits, shapes_of
from benchmark.weights.reading import OPENAI_SIZES, WeightsFile, read_state_dict

State = Literal["untouched", "finetuned"]


@dataclass(frozen=True)
class ImportedEncoder:
    """``backbone`` has no memory: it tells names and shapes; ``tensors`` are its weights, float32.

    ``state``: as published, or fine-tuned for the task; "" where the file does not tell.
    ``dropped``: what the file holds beside weights.
    """

    path: Path
    file: WeightsFile
    backbone: Backbone
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    state: State | Literal[""]

    def start(self) -> dict[str, Any]:
        """The description to build the backbone from again."""
        with torch.device("cpu"):
            return asdict(self.backbone.description)


def read_encoder(path: Path, named: str, settings: BackboneSettings) -> ImportedEncoder:
    """``named``: the architecture, "" to tell it from the shapes.

    Raises UserError for a file that is refused or damaged, of no known architecture, or with tensors
    that are missing, too many or misshapen.
    """
    file = read_state_dict(path, entry="CLIP")
    weights = as_clip(file, str(path)).state_dict
    architecture = architecture_named(named or architecture_of(shapes_of(weights), str(path)))
    if not architecture.is_plain:
        raise UserError(f"--backbone {named}: no plain CLIP, and official checkpoints are of plain CLIPs alone")
    activation = activation_of(architecture, str(path), file, {})
    normalisation = normalisation_of(architecture.label, str(path), path, settings)
    with torch.device("meta"):
        clip = build_clip(architecture.config, activation)
        expected = shapes_of(clip.state_dict())
        require_module_fits(clip, weights, f"{path} as {architecture.label}")
        preprocessing = Preprocessing(
            settings.preprocessing,
            architecture.image_size,
            mean=normalisation.mean,
            std=normalisation.std,
            rgb_first=settings.rgb_first,
            interpolation=normalisation.interpolation,
        )
        backbone = ClipBackbone.of(architecture, clip, preprocessing, path.stem, activation)
    tensors = {f"clip.{name}": _single(weights[name]).reshape(shape) for name, shape in expected.items()}
    backbone.load_state_dict(tensors, assign=True)
    dropped = tuple(name for name in file.state_dict if name in OPENAI_SIZES)
    return ImportedEncoder(path, file, backbone, tensors, dropped, _state(file))


def read_listed_encoder(family: BackboneFamily, choice: BackboneChoice) -> ImportedEncoder:
    """A frozen encoder of another family than CLIP's, from a file of its own or a checkpoint that holds it.

    Raises UserError for a file that is refused or damaged, or with tensors that are missing, too many or misshapen.
    """
    backbone, path = family.outline(choice), Path(choice.weights)
    read = family.load(choice)
    tensors: dict[str, Tensor] = read.state_dict()
    backbone.load_state_dict(tensors, assign=True)
    return ImportedEncoder(path, WeightsFile(tensors, family.name), backbone, tensors, (), "untouched")


def _state(file: WeightsFile) -> State | Literal[""]:
    """CLIP4Cir's own form is of a fine-tuned CLIP; OpenAI's archives, with their sizes, are as published."""
    if file.format == "clip4cir":
        return "finetuned"
    return "untouched" if file.from_openai else ""


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def require_state(encoder: ImportedEncoder, asked: str) -> State:
    """Untouched or fine-tuned, from the file or as asked for; raises UserError where neither tells."""
    if asked in ("untouched", "finetuned"):
        return "untouched" if asked == "untouched" else "finetuned"
    if not encoder.state:
        raise UserError(
            f"{encoder.path}: nothing in it tells whether this CLIP is as published or was fine-tuned for the "
            "task; say --set method.encoder=untouched or --set method.encoder=finetuned"
        )
    return encoder.state


def encoder_state(method: Method, encoder: ImportedEncoder) -> dict[str, Tensor]:
    """The encoder's tensors under the names of a method that trains it, every one of them checked."""
    place = next(name for name, module in method.named_modules() if module is encoder.backbone)
    state = {f"{place}.{name}": tensor for name, tensor in encoder.tensors.items()}
    require_fit(shapes_of(method.state_dict()), shapes_of(state), str(encoder.path))
    return state
