"""The record of a run: one JSON file, validated on write and on read, and per-query results beside it.

Records are the only source of tables. ``schema_version`` says which form a file has; a reader
brings every older form to the present one through :data:`UPGRADES`, a step per version, and
refuses newer ones.

A folder holds ``record.json`` and, where queries were ranked here, ``per_query.npz`` (see
:mod:`benchmark.evaluation.per_query`). The record is written last: where it exists, the folder is complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from benchmark.dataset import TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import components
from benchmark.evaluation.per_query import FILE_NAME as PER_QUERY_NAME
from benchmark.evaluation.per_query import PerQuery, read_per_query_file, write_per_query_file
from benchmark.files import atomic_write_json, digest_of
from benchmark.records.identity import Code, Environment, Identity
from benchmark.records.measurement import (
    AspectScore,
    ComposedRecall,
    Cost,
    Count,
    Name,
    NameOrNone,
    Outside,
    Percent,
    Probe,
    RecordPart,
    Selected,
    Trial,
)
from benchmark.records.measurement import Measurement as Measurement
from benchmark.structured_files import read_json

SCHEMA_VERSION: Final = 4
RECORD_NAME = "record.json"

MetricName = Annotated[str, Field(pattern=r"^[\w@+,()/]+$")]
_OWN_FOLDERS = re.compile(r" --(?:cache|output)[ =](?:'[^']*'|\S+)")
"""Options of a command that name somebody's own folders and change no number."""


class Result(RecordPart):
    """Numbers of one column of a table.

    ``dataset`` is the label of the data (demo data and cuts have their manifest's name).
    ``weights_from``: which weights of the run were evaluated; "imported" where they were trained
    elsewhere, "external" where there are none (embeddings, rankings). ``measured_by`` "server" marks
    numbers returned by an official test server. ``metrics``: name ("R@10", "R_subset@1", "mAP@10") to
    percent; ``intervals``: the 95 % interval of those that have one. ``ties``: queries whose best
    positive ties with another picture; ``texts_cut``: texts longer than the encoder's context. In a mean
    over categories (``category`` "average") the counts are sums. ``composition``: of its recalls, where what one
    modality alone finds was looked for. ``aspects``: by what queries ask for, where that is known.
    """

    dataset: Name
    split: Name
    protocol: Name
    text_mode: Name
    category: NameOrNone = ""
    weights_from: Literal["selected", "last", "none trained", "imported", "external"]
    measured_by: Literal["this run", "server"] = "this run"
    metrics: dict[MetricName, Percent]
    intervals: dict[str, tuple[Percent, Percent]] = {}
    queries: Count
    gallery: Count
    ties: Count = 0
    texts_cut: Count = 0
    notes: tuple[str, ...] = ()
    composition: dict[MetricName, ComposedRecall] = {}
    aspects: dict[Name, AspectScore] = {}

    @property
    def key(self) -> TaskKey:
        return TaskKey(self.dataset, self.split, self.protocol, self.text_mode, self.category)

    @model_validator(mode="after")
    def _intervals_belong_to_metrics(self) -> Self:
        for name, (low, high) in self.intervals.items():
            if name not in self.metrics:
                raise ValueError(f"interval of '{name}', which is no metric of this result")
            if low > high:
                raise ValueError(f"interval of '{name}' ends ({high}) before it begins ({low})")
        for name, found in self.composition.items():
            better = max(found.picture, found.text)
            if name not in self.metrics or abs(self.metrics[name] - better - found.gap) > 0.01:
                raise ValueError(f"the composition of '{name}' is not that of this result's {name}")
            if name.startswith("R@") != (found.composed is not None):
                raise ValueError(f"the composition of '{name}' must count hits where it is a recall, and nowhere else")
        return self

    @model_validator(mode="after")
    def _metrics_agree_with_one_another(self) -> Self:
        """Recalls do not fall with k, and an average is that of its parts, as far as rounding to 0.01 goes."""
        recalls: dict[str, list[tuple[int, float]]] = {}
        for name, value in self.metrics.items():
            if match := re.fullmatch(r"(R|R_subset|R_target)@(\d+)", name):
                recalls.setdefault(match[1], []).append((int(match[2]), value))
            parts = [self.metrics[part] for part in components(name) if part in self.metrics]
            if parts and len(parts) == len(components(name)) and abs(sum(parts) / len(parts) - value) > 0.01:
                raise ValueError(f"{name} is {value}, and its parts give {sum(parts) / len(parts):.2f}")
        for kind, values in recalls.items():
            for (k, low), (larger, high) in pairwise(sorted(values)):
                if high < low:
                    raise ValueError(f"{kind}@{larger} is {high}, less than {kind}@{k}, {low}")
        return self


def _inside_the_folder(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"'{name}' is not the name of a file inside the record's folder")
    return name


FileName = Annotated[str, AfterValidator(_inside_the_folder)]


