"""Golden files: JSON of which each part is read as the form that its reader expects, and the forms that many share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from benchmark.errors import UserError
from benchmark.structured_files import read_json


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
        content = read_json(path, remedy="it may be truncated, get the golden file again")
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


def _rectangular(rows: list[list[float]]) -> list[list[float]]:
    if len({len(row) for row in rows}) > 1:
        raise ValueError("all rows must have the same length")
    return rows


Matrix = Annotated[list[list[float]], AfterValidator(_rectangular)]


class Rows(Form):
    """An output by the norm of each row and its first entries."""

    norms: list[float] = Field(validation_alias=AliasChoices("norms", "norm"))
    first16: Matrix
    shape: list[int] | None = None


class TokenRows(Form):
    """Tokens (B, T, d) by the norm of each, and the first entries of those at some positions of every sample."""

    norms: Matrix
    positions: list[int] = Field(min_length=1)
    first8: list[Matrix]
    shape: list[int]


class Places(RootModel[list[tuple[int, int, list[float]]]]):
    """First channels of a map (C, h, h), by row and column: [row, column, values] or "row,column": values."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, entries: Any) -> Any:
        if not isinstance(entries, dict):
            return entries
        return [[*place.split(","), values] for place, values in entries.items()]


Expected = TokenRows | Rows | Places | Matrix | list[float] | float
"""What a file lists of one output; of a vector its first entries."""

_Forms = Annotated[Expected | dict[str, Expected], Field(union_mode="left_to_right")]


class Listed(RootModel[Annotated[dict[str, _Forms], Field(min_length=1)]]):
    """Outputs by name, some of them in several forms."""

    @property
    def outputs(self) -> dict[str, Expected]:
        """On one level: "scores ARTEMIS" for the form ARTEMIS of the scores."""
        flat: dict[str, Expected] = {}
        for name, value in self.root.items():
            forms = {f"{name} {form}": inner for form, inner in value.items()} if isinstance(value, dict) else None
            flat |= forms or {name: value}  # type: ignore[dict-item]
        return flat


class StateDict(RootModel[dict[str, list[int]]]):
    """Shapes by name, also from lists of {"name", "shape"} or of [name, shape]."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, entries: Any) -> Any:
        if not isinstance(entries, list):
            return entries
        try:
            return dict((e.get("name"), e.get("shape")) if isinstance(e, dict) else tuple(e) for e in entries)
        except (TypeError, ValueError):
            raise ValueError("names with their shapes are expected") from None


class ExpectedTraining(Form):
    """A loss and the norms of its gradients by released name; parameters that are named as such get none."""

    loss: float = Field(validation_alias=AliasChoices("loss", "loss_sum"))
    grad_norms: dict[str, float] = Field(validation_alias=AliasChoices("grad_norms", "gradient_norms"))
    no_gradient: list[str] = Field([], validation_alias=AliasChoices("no_gradient", "parameters_without_gradient"))

    @property
    def norms(self) -> dict[str, float]:
        return {**dict.fromkeys(self.no_gradient, 0.0), **self.grad_norms}
