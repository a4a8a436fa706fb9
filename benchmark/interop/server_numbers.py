"""`submit RUN --server-numbers`: what the official test server returned, added to the run's record.

The numbers are typed off by a person: a JSON object of metric names and percentages. They become a
result of their own, marked as measured by the server.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.data.annotations import Problems, type_problem
from benchmark.errors import UserError, unknown_name
from benchmark.files import atomic_write_text, folder_lock, read_json
from benchmark.interop.server_files import FOLDER, Submission, read_submission
from benchmark.pipeline.reporting import TABLE
from benchmark.records.record import Record, Result, read_record, replace_record
from benchmark.records.tables import run_table

_FAMILIES = (("R@1", "R@5", "R@10", "R@50"), ("R_subset@1", "R_subset@2", "R_subset@3"))
_KNOWN = tuple(name for family in _FAMILIES for name in family)


def read_server_numbers(path: Path) -> dict[str, float]:
    """Metrics in percent, some or all of R@1/5/10/50 and R_subset@1/2/3.

    Raises UserError where a name or number is wrong, where a recall falls as its cut-off grows, or
    where all look like shares instead of percentages.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path}: must be a JSON object such as {{"R@1": 40.1, "R_subset@1": 70.2}}')
    problems = Problems("give the server's percentages by these names: " + ", ".join(_KNOWN))
    for name, value in content.items():
        if name not in _KNOWN:
            problems.add(path, str(unknown_name("metric", name, _KNOWN)))
        elif (fault := type_problem(value, float) and type_problem(value, int)) is not None:
            problems.add(path, f"{name} {fault}")
        elif not 0 <= value <= 100:
            problems.add(path, f"{name} is {value}, not between 0 and 100")
    problems.raise_all()
    for family in _FAMILIES:
        given = [name for name in family if name in content]
        for name, wider in zip(given, given[1:], strict=False):
            if content[name] > content[wider]:
                problems.add(path, f"{name} is {content[name]}, more than {wider}, {content[wider]}")
    if 0 < max(content.values()) <= 1:
        problems.add(path, "no number is above 1: these look like shares")
    problems.raise_all()
    return {name: float(value) for name, value in content.items()}


def add_server_numbers(run: Path, numbers: Path, submission: str = "") -> Record:
    """Add the server's numbers to a run's record and its table; gives the record as it stands then.

    ``submission``: the folder of what was submitted, by default the run's own. Numbers of the
    second file may follow those of the first; a metric that is there with another value is refused.
    """
    found = read_server_numbers(numbers)
    with folder_lock(run, "adding the server's numbers"):
        record = read_record(run)
        submitted = read_submission(Path(submission) if submission else run / FOLDER)
        if not submitted.is_official:
            raise UserError(f"{run}: submitted from '{submitted.dataset}'; the server scores CIRR's own test1 only")
        data = record.identity.data
        if data is None or data.label != submitted.dataset:
            raise UserError(f"{run}: its submission was made on '{submitted.dataset}', the run was not")
        added = record.model_copy(update={"results": _with_numbers(record, submitted, found, run)})
        atomic_write_text(run / TABLE, run_table(added) + "\n")
        return replace_record(run, added)


def _with_numbers(record: Record, submitted: Submission, found: dict[str, float], run: Path) -> tuple[Result, ...]:
    new = Result.model_validate(
        {
            "dataset": submitted.dataset,
            "split": submitted.split,
            "protocol": submitted.protocol,
            "text_mode": submitted.text_mode,
            "weights_from": submitted.weights_from,
            "measured_by": "server",
            "metrics": found,
            "queries": submitted.queries,
            "gallery": submitted.gallery,
        }
    )
    column = (new.key, new.weights_from, new.measured_by)
    old = next((r for r in record.results if (r.key, r.weights_from, r.measured_by) == column), None)
    if old is None:
        return (*record.results, new)
    for name in found:
        if old.metrics.get(name, found[name]) != found[name]:
            raise UserError(
                f"{run}: has {name} {old.metrics[name]} from the server already, not {found[name]}; "
                "remove that result from its record to replace it"
            )
    both = {**old.metrics, **found}
    merged = old.model_copy(update={"metrics": {name: both[name] for name in _KNOWN if name in both}})
    return tuple(merged if result is old else result for result in record.results)