class StoredFile(RecordPart):
    """A file of the record's folder: relative name, bytes, sha256."""

    name: FileName
    size: Count
    sha256: str


class Record(RecordPart):
    """``timings``: seconds by phase. ``peak_memory_bytes``: by "process" and "device".

    ``cost``: of the method in use; ``trials``: of the search for its learning rate, in the order of the tuning's
    factors; ``probe``: what a few rows said of the method's contract; ``selected``: the epoch of each trained stage,
    where one was picked. ``outside``: of embeddings and rankings. ``weights``: sha256 of the weights that were
    evaluated, by their files' names in the run's folder. ``not_fixed``: what the seed did not fix. ``created``: UTC,
    "2030-01-31T12:00:00Z".
    """

    schema_version: Literal[4] = SCHEMA_VERSION
    kind: Literal["run", "embeddings", "rankings", "throughput"]
    method: Name
    title: str
    command: str
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    results: tuple[Result, ...] = ()
    identity: Identity
    code: Code
    environment: Environment
    timings: dict[str, Annotated[float, Field(ge=0)]] = {}
    throughput: dict[str, Measurement] = {}
    peak_memory_bytes: dict[str, Count] = {}
    cost: Cost | None = None
    probe: Probe | None = None
    selected: tuple[Selected, ...] = ()
    trials: tuple[Trial, ...] = ()
    outside: Outside | None = None
    not_fixed: tuple[str, ...] = ()
    weights: dict[FileName, str] = {}
    files: dict[str, StoredFile] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        data = self.identity.data
        if self.kind != "throughput" and (data is None or not self.results):
            raise ValueError(f"a record of kind '{self.kind}' needs a dataset and results")
        if self.kind == "throughput" and (self.results or not self.throughput):
            raise ValueError("a record of kind 'throughput' needs measurements and holds no results")
        for result in self.results:
            if data is None or result.dataset != data.label:
                raise ValueError(f"a result on '{result.dataset}', but the data is called otherwise")
        columns = [(r.key, r.weights_from, r.measured_by) for r in self.results]
        if len(set(columns)) != len(columns):
            raise ValueError("two results for the same column and weights")
        return self

    def as_json(self) -> dict[str, Any]:
        """The record as `record.json` holds it. File names keep their bytes, which pydantic replaces in keys."""
        values = self.model_dump(mode="json")
        values["identity"] |= {"plugins": dict(self.identity.plugins), "inputs": dict(self.identity.inputs)}
        # What later versions of the program added is absent where it says nothing, so that records are written as read.
        later = (
            "subset", "noise", "training_data", "category", "dictionaries", "side_texts", "zero_shot", "training_files",
        )  # fmt: skip
        for name in later:
            if getattr(self.identity, name) is None:
                del values["identity"][name]
        for result in values["results"]:
            for name in ("composition", "aspects"):
                if not result[name]:
                    del result[name]
        return values


def seedless_identity(record: Record) -> dict[str, Any]:
    """All of a run's identity but the seed and what follows from it, as JSON, without what is at its default.

    So a record keeps its name in the book of results when later versions add entries.

    What follows from the seed: stage seeds, artefacts, the digest of randomly started weights,
    updates and triplets seen (where pairs are drawn, their number varies), and the learning rate where
    it was searched for.
    """
    identity = record.identity.model_dump(mode="json", exclude={"seed", "selection_note"}, exclude_defaults=True)
    for stage in identity.get("stages", ()):
        for consequence in ("seed", "artefact", "updates", "triplets_seen"):
            stage.pop(consequence, None)
        if record.identity.tuning is not None and stage["name"] == record.identity.tuning.stage:
            stage["settings"].pop("learning_rate", None)
    identity.get("data", {}).pop("checked", None)  # says how the fingerprint was seen to be the official data's
    if "encoder" in identity and identity["encoder"]["start"] == "random":
        del identity["encoder"]["digest"]
    return identity


def run_key(record: Record) -> str:
    """Digest of the kind, the method and `seedless_identity`, 64 hexadecimal digits."""
    return digest_of({"kind": record.kind, "method": record.method, "identity": seedless_identity(record)})


def identity_key(record: Record, result: Result) -> str:
    """Digest of what one row of one table is: only results with equal keys are seeds, or categories, of another."""
    column = result.model_dump(
        mode="json", include={"dataset", "split", "protocol", "text_mode", "weights_from", "measured_by"}
    )
    return digest_of({"run": run_key(record), "column": column})


