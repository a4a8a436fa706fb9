"""The one kind of failure that a user can cause, and how it is told."""

from __future__ import annotations

import difflib
import errno
import os
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


def unknown_name(kind: str, name: str, known: Iterable[str], listed_by: str = "") -> UserError:
    """An error that names the nearest known names, or all of them where none is near.

    ``listed_by``: the command that lists names too many to be shown; the nearest three are then named anyhow.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.0 if listed_by else 0.5)
    choice = f"{', '.join(near[:-1])} or {near[-1]}" if len(near) > 1 else "".join(near)
    hint = f"did you mean {choice}?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} '{name}': {hint}" + (f" `{listed_by}` lists all" if listed_by else ""))


def first_of(names: Sequence[str], shown: int = 10) -> str:
    """The first names of a long list, and a sign that there are more."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def described(error: BaseException) -> tuple[str, int] | None:
    """Message and exit status of a failure that needs no traceback; None for any other.

    Statuses are 2 for what a user can mend and 130 for an interruption.
    """
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command with --resume goes on from the last saved state", 130
    if isinstance(error, OSError) and (error.filename or is_disk_full(error)):
        return f"{error.filename or 'a file'}: {error.strerror}; choose another folder or mend this one", 2
    return None


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no space left.

    safetensors tells it by an error of its own, in words only; torch raises another one over it.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if os.strerror(errno.ENOSPC) in str(error):
        return True
    return error.__context__ is not None and is_disk_full(error.__context__)
