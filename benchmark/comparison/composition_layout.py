"""A composition as text for reading, and as JSON with every digit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from benchmark.comparison.comparison import MetricDifference
from benchmark.comparison.composition import CompositionAt, CompositionFindings
from benchmark.comparison.layout import format_p
from benchmark.records.layout import WIDTH, listed, paragraph, pipe_table
from benchmark.records.record import Record
from benchmark.records.rows import COMPOSITION_CUTOFF, COMPOSITION_METRICS, plain

_READING = (
    "Percent of the queries, [95 % interval by bootstrap over groups of queries]",
    "gap: method - max(picture, text); relative: gap / (100 - max(picture, text)); p: sign-flip tests of the method "
    "against the picture alone and the text alone: both must hold",
    "one: solvable by one modality, max of both hits; composed: what the method alone finds; lost: what one modality "
    "finds and the method does not; composed - lost is the gap to the union",
    "hard: queries that neither modality solves, and the method's recall on those. On this encoder they are chosen by "
    "its own failures, which raises the recall on them: compare it across encoders only",
)

_PRECISE_READING = (
    "mAP@k has average precisions over all positives in the place of hits by the best of them: one is the mean of the "
    "better modality's; what is counted by hits it does not have"
)

_SHORT_READING = (
    "Picture, text: one modality alone on the same encoder; gap: method - max of both; one: found by either; composed: "
    "found by the method alone; lost: by either and not by the method; hard: the method's recall on what neither finds",
    "`compose RUN` tells more",
)


def format_composition(composition: CompositionFindings, form: str) -> str:
    """``form``: a name of :data:`COMPOSITION_FORMATS`."""
    return COMPOSITION_FORMATS[form](composition)


def _markdown(composition: CompositionFindings) -> str:
    parts = [
        f"# Composition: {plain(composition.label)}\n",
        paragraph([f"Encoder of all three: {plain(composition.encoder)}", *_READING, *_precise(composition.at)]),
    ]
    for key, members in groupby(composition.at, key=lambda at: at.key):
        rows = list(members)
        parts.append(f"## {key}\n\n{_recalls(rows)}")
        parts.append(_shares(rows))
        parts += [_eight(at) for at in rows if at.metric == COMPOSITION_CUTOFF]
        parts += [_prompt(found)] if (found := [part for part in composition.prompt if part.key == key]) else []
        if key in composition.log_ratio:
            ratio = composition.log_ratio[key]
            parts.append(
                listed(
                    [
                        f"Median over queries of log(min(rank by picture, rank by text) / rank): {ratio:+.2f}; above "
                        "0 the method puts the positive before the better modality does"
                    ]
                )  # fmt: skip
            )
    return "\n".join(parts)


def _precise(rows: Iterable[CompositionAt]) -> list[str]:
    return [_PRECISE_READING] if any(at.metric.startswith("mAP@") for at in rows) else []


def _recalls(rows: Sequence[CompositionAt]) -> str:
    cells = [
        [at.metric, f"{at.picture:.2f}", f"{at.text:.2f}", f"{at.method:.2f}", f"{at.gap:+.2f}",
         _span(at.gap_interval, "+"), _known(at.relative_gap, "+"), f"{format_p(at.p_picture)}, {format_p(at.p_text)}"]
        for at in rows
    ]  # fmt: skip
    heads = ["", "picture", "text", "method", "gap", "95 % interval", "relative", "p"]
    return pipe_table([heads], cells, ["left", *["right"] * (len(heads) - 1)])


def _shares(rows: Sequence[CompositionAt]) -> str:
    """Numbers, and below each its interval; that of the hard part is the union's, taken from 100."""
    cells = []
    for at in rows:
        of_hits = map(_known, (at.composed, at.lost, at.hard, at.hard_recall))
        cells.append([at.metric, f"{at.union:.2f}", f"{at.gap_to_union:+.2f}", *of_hits])
        cells.append(["", _span(at.union_interval), _span(at.gap_to_union_interval, "+"), _span(at.composed_interval),
                      _span(at.lost_interval), "", _span(at.hard_recall_interval)])  # fmt: skip
    heads = ["", "one", "gap to it", "composed", "lost", "hard", "recall"]
    return pipe_table([heads], cells, ["left", *["right"] * (len(heads) - 1)])


