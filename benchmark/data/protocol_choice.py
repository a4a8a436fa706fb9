"""Which text rule answers a request for a dataset's tasks, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.dataset import ProtocolInfo
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
