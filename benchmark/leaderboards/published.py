"""Published numbers: `results/published.csv`, read and checked, and their averages made again.

One line is one number as its source prints it, under the names of the datasets' own protocols, metrics and
text modes; ``unclear`` stands for what a source does not say, and averages carry their formula as their name.
A source can print an average that its own categories do not give; such averages are told apart by
:func:`recomputed`, never replaced.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from benchmark.dataset import TaskKey
from benchmark.errors import UserError, unknown_name
from benchmark.evaluation.metrics import components
from benchmark.records.rows import AVERAGE

FILE_NAME = "published.csv"
COLUMNS = (
    *("method", "paper", "venue", "year", "dataset", "split", "protocol", "backbone", "text_mode"),
    *("metric", "category", "value", "source", "confidence", "source_kind"),
)
UNCLEAR = "unclear"
WHOLE = "all"
"""The category of a dataset without categories."""

CONFIDENCE = "read"
SOURCE_KINDS: Mapping[str, str] = {
    "paper": "printed in the method's own paper",
    "code": "printed in the repository of the code",
    "listing": "an online list of results",
    "quoted": "printed as a baseline in another paper",
    "rerun": "run again by others than the method's authors",
    "survey": "printed in a survey's tables",
}
_SPELLINGS = (("R_s@", "R_subset@"), ("Recall@", "R@"))
_YEAR = re.compile(r"(19|20)\d\d")
_VALUE = re.compile(r"\d{1,3}(\.\d+)?")


@dataclass(frozen=True)
class Published:
    """What may be published of one dataset; ``name`` is the dataset's name on the shelf.

    ``splits``: the one that leaderboards report first.
    """

    name: str
    splits: tuple[str, ...]
    protocols: tuple[str, ...]
    text_modes: tuple[str, ...]
    metrics: tuple[str, ...]
    categories: tuple[str, ...] = (WHOLE,)

    @property
    def parts(self) -> tuple[str, ...]:
        """The categories that ``average`` is the mean of."""
        return tuple(name for name in self.categories if name not in (WHOLE, AVERAGE))


PUBLISHED: Mapping[str, Published] = {
    "CIRR": Published(
        "cirr",
        splits=("test1", "val"),
        protocols=("official",),
        text_modes=("single",),
        metrics=(
            *("R@1", "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "R_subset@3"),
            "(R@5+R_subset@1)/2",
        ),
    ),
    "FashionIQ": Published(
        "fashioniq",
        splits=("val",),
        protocols=("original", "original-noref", "val", "val-noref", UNCLEAR),
        text_modes=("joined", "per-caption", "both-orders", UNCLEAR),
        metrics=("R@10", "R@50", "mean(R@10,R@50)"),
        categories=(AVERAGE, "dress", "shirt", "toptee"),
    ),
    "Shoes": Published(
        "shoes",
        splits=("test",),
        protocols=("official", "official-noref", "val", "val-list", "val-list-noref", UNCLEAR),
        text_modes=("single",),
        metrics=("R@1", "R@10", "R@50", "mean(R@1,R@10,R@50)"),
    ),
    "Fashion200k": Published(
        "fashion200k",
        splits=("test",),
        protocols=("tirg", "spirit", UNCLEAR),
        text_modes=("template",),
        metrics=("R@1", "R@10", "R@50"),
    ),
}
"""By the dataset's name in the file."""


def schema_of(name: str) -> Published | None:
    """By the dataset's name on the shelf; None where nothing of it can be published."""
    return next((schema for schema in PUBLISHED.values() if schema.name == name), None)


def metric_name(printed: str) -> str:
    """This program's name of a metric: "R_s@1" is "R_subset@1"."""
    for theirs, ours in _SPELLINGS:
        printed = printed.replace(theirs, ours)
    return printed


@dataclass(frozen=True)
class PublishedNumber:
    """One number in percent, with as many decimals as its source prints.

    ``key`` is the column it belongs to, with the names of this program; ``line`` its line in the file.
    """

    method: str
    paper: str
    venue: str
    year: int
    backbone: str
    key: TaskKey
    metric: str
    value: Decimal
    source: str
    source_kind: str
    line: int

    @property
    def row(self) -> tuple[str, str]:
        """What a row of a table is: the method and its backbone."""
        return self.method, self.backbone

    @property
    def half_unit(self) -> Decimal:
        """Half a unit of the last decimal: what rounding may have changed."""
        exponent = self.value.as_tuple().exponent
        assert isinstance(exponent, int)
        return Decimal((0, (5,), exponent - 1))


@dataclass(frozen=True)
class Recomputed:
    """An average made from a row's own numbers. ``printed`` is None where the source prints none;
    ``differs`` tells whether it differs from the printed one by more than rounding explains."""

    value: Decimal
    printed: Decimal | None
    differs: bool


def read_published(path: Path) -> tuple[PublishedNumber, ...]:
    """All numbers of the file in its order; none where there is no file.

    Raises UserError with every problem of the file, a line each.
    """
    if not path.is_file():
        return ()
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a CSV file ({error}); save it as CSV") from None
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path}, line 1: the columns must be {','.join(COLUMNS)}")
    return _checked(path, lines)


