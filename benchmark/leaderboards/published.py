"""Published numbers: `results/published.csv`, read and checked.

One line is one number as its source prints it, under the names of the datasets' own protocols, metrics and
text modes; ``unclear`` stands for what a source does not say, and averages carry their formula as their name.
A number that is known to be wrong stays, with its ``erratum``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from benchmark.dataset import TaskKey
from benchmark.errors import UserError, unknown_name
from benchmark.records.rows import AVERAGE

FILE_NAME = "published.csv"
REMARKS = ("rerun_by", "extra_data", "language_model", "erratum")
"""Columns that may be empty, where nothing is known: who ran the method again, what it was trained
on besides the dataset, which language model takes part, and what is wrong or doubtful in the source."""

COLUMNS = (
    *("method", "paper", "venue", "year", "dataset", "split", "protocol", "backbone", "text_mode"),
    *("metric", "category", "value", "source", "confidence", "source_kind"),
    *REMARKS,
)
WRONG, DOUBTFUL = "wrong: ", "doubtful: "
"""How an erratum begins."""

RERUN = "rerun"
UNCLEAR, CORRECTED = "unclear", "corrected"
"""A protocol or text mode that the source does not say; the text mode of captions corrected by a dictionary."""

WHOLE = "all"
"""The category of a dataset without categories."""

CONFIDENCE = "read"
SOURCE_KINDS: Mapping[str, str] = {
    "paper": "printed in the method's own paper",
    "code": "printed in the repository of the code",
    "listing": "an online list of results",
    "quoted": "printed as a baseline in another paper",
    RERUN: "run again by others than the method's authors",
    "survey": "printed in a survey's tables",
}
_SPELLINGS = (("R_s@", "R_subset@"), ("Recall@", "R@"))
_YEAR = re.compile(r"(19|20)\d\d")
_VALUE = re.compile(r"\d{1,3}(\.\d+)?")


@dataclass(frozen=True)
class Published:
    """What may be published of one dataset; ``name`` is the dataset's name on the shelf.

    ``splits``: the one that leaderboards report first. ``queries``: how many by (split, protocol, text mode,
    category), "*" for any.
    """

    name: str
    splits: tuple[str, ...]
    protocols: tuple[str, ...]
    text_modes: tuple[str, ...]
    metrics: tuple[str, ...]
    categories: tuple[str, ...] = (WHOLE,)
    queries: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)

    def queries_of(self, key: TaskKey) -> tuple[int, ...]:
        """Of a column, one number for each category that it is the mean of; empty where they are not known."""
        parts = self.parts if key.category == AVERAGE else (key.category or WHOLE,)
        found = [self._queries(key, part) for part in parts]
        return tuple(number for number in found if number) if all(found) else ()

    def unknown_names(self, title: str, values: Mapping[str, str]) -> Iterator[str]:
        """Names of a line that are none of this dataset, whose ``title`` the file writes, in words."""
        known = {
            "split": self.splits,
            "protocol": self.protocols,
            "text_mode": self.text_modes,
            "metric": self.metrics,
            "category": self.categories,
        }
        for column, names in known.items():
            name = metric_name(values[column]) if column == "metric" else values[column]
            if name not in names:
                yield str(unknown_name(f"{column} of {title}", name, names))

    def _queries(self, key: TaskKey, category: str) -> int:
        wanted = (key.split, key.protocol, key.text_mode, category)
        for known, number in self.queries.items():
            if all(name in ("*", own) for name, own in zip(known, wanted, strict=True)):
                return number
        return 0

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
        queries={("test1", "*", "*", "*"): 4148, ("val", "*", "*", "*"): 4181},
    ),
    "FashionIQ": Published(
        "fashioniq",
        splits=("val",),
        protocols=("original", "original-noref", "val", "val-noref", UNCLEAR),
        text_modes=("joined", CORRECTED, "per-caption", "both-orders", UNCLEAR),
        metrics=("R@10", "R@50", "mean(R@10,R@50)"),
        categories=(AVERAGE, "dress", "shirt", "toptee"),
        queries={
            ("*", "*", mode, category): number
            for modes, numbers in ((("joined", CORRECTED), (2017, 2038, 1961)), (("per-caption",), (4034, 4075, 3920)))
            for mode in modes
            for category, number in zip(("dress", "shirt", "toptee"), numbers, strict=True)
        },
    ),
    "Shoes": Published(
        "shoes",
        splits=("test",),
        protocols=("official", "official-noref", "val", "val-list", "val-list-noref", UNCLEAR),
        text_modes=("single", CORRECTED),
        metrics=("R@1", "R@10", "R@50", "mean(R@1,R@10,R@50)"),
        queries={("*", name, "*", "*"): 1761 for name in ("official", "official-noref", "val")},
    ),
    "Fashion200k": Published(
        "fashion200k",
        splits=("test",),
        protocols=("tirg", "spirit", UNCLEAR),
        text_modes=("template",),
        metrics=("R@1", "R@10", "R@50"),
        queries={("*", "tirg", "*", "*"): 33480, ("*", "spirit", "*", "*"): 33480},
    ),
    "CIRCO": Published(
        "circo",
        splits=("test", "val"),
        protocols=("official", "official-noref"),
        text_modes=("single", "with-concept-magiclens", "with-concept-bge-vl"),
        metrics=tuple(f"{kind}@{k}" for kind in ("mAP", "R_target") for k in (5, 10, 25, 50)),
        queries={("test", "*", "*", "*"): 800, ("val", "*", "*", "*"): 220},
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
    rerun_by: str = ""
    extra_data: str = ""
    language_model: str = ""
    erratum: str = ""

    @property
    def row(self) -> tuple[str, str, str]:
        """What a row of a table is: the method, its backbone and who ran it again ("" for the authors)."""
        return self.method, self.backbone, self.rerun_by

    @property
    def is_wrong(self) -> bool:
        return self.erratum.startswith(WRONG)

    @property
    def half_unit(self) -> Decimal:
        """Half a unit of the last decimal: what rounding may have changed."""
        exponent = self.value.as_tuple().exponent
        assert isinstance(exponent, int)
        return Decimal((0, (5,), exponent - 1))


def read_published(path: Path) -> tuple[PublishedNumber, ...]:
    """All numbers of the file in its order; none where there is no file.

    Raises UserError with every problem of the file, a line each.
    """
    return _checked(path, read_lines(path, COLUMNS)) if path.is_file() else ()


def read_lines(path: Path, columns: tuple[str, ...]) -> list[tuple[int, Mapping[str | None, object]]]:
    """The lines of a CSV file with their numbers; raises UserError where it is none, or has other columns."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        lines: list[tuple[int, Mapping[str | None, object]]] = [(reader.line_num, line) for line in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a CSV file ({error}); save it as CSV") from None
    if tuple(reader.fieldnames or ()) != columns:
        raise UserError(f"{path}, line 1: the columns must be {','.join(columns)}")
    return lines


