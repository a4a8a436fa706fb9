"""How the ranks of a job wait for one another outside of collectives, and tell one another small things.

A rank that waits inside a collective is killed by its watchdog after minutes, however healthy the job
is. So whatever takes unknown time (drawing, decoding, indexing, another run's lock) is waited for
here: through the job's key-value store, with a line that names the phase and the ranks that are
still at work. A rank that dies ends the wait with the job (:mod:`benchmark.distributed.rank_watch`).

All ranks must pass the same waits in the same order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.progress import say_from_any_rank

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.2
_TOLD_AFTER, _TOLD_AGAIN = 10.0, 60.0


class Store(Protocol):
    """What is used of a store of torch.distributed."""

    def set(self, key: str, value: str, /) -> Any: ...

    def get(self, key: str, /) -> bytes: ...

    def add(self, key: str, amount: int, /) -> int: ...

    def check(self, keys: list[str], /) -> bool: ...


class Rendezvous:
    """The waits of one job; ``store`` None stands for a process that is alone and waits for nobody.

    ``name`` tells its keys from those of other jobs in the same store; ``told_after``: seconds of
    waiting before a line says for whom.
    """

    def __init__(
        self, process: Process, store: Store | None, name: str = "", told_after: float = _TOLD_AFTER
    ) -> None:
        self.process = process
        self._store, self._name, self._told_after = store, name, told_after
        self._phases = 0

    def meet(self, phase: str) -> None:
        """Return once every rank has come here."""
        self.share(phase, None)

    def share(self, phase: str, value: Any) -> list[Any]:
        """Give a JSON-like value; returns those of all ranks, in rank order, once all have given theirs."""
        if self._store is None:
            return [value]
        place, ranks = self._next(phase), range(self.process.world_size)
        self._store.set(f"{place}/{self.process.rank}", json.dumps(value))
        if self._store.add(f"{place}/arrived", 1) == self.process.world_size:
            self._store.set(f"{place}/all", "")
        self._wait(f"{place}/all", phase, lambda: self._missing(place))
        return [None for _ in ranks] if value is None else [self._read(f"{place}/{rank}") for rank in ranks]

    def from_main(self, phase: str, work: Callable[[], Any]) -> Any:
        """Rank 0 works, the others wait; all get the JSON-like result, or the UserError that it raised."""
        if self._store is None:
            return work()
        place = self._next(phase)
        if self.process.is_main:
            try:
                result = work()
            except UserError as error:
                self._store.set(f"{place}/main", json.dumps({"error": str(error)}))
                raise
            self._store.set(f"{place}/main", json.dumps({"result": result}))
            return result
        self._wait(f"{place}/main", phase, lambda: [0])
        answer = self._read(f"{place}/main")
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["result"]

    def _next(self, phase: str) -> str:
        self._phases += 1
        return f"{self._name}/{self._phases} {phase}"

    def _read(self, key: str) -> Any:
        assert self._store is not None
        return json.loads(self._store.get(key))

    def _missing(self, place: str) -> list[int]:
        assert self._store is not None
        ranks = range(self.process.world_size)
        return [rank for rank in ranks if not self._store.check([f"{place}/{rank}"])]

    def _wait(self, key: str, phase: str, waited_for: Callable[[], list[int]]) -> None:
        """Poll for a key; now and then one of those who wait says for whom."""
        assert self._store is not None
        pause, tell_at = _FIRST_PAUSE, time.monotonic() + self._told_after
        while not self._store.check([key]):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if time.monotonic() > tell_at:
                tell_at = time.monotonic() + _TOLD_AGAIN
                self._tell(waited_for(), phase)

    def _tell(self, missing: list[int], phase: str) -> None:
        waiting = (rank for rank in range(self.process.world_size) if rank not in missing)
        if missing and self.process.rank == next(waiting, None):
            ranks = "rank" if len(missing) == 1 else "ranks"
            say_from_any_rank(f"waiting for {ranks} {', '.join(map(str, missing))}: {phase}")
