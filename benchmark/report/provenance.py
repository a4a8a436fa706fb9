"""Configuration and provenance of a run as names and values for reading, without anybody's folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.records.measurement import format_cost
from benchmark.records.record import repeatable_command
from benchmark.report.runs import ReportedSide

_FOLDERS = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:[\\/]|/)(?:[^\s'\",;)\\/]*[\\/])*([^\s'\",;)\\/]*)")


def without_folders(text: str) -> str:
    """A text in which every absolute path is the last name of it."""
    return _FOLDERS.sub(lambda found: found[1] or "PATH", text)


def facts_of(reported: ReportedSide) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings, and below each the facts of the first seed; what differs between seeds is told of all."""
    record = reported.first
    identity, data, encoder = record.identity, record.identity.data, record.identity.encoder
    seeds = ", ".join(str(r.identity.seed) for r in reported.side.records if r.identity.seed is not None)
    what = {
        "method": record.method, "variant": identity.variant, "kind": record.kind, "seeds": seeds,
        "command": repeatable_command(record.command), "made": record.created,
    }  # fmt: skip
    parts: list[tuple[str, Mapping[str, Any]]] = [("Run", what)]
    if data is not None:
        nature = "demo, synthetic pictures" if data.is_demo else "official" if data.is_official else "own data"
        parts.append(("Data", {
            "data": data.label, "nature": nature, "fingerprint": data.fingerprint, "limited to": identity.limit,
            "categories": identity.category and identity.category.words,
            "subset": identity.subset and f"{identity.subset.name}, {identity.subset.queries:,} queries listed",
            "missing pictures": len(identity.missing_pictures) or None,
        }))  # fmt: skip
    if encoder is not None:
        parts.append(("Encoder", encoder.model_dump(mode="json")))
    parts.append(("Recipe", {
        "recipe": identity.recipe, "source": identity.recipe_source, "batch": identity.batch_size,
        "negative group": identity.negative_group, "selection": identity.selection, "precision": identity.precision,
        "text rule": identity.text_rule, **{f"method.{k}": v for k, v in identity.method_settings.items()},
    }))  # fmt: skip
    for stage in identity.stages:
        told = {"recipe": stage.recipe, "updates": f"{stage.updates:,}", "triplets seen": f"{stage.triplets_seen:,}"}
        parts.append((f"Stage {stage.name}", {**told, "seed": stage.seed, **stage.settings}))
    commit = record.code.commit and record.code.commit + (", changed since" if record.code.dirty else "")
    parts.append(("Program and machine", {
        "version": record.code.version, "commit": commit, **record.environment.model_dump(mode="json"),
        **{f"time, {name}": f"{seconds:.1f} s" for name, seconds in record.timings.items()},
        **{f"memory, {name}": f"{size / 2**20:,.0f} MiB" for name, size in record.peak_memory_bytes.items()},
        "cost": record.cost and format_cost(record.cost),
        "not fixed by the seed": "; ".join(record.not_fixed),
    }))  # fmt: skip
    return [(title, list(_shown(values))) for title, values in parts]


def _shown(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if value not in (None, "", [], {}, ()):
            yield name, without_folders(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
