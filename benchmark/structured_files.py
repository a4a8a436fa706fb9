"""Reading JSON and TOML: the one place where text becomes values, whoever wrote it.

What is read is plain: regular files alone, UTF-8 (a byte order mark is passed over, lone surrogates are kept), no key
twice in an object, whole numbers of 64 bits, finite numbers, no deeper than :data:`DEEPEST` levels. So nothing behind
it meets a number that overflows or a tree that exhausts the stack. `typed` turns such values into dataclasses,
models and other types. Every fault is one line that names the file and the place in it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.errors import UserError
from benchmark.files import require_regular_file

if TYPE_CHECKING:
    from pydantic import TypeAdapter

DEEPEST = 100
"""Levels of lists and objects; the deepest of our own files has seven."""

SMALL = 16 * 2**20
"""Bytes; for files that are never that large: settings, manifests, pointers."""

_LEAST, _LARGEST = -(2**63), 2**64 - 1
_LONGEST = len(str(_LARGEST))
_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+')
T = TypeVar("T")


class NotWellFormed(ValueError):
    """Text that is no JSON or no TOML; the message says where in the text."""


class DoubledKey(NotWellFormed):
    """An object with a key twice, of which readers elsewhere keep the one or the other."""

    def __init__(self, key: str, where: str = "an object") -> None:
        super().__init__(f"{where} has the key '{key}' twice")
        self.key = key


class OutOfBounds(NotWellFormed):
    """A value that JSON or TOML allow, and this program does not: too deep, too large, not finite."""


def read_json(path: Path, most_bytes: int | None = None, remedy: str = "") -> Any:
    """Parse a JSON file; raises UserError that names the file and the place in it.

    ``most_bytes``: a larger file is refused before it is read. ``remedy``: what to do about a fault.
    """
    return _read(path, parse_json, most_bytes, remedy or "the file may be truncated, get it again")


def read_toml(path: Path, most_bytes: int = SMALL, remedy: str = "") -> dict[str, Any]:
    """Parse a TOML file; raises UserError that names the file and the place in it."""
    tables: dict[str, Any] = _read(path, parse_toml, most_bytes, remedy or "correct it")
    return tables


def read_text(path: Path, most_bytes: int | None = None) -> str:
    """The text of a regular file in UTF-8; raises UserError for any other."""
    require_regular_file(path)
    try:
        size = path.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise UserError(
                f"{path}: {size:,} bytes, and such a file has no more than {most_bytes:,}; name the right file"
            )
        # Python's own strings may hold half a surrogate pair, and so may captions.
        return path.read_bytes().decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); get the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another file, or mend this one") from None
    except MemoryError:
        raise UserError(f"{path}: larger than this machine's memory; name the right file") from None


def parse_json(text: str) -> Any:
    """Values of a JSON text; raises NotWellFormed."""
    try:
        content = json.loads(text, object_pairs_hook=_without_double_keys, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise NotWellFormed(f"not valid JSON at {_place(text, error.pos)} ({error.msg})") from None
    except DoubledKey as error:
        raise DoubledKey(error.key, _place_of_double_key(text)) from None
    except RecursionError:
        raise OutOfBounds(f"more than {DEEPEST} levels of lists and objects, one in the other") from None
    except OverflowError:
        raise OutOfBounds(f"a whole number beyond 64 bits at {_place(text, _long_number(text))}") from None
    return _bounded(content)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text; raises NotWellFormed."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotWellFormed(f"not valid TOML ({error})") from None
    except RecursionError:
        raise OutOfBounds(f"more than {DEEPEST} levels of tables and lists, one in the other") from None
    except ValueError:  # more digits than Python turns into a number
        raise OutOfBounds(f"a whole number beyond 64 bits at {_place(text, _long_number(text))}") from None
    _bounded(content)
    return content


def typed(kind: type[T], content: Any, where: str, remedy: str) -> T:
    """Content as a dataclass, a model or another type; raises UserError that names the entry and says what to do."""
    from pydantic import ValidationError

    if is_dataclass(kind) and isinstance(content, dict):
        unknown = content.keys() - {field.name for field in fields(kind)}
        if unknown:
            raise UserError(f"{where}: entry '{min(unknown)}' is not known here; {remedy}")
    try:
        found: T = _adapter(kind).validate_python(content)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        place = f"entry '{entry}': " if entry else ""
        raise UserError(f"{where}: {place}{first['msg']}; {remedy}") from None
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once of a type: to make one takes longer than most content to check."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _read(path: Path, parse: Callable[[str], Any], most_bytes: int | None, remedy: str) -> Any:
    text = read_text(path, most_bytes)
    try:
        return parse(text)
    except NotWellFormed as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    except MemoryError:
        raise UserError(f"{path}: larger than this machine's memory; name the right file") from None


def _without_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DoubledKey(next(key for key in keys if keys.count(key) > 1))
    return found


def _whole_number(text: str) -> int:
    # Not left to int(): what it takes for so many digits grows with their square, and its own limit may be lifted.
    if len(text) > _LONGEST:
        raise OverflowError
    return int(text)


def _long_number(text: str) -> int:
    """Where the first number of too many digits stands outside of strings."""
    found = (match for match in _STRING_OR_NUMBER.finditer(text) if len(match[0]) > _LONGEST and match[0][0] != '"')
    return next((match.start() for match in found), 0)


def _place_of_double_key(text: str) -> str:
    """The innermost object that holds a key twice, by its beginning, which only a slower parse tells."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_double_keys)
    starts: list[int] = []

    def parse_object(text_and_start: tuple[str, int], *how: Any) -> Any:
        try:
            return json.decoder.JSONObject(text_and_start, *how)  # type: ignore[attr-defined]
        except DoubledKey:
            starts.append(text_and_start[1] - 1)
            raise

    decoder.parse_object = parse_object  # type: ignore[attr-defined]
    decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    with suppress(DoubledKey, RecursionError):
        decoder.decode(text)
    return f"the object at {_place(text, starts[0])}" if starts else "an object"


def _place(text: str, position: int) -> str:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return f"line {line}, column {column}"


def _bounded(content: Any) -> Any:
    """Content whose numbers and depth are within bounds; level by level, since recursion is what is in question."""
    level: list[Any] = [(None, None, [content])]  # (its parent's like this, its key there, list or object)
    for _ in range(DEEPEST + 1):
        deeper = []
        for entry in level:
            inner = entry[2]
            for key, value in inner.items() if isinstance(inner, dict) else enumerate(inner):
                if isinstance(value, dict | list):
                    deeper.append((entry, key, value))
                elif isinstance(value, float) and not math.isfinite(value):
                    raise OutOfBounds(f"{value} at {_path(entry, key)} is no finite number")
                elif isinstance(value, int) and not _LEAST <= value <= _LARGEST:
                    raise OutOfBounds(f"a whole number beyond 64 bits at {_path(entry, key)}")
        if not deeper:
            return content
        level = deeper
    raise OutOfBounds(f"more than {DEEPEST} levels of lists and objects, one in the other")


def _path(entry: Any, key: Any) -> str:
    keys: list[str] = []
    while entry is not None:
        keys.append(str(key))
        entry, key, _ = entry
    return f"entry '{'.'.join(reversed(keys[:-1]))}'" if len(keys) > 1 else "the top"
