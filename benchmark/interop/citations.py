"""What a run's numbers rest on, as BibTeX: its method, the methods of its stages, its backbone, its data."""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.records.record import Record
from benchmark.registry import Registry
from benchmark.structured_files import read_toml

_TABLE = Path(__file__).with_suffix(".toml")


def citations_of(record: Record, registry: Registry) -> list[str]:
    """BibTeX entries, each once; parts that are not on the shelf here have none."""
    methods = registry.methods()
    found = [methods[record.method].citation] if record.method in methods else []
    for stage in record.identity.stages:
        # A stage is declared beside the method that it is the work of.
        declared = (f.facts.methods for f in registry.files if any(r.stage == stage.name for r in f.facts.recipes))
        found += [info.citation for infos in declared for info in infos[:1]]
    encoder = record.identity.encoder
    if encoder is not None:
        found.append(_of_backbone(encoder.name, encoder.weights))
    data = record.identity.data
    if data is not None and data.name in registry.datasets():
        found.append(registry.datasets()[data.name].citation)
    return list(dict.fromkeys(entry.strip() for entry in found if entry.strip()))


def _of_backbone(name: str, weights: str) -> str:
    """The entry of the first pattern that fits; "" for none."""
    for entry in read_toml(_TABLE)["backbone"]:
        if re.search(entry["name"], name) and re.search(entry["weights"], weights):
            return str(entry["citation"])
    return ""
