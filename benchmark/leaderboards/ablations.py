"""The table of a method's ablations: the method itself and each of its named ablations, in blocks.

Which ablations there are, the method's facts declare (`Variant.ablation`). A block's rows are told
apart by what they leave out, a column of ticks for each part, or by their titles. Numbers are those
of the dataset's default protocol, averaged over categories where it has some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.data.partial import SUFFIX
from benchmark.facts import DatasetInfo, MethodInfo, Variant
from benchmark.files import atomic_write_text
from benchmark.leaderboards.uncertainty import KeptRanks, with_uncertainty
from benchmark.records.layout import listed, paragraph, table_of_rows
from benchmark.records.record import Record, Result
from benchmark.records.rows import AVERAGE, FACTS, Row, format_facts, rows_of
from benchmark.records.tables import DEMO_CAPTION, SYNTHETIC, Table, notes_of

if TYPE_CHECKING:
    from benchmark.pipeline.plan import Plan

FILE_NAME = "ablations.md"
_WITH, _WITHOUT = "✓", ""


def ablation_page(
    method: MethodInfo, variants: Sequence[Variant], dataset: DatasetInfo, records: Iterable[Record], kept: KeptRanks
) -> str:
    """The table of kept records of a method and its ablations, markdown; "" without a record of an ablation.

    Where rows have other seeds, those that all of them have are shown.
    """
    study = AblationStudy(method, variants, dataset.default_protocol, kept=kept)
    known = {"", *(variant.name for variant in variants)}
    for record in records:
        if record.method == method.name and record.identity.variant in known and record.kind == "run":
            study.runs.setdefault(record.identity.variant, []).append(record)
    if set(study.runs) <= {""}:
        return ""
    # Means of other seeds than the method's own would differ by more than what a row leaves out.
    shared = set.intersection(*({record.identity.seed for record in runs} for runs in study.runs.values()))
    if shared:
        study.runs = {n: [r for r in runs if r.identity.seed in shared] for n, runs in study.runs.items()}
    for variant in variants:
        if variant.name not in study.runs:
            study.left_out[variant.name] = "it was not run; it may be the same as the method itself with this recipe"
    return study.table()


@dataclass
class AblationStudy:
    """What came of a method and its ablations on one dataset.

    ``runs``: records (one per seed) by the variant's name, "" for the method itself; ``left_out``:
    why a variant has none; ``kept``: ranks, where there are some.
    """

    method: MethodInfo
    variants: Sequence[Variant]
    default_protocol: str
    runs: dict[str, list[Record]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kept: KeptRanks = field(default_factory=dict)
    _whole: dict[str, Any] = field(default_factory=dict)
    _folder: Path | None = None

    def changes_something(self, plan: Plan) -> bool:
        """Whether a planned run is another experiment than the method itself, which is planned first."""
        if plan.variant is None or not plan.variant.ablation:
            self._whole = plan.configuration
        elif plan.configuration == self._whole:
            self.left_out[plan.variant.name] = "the same as the method itself with this recipe"
            return False
        return True

    def add(self, record: Record, folder: Path) -> None:
        """A finished run, in its folder …/<configuration>/seed-<n>; the table is written two above it."""
        self._folder = folder.absolute().parents[1]
        name = record.identity.variant
        known = {variant.name for variant in self.variants}
        self.runs.setdefault(name if name in known else "", []).append(record)

    def write(self) -> Path | None:
        """Write the table beside the runs; None where the method itself did not come to an end."""
        text = self.table()
        if self._folder is None or not text:
            return None
        atomic_write_text(self._folder / FILE_NAME, text)
        return self._folder / FILE_NAME

    def table(self) -> str:
        """Markdown: a heading, one table per block, notes below. Empty where the method itself failed."""
        rows = {name: self._row(records) for name, records in self.runs.items() if records}
        if "" not in rows:
            return ""
        whole = rows[""]
        data = whole.first.identity.data
        is_demo = data is not None and data.is_demo
        remark = f": {DEMO_CAPTION}" if is_demo else ""
        parts = [f"# Ablations of {self.method.title}\n"]
        caption = with_uncertainty(Table(whole.result.key, remark, tuple(rows.values())), self.kept)
        rows = dict(zip(rows, caption.rows, strict=True))
        parts += [f"{caption.heading}\n", paragraph(caption.caption())]
        for block in dict.fromkeys(variant.ablation for variant in self.variants):
            parts.append(f"## {block}\n\n{self._block([v for v in self.variants if v.ablation == block], rows)}")
        parts.append(listed(self._notes(rows)))
        parts += [f"Demo, {SYNTHETIC}: these numbers rank no configurations.\n"] if is_demo else []
        return "\n".join(parts)

    def _row(self, records: Sequence[Record]) -> Row:
        pairs = [(record, result) for record in records if (result := self._main_result(record)) is not None]
        return rows_of(pairs)[0]

    def _main_result(self, record: Record) -> Result | None:
        """The default protocol's, of the selected weights, averaged over categories."""
        scored = [result for result in record.results if result.metrics and result.measured_by == "this run"]
        first = [r for r in scored if r.weights_from == scored[0].weights_from]
        default = [r for r in first if r.protocol.removesuffix(SUFFIX) == self.default_protocol] or first
        return next((r for r in default if r.category in ("", AVERAGE)), None)

    def _block(self, members: Sequence[Variant], rows: Mapping[str, Row]) -> str:
        """A table of the method and those ablations of a block that were run, and what `--variant` calls them."""
        parts = list(dict.fromkeys(part for variant in members for part in variant.without))
        run = [variant for variant in members if variant.name in rows]
        shown = [replace(rows[""], name=f"{self.method.title}, whole", label="")]
        shown += [replace(rows[variant.name], name=variant.title, label="") for variant in run]
        ticks = {part: [_WITH, *(_WITHOUT if part in variant.without else _WITH for variant in run)] for part in parts}
        names = "; ".join(f"`{variant.name}` {variant.title}" for variant in run)
        return table_of_rows(shown, ticks=ticks) + (f"\n{paragraph([f'As `--variant`: {names}'])}" if run else "")

    def _notes(self, rows: Mapping[str, Row]) -> Iterator[str]:
        """What the method itself is, and what is to be known of the rows."""
        whole = rows[""]
        _, _, told = next(format_facts([whole])).partition(": ")
        yield f"The method itself: {whole.label}; {told}. A row differs from it in what its name says alone"
        yield from notes_of(list(rows.values()), leave_out=FACTS)
        for name, reason in self.left_out.items():
            yield f"`{name}` has no row: {reason}"
