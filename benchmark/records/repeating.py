"""How a record's command is told to others, without what is nobody else's."""

from __future__ import annotations

import re

from benchmark.records.record import Record

_OWN_FOLDERS = re.compile(r" --(?:cache|output)[ =](?:'[^']*'|\S+)")
"""Options of a command that name somebody's own folders and change no number."""


def repeatable_command(record: Record) -> str:
    """The stored command line without folders of the one who ran it."""
    return _OWN_FOLDERS.sub("", record.command)
