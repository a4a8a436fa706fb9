"""What a test of the command line gets: the command's outcome. The fixture is `conftest.command`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOY_PLUGIN = Path(__file__).parent / "toy_distribution" / "toy_cir" / "method.py"


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error")]


Command = Callable[..., Outcome]