def _eight(at: CompositionAt) -> str:
    cells = [
        [("picture and text" if text else "picture alone") if picture else ("text alone" if text else "neither"),
         f"{at.table[picture, text, True]:,}", f"{at.table[picture, text, False]:,}"]
        for picture, text in ((True, True), (True, False), (False, True), (False, False))
    ]  # fmt: skip
    heads = [f"queries by hits at {at.metric}, first seed", "method hits", "misses"]
    return pipe_table([heads], cells, ["left", "right", "right"])


def _prompt(rows: Sequence[MetricDifference]) -> str:
    """The second text row of a method that puts a picture's word into a sentence."""
    cells = [
        [part.metric, f"{part.second_value:.2f}", f"{part.first_value:.2f}", f"{part.difference:+.2f}",
         _span((part.low, part.high), "+"), format_p(part.p)]
        for part in rows
    ]  # fmt: skip
    heads = ["its prompt, a mere sign for the word", "prompt", "method", "word adds", "95 % interval", "p"]
    return pipe_table([heads], cells, ["left", *["right"] * (len(heads) - 1)])


def _known(value: float, sign: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{sign}.2f}"


def _span(interval: tuple[float, float], sign: str = "") -> str:
    low, high = interval
    return "" if math.isnan(low) else f"[{low:{sign}.1f}, {high:{sign}.1f}]"


def _json(composition: CompositionFindings) -> str:
    whole = {
        "label": composition.label,
        "encoder": composition.encoder,
        "at": [_flat(at) for at in composition.at],
        "log_ratio": [{**asdict(key), "median": value} for key, value in composition.log_ratio.items()],
        "prompt": [
            {**asdict(part.key), "metric": part.metric, "prompt": part.second_value, "method": part.first_value,
             "word": part.difference, "word_interval": [part.low, part.high], "p": part.p}
            for part in composition.prompt
        ],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _flat(at: CompositionAt) -> dict[str, Any]:
    """JSON has no NaN and no keys of three: None, and digits of picture, text, method."""
    values = asdict(at)
    key, table = values.pop("key"), values.pop("table")
    digits = {"".join(str(int(hit)) for hit in hits): count for hits, count in table.items()}
    return {**key, **{name: _plain(value) for name, value in values.items()}, "table": digits}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


COMPOSITION_FORMATS: Mapping[str, Callable[[CompositionFindings], str]] = {"markdown": _markdown, "json": _json}


def composition_section(record: Record, width: int = WIDTH) -> str:
    """What `run` prints below its tables: each task's composition at one cut-off, and by mAP where that is the main
    number; "" where none is known."""
    found = [table for metric in COMPOSITION_METRICS if (table := _short_table(record, metric))]
    if not found:
        return ""
    *reading, more = _SHORT_READING
    return "\n".join([*found, paragraph([*reading, *[_PRECISE_READING] * (len(found) > 1), more], width)])


def _short_table(record: Record, metric: str) -> str:
    """A line a task; "" where none has the metric."""
    known = {result.key: result for result in reversed(record.results) if metric in result.composition}
    rows = []
    for result in reversed(known.values()):
        at = result.composition[metric]
        label = " · ".join(filter(None, (result.protocol, result.text_mode, result.category)))
        values = [f"{value:.2f}" for value in (at.picture, at.text, result.metrics[metric])]
        half = (at.gap_interval[1] - at.gap_interval[0]) / 2
        of_hits = ["" if value is None else f"{value:.2f}" for value in (at.composed, at.lost, at.hard_recall)]
        rows.append([label, *values, f"{at.gap:+.2f}", f"{half:.1f}", f"{at.union:.2f}", *of_hits])
    heads = [f"composition, {metric}", *"picture text method gap ± one composed lost hard".split()]
    if metric != COMPOSITION_CUTOFF:
        heads, rows = heads[:-3], [row[:-3] for row in rows]
    return pipe_table([heads], rows, ["left", *["right"] * (len(heads) - 1)]) if rows else ""