def _checked(path: Path, lines: Sequence[tuple[int, Mapping[str | None, object]]]) -> tuple[PublishedNumber, ...]:
    numbers: list[PublishedNumber] = []
    problems: list[str] = []
    first: dict[tuple[object, ...], int] = {}
    for number, line in lines:
        faults = list(_faults(line))
        if not faults:
            made = _number(number, {str(name): str(value) for name, value in line.items()})
            # A wrong copy may stand beside the right one.
            identity = (made.row, made.key, made.metric, made.is_wrong)
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
    yield from column_faults(line, COLUMNS, REMARKS)
    if None in line or None in line.values():
        return
    values = {str(name): str(value) for name, value in line.items()}
    if values["source_kind"] not in SOURCE_KINDS:
        yield str(unknown_name("source_kind", values["source_kind"], SOURCE_KINDS))
    schema = PUBLISHED.get(values["dataset"])
    if schema is None:
        yield str(unknown_name("dataset", values["dataset"], PUBLISHED))
    else:
        yield from schema.unknown_names(values["dataset"], values)
    if not _YEAR.fullmatch(values["year"]):
        yield f"year '{values['year']}' must be a year of four digits"
    if not is_percentage(values["value"]):
        yield f"value '{values['value']}' must be a percentage between 0 and 100, such as 43.78"
    if (values["source_kind"] == RERUN) != bool(values["rerun_by"]):
        yield f"rerun_by '{values['rerun_by']}' must say who ran it again where source_kind is {RERUN}, and only there"
    if not values["erratum"].startswith((WRONG, DOUBTFUL)) and values["erratum"]:
        yield f"erratum '{values['erratum']}' must begin with '{WRONG}' or '{DOUBTFUL}'"
    if values["confidence"] != CONFIDENCE:
        yield f"confidence '{values['confidence']}': only numbers that were {CONFIDENCE} in their source belong here"


def column_faults(
    line: Mapping[str | None, object], columns: tuple[str, ...], may_be_empty: tuple[str, ...]
) -> Iterator[str]:
    """Fields too many or too few; values that are missing or not on one line."""
    if None in line or None in line.values():
        yield f"must have {len(columns)} fields"
        return
    for name, value in line.items():
        if not (value or name in may_be_empty) or value != " ".join(str(value).split()):
            yield f"{name} '{value}' must be given, without line breaks or needless blanks"


def is_percentage(value: str) -> bool:
    return bool(_VALUE.fullmatch(value)) and Decimal(value) <= 100


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
        **{name: values[name] for name in REMARKS},
    )
