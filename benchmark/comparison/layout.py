"""A comparison as text: markdown and LaTeX for reading, CSV and JSON with every digit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby

from tabulate import tabulate

from benchmark.comparison.comparison import Comparison, MetricDifference, QueryDifference
from benchmark.evaluation.metrics import components
from benchmark.records.layout import listed, paragraph, pipe_table, short_name

_CAPTION = (
    "Difference: first minus second, in points; [95 % interval by bootstrap over groups of queries and over seeds]",
    "p: sign-flip test over groups, seeds averaged; Holm: corrected for all {count} differences compared here",
    "Wins, ties, losses: queries on which the first side is better, equal, worse; all but ties decide",
)


def format_comparison(comparison: Comparison, form: str) -> str:
    """``form``: a name of :data:`FORMATS`."""
    return FORMATS[form](comparison)


def _markdown(comparison: Comparison) -> str:
    count = len(comparison.differences)
    seeds = [f"{label}: {number} {'seed' if number == 1 else 'seeds'}" for label, number in comparison.seeds]
    means = {d.metric for d in comparison.differences if components(d.metric)}
    names = ["Rs: R_subset"] * any("R_subset" in d.metric for d in comparison.differences)
    names += [f"mean: {metric}" for metric in sorted(means)]
    captions = [sentence.format(count=count) for sentence in _CAPTION]
    parts = [paragraph(["; ".join(seeds), *captions, *(["; ".join(names)] if names else [])])]
    for (key, first, second), members in groupby(comparison.differences, key=lambda d: (d.key, d.first, d.second)):
        rows = list(members)
        parts.append(f"## {first} against {second}: {key}\n\n{pipe_table([_HEADS], _cells(rows), _ALIGN)}")
        parts.append(f"{rows[0].queries:,} queries in {rows[0].groups:,} groups.\n")
        if queries := [q for q in comparison.queries if (q.key, q.first, q.second) == (key, first, second)]:
            parts.append(_query_table(queries))
    if comparison.left_out:
        parts.append(listed([f"Left out, since only some of the runs have it: {key}" for key in comparison.left_out]))
    return "\n".join(parts)


_HEADS = ["metric", "first", "second", "difference", "95 % interval", "p", "Holm", "wins/ties/losses"]
_ALIGN = ["left", *["right"] * (len(_HEADS) - 1)]


def _cells(rows: Sequence[MetricDifference]) -> list[list[str]]:
    return [
        [short_name(d.metric), f"{d.first_value:.2f}", f"{d.second_value:.2f}", f"{d.difference:+.2f}",
         f"[{d.low:+.2f}, {d.high:+.2f}]", format_p(d.p), format_p(d.p_holm), f"{d.wins}/{d.ties}/{d.losses}"]
        for d in rows
    ]  # fmt: skip


def format_p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


def _query_table(queries: Sequence[QueryDifference]) -> str:
    cells = [[q.query, f"{q.first_rank:,.0f}", f"{q.second_rank:,.0f}"] for q in queries]
    table = pipe_table([["query", "rank by the first", "by the second"]], cells, ["left", "right", "right"])
    return f"The {len(queries)} queries on which they differ most:\n\n{table}"


def _latex(comparison: Comparison) -> str:
    parts = []
    for (key, first, second), members in groupby(comparison.differences, key=lambda d: (d.key, d.first, d.second)):
        table = tabulate(_cells(list(members)), _HEADS, "latex_booktabs", colalign=_ALIGN, disable_numparse=True)
        parts.append(f"% {first} against {second}: {key}\n{table}\n")
    return "\n".join(parts)


def _csv(comparison: Comparison) -> str:
    stream = io.StringIO()
    rows = [_flat(difference) for difference in comparison.differences]
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["metric"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(part: MetricDifference | QueryDifference) -> dict[str, object]:
    values = asdict(part)
    key: Mapping[str, object] = values.pop("key")
    return {**key, **values}


def _json(comparison: Comparison) -> str:
    whole = {
        "sides": [{"label": label, "seeds": seeds} for label, seeds in comparison.seeds],
        "differences": [_flat(difference) for difference in comparison.differences],
        "queries": [_flat(query) for query in comparison.queries],
        "left_out": [asdict(key) for key in comparison.left_out],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
