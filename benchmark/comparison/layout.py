"""A comparison as text: markdown and LaTeX for reading, CSV and JSON with every digit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby

from benchmark.comparison.comparison import Comparison, MetricDifference, QueryDifference
from benchmark.dataset import TaskKey
from benchmark.evaluation.metrics import components
from benchmark.records.escaping import Value, csv_text, latex_escaped, latex_numbers, latex_typed
from benchmark.records.layout import listed, paragraph, pipe_table, short_name
from benchmark.records.rows import plain

_TOLD_APART = 0.05
_CAPTION = (
    "Difference: first minus second, in points; [95 % interval by bootstrap over groups of queries and over seeds, "
    "pairwise where both sides have the same]",
    "p: sign-flip test over groups of queries, for these seeds, averaged (the interval allows for other seeds, too)",
    "Holm: p corrected for all {count} differences compared here; bold: told apart, at most .05 (of {count}: {apart})",
    "Wins, ties, losses: queries on which the first side is better, equal, worse; all but ties decide",
)


def format_comparison(comparison: Comparison, form: str) -> str:
    """``form``: a name of :data:`FORMATS`."""
    return FORMATS[form](comparison)


def _markdown(comparison: Comparison) -> str:
    parts = [paragraph([*_sides(comparison), *_reading(comparison)])]
    for (key, first, second), rows in _pairs(comparison):
        parts.append(f"## {plain(first)} against {plain(second)}: {key}\n")
        parts.append(pipe_table([_HEADS], _cells(rows), _ALIGN))
        parts.append(f"{rows[0].queries:,} queries in {rows[0].groups:,} groups.\n")
        if queries := [q for q in comparison.queries if (q.key, q.first, q.second) == (key, first, second)]:
            parts.append(_query_table(queries, dict(comparison.seeds)))
    if comparison.left_out:
        parts.append(listed([f"Left out, since only some of the runs have it: {key}" for key in comparison.left_out]))
    return "\n".join(parts)


def _sides(comparison: Comparison) -> list[str]:
    seeds = [f"{plain(label)}: {number} {'seed' if number == 1 else 'seeds'}" for label, number in comparison.seeds]
    return ["; ".join(seeds)]


def _reading(comparison: Comparison) -> list[str]:
    """What the numbers are, and what short names stand for, a sentence each."""
    count, apart = len(comparison.differences), sum(map(_is_told_apart, comparison.differences))
    names = ["Rs: R_subset"] * any("R_subset" in d.metric for d in comparison.differences)
    means = {d.metric for d in comparison.differences if components(d.metric)}
    names += [f"mean: {metric}" for metric in sorted(means)]
    captions = [sentence.format(count=count, apart=apart) for sentence in _CAPTION]
    return [*captions, *(["; ".join(names)] if names else [])]


def _is_told_apart(difference: MetricDifference) -> bool:
    return difference.p_holm <= _TOLD_APART


def _pairs(comparison: Comparison) -> Iterator[tuple[tuple[TaskKey, str, str], list[MetricDifference]]]:
    """A table each: a task and two sides."""
    for pair, members in groupby(comparison.differences, key=lambda d: (d.key, d.first, d.second)):
        yield pair, list(members)


_HEADS = ["metric", "first", "second", "difference", "95 % interval", "p", "Holm", "wins/ties/losses"]
_ALIGN = ["left", *["right"] * (len(_HEADS) - 1)]
_DIFFERENCE = _HEADS.index("difference")


def _cells(rows: Sequence[MetricDifference], bold: str = "**{}**") -> list[list[str]]:
    return [
        [short_name(d.metric), f"{d.first_value:.2f}", f"{d.second_value:.2f}",
         (bold if _is_told_apart(d) else "{}").format(f"{d.difference:+.2f}"),
         f"[{d.low:+.2f}, {d.high:+.2f}]", format_p(d.p), format_p(d.p_holm), f"{d.wins}/{d.ties}/{d.losses}"]
        for d in rows
    ]  # fmt: skip


def format_p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


def _query_table(queries: Sequence[QueryDifference], seeds: Mapping[str, int]) -> str:
    """Ranks are whole numbers where they are of one seed."""
    digits = [0 if seeds.get(side) == 1 else 1 for side in (queries[0].first, queries[0].second)]
    cells = [
        [plain(q.query), f"{q.first_rank:,.{digits[0]}f}", f"{q.second_rank:,.{digits[1]}f}"] for q in queries
    ]
    table = pipe_table([["query", "rank by the first", "by the second"]], cells, ["left", "right", "right"])
    of_seeds = " (geometric mean over seeds)" if any(digits) else ""
    return f"The {len(queries)} queries on which they differ most, by the ratio of their ranks{of_seeds}:\n\n{table}"


def _latex(comparison: Comparison) -> str:
    """A table environment for each pair, for `\\usepackage{booktabs}`."""
    reading = [latex_typed(f"{sentence.rstrip('.')}.") for sentence in _reading(comparison)]
    seeds = dict(comparison.seeds)
    parts = []
    for number, ((key, first, second), rows) in enumerate(_pairs(comparison), 1):
        sides = " against ".join(f"{latex_typed(side)} ({seeds[side]})" for side in (first, second))
        size = f"{rows[0].queries:,} queries in {rows[0].groups:,} groups."
        lines = []
        for row, cells in zip(rows, _cells(rows, bold="{}"), strict=True):
            shown = list(map(latex_numbers, cells))
            if _is_told_apart(row):
                shown[_DIFFERENCE] = rf"\textbf{{{shown[_DIFFERENCE]}}}"
            lines.append(" & ".join(shown) + r" \\")
        parts += [
            r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(_HEADS) - 1)}}}", r"\toprule",
            " & ".join(map(latex_escaped, _HEADS)) + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}",
            rf"\caption{{{sides} (seeds in brackets), {latex_typed(str(key))}: {size} {' '.join(reading)}}}",
            rf"\label{{tab:comparison-{number}}}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(parts)


def _csv(comparison: Comparison) -> str:
    return csv_text([_flat(difference) for difference in comparison.differences], "metric")


def _flat(part: MetricDifference | QueryDifference) -> dict[str, Value]:
    values = asdict(part)
    key: Mapping[str, Value] = values.pop("key")
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
