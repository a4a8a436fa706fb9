"""Golden files: JSON of which each part is read as the form that its reader expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from benchmark.errors import UserError


class Form(BaseModel):
    """Base of what a reader expects of a part of a file; entries it does not name are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


T = TypeVar("T")


@dataclass(frozen=True)
class GoldenFile:
    """A golden file: what it checks (``method``), the prefix of all its seeds, and its entries."""

    path: Path
    method: str
    prefix: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> GoldenFile:
        """Raises UserError where the file is missing, truncated or no golden file at all."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); name a file of golden numbers") from None
        except ValueError as error:
            raise UserError(f"{path}: truncated or no JSON ({error}); get the golden file again") from None
        if not isinstance(content, dict) or not isinstance(content.get("method"), str):
            raise UserError(f"{path}: no golden numbers: a JSON object with an entry 'method' is expected")
        prefix = content.get("seed_prefix")
        if not isinstance(prefix, str):
            raise UserError(f"{path}: entry 'seed_prefix' must be a string, without which no seed is known")
        return cls(path, content["method"], prefix, content)

    def parse(self, kind: type[T], *at: str) -> T:
        """What lies ``at`` these keys, one in the other, as a form or another type.

        Raises UserError that names the first entry that is missing or of another kind.
        """
        entries: Any = self.content
        for depth, key in enumerate(at):
            if not isinstance(entries, dict) or key not in entries:
                raise self.error(f"entry '{'.'.join(at[: depth + 1])}' is missing")
            entries = entries[key]
        try:
            return TypeAdapter(kind).validate_python(entries)
        except ValidationError as error:
            first = error.errors()[0]
            raise self.error(f"entry '{'.'.join(map(str, (*at, *first['loc'])))}': {first['msg']}") from None

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: not of the form '{self.method}': {problem}")
