"""Which tasks of a dataset are evaluated, and by which text rule: protocols asked for, or all that a rule fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmark.dataset import Dataset, ProtocolInfo, Task
from benchmark.errors import UserError, unknown_name
from benchmark.text_rules import TEXT_RULES, TextRule, text_rule


def fitting_rule(
    dataset: str, protocols: Sequence[ProtocolInfo], splits: Sequence[str], split: str, protocol: str, rule: str
) -> TextRule:
    """The text rule of that name, if the protocol is defined for the split and for the rule's mode.

    Raises UserError for unknown names (the nearest are told) and for what does not fit together.
    """
    if split not in splits:
        raise unknown_name(f"split of {dataset}", split, splits)
    known = {p.name: p for p in protocols}
    if protocol not in known:
        raise unknown_name(f"protocol of {dataset}", protocol, known)
    info, chosen = known[protocol], text_rule(rule)
    if split not in info.splits:
        raise UserError(f"{dataset}: protocol {protocol} is defined for {' and '.join(info.splits)}, not for {split}")
    if chosen.mode not in info.text_modes:
        fitting = [name for name, other in TEXT_RULES.items() if other.mode in info.text_modes]
        raise UserError(f"{dataset}: text rule '{rule}' gives mode {chosen.mode}; use {' or '.join(fitting)}")
    return chosen


def chosen_tasks(dataset: Dataset, split: str, protocols: Sequence[str], rule: TextRule) -> tuple[Task, ...]:
    """The tasks of a split, protocol by protocol; without names every protocol that fits the rule's mode.

    Raises UserError for an unknown protocol, and where none fits.
    """
    fitting = [p.name for p in dataset.protocols if split in p.splits and rule.mode in p.text_modes]
    if not protocols and not fitting:
        raise UserError(f"no protocol of {dataset.label} for split {split} has the text mode '{rule.mode}'")
    known = [p.name for p in dataset.protocols]
    for name in protocols:
        if name not in known:
            raise unknown_name(f"protocol of {dataset.label}", name, known)
    return tuple(task for name in protocols or fitting for task in dataset.tasks(split, name, rule.name))


def tasks_of_rule(dataset: Dataset, split: str, protocols: Sequence[str], rule: TextRule) -> tuple[Task, ...]:
    """The tasks of a rule, then those of the rule beside it, which say by which rule they ask."""
    tasks = chosen_tasks(dataset, split, protocols, rule)
    if not rule.beside:
        return tasks
    other = text_rule(rule.beside)
    note = f"asked by the text rule {other.name}: {other.summary}"
    beside = chosen_tasks(dataset, split, protocols, other)
    return (*tasks, *(replace(task, notes=(*task.notes, note)) for task in beside))