def _checked(path: Path, lines: Sequence[tuple[int, Mapping[str | None, object]]]) -> tuple[PublishedNumber, ...]:
    numbers: list[PublishedNumber] = []
    problems: list[str] = []
    first: dict[tuple[object, ...], int] = {}
    for number, line in lines:
        faults = list(_faults(line))
        if not faults:
            made = _number(number, {str(name): str(value) for name, value in line.items()})
            identity = (made.row, made.key, made.metric)
            if identity in first:
                faults.append(f"the same number as line {first[identity]}; keep one of the two")
            first.setdefault(identity, number)
            numbers.append(made)
        problems.extend(f"{path}, line {number}: {fault}" for fault in faults)
    if problems:
        raise UserError.collect(problems)
    return tuple(numbers)


def _faults(line: Mapping[str | None, object]) -> Iterator[str]:
    """What is wrong with one line, in words."""
    if None in line or None in line.values():
        yield f"must have {len(COLUMNS)} fields"
        return
    values = {str(name): str(value) for name, value in line.items()}
    for name, value in values.items():
        if not value or value != " ".join(value.split()):
            yield f"{name} '{value}' must be given, without line breaks or needless blanks"
    yield from _unknown_names(values)
    if not _YEAR.fullmatch(values["year"]):
        yield f"year '{values['year']}' must be a year of four digits"
    value = values["value"]
    if not _VALUE.fullmatch(value) or Decimal(value) > 100:
        yield f"value '{value}' must be a percentage between 0 and 100, such as 43.78"
    if values["confidence"] != CONFIDENCE:
        yield f"confidence '{values['confidence']}': only numbers that were {CONFIDENCE} in their source belong here"


def _unknown_names(values: Mapping[str, str]) -> Iterator[str]:
    if values["source_kind"] not in SOURCE_KINDS:
        yield str(unknown_name("source_kind", values["source_kind"], SOURCE_KINDS))
    schema = PUBLISHED.get(values["dataset"])
    if schema is None:
        yield str(unknown_name("dataset", values["dataset"], PUBLISHED))
        return
    known = {
        "split": schema.splits,
        "protocol": schema.protocols,
        "text_mode": schema.text_modes,
        "metric": schema.metrics,
        "category": schema.categories,
    }
    for column, names in known.items():
        name = metric_name(values[column]) if column == "metric" else values[column]
        if name not in names:
            yield str(unknown_name(f"{column} of {values['dataset']}", name, names))


def _number(line: int, values: Mapping[str, str]) -> PublishedNumber:
    category = "" if values["category"] == WHOLE else values["category"]
    name = PUBLISHED[values["dataset"]].name
    return PublishedNumber(
        method=values["method"],
        paper=values["paper"],
        venue=values["venue"],
        year=int(values["year"]),
        backbone=values["backbone"],
        key=TaskKey(name, values["split"], values["protocol"], values["text_mode"], category),
        metric=metric_name(values["metric"]),
        value=Decimal(values["value"]),
        source=values["source"],
        source_kind=values["source_kind"],
        line=line,
    )


def recomputed(row: Iterable[PublishedNumber]) -> dict[tuple[str, str], Recomputed]:
    """Averages by (category, metric) from a row's own numbers, as far down as these go.

    ``row``: the numbers, at least one, of one method with one backbone in one dataset, split,
    protocol and text mode. A mean over categories is made from the categories where all are there; an average of
    metrics from those, made from the categories in turn. What lacks a part is left out.
    """
    numbers = {(n.key.category, n.metric): n for n in row}
    schema = schema_of(next(iter(numbers.values())).key.dataset)
    assert schema is not None
    found = {}
    for category in ("" if name == WHOLE else name for name in schema.categories):
        for metric in schema.metrics:
            made = _mean_of(numbers, category, metric, schema.parts)
            if made is not None:
                value, slack = made
                printed = numbers.get((category, metric))
                bound = slack + (printed.half_unit if printed else 0)
                differs = printed is not None and abs(value - printed.value) > bound
                found[category, metric] = Recomputed(value, printed.value if printed else None, differs)
    return found


_Made = tuple[Decimal, Decimal]
"""A value and how far the rounding of what it is made from may have moved it."""


def _mean_of(
    numbers: Mapping[tuple[str, str], PublishedNumber], category: str, metric: str, parts: tuple[str, ...]
) -> _Made | None:
    """The mean that the metric is by its name, or that the category is; None for what is no mean."""
    if components(metric):
        columns = [(category, name) for name in components(metric)]
    elif category == AVERAGE:
        columns = [(part, metric) for part in parts]
    else:
        return None
    made = [_mean_of(numbers, *column, parts) or _as_printed(numbers.get(column)) for column in columns]
    whole = [value for value in made if value is not None]
    if len(whole) < len(columns):
        return None
    count = len(whole)
    return sum((v for v, _ in whole), Decimal()) / count, sum((s for _, s in whole), Decimal()) / count


def _as_printed(number: PublishedNumber | None) -> _Made | None:
    return None if number is None else (number.value, number.half_unit)
