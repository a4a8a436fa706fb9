"""Records as data frames: one row per run, task and metric; and the ranks behind a record, one row per query."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError, gathered
from benchmark.records.record import Record, Result, read_per_query, read_record, record_files

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    *("dataset", "data", "split", "protocol", "text_mode", "category", "method", "variant", "title", "seed"),
    *("weights_from", "measured_by", "metric", "value", "low", "high", "queries", "gallery", "ties", "recipe"),
    *("selection", "text_rule", "encoder", "encoder_weights", "encoder_state", "batch_size", "negative_group"),
    *("noise", "trained_on", "limit", "kind", "created", "version", "commit", "device", "record"),
)
QUERY_COLUMNS = (
    *("dataset", "split", "protocol", "text_mode", "category", "weights_from", "query", "group", "rank", "subset_rank"),
)


def load_records(*paths: str | Path) -> pandas.DataFrame:
    """All records at or below the paths, tidy: a row per run, task and metric, with :data:`COLUMNS`.

    ``data`` is "official", "demo" or "own"; ``noise`` the share of noisy training triplets, ``trained_on`` another
    dataset whose triplets were trained on ("" where they are its own); ``value``, ``low`` and ``high`` (ends of the
    95 % interval) are percent; ``record`` is the record's file. Raises UserError for a path that is not there or a
    record that cannot be read.
    """
    import pandas

    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for file in record_files(map(Path, paths or ("results/records",))):
        with gathered(problems):
            rows += _rows(read_record(file), file)
    if problems:
        raise UserError.collect(problems)
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64", "limit": "Int64"})


def per_query(path: str | Path) -> pandas.DataFrame:
    """The ranks behind a record (its file or folder): a row per result and query, with :data:`QUERY_COLUMNS`.

    ``rank`` is that of the best positive, from 1, and missing where labels are hidden; queries of one ``group`` are not
    independent. Raises UserError where there are none, or where they are not the record's.
    """
    import pandas

    record = read_record(Path(path))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    frames = []
    for index, found in read_per_query(folder, record).items():
        subset = found.subset_rank if found.subset_rank is not None else [None] * found.queries
        ranks = {"query": list(found.ids), "group": found.group, "rank": found.rank, "subset_rank": subset}
        frame = pandas.DataFrame(ranks).astype({"rank": "Int64", "subset_rank": "Int64"})
        frame["rank"] = frame["rank"].mask(frame["rank"] == 0)
        result = record.results[index]
        frames.append(frame.assign(**{name: getattr(result, name) for name in QUERY_COLUMNS[:6]}))
    if not frames:
        raise UserError(f"{path}: no ranks lie beside this record; name the run's own folder")
    return pandas.concat(frames, ignore_index=True)[list(QUERY_COLUMNS)]


def _rows(record: Record, file: Path) -> Iterator[dict[str, Any]]:
    identity, data = record.identity, record.identity.data
    if data is None:
        return
    encoder = identity.encoder
    of_run = {
        "data": "demo" if data.is_demo else "official" if data.is_official and not data.different else "own",
        "method": record.method, "variant": identity.variant, "title": record.title, "seed": identity.seed,
        "recipe": identity.recipe, "selection": identity.selection, "text_rule": identity.text_rule,
        "encoder": encoder.name if encoder else "", "encoder_weights": encoder.weights if encoder else "",
        "encoder_state": encoder.state if encoder else "", "batch_size": identity.batch_size,
        "negative_group": identity.negative_group, "noise": identity.noise.share if identity.noise else 0.0,
        "trained_on": identity.training_data.name if identity.training_data else "", "limit": identity.limit,
        "kind": record.kind, "created": record.created, "version": record.code.version, "commit": record.code.commit,
        "device": record.environment.device, "record": str(file),
    }  # fmt: skip
    for result in record.results:
        for metric, value in result.metrics.items():
            low, high = result.intervals.get(metric, (None, None))
            yield {**of_run, **_of_result(result), "metric": metric, "value": value, "low": low, "high": high}


def _of_result(result: Result) -> dict[str, Any]:
    names = ("dataset", "split", "protocol", "text_mode", "category", "weights_from", "measured_by")
    return {name: getattr(result, name) for name in (*names, "queries", "gallery", "ties")}
