"""The one kind of failure that a user can cause, and how it is told."""

from __future__ import annotations

import difflib
import errno
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and what to do, in one line; the command line exits with status 2.

    Several problems found in one go are joined by :meth:`collect`, a line each.
    """

    @classmethod
    def collect(cls, problems: Iterable[str]) -> UserError:
        return cls("\n".join(problems))


class Inapplicable(UserError):
    """A method, or an option, that a dataset cannot have, whatever files are there: what `all` names leaves it out."""


@contextmanager
def gathered(problems: list[str]) -> Iterator[None]:
    """Add a UserError's text to ``problems`` instead of raising it, so that more can be looked for; where nothing can
    be mended, nothing more is."""
    try:
        yield
    except Inapplicable:
        raise
    except UserError as error:
        problems.append(str(error))


def unknown_name(kind: str, name: str, known: Iterable[str], listed_by: str = "") -> UserError:
    """An error that names the nearest known names, or all of them where none is near.

    ``listed_by``: the command that lists names too many to be shown; the nearest three are then named anyhow.
    """
    names = sorted(known)
    abbreviated = [each for each in names if _abbreviates(name, each)]
    near = abbreviated or difflib.get_close_matches(name, names, n=3, cutoff=0.0 if listed_by else 0.5)
    choice = f"{', '.join(near[:-1])} or {near[-1]}" if len(near) > 1 else "".join(near)
    hint = f"did you mean {choice}?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} '{name}': {hint}" + (f" `{listed_by}` lists all" if listed_by else ""))


def _abbreviates(short: str, name: str) -> bool:
    """Whether a name is another one's initials ("lr"), or has all of its words among its own ("num_epochs")."""
    *groups, short = re.split(r"[.\s]", short.lower())
    *its_groups, name = re.split(r"[.\s]", name.lower())
    words, its_words = re.split(r"[_-]", short), re.split(r"[_-]", name)
    return groups == its_groups and (
        (len(its_words) > 1 and short == "".join(word[:1] for word in its_words))
        or (len(words) > 1 and set(its_words) < set(words))
    )


def first_of(names: Sequence[str], shown: int = 10) -> str:
    """The first names of a long list, and a sign that there are more."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


_ADVICE = {
    errno.EMFILE: "raise the number of files that may be open (`ulimit -n`)",
    errno.ENFILE: "close other programs: this machine has no more files to open",
    errno.EFBIG: "a file may not grow so large here (`ulimit -f`)",
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.ENOMEM: "close other programs, or give this one less to do (--limit, --batch-size)",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 400


def described(error: BaseException) -> tuple[str, int] | None:
    """Message and exit status of a failure that needs no traceback; None for any other.

    Statuses are 2 for what a user can mend and 130 for an interruption.
    """
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", 130
    if isinstance(error, OSError):
        return _format_system_error(error), 2
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = f" ({_first_line(error)})" if str(error) else ""
        return f"not enough memory{reason}; {_ADVICE[errno.ENOMEM]}", 2
    if isinstance(error, RecursionError):
        return f"nested deeper than this program follows ({_first_line(error)}); look for a file that holds itself", 2
    return None


def format_unexpected(error: BaseException) -> str:
    """A failure that nobody foresaw, in one line that names the place where it was raised."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {_first_line(error)}{where}; again with --traceback shows how it came to that"


def format_failure(error: BaseException) -> str:
    """Any failure of one run among several, in one line or, where several problems were found, in theirs."""
    if isinstance(error, SystemExit):
        return format_exit(error)
    told = described(error)
    return told[0] if told else format_unexpected(error)


def format_exit(stop: SystemExit) -> str:
    """That somebody's code ended the program from within, before its work was done."""
    places = traceback.extract_tb(stop.__traceback__)
    where = f"{places[-1].filename}, line {places[-1].lineno}" if places else "somebody's code"
    code = "" if stop.code is None else stop.code
    return f"{where}: called exit({code}) before the work was done; take that call out"


def _format_system_error(error: OSError) -> str:
    what = error.filename if error.filename is not None else "the system"
    reason = " ".join((error.strerror or _first_line(error)).split())
    advice = _ADVICE.get(error.errno or 0, "choose another folder or mend this one" if error.filename else "")
    return f"{os.fsdecode(what) if isinstance(what, bytes) else what}: {reason}" + (f"; {advice}" if advice else "")


def _first_line(error: BaseException) -> str:
    lines = str(error).split("\n")
    return " ".join(lines[0].split())[:_LONGEST] or type(error).__name__


def full_disk_advice(error: BaseException) -> str:
    """What to do where nothing more could be written, for lack of space or by a limit; "" for other errors.

    safetensors tells it by an error of its own, in words only; torch raises another one over it.
    """
    if isinstance(error, OSError):
        return _ADVICE[error.errno] if error.errno in _FULL else ""
    for number in _FULL:
        if os.strerror(number) in str(error):
            return _ADVICE[number]
    return full_disk_advice(error.__context__) if error.__context__ is not None else ""
