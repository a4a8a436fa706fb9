"""What a resumable state holds of a stage in training: typed, and held against the method before it is used."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt
from torch import Tensor

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.structured_files import typed
from benchmark.training.job import EpochLog
from benchmark.training.optimisation import Moments
from benchmark.training.resumable_state import ResumableState
from benchmark.weights.fit import require_fit, shapes_of


class StageState(BaseModel):
    """A stage in training after ``update`` updates: tensors on the host by name, and plain values.

    ``position``: updates of this epoch; ``losses``: theirs. ``scale``: of the loss, empty without one. ``average``:
    of the weights, empty without one. ``selected``: the best weights so far, empty where there are none. ``rows``:
    what `Stage.before_epoch` said of this epoch's entries.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    module: dict[str, Tensor]
    moments: Moments
    average: dict[str, Tensor]
    selected: dict[str, Tensor]
    scale: dict[str, float]
    epoch: NonNegativeInt
    position: NonNegativeInt
    update: NonNegativeInt
    losses: list[float]
    selected_epoch: int
    criterion: str
    best: float | None
    triplets_seen: NonNegativeInt
    log: list[EpochLog]
    rows: dict[str, Tensor] = {}

    @classmethod
    def read(cls, states: ResumableState, process: Process, method: Method) -> StageState | None:
        """The state that a stage goes on from, None where there is none; every process must call it.

        Raises UserError, one line, where it was cut, is of another version or does not fit the method.
        """
        found = states.load_for_all(process)
        if found is None:
            return None
        source = f"{states.folder}: its resumable state"
        state = typed(cls, found, source, states.remedy)
        try:
            state._require_fit(method, source)
        except UserError as error:
            raise UserError(f"{error}; {states.remedy}") from None
        return state

    def as_plain(self) -> dict[str, Any]:
        """Dicts, lists, numbers and tensors: what can be read back without executing anything."""
        return {**vars(self), "log": [vars(entry) for entry in self.log]}

    def _require_fit(self, method: Method, source: str) -> None:
        own = shapes_of(method.state_dict())
        for part in (self.module, self.selected):
            if part:
                require_fit(own, shapes_of(part), source)
        parameters = {name: tuple(p.shape) for name, p in method.named_parameters()}
        kept = [(name, value) for name, values in self.moments.items() for value in values.values()]
        for name, value in [*self.average.items(), *kept]:
            # What has no dimension is a count.
            if isinstance(value, Tensor) and value.ndim and tuple(value.shape) != parameters.get(name):
                expected = parameters.get(name, "nothing")
                found = tuple(value.shape)
                raise UserError(f"{source}: what is kept of {name} is {found} where {expected} is expected")
