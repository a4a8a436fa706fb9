"""What `throughput` prints: a record's measurements as a table, each beside its limit.

A speed reads "1,234 ± 3 %": the median and half of what lies between its quartiles.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from tabulate import tabulate

from benchmark.records.measurement import Measurement
from benchmark.records.record import Record
from benchmark.records.tables import SYNTHETIC

_LEFT = ("part", "limit", "work")


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
    notes_below = "".join(f"\n- {note}" for note in notes(record))
    return f"{heading(record)}\n\n{table(rows, left=_LEFT)}\n{notes_below}"


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
