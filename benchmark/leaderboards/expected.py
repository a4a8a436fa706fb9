"""Whether a run reproduces its paper: `results/expected.toml` says against which published row, and within which band.

A recipe called "paper", or weights that were imported, are held against the row that the file names, in the columns of
the same split, protocol and text mode. Other recipes, and data that is not the official one, are no reproduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.comparison.statistics import STANDARD_ERRORS
from benchmark.errors import UserError
from benchmark.leaderboards.published import FILE_NAME as PUBLISHED_NAME
from benchmark.leaderboards.published import PublishedNumber, read_published
from benchmark.leaderboards.published_rows import binomial_error
from benchmark.records.layout import short_name
from benchmark.records.record import Record
from benchmark.records.rows import AVERAGE, Place, Row, plain
from benchmark.records.tables import Table, tables
from benchmark.structured_files import read_toml, typed

FILE_NAME = "expected.toml"
_PAPER = "paper"


@dataclass(frozen=True)
class Tolerance:
    """In points: of imported weights, of FashionIQ's averages, of a seed from its configuration's mean."""

    imported: float
    fashioniq_average: float
    between_seeds: float


@dataclass(frozen=True)
class PaperRecipe:
    """``published``, ``backbone``: the row of `published.csv` that the method's paper recipe should give, with the
    backbone that a run calls ``encoder`` ("" for any)."""

    method: str
    published: str
    backbone: str
    encoder: str = ""
    variants: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Expected:
    tolerance: Tolerance
    recipe: tuple[PaperRecipe, ...]


@dataclass(frozen=True)
class Verdict:
    """One number beside the published one. ``band``: half its width in points; ``basis``: where that is from."""

    place: Place
    source: str
    published: float
    found: float
    band: float
    basis: str

    @property
    def gap(self) -> float:
        return self.found - self.published

    @property
    def outside(self) -> float:
        """By how much the number lies outside of the band, 0 inside."""
        # What is printed has two decimals, and so have bands.
        return max(0.0, round(abs(self.gap) - self.band, 6))

    def told(self) -> str:
        name = " ".join(filter(None, (self.place[0], short_name(self.place[1]))))
        where = f"outside by {self.outside:.2f}" if self.outside else "inside"
        return (
            f"{name} {self.found:.2f}, {self.source} prints {self.published:.2f}: {self.gap:+.2f}, {where} "
            f"± {self.band:.2f} ({self.basis})"
        )


def read_expected(path: Path, numbers: Sequence[PublishedNumber]) -> Expected | None:
    """None where there is no file; raises UserError where it is none, or names a row that `published.csv` lacks."""
    if not path.is_file():
        return None
    remedy = "write [tolerance] and [[recipe]] as results/README.md tells"
    found = typed(Expected, read_toml(path, remedy=remedy), str(path), remedy)
    rows = {number.row for number in numbers}
    missing = [recipe for recipe in found.recipe if (recipe.published, recipe.backbone, "") not in rows]
    if missing:
        told = (f"{path}: '{r.published}' [{r.backbone}] is no row of {PUBLISHED_NAME}; correct it" for r in missing)
        raise UserError.collect(told)
    return found


def verdicts(row: Row, numbers: Iterable[PublishedNumber], expected: Expected) -> list[Verdict]:
    """Every number of a measured row that the published row of its recipe has, too."""
    record, block = row.first, replace(row.result.key, category="")
    data = record.identity.data
    is_imported = row.result.weights_from == "imported"
    is_paper = is_imported or (record.identity.recipe == _PAPER and row.result.weights_from == "selected")
    if not is_paper or data is None or not data.is_official or data.different:
        return []
    if record.identity.limit or record.identity.noise:
        return []
    encoder = record.identity.encoder.name if record.identity.encoder else ""
    mine = [
        r for r in expected.recipe
        if r.method == record.method and record.identity.variant in r.variants and r.encoder in ("", encoder)
    ]  # fmt: skip
    wanted = {(recipe.published, recipe.backbone, "") for recipe in mine}
    found = []
    for number in numbers:
        place = number.key.category, number.metric
        if number.row in wanted and replace(number.key, category="") == block and not number.is_wrong:
            if place in row.cells:
                band, basis = _band(row, place, is_imported, expected.tolerance)
                name = f"{number.method} [{number.backbone}]"
                found.append(Verdict(place, name, float(number.value), row.cells[place].value, band, basis))
    return found


def _band(row: Row, place: Place, is_imported: bool, tolerance: Tolerance) -> tuple[float, str]:
    if is_imported:
        return tolerance.imported, "imported weights"
    if row.result.key.dataset == "fashioniq" and place[0] == AVERAGE:
        return tolerance.fashioniq_average, "trained here, FashionIQ's average"
    cell = row.cells[place]
    if not math.isnan(cell.half):
        return 2 * cell.half / STANDARD_ERRORS, "two of its own standard errors"
    queries = [results[0].queries for category, results in row.results.items() if category == place[0]]
    return 2 * binomial_error(cell.value, queries), "two of its own standard errors, binomial"


def with_bands(table: Table, numbers: Sequence[PublishedNumber], expected: Expected) -> Table:
    """The table with a line below each row that is held against a paper, and a note on what lies outside."""
    rows, notes = [], []
    for row in table.rows:
        found = verdicts(row, numbers, expected) if row.records else []
        if found:
            gaps = {v.place: f"{v.gap:+.2f}{'!' if v.outside else ''}" for v in found}
            row = replace(row, below=(*row.below, ("from the paper", gaps)))
            notes += [f"{row.name}: {plain(verdict.told())}" for verdict in found]
        rows.append(row)
        notes += _apart_seeds(row, expected.tolerance.between_seeds)
    if any(row.below and row.records for row in rows):
        notes.insert(0, "from the paper: found less what its row prints, with ! outside of the band")
    return replace(table, rows=tuple(rows), notes=(*table.notes, *notes))


def _apart_seeds(row: Row, band: float) -> Iterator[str]:
    """A configuration whose seeds differ by more than seeds do, of official data."""
    data = row.first.identity.data if row.records else None
    if data is None or data.is_demo or len(row.records) < 2:
        return
    gaps = {
        (result.category, metric): abs(value - row.cells[result.category, metric].value)
        for results in row.results.values() for result in results for metric, value in result.metrics.items()
    }  # fmt: skip
    outside = {" ".join(filter(None, (c, short_name(m)))): gap for (c, m), gap in gaps.items() if gap > band + 1e-9}
    if outside:
        told = ", ".join(f"{name} {gap:.2f}" for name, gap in outside.items())
        yield f"{row.name}: seeds lie further from their mean than ± {band:.2f}: {told}"


def band_lines(record: Record, results: Path) -> list[str]:
    """What `run` says of a record whose recipe is a paper's, a sentence each; empty without the files."""
    if record.identity.data is None or not record.identity.data.is_official:
        return []
    numbers = read_published(results / PUBLISHED_NAME)
    expected = read_expected(results / FILE_NAME, numbers)
    if expected is None:
        return []
    rows = [row for table in tables([record]) for row in table.rows]
    return [f"expected: {verdict.told()}" for row in rows for verdict in verdicts(row, numbers, expected)]


def results_of_checkout() -> Path | None:
    """The book of results beside the package, where it lies in its own checkout."""
    import benchmark

    folder = Path(benchmark.__file__).resolve().parents[1] / "results"
    return folder if (folder / PUBLISHED_NAME).is_file() else None


