"""Golden files: JSON read and checked against the form that their reader expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.errors import UserError


class Form(BaseModel):
    """Base of what a reader expects of a file or of a part of it; entries it does not name are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


F = TypeVar("F", bound=Form)


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

    def parse(self, form: type[F], entries: Any = None, at: str = "") -> F:
        """The file, or ``entries`` that lie at ``at`` in it, as a form.

        Raises UserError that names the first entry that is missing or of another kind.
        """
        try:
            return form.model_validate(self.content if entries is None else entries)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in (at, *first["loc"]) if part != "")
            raise self.error(f"entry '{where}': {first['msg']}") from None

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: not of the form '{self.method}': {problem}")
