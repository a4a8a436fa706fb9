"""Which tasks of a dataset are evaluated: the protocols asked for, or all that a text rule fits."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError, unknown_name
from benchmark.text_rules import TextRule


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
