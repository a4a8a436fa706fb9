"""Weights on disk: written whole or not at all, read without executing code.

They are one safetensors file; its header carries, as JSON, what is needed to build the method again
(`WeightsHeader`). The state of a stage that can be continued is another matter: `resumable_state`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from torch import Tensor
from typing_extensions import TypedDict

from benchmark.errors import UserError
from benchmark.facts import BackboneDescription
from benchmark.files import atomic_path, file_digest, name_in_utf8
from benchmark.settings import TrainingSettings, with_present_names
from benchmark.structured_files import NotWellFormed, parse_json, typed

FORMAT = "cir-benchmark weights 1"
_HEADER_KEY = "benchmark"
_IMPORT = "weights of other programs, an authors' checkpoint say, come in with `import --method NAME FILE`"
_DAMAGED = "it is damaged, write the checkpoint again"


@dataclass(frozen=True)
class EarlierStage:
    """What a weights file says of a stage before its own."""

    name: str
    settings: dict[str, Any]
    updates: int
    triplets_seen: int
    prepared: dict[str, Any]


class ChosenBackbone(TypedDict, total=False):
    """The encoder that a run asked for; ``settings``: those of `BackboneSettings`."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    name: str
    weights: str
    digest: str
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file says of itself.

    ``stage`` and ``settings`` rebuild the module; ``backbone`` (name, weights, seed, preprocessing)
    the encoder it starts from; ``encoder`` the digest of the encoder artefact whose features it was
    trained on ("" for none), a path beside the weights file where it is relative; ``prepared`` what
    `Method.prepare` made; ``start`` the backbone's description as it started, from which it is built
    again without its weights' file; ``imported`` the files that weights from elsewhere were read from,
    name to digest. ``exported``: the file holds the encoder's tensors, too, for use elsewhere.
    ``noise``: how the training triplets were made wrong, empty where they were not. ``training_files``: what was
    trained on in place of triplets, by name with its digest. ``trained_on``: name, label and fingerprint of another
    dataset whose triplets were trained on; empty where they are ``dataset``'s own. ``asked_by``: the text rule of the
    evaluated queries then, which is not the stage's. ``category``: of the dataset, on which alone it was trained.
    """

    method: str
    stage: str
    dataset: str
    method_settings: dict[str, Any]
    training_settings: dict[str, Any]
    backbone: ChosenBackbone
    width: int
    seed: int
    encoder: str = ""
    encoder_file: str = ""
    recipe: str = ""
    variant: str = ""
    selection: str = ""
    updates: int = 0
    triplets_seen: int = 0
    prepared: dict[str, Any] = field(default_factory=dict)
    earlier: list[EarlierStage] = field(default_factory=list)
    start: dict[str, Any] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    exported: bool = False
    noise: dict[str, Any] = field(default_factory=dict)
    training_files: dict[str, str] = field(default_factory=dict)
    trained_on: dict[str, str] = field(default_factory=dict)
    asked_by: str = ""
    category: str = ""
    format: str = FORMAT

    @property
    def training_dataset(self) -> str:
        """Whose triplets were trained on."""
        return self.trained_on.get("name", self.dataset)

    @classmethod
    def of_json(cls, values: Any, where: str) -> WeightsHeader:
        """Settings get the names of this version. Raises UserError that names the entry that is missing or wrong."""
        header = typed(cls, values, where, _DAMAGED)
        if header.start:
            typed(BackboneDescription, header.start, f"{where}, start", _DAMAGED)
        earlier = [
            replace(stage, settings=with_present_names(TrainingSettings, stage.settings)) for stage in header.earlier
        ]
        return replace(
            header, training_settings=with_present_names(TrainingSettings, header.training_settings), earlier=earlier
        )


def save_weights(path: Path, state: Mapping[str, Tensor], header: WeightsHeader) -> str:
    """Write weights and header atomically; gives the file's sha256."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER_KEY: json.dumps(_plain(header))})
    return file_digest(path)


def _plain(header: WeightsHeader) -> dict[str, Any]:
    """Without what is empty of the later entries, so that the files are those of before."""
    later = ("noise", "training_files", "trained_on", "asked_by", "category")
    return {name: value for name, value in asdict(header).items() if name not in later or value}


def read_header(path: Path) -> WeightsHeader:
    """The header of a weights file; raises UserError where it is not one of this program's."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        with name_in_utf8(path) as name, safe_open(name, framework="pt") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        hint = f"; {_IMPORT}" if _is_of_torch(path) else ""
        raise UserError(f"{path}: not a readable safetensors file ({error}){hint}") from None
    try:
        values = parse_json(metadata[_HEADER_KEY])
        found = values["format"]
    except (KeyError, TypeError, NotWellFormed):
        raise UserError(f"{path}: a safetensors file, but not a checkpoint of this program; {_IMPORT}") from None
    if found != FORMAT:
        raise UserError(
            f"{path}: written in the format '{found}', this version reads '{FORMAT}'; update it with pip install -U"
        )
    return WeightsHeader.of_json(values, f"{path}, its header")


def _is_of_torch(path: Path) -> bool:
    """Whether a file begins as those of torch.save do, a zip or a pickle."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(2) in (b"PK", b"\x80\x02")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises UserError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with name_in_utf8(path) as name:
            state: dict[str, Tensor] = load_file(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); get or write it again") from None
    return state
