"""A composition as text for reading, and as JSON with every digit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from benchmark.comparison.comparison import MetricDifference
from benchmark.comparison.composition import CompositionAt, CompositionFindings
from benchmark.comparison.layout import format_p
from benchmark.records.layout import WIDTH, listed, paragraph, pipe_table
from benchmark.records.record import Record
from benchmark.records.rows import COMPOSITION_CUTOFF, plain

_READING = (
    "Percent of the queries, [95 % interval by bootstrap over groups of queries]",
    "gap: method - max(picture, text); relative: gap / (100 - max(picture, text)); p: sign-flip tests of the method "
    "against the picture alone and the text alone: both must hold",
    "one: solvable by one modality, max of both hits; composed: what the method alone finds; lost: what one modality "
    "finds and the method does not; composed - lost is the gap to the union",
    "hard: queries that neither modality solves, and the method's recall on those. On this encoder they are chosen by "
    "its own failures, which raises the recall on them: compare it across encoders only",
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
        paragraph([f"Encoder of all three: {plain(composition.encoder)}", *_READING]),
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
        cells.append([at.metric, f"{at.union:.2f}", f"{at.gap_to_union:+.2f}", f"{at.composed:.2f}", f"{at.lost:.2f}",
                      f"{at.hard:.2f}", _known(at.hard_recall)])  # fmt: skip
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
    """What `run` prints below its tables: each task's composition at one cut-off; "" where none is known."""
    known = {result.key: result for result in reversed(record.results) if COMPOSITION_CUTOFF in result.composition}
    rows = [
        [" · ".join(filter(None, (result.protocol, result.text_mode, result.category))),
         f"{at.picture:.2f}", f"{at.text:.2f}", f"{result.metrics[COMPOSITION_CUTOFF]:.2f}", f"{at.gap:+.2f}",
         f"{(at.gap_interval[1] - at.gap_interval[0]) / 2:.1f}", f"{at.union:.2f}", f"{at.composed:.2f}",
         f"{at.lost:.2f}", "" if at.hard_recall is None else f"{at.hard_recall:.2f}"]
        for result in reversed(known.values()) for at in [result.composition[COMPOSITION_CUTOFF]]
    ]  # fmt: skip
    if not rows:
        return ""
    heads = [f"composition, {COMPOSITION_CUTOFF}", *"picture text method gap ± one composed lost hard".split()]
    table = pipe_table([heads], rows, ["left", *["right"] * (len(heads) - 1)])
    return f"{table}\n{paragraph(_SHORT_READING, width)}"
