"""The one kind of failure that a user can cause, and how it is told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """What is wrong, where, and what to do, in one line; the command line exits with status 2.

    Several problems found in one go are joined by :meth:`collect`, a line each.
    """

    @classmethod
    def collect(cls, problems: Iterable[str]) -> UserError:
        return cls("\n".join(problems))


@contextmanager
def gathered(problems: list[str]) -> Iterator[None]:
    """Add a UserError's text to ``problems`` instead of raising it, so that more can be looked for."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error that names the nearest known names, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} '{name}': {hint}")


def first_of(names: Sequence[str], shown: int = 10) -> str:
    """The first names of a long list, and a sign that there are more."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
