"""What is said of speeds: the tables that `throughput` prints, and the leaderboard's page of them.

A printed speed reads "1,234 ± 3 %": the median and half of what lies between its quartiles. The page has
a section for each machine and a row for each identity, nothing averaged; a cell there reads "1,234 (0.96)":
the median, and the share of its limit's speed.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from benchmark.files import digest_of
from benchmark.leaderboards.book import FurtherPage
from benchmark.records.record import Measurement, Record, repeatable_command, run_key
from benchmark.records.tables import SYNTHETIC
from benchmark.throughput.growth_curves import FACTORS, curves
from benchmark.throughput.growth_curves import METHOD as GROWTH

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


def throughput_table(record: Record) -> str:
    """Heading, table and notes of one record, markdown."""
    rows = []
    for name, found in record.throughput.items():
        spread = peaks = ""
        if found.low is not None and found.high is not None and found.value:
            spread = f" ± {50 * (found.high - found.low) / found.value:.0f} %"
        if found.peak_bytes is not None:
            beside = "" if found.limit_peak_bytes is None else f" ({found.limit_peak_bytes / 1e6:,.0f})"
            peaks = f"{found.peak_bytes / 1e6:,.0f}{beside}"
        row = {
            "part": name,
            "measured": f"{number(found.value)} {found.unit}{spread}",
            "limit": "" if found.limit is None else f"{number(found.limit)}: {found.limit_of}",
            "of the limit": share(found),
            **arithmetic(found),
            "peak memory, MB": peaks,
            "work": found.work or "",
        }
        rows.append(row)
    below = "\n".join(f"- {note}" for note in notes(record))
    return f"{heading(record)}\n\n{table(rows, left=('part', 'limit', 'work'))}\n\n{below}"


def heading(record: Record) -> str:
    """ "SPIRIT · tiny, random weights · fp32 · demo-cirr (synthetic pictures)" """
    return " · ".join([record.title, *identity_words(record)])


def identity_words(record: Record) -> list[str]:
    """What makes two speeds of one machine comparable, but the title: encoder, precision, data."""
    identity = record.identity
    words = []
    if identity.encoder is not None:
        start = "random" if identity.encoder.start == "random" else identity.encoder.weights
        words.append(f"{identity.encoder.name}, {start} weights")
    elif record.method:
        words.append("own networks")
    words.append(identity.precision)
    if identity.data is not None:
        words.append(identity.data.label + (f" ({SYNTHETIC})" if identity.data.is_demo else ""))
    if identity.limit:
        words.append(f"limited to {identity.limit}")
    return words


def machine(record: Record) -> str:
    """The machine that a speed is of, in words."""
    place = record.environment
    threads = f"{place.threads} thread{'s' if place.threads > 1 else ''}"
    return f"{place.device} · {threads} · {place.platform} · torch {place.torch}"


def notes(record: Record) -> list[str]:
    """What stands below a table."""
    identity = record.identity
    found = [f"On {machine(record)}."]
    if identity.recipe:
        found.append(f"Recipe {identity.recipe}: {identity.recipe_source}.")
    return found + [f"{note[:1].upper()}{note[1:]}." for note in record.not_fixed]


def table(rows: Sequence[Mapping[str, str]], left: Container[str] | None = None) -> str:
    """Markdown; columns in the order of their first row; those that are empty in every row are left out.

    ``left``: the columns that are not aligned at the right, None for all of them.
    """
    names = [name for name in dict.fromkeys(n for row in rows for n in row) if any(row.get(name) for row in rows)]
    return tabulate(
        [[row.get(name, "") for name in names] for row in rows],
        headers=names,
        tablefmt="pipe",
        colalign=["left" if left is None or name in left else "right" for name in names],
        disable_numparse=True,
    )


def arithmetic(found: Measurement) -> dict[str, str]:
    """The columns that say what a speed is in operations."""
    return {
        "GFLOP/s": "" if found.flops is None else number(found.flops / 1e9),
        "of the data sheet": "" if found.utilisation is None else f"{100 * found.utilisation:.0f} %",
    }


def share(found: Measurement) -> str:
    """The share of the limit's speed, empty where there is none."""
    return "" if found.ratio is None else f"{found.ratio:.2f}"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def growth_table(record: Record) -> str:
    """Times and memory by size with the exponents, markdown."""
    rows: list[Row] = []
    for curve in curves(record):
        part, sizes, (of_time, of_memory) = curve.part, curve.sizes, curve.exponents
        megabytes = [held / 1e6 for held in curve.bytes]
        # What one more costs, between the smallest and the largest.
        milliseconds, kilobytes = (
            1e3 * (values[-1] - values[0]) / max(sizes[-1] - sizes[0], 1) for values in (curve.seconds, megabytes)
        )
        for name, quantity, values, exponent, one_more in (
            (f"{part.name}: {part.work}", "time, s", curve.seconds, of_time, f"{number(milliseconds)} ms"),
            (f"{sizes[0]:,} to {sizes[-1]:,} {part.unit}", "memory, MB", megabytes, of_memory, f"{kilobytes:,.2f} kB"),
        ):
            by_size = {f"x {factor}": number(value) for factor, value in zip(FACTORS, values, strict=True)}
            shown = "" if exponent is None else f"{exponent:.2f}"
            rows.append({"part": name, "": quantity, **by_size, "exponent": shown, "each one more": one_more})
    return table(rows, left=("part", ""))


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
        command = repeatable_command(record.command)
        lines[f"- version {record.code.version}{commit}{changes}: `{command}`{doubts}\n"] = None
    return "### How it was measured\n\n" + "".join(lines)


THROUGHPUT_PAGE = FurtherPage("throughput", "throughput.md", render_throughput, throughput_refusals, throughput_folder)
