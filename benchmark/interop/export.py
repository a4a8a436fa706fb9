"""`export`: a run's method, its encoder and its configuration as one safetensors file.

`benchmark.interop.exported.load` reads it back without data, run folder or any other file but a tokenizer's, which
is written beside it where the backbone's is not the program's own.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from benchmark.encoders.families import rebuild
from benchmark.errors import UserError
from benchmark.files import atomic_write_bytes, atomic_write_text
from benchmark.interop.exported import ENCODER_PART, METHOD_PART, build_method
from benchmark.interop.model_card import model_card
from benchmark.interop.run_model import encoder_of_run
from benchmark.method import FeatureInputs
from benchmark.pipeline.run_folder import checked_weights
from benchmark.records.record import RECORD_NAME, Record, read_record
from benchmark.registry import discover
from benchmark.weights.checkpoints import read_header, read_weights, save_weights
from benchmark.weights.fit import load_into


def export(
    run: Path,
    output: Path | None = None,
    *,
    encoder: str = "",
    assets_root: Path | None = None,
    plugins: tuple[str, ...] = (),
) -> Path:
    """Write a run's method (its folder or a weights file) as one file with a model card beside it; gives its path.
    A tokenizer of the hub, which its texts are read by, is copied beside it.

    ``encoder``: the encoder artefact where it was moved. By default the file is called after method
    and dataset, in the working folder. Raises UserError where weights are missing, damaged or do not
    fit; nothing is written then.
    """
    registry = discover()
    for plugin in plugins:
        registry.add_plugin(Path(plugin))
    file = checked_weights(run)
    header = read_header(file)
    if header.exported:
        raise UserError(f"{file}: an export already; give a run's folder or a weights file")
    path = output or Path(f"{header.method}-{header.dataset}.safetensors")
    if path.suffix != ".safetensors":
        raise UserError(f"--output {path}: give a name that ends in .safetensors")
    state, start = read_weights(file), header.start
    backbone = rebuild(start, str(file), registry.backbone_families(), assets_root) if start else None
    method, inputs = build_method(registry, header, backbone)
    load_into(method, state, str(file))
    tensors = {f"{METHOD_PART}{name}": tensor for name, tensor in state.items()}
    if isinstance(inputs, FeatureInputs):
        backbone = encoder_of_run(registry, header, file, encoder, assets_root)
        tensors |= {f"{ENCODER_PART}{name}": tensor for name, tensor in backbone.state_dict().items()}
        start = asdict(backbone.description)
    exported = replace(header, start=start, encoder_file="", exported=True)
    beside = dict(backbone.files_beside) if backbone is not None else {}
    for place, source in beside.items():
        (path.parent / place).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path.parent / place, source.read_bytes())
    save_weights(path, tensors, exported)
    atomic_write_text(card_of(path), model_card(path, exported, _record_of(file), registry, sorted(beside)))
    return path


def card_of(path: Path) -> Path:
    """Where the model card of an exported file lies: beside it."""
    return path.with_suffix(".md")


def _record_of(file: Path) -> Record | None:
    """The record of the run whose folder holds a weights file."""
    folder = file.parent.parent if file.parent.name == "weights" else file.parent
    return read_record(folder) if (folder / RECORD_NAME).is_file() else None


def summary(path: Path) -> str:
    """What was written, and how to use it."""
    header = read_header(path)
    encoder = f", with its encoder {header.start['name']} ({header.start['weights']})" if header.start else ""
    return "\n".join(
        [
            f"{path}: {header.method}, trained on {header.training_dataset}{encoder}; "
            f"{path.stat().st_size / 1e6:,.0f} MB",
            f"{card_of(path)}: its model card",
            "",
            "    from benchmark.interop.exported import load",
            "",
            f'    model = load("{path}")',
            "    gallery = model.encode_target(pictures)",
            "    query = model.encode_query([picture], [text])",
            "    scores = model.score(query, gallery)",
        ]
    )
