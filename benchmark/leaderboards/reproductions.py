"""What others found when they ran a published method again: `results/reproductions.csv`, read and checked.

One line is one number, under the names of `published.csv`: what is printed, and what somebody found. ``seeds`` and
``hardware`` are empty where nobody says them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from benchmark.dataset import TaskKey
from benchmark.errors import UserError, unknown_name
from benchmark.leaderboards.published import (
    PUBLISHED,
    WHOLE,
    PublishedNumber,
    column_faults,
    is_percentage,
    metric_name,
    read_lines,
)
from benchmark.records.rows import Place

FILE_NAME = "reproductions.csv"
_MAY_BE_EMPTY = ("seeds", "hardware", "remark")
COLUMNS = (
    *("method", "backbone", "dataset", "split", "protocol", "text_mode", "metric", "category"),
    *("published", "found", "by", "source", *_MAY_BE_EMPTY),
)


@dataclass(frozen=True)
class Reproduction:
    """``published``, ``found``: percent. ``key`` is the column of the published number."""

    method: str
    backbone: str
    key: TaskKey
    metric: str
    published: Decimal
    found: Decimal
    by: str
    source: str
    seeds: str
    hardware: str
    remark: str

    @property
    def place(self) -> Place:
        return self.key.category, self.metric

    @property
    def protocol(self) -> str:
        return self.key.protocol

    @property
    def gap(self) -> Decimal:
        """What was found less what is printed, in points."""
        return self.found - self.published

    def is_of(self, number: PublishedNumber) -> bool:
        """Whether this is about the row of a published number, which its authors printed."""
        mine, theirs = self.key, number.key
        same_block = (mine.dataset, mine.split, mine.protocol, mine.text_mode) == (
            theirs.dataset, theirs.split, theirs.protocol, theirs.text_mode
        )  # fmt: skip
        return same_block and number.row == (self.method, self.backbone, "")

    def told(self) -> str:
        """Such as "R@1 -6.82 by a user"."""
        return f"{' '.join(filter(None, self.place))} {self.gap:+} by {self.by}"


def read_reproductions(path: Path, numbers: Sequence[PublishedNumber]) -> tuple[Reproduction, ...]:
    """All lines of the file; none where there is no file.

    Raises UserError with every problem of the file, a line each: a number that ``published.csv`` has otherwise is one,
    unless its remark says so.
    """
    if not path.is_file():
        return ()
    printed = {(*n.row, n.key, n.metric): n.value for n in numbers if not n.is_wrong}
    found, problems = [], list[str]()
    for number, line in read_lines(path, COLUMNS):
        faults = list(_faults(line))
        if not faults:
            made = _reproduction({str(name): str(value) for name, value in line.items()})
            value = printed.get((made.method, made.backbone, "", made.key, made.metric), made.published)
            if value != made.published and str(value) not in made.remark:
                faults.append(f"published '{made.published}': published.csv has {value}; correct it, or remark on it")
            found.append(made)
        problems.extend(f"{path}, line {number}: {fault}" for fault in faults)
    if problems:
        raise UserError.collect(problems)
    return tuple(found)


def _faults(line: Mapping[str | None, object]) -> Iterator[str]:
    shape = list(column_faults(line, COLUMNS, _MAY_BE_EMPTY))
    yield from shape
    if None in line or None in line.values():
        return
    values = {str(name): str(value) for name, value in line.items()}
    schema = PUBLISHED.get(values["dataset"])
    if schema is None:
        yield str(unknown_name("dataset", values["dataset"], PUBLISHED))
        return
    yield from schema.unknown_names(values["dataset"], values)
    for name in ("published", "found"):
        if not is_percentage(values[name]):
            yield f"{name} '{values[name]}' must be a percentage between 0 and 100, such as 43.78"


def _reproduction(values: Mapping[str, str]) -> Reproduction:
    category = "" if values["category"] == WHOLE else values["category"]
    key = TaskKey(
        PUBLISHED[values["dataset"]].name, values["split"], values["protocol"], values["text_mode"], category
    )
    texts = ("method", "backbone", "by", "source", *_MAY_BE_EMPTY)
    return Reproduction(
        key=key,
        metric=metric_name(values["metric"]),
        published=Decimal(values["published"]),
        found=Decimal(values["found"]),
        **{name: values[name] for name in texts},
    )
