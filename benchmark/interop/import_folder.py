"""The folder of an import: weights with a header, the encoder beside them, an account of every tensor.

It appears whole or not at all, and is read as a run's folder is: `evaluate --checkpoint FOLDER`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import atomic_write_json, digest_of
from benchmark.interop.importing import Checked, drawn_of, file_label
from benchmark.weights.checkpoints import WeightsHeader, save_weights
from benchmark.weights.reading import WeightsFile

WEIGHTS = "weights/selected.safetensors"
ENCODER = "encoder.safetensors"
ACCOUNT = "import.json"
_SIZES = "a size, not a weight"
_LISTED = 3
"""OpenAI's archives have as many sizes."""


def write_import(checked: Checked, output: Path | None) -> Path:
    """Write what was checked and give its folder: ``output``, or one named after what was imported.

    The same files and settings give the same name; what stands under it is then left as it is. Raises
    UserError where ``output`` is taken.
    """
    header = checked.header
    chosen = [header.method_settings, header.training_settings, header.backbone, header.variant]
    folder = output or Path("imported", header.dataset, header.method, digest_of([header.imported, *chosen])[:12])
    if output is None and (folder / WEIGHTS).is_file():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; choose another folder with --output, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{os.getpid()}.partial.{folder.name}")
    try:
        if checked.artefact:
            digest = save_weights(partial / ENCODER, checked.artefact, checked.artefact_header)
            header = replace(header, encoder=digest, encoder_file=ENCODER)
        save_weights(partial / WEIGHTS, checked.state, header)
        atomic_write_json(partial / ACCOUNT, account(checked))
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def account(checked: Checked) -> list[dict[str, Any]]:
    """What became of every tensor of every file: name, shape, type, and its use or why it is dropped."""
    files = []
    sources = list(dict.fromkeys(part.path for part in (checked.head, checked.encoder) if part is not None))
    if checked.head is not None:
        head = checked.head
        release = checked.release
        assert release is not None
        renamed = {release.released_name(name): name for name in checked.state}
        uses = {name: _use(renamed[name], name, release.without_effect) for name in head.read}
        uses |= {name: f"dropped: {reason}" for name, reason in head.left_out.items()}
        label = file_label(head.path, sources)
        files.append(_file_account(label, head.file, uses, checked.header))
    # One that came out of the method's own file is told of there.
    if checked.encoder is not None and (checked.head is None or checked.encoder.path != checked.head.path):
        encoder = checked.encoder
        places = {name.removeprefix("clip."): name for name in encoder.tensors}
        uses = {name: f"used as {places.get(name, name)} of the encoder" for name in encoder.file.state_dict}
        uses |= dict.fromkeys(encoder.dropped, f"dropped: {_SIZES}")
        label = file_label(encoder.path, sources)
        files.append(_file_account(label, encoder.file, uses, checked.header))
    return files


def _use(name: str, released: str, without_effect: Mapping[str, str]) -> str:
    reasons = [reason for beginning, reason in without_effect.items() if released.startswith(beginning)]
    return f"used as {name}" + (f", without effect: {reasons[0]}" if reasons else "")


def _file_account(label: str, file: WeightsFile, uses: Mapping[str, str], header: WeightsHeader) -> dict[str, Any]:
    tensors = [
        {"name": name, "shape": list(tensor.shape), "type": str(tensor.dtype).removeprefix("torch."), "use": uses[name]}
        for name, tensor in file.state_dict.items()
    ]
    return {
        "file": label,
        "sha256": header.imported[label],
        "form": file.format,
        "entry": file.entry,
        "note": file.note,
        "left": list(file.others),
        "tensors": tensors,
    }


def told(checked: Checked, folder: Path) -> str:
    """What was read, used and dropped, where it lies, and how to score it."""
    lines = [line for entry in account(checked) for line in _file_lines(entry)]
    if checked.head is not None and checked.release is not None:
        drawn = drawn_of(checked.head, checked.release)
        lines += [f"  drawn     {name}, standard normal: {reason}" for name, reason in drawn.items()]
    written = [name for name in (WEIGHTS, ENCODER) if (folder / name).is_file()]
    sizes = ", ".join(f"{name} ({(folder / name).stat().st_size / 1e6:,.0f} MB)" for name in written)
    command = f"python -m benchmark evaluate --method {checked.header.method} --checkpoint {folder}"
    return "\n".join(
        [*lines, *_encoder_lines(checked), f"written   {folder}: {sizes}, {ACCOUNT}", f"score it  {command}"]
    )


def _file_lines(entry: dict[str, Any]) -> Iterator[str]:
    tensors = entry["tensors"]
    numbers = sum(math.prod(tensor["shape"]) for tensor in tensors)
    form = entry["note"] or entry["form"]
    yield f"{entry['file']}: {form}; {len(tensors):,} tensors, {numbers:,} numbers, sha256 {entry['sha256'][:12]}"
    used = [tensor for tensor in tensors if tensor["use"].startswith("used")]
    yield f"  used      {len(used):,} tensors"
    idle: dict[str, list[str]] = {}
    for tensor in used:
        _, _, reason = tensor["use"].partition(", without effect: ")
        if reason:
            idle.setdefault(reason, []).append(tensor["name"])
    for reason, names in idle.items():
        yield f"  of these  {len(names):,} without effect ({', '.join(names)}): {reason}"
    dropped: dict[str, list[str]] = {}
    for tensor in tensors:
        if tensor["use"].startswith("dropped: "):
            dropped.setdefault(tensor["use"].removeprefix("dropped: "), []).append(tensor["name"])
    for reason, names in dropped.items():
        listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
        yield f"  dropped   {len(names):,} tensors ({listed}): {'sizes, not weights' if reason == _SIZES else reason}"
    if entry["left"]:
        yield f"  left      {', '.join(entry['left'])}: no weights of the method"


def _encoder_lines(checked: Checked) -> Iterator[str]:
    header = checked.header
    if header.start:
        start = header.start
        state = "fine-tuned" if any(stage.name for stage in header.earlier) or not checked.artefact else "as published"
        yield (
            f"encoder   {start['name']}, {start['activation']}, width {start['width']}, {start['image_size']} px, "
            f"{start['preprocessing']['pad']}; {state}"
        )
    settings = ", ".join(f"{name} {value}" for name, value in header.method_settings.items() if value not in ("", None))
    yield f"method    {checked.title}, trained on {header.dataset}" + (f" ({settings})" if settings else "")
