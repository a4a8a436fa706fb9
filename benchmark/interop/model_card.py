"""The model card beside an exported file: what it is, its numbers, licences, how to load and how to cite it.

Markdown. What somebody may have typed is shown as text, and nobody's folders are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.comparison.composition_layout import composition_section
from benchmark.encoders.backbone_table import BACKBONES
from benchmark.files import file_digest
from benchmark.interop.citations import citations_of
from benchmark.records.layout import listed
from benchmark.records.record import Record
from benchmark.records.rows import plain
from benchmark.records.tables import SYNTHETIC, run_table
from benchmark.registry import Registry
from benchmark.weights.checkpoints import WeightsHeader

_LOADING = """\
```python
from benchmark.interop.exported import load

model = load("{file}")
gallery = model.encode_target(pictures)
query = model.encode_query([picture], [text])
scores = model.score(query, gallery)
```
"""


def model_card(
    file: Path, header: WeightsHeader, record: Record | None, registry: Registry, beside: Sequence[str] = ()
) -> str:
    """The card of an exported file; ``record``: of the run that it was made from, where that is known; ``beside``:
    files that it needs beside it."""
    method = registry.methods().get(header.method)
    title = record.title if record is not None else method.title if method else header.method
    heading = f"# {plain(title)}, trained on {plain(header.training_dataset)}\n"
    parts = [heading, listed(_facts(file, header, record, registry))]
    parts.append("## How to load it\n\n" + _LOADING.format(file=file.name))
    if beside:
        parts.append(f"It reads texts by files that stay beside it: {', '.join(map(plain, beside))}.\n")
    if record is None:
        parts.append("## Numbers\n\nThe file was made from weights without a record: no numbers are known.\n")
    else:
        numbers = [run_table(record).rstrip("\n") + "\n", composition_section(record)]
        parts.append("## Numbers\n\n" + "\n".join(filter(None, numbers)))
        parts.append("## How to cite\n\n```bibtex\n" + "\n\n".join(citations_of(record, registry)) + "\n```\n")
    parts.append("## Licences\n\n" + listed([*_licences(header, registry), *_of_the_hub(beside)]))
    return "\n".join(parts)


def _of_the_hub(beside: Sequence[str]) -> Iterator[str]:
    for folder in dict.fromkeys(str(Path(name).parent) for name in beside):
        of_the_hub = f"https://huggingface.co/{folder}, whose licence is told there"
        yield f"Files in {plain(folder)}: copied from {of_the_hub if '/' in folder else 'a folder of the user'}"


def _facts(file: Path, header: WeightsHeader, record: Record | None, registry: Registry) -> Iterator[str]:
    method, data = registry.methods().get(header.method), record.identity.data if record is not None else None
    yield f"Method: {header.method}" + (f", {method.summary}" if method and method.summary else "")
    if method and method.paper:
        yield f"Paper: {method.paper}"
    if data is not None and data.is_demo:
        yield f"Demo, {SYNTHETIC}: a model that shows how things work, and nothing else"
    if header.start:
        yield f"Encoder, in the file: {plain(Path(str(header.start['name'])).name)}, {_weights(header)}"
    recipe = f"recipe {plain(Path(header.recipe).name)}" if header.recipe else "nothing trained"
    yield f"Training: {recipe}, {header.updates:,} updates, {header.triplets_seen:,} triplets seen, seed {header.seed}"
    if record is not None:
        keys = dict.fromkeys(f"{r.split}, {r.protocol}, {r.text_mode}" for r in record.results)
        yield f"Evaluated on {plain(record.results[0].dataset)}: " + "; ".join(keys)
        commit = f", commit {record.code.commit}" if record.code.commit else ""
        yield f"Made with version {record.code.version}{commit}"
    yield f"File: {file.name}, {file.stat().st_size:,} bytes, sha256 {file_digest(file)}"


def _weights(header: WeightsHeader) -> str:
    return f"started from {plain(Path(header.backbone.get('weights', '')).name)}"


def _licences(header: WeightsHeader, registry: Registry) -> Iterator[str]:
    name = header.training_dataset
    data = registry.datasets().get(name)
    terms = f"{data.title}, {data.licence}" if data else f"{plain(name)}, whose terms are not known here"
    yield f"Data: {terms}"
    name, weights = header.backbone.get("name", ""), header.backbone.get("weights", "")
    if name:
        known = [s.licence for s in BACKBONES[name].sources if s.tag == weights] if name in BACKBONES else []
        licence = "random weights, none" if weights == "random" else "".join(known) or "not known here, see there"
        yield f"Weights that training began with: {plain(Path(name).name)}, {licence}"
    method = registry.methods().get(header.method)
    for asset in (registry.assets().get(required) for required in (method.required_files if method else ())):
        if asset is not None:
            yield f"{asset.summary}: {asset.licence}"
    yield "The program: MIT"
