"""What `throughput` prints: a record's measurements as a table, each beside its limit.

A speed reads "1,234 ± 3 %": the median and half of what lies between its quartiles.
"""

from __future__ import annotations

from tabulate import tabulate

from benchmark.records.measurement import Measurement
from benchmark.records.record import Record
from benchmark.records.tables import DRAWN

_HEADERS = ("part", "measured", "limit", "of the limit", "GFLOP/s", "peak memory, MB", "work")
_MFU = "of the data sheet"


def throughput_table(record: Record) -> str:
    """Heading, table and notes of one record, markdown."""
    measured = record.throughput
    columns = [*_HEADERS[:5], *([_MFU] if any(m.utilisation for m in measured.values()) else []), *_HEADERS[5:]]
    lines = [[_cell(name, found, column) for column in columns] for name, found in measured.items()]
    empty = {i for i in range(len(columns)) if not any(line[i] for line in lines)}
    kept = [i for i in range(len(columns)) if i not in empty]
    body = tabulate(
        [[line[i] for i in kept] for line in lines],
        headers=[columns[i] for i in kept],
        tablefmt="pipe",
        colalign=["left" if columns[i] in ("part", "limit", "work") else "right" for i in kept],
        disable_numparse=True,
    )
    return f"{heading(record)}\n\n{body}\n" + "".join(f"\n- {note}" for note in notes(record))


def heading(record: Record) -> str:
    """ "SPIRIT · tiny, random weights · fp32 · demo-cirr (drawn pictures)" """
    return " · ".join([record.title, *identity_words(record)])


def identity_words(record: Record) -> list[str]:
    """What makes two speeds of one machine comparable, but the title."""
    identity = record.identity
    words = []
    if identity.encoder is not None:
        start = "random" if identity.encoder.start == "random" else identity.encoder.weights
        words.append(f"{identity.encoder.name}, {start} weights")
    elif record.method:
        words.append("own networks")
    words.append(identity.precision)
    if identity.data is not None:
        words.append(identity.data.label + (f" ({DRAWN})" if identity.data.is_demo else ""))
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
    found += [f"{note[:1].upper()}{note[1:]}." for note in record.not_fixed]
    return found


def _cell(name: str, found: Measurement, column: str) -> str:
    if column == "part":
        return name
    if column == "measured":
        return speed(found)
    if column == "limit":
        return "" if found.limit is None else f"{number(found.limit)}: {found.limit_of}"
    if column == "of the limit":
        return share(found)
    if column == "GFLOP/s":
        return "" if found.flops is None else number(found.flops / 1e9)
    if column == _MFU:
        return "" if found.utilisation is None else f"{100 * found.utilisation:.0f} %"
    if column == "work":
        return found.work or ""
    return memory(found)


def speed(found: Measurement) -> str:
    """The value with its unit and spread."""
    spread = ""
    if found.low is not None and found.high is not None and found.value:
        spread = f" ± {50 * (found.high - found.low) / found.value:.0f} %"
    return f"{number(found.value)} {found.unit}{spread}".replace(" /", "/")


def share(found: Measurement) -> str:
    """The share of the limit's speed, empty where there is none."""
    return "" if found.ratio is None else f"{found.ratio:.2f}"


def memory(found: Measurement) -> str:
    """Peak memory of the part, and of its limit."""
    if found.peak_bytes is None:
        return ""
    beside = "" if found.limit_peak_bytes is None else f" ({found.limit_peak_bytes / 1e6:,.0f})"
    return f"{found.peak_bytes / 1e6:,.0f}{beside}"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
