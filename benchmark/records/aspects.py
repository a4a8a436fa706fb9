"""What a run finds of queries by what they ask for, as text; a query counts under each of its aspects."""

from __future__ import annotations

from benchmark.evaluation.metrics import ASPECT_METRIC
from benchmark.records.layout import WIDTH, paragraph, pipe_table
from benchmark.records.record import Record


def aspect_section(record: Record, width: int = WIDTH) -> str:
    """A table of the weights that are reported first, a line per aspect, a column per task; "" without aspects."""
    told = [result for result in record.results if result.aspects]
    shown = [result for result in told if result.weights_from == told[0].weights_from]
    if not shown:
        return ""
    heads = [f"{ASPECT_METRIC} by aspect", "queries"]
    for result in shown:
        heads += [f"{result.protocol} · {result.text_mode}", "±"]
    lines = []
    for aspect, first in shown[0].aspects.items():
        line = [aspect, f"{first.queries:,}"]
        for result in shown:
            score = result.aspects[aspect]
            low, high = score.interval
            line += [f"{score.value:.2f}", f"{(high - low) / 2:.1f}"]
        lines.append(line)
    table = pipe_table([heads], lines, ["left", *["right"] * (len(heads) - 1)])
    return f"{table}\n{paragraph(['A query counts under each of its aspects'], width)}"
