"""Under which protocol ranked lists were made: what is asked for, what the file says, what the lists themselves show.

Lists carry no scores of what they leave out, so that a list made under one protocol (which gallery, whether the
reference is ranked) gives a wrong number under another one. Often several protocols take the same lists without a
fault; then the choice is the maker's to tell, and the lists' own evidence stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.data.protocols import chosen_tasks
from benchmark.dataset import IntArray, Task
from benchmark.errors import UserError
from benchmark.interop.list_checks import ListFaults, check_queries, gallery_lists, removed_reference
from benchmark.interop.outside import OutsideRun, queries_digest
from benchmark.interop.ranked_lists import RankedLists

_CERTAIN = math.log(1e-6)
"""Evidence counts where chance would give it in less than one case of a million."""


@dataclass(frozen=True)
class ProtocolChoice:
    """The ``tasks`` of the protocol that lists are scored under, and what speaks for and against it, in words."""

    tasks: tuple[Task, ...]
    evidence: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def choose_protocol(lists: RankedLists, run: OutsideRun) -> ProtocolChoice:
    """The protocol of `--protocol`, or that of the file, or the only one that the lists fit.

    Raises UserError where the lists do not fit it, and where several fit and none is named.
    """
    split, names, asked = run.dataset.info.evaluation_split, run.dataset.pictures.names, run.options.protocol
    if len(asked) > 1:
        raise UserError("--protocol: ranked lists belong to one protocol; score them under one at a time")
    if asked and lists.protocol not in ("", asked[0]):
        raise UserError(
            f"{lists.path}: says that it was made for protocol {lists.protocol}, not for {asked[0]}; leave --protocol "
            "out, or rank under the other one"
        )
    candidates: dict[str, list[Task]] = {}
    for task in chosen_tasks(run.dataset, split, (), run.rule):
        candidates.setdefault(task.key.protocol, []).append(task)
    named = asked[0] if asked else lists.protocol
    if named and named not in candidates:
        candidates[named] = list(chosen_tasks(run.dataset, split, (named,), run.rule))  # tells an unknown name
    faults: dict[str, UserError] = {}
    for protocol, tasks in candidates.items():
        try:
            checked_gallery_lists(tasks, names, lists)
        except UserError as error:
            faults[protocol] = error
    fitting = {protocol: tuple(tasks) for protocol, tasks in candidates.items() if protocol not in faults}
    if named in faults:
        raise faults[named]
    if not fitting:
        raise faults.get(run.dataset.info.default_protocol, next(iter(faults.values())))
    against = {protocol: _doubts(tasks, names, lists, fitting) for protocol, tasks in fitting.items()}
    if named:
        told = "asked for by --protocol" if asked else "named by the file"
        return ProtocolChoice(fitting[named], (f"protocol {named}: {told}",), against[named])
    if len(fitting) > 1:
        likely = [protocol for protocol, doubts in against.items() if not doubts]
        shown = "; ".join(dict.fromkeys(doubt for doubts in against.values() for doubt in doubts))
        hint = f" (their own evidence speaks for {' or '.join(likely)}: {shown})" if shown and likely else ""
        raise UserError(
            f"{lists.path}: --protocol is missing: the lists pass for {', '.join(fitting)}{hint}; name the one that "
            "they were made for"
        )
    (only,) = fitting
    return ProtocolChoice(fitting[only], (f"protocol {only}: the only one that the lists fit",), against[only])


def checked_gallery_lists(
    tasks: Sequence[Task], names: Sequence[str], lists: RankedLists
) -> list[list[IntArray]]:
    """Gallery indices of every task's lists; raises UserError with all faults. ``names``: the dataset's pictures'."""
    key = tasks[0].key
    wanted = queries_digest(tasks, names)
    if lists.queries_digest not in ("", wanted):
        raise UserError(
            f"{lists.path}: its queries_digest {lists.queries_digest} is of other queries than those of protocol "
            f"{key.protocol}, {wanted}; rank those of `data export-queries`"
        )
    faults = ListFaults(lists.path, advice(tasks))
    check_queries(lists.lists, tasks, faults)
    found = [gallery_lists(lists.lists, task, names, faults) for task in tasks]
    faults.raise_all()
    return found


def advice(tasks: Sequence[Task]) -> str:
    """Where the names come from that lists of these tasks must have."""
    key = tasks[0].key
    return (
        f"queries and names are those of `data export-queries`: split {key.split}, protocol {key.protocol}, "
        f"text mode {key.text_mode}"
    )


def _doubts(
    tasks: Sequence[Task], names: Sequence[str], lists: RankedLists, fitting: Mapping[str, Sequence[Task]]
) -> tuple[str, ...]:
    """What in the lists would be a strange chance had they been made under the tasks' protocol.

    Chance is reckoned as if lists were drawn blindly; real ones begin with pictures like the reference, which makes a
    reference that is never ranked stranger still.
    """
    found = []
    kept = never = listed = 0
    by_chance = 0.0
    for task in tasks:
        for i, query in enumerate(task.queries.ids):
            reference, ranking = int(task.queries.reference_in_gallery[i]), lists.lists[query]
            listed += len(ranking)
            if reference >= 0 and removed_reference(task, i) < 0:
                kept += 1
                never += names[task.gallery[reference]] not in ranking
                by_chance += math.log1p(-min(len(ranking) / len(task.gallery), 1 - 1e-9))
    if kept and never == kept and by_chance < _CERTAIN:
        found.append(
            f"none of {kept:,} lists ranks its reference, which {tasks[0].key.protocol} keeps in the gallery"
        )
    for others in fitting.values():
        sizes = [(len(task.gallery), len(other.gallery)) for task, other in zip(tasks, others, strict=True)]
        # The other protocol takes the lists, too: no name in them is outside of its gallery.
        chance = sum(
            sum(len(lists.lists[query]) for query in task.queries.ids) * math.log(min(other / size, 1.0))
            for task, (size, other) in zip(tasks, sizes, strict=True)
        )
        if chance < _CERTAIN:
            smaller, larger = (sum(column) for column in np.array(sizes)[:, ::-1].T.tolist())
            text = (
                f"none of {listed:,} listed names is outside of the {smaller:,} pictures of the smaller galleries, of "
                f"the {larger:,} that {tasks[0].key.protocol} ranks"
            )
            if text not in found:
                found.append(text)
    return tuple(found)