def write_record(folder: Path, record: Record, per_query: Mapping[int, PerQuery] | None = None) -> Record:
    """Write ``per_query.npz`` and then ``record.json``; gives the record as written.

    ``per_query``: by the index of the result in ``record.results``. A record that stood there is
    removed first, so that it never stands beside another run's per-query file.
    """
    (folder / RECORD_NAME).unlink(missing_ok=True)
    files = {k: v for k, v in record.files.items() if k != "per_query"}
    if per_query:
        for index, arrays in per_query.items():
            arrays.check(f"result {index}")
            if arrays.queries != record.results[index].queries:
                raise ValueError(f"result {index}: {arrays.queries} rows for its queries")
        size, sha256 = write_per_query_file(folder / PER_QUERY_NAME, per_query)
        files["per_query"] = StoredFile(name=PER_QUERY_NAME, size=size, sha256=sha256)
    written = Record.model_validate({**dict(record), "files": files})
    atomic_write_json(folder / RECORD_NAME, written.as_json())
    return written


def replace_record(folder: Path, record: Record) -> Record:
    """Write a record in the place of the one that it was made from; the files beside it stay.

    Results may only have been added at the end, since per-query results are kept by their number. Raises UserError
    where what was added contradicts what is there.
    """
    try:
        checked = Record.model_validate(dict(record))
    except ValidationError as error:
        raise UserError(f"{folder}: {error.errors()[0]['msg']}; nothing was added to its record") from None
    atomic_write_json(folder / RECORD_NAME, checked.as_json())
    return checked


def record_files(paths: Iterable[Path]) -> list[Path]:
    """Files of all records at or below the paths, each once; raises UserError for paths that are not there."""
    named = list(paths)
    missing = [path for path in named if not path.exists()]
    if missing:
        told = (f"{path}: no such file or folder; give a run's folder or one that holds runs" for path in missing)
        raise UserError.collect(told)
    found = {file.resolve() for path in named for file in ([path] if path.is_file() else path.rglob(RECORD_NAME))}
    return sorted(found)


def read_record(path: Path) -> Record:
    """Read a record from its file or its folder, whatever its version.

    Raises UserError where it is missing, truncated, newer than this program, or not a record.
    """
    file = path / RECORD_NAME if path.is_dir() else path
    raw = read_json(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("schema_version"), int):
        raise UserError(f"{file}: not a record (no schema_version); choose a run's {RECORD_NAME}")
    upgraded = _upgraded(raw, file)
    try:
        return Record.model_validate(upgraded)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(
            f"{file}: not a valid record: {where}: {first['msg']}{more}; write it again with `run`"
        ) from None


def schema_version_of(path: Path) -> int:
    """Which version a record's file, or its folder's, was written in."""
    version: int = read_json(path / RECORD_NAME if path.is_dir() else path)["schema_version"]
    return version


def _upgraded(raw: dict[str, Any], file: Path) -> dict[str, Any]:
    version: int = raw["schema_version"]
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{file}: written by a newer version of this program (record version {version}, this one "
            f"reads up to {SCHEMA_VERSION}); update it with pip install -U"
        )
    while version < SCHEMA_VERSION:
        if version not in UPGRADES:
            raise UserError(f"{file}: record version {version} was never released; run it again")
        raw = {**UPGRADES[version](raw), "schema_version": version + 1}
        version += 1
    return raw


def _with_renamed_settings(raw: dict[str, Any]) -> dict[str, Any]:
    """What is malformed is left to the schema."""

    def renamed(part: Any, name: str) -> Any:
        if not isinstance(part, dict) or not isinstance(settings := part.get(name), dict):
            return part
        values = {k: "original" if (k, v) == ("frame", "released") else v for k, v in settings.items()}
        return {**part, name: {_RENAMED_SETTINGS.get(k, k): v for k, v in values.items()}}

    identity = renamed(raw.get("identity"), "method_settings")
    if isinstance(identity, dict) and isinstance(stages := identity.get("stages"), list):
        identity = {**identity, "stages": [renamed(stage, "settings") for stage in stages]}
    return {**raw, "identity": identity} if "identity" in raw else raw


_RENAMED_SETTINGS = {"drawing": "pair_sampling", "frame": "implementation"}
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda raw: raw, 2: _with_renamed_settings, 3: lambda raw: raw,
}  # fmt: skip
"""From version n to n + 1. Version 2 adds `variant`, `tuning`, `cost` and `trials`, which no older record has;
version 3 calls two settings of methods and stages by their present names; version 4 adds `data.checked`, the encoder's
`mean` and `std`, `probe`, `selected`, `texts_cut`, `outside` and `weights`."""


def read_per_query(folder: Path, record: Record) -> dict[int, PerQuery]:
    """Per-query results by index of the result; empty where the record has none.

    Raises UserError where the file is missing, or is not the one that the record was written with.
    """
    stored = record.files.get("per_query")
    if stored is None:
        return {}
    expected = [(result.queries, result.gallery) for result in record.results]
    return read_per_query_file(folder / stored.name, stored.size, stored.sha256, expected)


def repeatable_command(command: str) -> str:
    """A record's command line without folders of the one who ran it."""
    return _OWN_FOLDERS.sub("", command)
