"""What the steps of a check find: typed, kept in one file, judged, and shown as a table."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from tabulate import tabulate

from benchmark.files import atomic_write_json
from benchmark.records.identity import Code
from benchmark.records.measurement import Measurement
from benchmark.structured_files import read_json, typed
from benchmark.throughput.tables import number

LEAST_SHARE = 0.4
"""Of what bare products and the bytes that must move allow: encoding and SPIRIT's step, in bf16."""
LONGEST_RANKING = 1.5
"""Times the bare matrix product, the evaluator."""
WAITS_OF_THE_SCALER = 1
"""In fp16 the host asks once whether the gradient overflowed; nothing else makes it wait."""

REPORT = "report.json"
LONGEST_LINE = 600
Status = Literal["not begun", "running", "done", "failed", "crashed", "out of time", "no time left", "not here"]
BAD: tuple[Status, ...] = ("running", "failed", "crashed", "out of time")


class Finding(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StepFindings(Finding):
    """One step. ``problem``: why it did not end as it should, or is not for this machine, in a line. ``facts``: what
    is no speed, in words. ``shortfalls``: what fell short of its bound, a sentence each."""

    name: str
    status: Status = "not begun"
    seconds: float = 0.0
    problem: str = ""
    measured: dict[str, Measurement] = {}
    facts: dict[str, str] = {}
    shortfalls: list[str] = []


class Report(Finding):
    """A whole check. ``is_complete`` False: it was cut before its end, and holds what was found until then."""

    format: Literal[1] = 1
    created: str
    minutes: float
    device: str
    tiny: bool
    code: Code
    is_complete: bool = False
    steps: list[StepFindings]

    @property
    def shortfalls(self) -> list[str]:
        return [f"{step.name}: {told}" for step in self.steps for told in step.shortfalls]

    @property
    def failures(self) -> list[str]:
        return [f"{step.name}: {step.status}, {step.problem}" for step in self.steps if step.status in BAD]

    def write(self, folder: Path) -> None:
        atomic_write_json(folder / REPORT, self.model_dump(mode="json"))


def findings_file(folder: Path, name: str) -> Path:
    """Where a step keeps what it has found so far."""
    return folder / "steps" / f"{name}.json"


def read_report(folder: Path) -> Report:
    remedy = "make it again with tests/gpu_check.py"
    return typed(Report, read_json(folder / REPORT, remedy=remedy), str(folder / REPORT), remedy)


def too_slow(name: str, found: Measurement) -> list[str]:
    """Whether a share of a limit is below what it has to be."""
    if found.ratio is None or found.ratio >= LEAST_SHARE:
        return []
    return [f"{name} reaches {found.ratio:.0%} of {found.limit_of}, not {LEAST_SHARE:.0%}"]


def too_long(name: str, found: Measurement) -> list[str]:
    """Whether the evaluator takes longer than its limit allows."""
    if found.ratio is None or found.ratio >= 1 / LONGEST_RANKING:
        return []
    return [f"{name} takes {1 / found.ratio:.2f} times the {found.limit_of}, not {LONGEST_RANKING}"]


def too_many_waits(name: str, precision: str, waits: float) -> list[str]:
    """Whether the host waits for the device in a step, but for the loss scaler's question."""
    allowed = WAITS_OF_THE_SCALER if precision == "fp16" else 0
    return [] if waits <= allowed else [f"{name} makes the host wait {waits:g} times a step, not {allowed}"]


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    with suppress(OSError):
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:LONGEST_LINE] if lines else "without a word"
    return "without a log"


def table(report: Report) -> str:
    """A line for every speed, then the facts, failures and shortfalls."""
    products = next((step.measured for step in report.steps if step.name == "ceilings"), {})
    rows: list[dict[str, str]] = []
    for step in report.steps:
        begun = f"{step.name} ({step.status}, {step.seconds:.0f} s)"
        for name, found in step.measured.items() or {"": None}.items():
            rows.append({"step": begun, "measured": name, **_columns(name, found, products)})
            begun = ""
    lines = [tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True), ""]
    lines += [f"- {step.name}: {fact}: {told}" for step in report.steps for fact, told in step.facts.items()]
    left_out = [step for step in report.steps if step.problem and step.status not in BAD]
    lines += [f"- {step.name}: {step.status}: {step.problem}" for step in left_out]
    lines += [f"- FAILED {told}" for told in report.failures] + [f"- SHORT {told}" for told in report.shortfalls]
    return "\n".join(lines)


def _columns(name: str, found: Measurement | None, products: dict[str, Measurement]) -> dict[str, str]:
    if found is None:
        return {}
    precision = next((p for p in ("bf16", "fp16", "tf32", "fp32") if p in name.split()), "")
    largest = products.get(f"matrix product {precision}")
    of_largest = found.flops / largest.flops if found.flops and largest is not None and largest.flops else None
    return {
        "": f"{number(found.value)} {found.unit}",
        "of its limit": "" if found.ratio is None else f"{found.ratio:.2f} of {found.limit_of}",
        "of the large product": "" if of_largest is None else f"{of_largest:.0%}",
        "peak memory, MB": "" if found.peak_bytes is None else f"{found.peak_bytes / 1e6:,.0f}",
    }
