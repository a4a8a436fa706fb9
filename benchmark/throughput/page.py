"""The leaderboard's page of speeds: a section for each machine, a row for each identity, nothing averaged.

A cell reads "1,234 (0.96)": the median, and the share of its limit's speed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmark.files import digest_of
from benchmark.leaderboards.leaderboard import FurtherPage
from benchmark.records.record import Measurement, Record, repeatable_command, run_key
from benchmark.throughput.growth_curves import METHOD as GROWTH
from benchmark.throughput.growth_curves import growth_table
from benchmark.throughput.tables import arithmetic, heading, identity_words, machine, number, share, table

RECORDS = "throughput"

_READING = """Speed depends on the machine: rows of one machine are comparable, those of two are not. A cell holds the
median and in brackets how much of its limit's speed is reached, 1.00 being all of it. Part and limit were measured in
turn in one process. The limits: a plain Pillow loop for decoding, a bare forward pass for encoding, a plain PyTorch
loop on tensors in memory for updates, the bare matrix products and convolutions of the same shapes for triplets, a
copy of memory for the gathering of features, a bare matrix product for ranking, and decoding, forward passes and
products alone for one query. What pictures, weights and data were, each row tells.
"""

_HOW_TO_ADD = """## How to add a row

    python -m benchmark throughput --method METHOD --backbone BACKBONE
    python -m benchmark leaderboard --add RECORD

RECORD is the folder that the first command names below each table. Records shortened by `--limit` are refused.
"""

Row = dict[str, str]


def render_throughput(records: Iterable[Record]) -> str:
    """The page, markdown; of the records those of other kinds are left out, and those that are refused."""

    def order(record: Record) -> tuple[str, str, str, str]:
        encoder = record.identity.encoder
        return machine(record), encoder.name if encoder else "", record.method, run_key(record)

    by_machine: dict[str, list[Record]] = {}
    for record in sorted((r for r in records if r.kind == "throughput" and not throughput_refusals(r)), key=order):
        by_machine.setdefault(machine(record), []).append(record)
    parts = [
        "# Throughput: speeds beside their limits\n\nMade by `python -m benchmark leaderboard` from the records in "
        "`results/records/throughput`; not edited by hand.\n",
        _READING if by_machine else "There are no speeds yet: nobody has added a record.\n",
        *(_section(name, found) for name, found in by_machine.items()),
        _HOW_TO_ADD,
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def throughput_refusals(record: Record) -> list[str]:
    """Why a record of speeds is none for the page, in words."""
    if record.identity.limit:
        return [f"it was shortened by --limit {record.identity.limit}; measure without"]
    return []


def throughput_folder(record: Record) -> Path:
    """Where a record of speeds is kept among the records: by machine, then by what was measured."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", record.environment.device).strip("-").lower()
    place = f"{name}-{digest_of(machine(record))[:8]}"
    what = re.sub(r"[^A-Za-z0-9_]+", "-", record.method)
    return Path(RECORDS) / place / f"{what}-{run_key(record)[:12]}"


def _section(name: str, records: Sequence[Record]) -> str:
    grown = [record for record in records if record.method == GROWTH]
    others = [record for record in records if record.method != GROWTH]
    tables = {
        "Pictures and texts": [row for record in others for row in _encoder_rows(record)],
        "Training": [row for record in others for row in _stage_rows(record)],
        "Answering": [row for record in others for row in _query_rows(record)],
    }
    parts = [f"## {name}\n"]
    parts += [f"### {title}\n\n{table(rows)}\n" for title, rows in tables.items() if rows]
    parts += [f"### {heading(record)}\n\n{growth_table(record)}\n" for record in grown]
    return "\n".join([*parts, _measured_by(records)])


def _encoder_rows(record: Record) -> list[Row]:
    """One row of a record that holds speeds of a backbone: a cell for each part."""
    found = record.throughput
    if any(name.startswith(("ranking", "one query")) or ": " in name for name in found):
        return []
    cells = {f"{name}, {measured.unit}": _cell(measured) for name, measured in found.items()}
    pictures = next((m.work or "" for name, m in found.items() if name.startswith("decoding")), "")
    return [{**_who(record), "pictures": pictures, **cells}]


def _stage_rows(record: Record) -> list[Row]:
    found = record.throughput
    rows = []
    for stage in dict.fromkeys(name.partition(": ")[0] for name in found if name.endswith(": updates")):
        updates, triplets = found[f"{stage}: updates"], found[f"{stage}: triplets"]
        read = found.get(f"{stage}: gathering") or found.get(f"{stage}: loading")
        rows.append(
            {
                "method": record.title,
                **_who(record),
                "stage": stage,
                "batch": (updates.work or "").rpartition(", ")[0].removeprefix("batch "),
                "updates/s (of a plain loop)": _cell(updates),
                "triplets/s (of bare products)": _cell(triplets),
                **arithmetic(triplets),
                "reading": "" if read is None else f"{_cell(read)} {read.unit}",
                "peak memory, MB": "" if updates.peak_bytes is None else f"{updates.peak_bytes / 1e6:,.0f}",
            }
        )
    return rows


def _query_rows(record: Record) -> list[Row]:
    found = record.throughput
    if "ranking" not in found:
        return []
    return [
        {
            "method": record.title,
            **_who(record),
            "ranking": found["ranking"].work or "",
            "queries ranked/s": _cell(found["ranking"]),
            "one query": found["one query, p50"].work or "",
            "p50, ms": _cell(found["one query, p50"]),
            "p95, ms": _cell(found["one query, p95"]),
        }
    ]


def _who(record: Record) -> Row:
    """The columns that say what a row's speed is of."""
    encoder, precision, *data = identity_words(record)
    return {"encoder": encoder, "precision": precision, "data": ", ".join(data)}


def _cell(measured: Measurement) -> str:
    ratio = share(measured)
    return number(measured.value) + (f" ({ratio})" if ratio else "")


def _measured_by(records: Sequence[Record]) -> str:
    """The commands, each once, with the code's version and what made the measuring doubtful."""
    lines: dict[str, None] = {}
    for record in records:
        commit = f", commit {record.code.commit[:12]}" if record.code.commit else ""
        changes = ", with uncommitted changes" if record.code.dirty else ""
        doubts = "".join(f"; {note}" for note in record.not_fixed)
        lines[f"- version {record.code.version}{commit}{changes}: `{repeatable_command(record)}`{doubts}\n"] = None
    return "### How it was measured\n\n" + "".join(lines)


THROUGHPUT_PAGE = FurtherPage("throughput", "throughput.md", render_throughput, throughput_refusals, throughput_folder)
