"""Which tasks of a dataset are evaluated: the protocols asked for, or all that a text rule fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError, unknown_name
from benchmark.text_rules import TextRule, text_rule


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
