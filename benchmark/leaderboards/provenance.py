"""Where a page's numbers come from, at its foot: the commands that repeat them, and records that are left out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from benchmark.records.layout import WIDTH, listed, paragraph
from benchmark.records.record import Record, repeatable_command
from benchmark.records.rows import plain

MADE_FROM_DEMO_RECORDS = (
    "Made by `python -m benchmark leaderboard` from the records in `results/demo/records`; not edited by hand"
)
_INDENT = "  "


def excluded_section(found: Sequence[tuple[Record, str]]) -> str:
    """Records that enter no table, each with the reason; "" where there are none."""
    if not found:
        return ""
    told = [f"{plain(record.title)}, seed {record.identity.seed}: {plain(reason)}" for record, reason in found]
    return f"## Left out of all tables\n\nFrom `excluded.toml`, with the reason:\n\n{listed(told)}"


def how_to_repeat(records: Iterable[Record]) -> str:
    """The stored command lines, each once, with the version of the code that ran them and what they gave."""
    named: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        code = record.code
        commit = f", commit {code.commit[:12]}" if code.commit else ""
        changes = ", with uncommitted changes" if code.dirty else ""
        # Two backticks, so that one inside a command ends nothing.
        command = " ".join(repeatable_command(record.command).split())
        span = f"`` {command} ``" if "`" in command else f"`{command}`"
        titles = named.setdefault((span, f"version {code.version}{commit}{changes}"), {})
        titles[plain(record.title)] = None
    parts = ["## How to repeat\n\n"]
    for (span, version), titles in named.items():
        # A command is not broken, so that it can be copied from the page's source, too.
        told = paragraph([f"{version}: {', '.join(titles)}"], WIDTH - len(_INDENT))
        parts.append(f"- {span}\n{textwrap.indent(told, _INDENT)}")
    return "".join(parts)
