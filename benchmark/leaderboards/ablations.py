"""The table of a method's ablations: the method itself and each of its named ablations, in blocks.

Which ablations there are, the method's file declares (`Variant.ablation`). A block's rows are told
apart by what they leave out, a column of ticks for each part, or by their titles. Numbers are those
of the dataset's default protocol, averaged over categories where it has some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark.data.partial import SUFFIX
from benchmark.facts import MethodInfo, Variant
from benchmark.files import atomic_write_text
from benchmark.pipeline.plan import Plan
from benchmark.records.record import Record, Result
from benchmark.records.rows import Row, described, rows_of
from benchmark.records.tables import DRAWN_DEMO, metric_cells, notes_of

FILE_NAME = "ablations.md"
_WITH, _WITHOUT = "✓", ""


@dataclass
class AblationStudy:
    """What came of a method and its ablations on one dataset.

    ``runs``: records (one per seed) by the variant's name, "" for the method itself; ``left_out``:
    why a variant has none.
    """

    method: MethodInfo
    variants: Sequence[Variant]
    default_protocol: str
    runs: dict[str, list[Record]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
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
        mark = f" ({DRAWN_DEMO})" if data is not None and data.is_demo else ""
        parts = [f"# Ablations of {self.method.title}: {whole.results[0].key}{mark}\n"]
        for block in dict.fromkeys(variant.ablation for variant in self.variants):
            members = [v for v in self.variants if v.ablation == block]
            parts.append(f"## {block}{mark}\n\n{self._block(members, rows, mark)}\n")
        return "\n".join([*parts, *(f"- {note}" for note in self._notes(rows, mark))]) + "\n"

    def _row(self, records: Sequence[Record]) -> Row:
        pairs = [(record, result) for record in records if (result := self._main_result(record)) is not None]
        return rows_of(pairs)[0]

    def _main_result(self, record: Record) -> Result | None:
        """The default protocol's, of the selected weights, averaged over categories."""
        scored = [result for result in record.results if result.metrics and result.measured_by == "this run"]
        first = [r for r in scored if r.weights_from == scored[0].weights_from]
        default = [r for r in first if r.protocol.removesuffix(SUFFIX) == self.default_protocol] or first
        return next((r for r in default if r.category in ("", "average")), None)

    def _block(self, members: Sequence[Variant], rows: Mapping[str, Row], mark: str) -> str:
        """A table of the method and those ablations of a block that were run."""
        parts = list(dict.fromkeys(part for variant in members for part in variant.without))
        shown = [None, *(variant for variant in members if variant.name in rows)]
        cells = metric_cells([rows[variant.name if variant else ""] for variant in shown])
        lead = pd.DataFrame({"configuration": [self._title(variant) + mark for variant in shown]})
        for part in parts:
            lead[part] = [_WITHOUT if variant and part in variant.without else _WITH for variant in shown]
        return tabulate(
            lead.join(cells).to_numpy().tolist(),
            headers=[*lead.columns, *cells.columns],
            tablefmt="pipe",
            colalign=["left"] + ["center"] * len(parts) + ["right"] * len(cells.columns),
            disable_numparse=True,
        )

    def _title(self, variant: Variant | None) -> str:
        return f"{variant.title} [`{variant.name}`]" if variant else f"{self.method.title}, whole"

    def _notes(self, rows: Mapping[str, Row], mark: str) -> Iterator[str]:
        _, common = described([rows[""]])
        told = "; ".join(f"{name}: {text}" for name, text in common.items())
        yield f"The method itself{mark}: {told}. A row differs from it in what its name says alone."
        yield from (f"{note}{mark}" for note in notes_of(list(rows.values()), {}))
        for name, reason in self.left_out.items():
            yield f"`{name}` has no row{mark}: {reason}"
