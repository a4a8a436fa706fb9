"""How the ranks of a job wait for one another outside of collectives, and tell one another small things.

A rank that waits inside a collective is killed by its watchdog after minutes, however healthy the job is;
gloo's monitored barrier names the missing ranks, but takes its first timeout for a failure. So whatever takes
unknown time (drawing, decoding, indexing, another run's lock) is waited for here: through the job's
key-value store, with a line that names the phase and the ranks that are still at work. A rank that dies
ends the wait with the job (:mod:`benchmark.distributed.failure_monitor`).

All ranks must pass the same waits in the same order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.progress import say_from_any_rank

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.2
_SAID_AFTER, _SAID_AGAIN = 10.0, 60.0
_SHOWN_DIFFERENCES = 5


class Store(Protocol):
    """What is used of a store of torch.distributed."""

    def set(self, key: str, value: str, /) -> Any: ...

    def multi_get(self, keys: list[str], /) -> list[bytes]: ...

    def check(self, keys: list[str], /) -> bool: ...


class Barrier:
    """The waits of one job; ``store`` None stands for a process that is alone and waits for nobody.

    ``name`` tells its keys from those of other jobs in the same store; ``said_after``: seconds of
    waiting before a line says for whom.
    """

    def __init__(
        self, process: Process, store: Store | None, name: str = "", said_after: float = _SAID_AFTER
    ) -> None:
        self.process = process
        self._store, self._name, self._said_after = store, name, said_after
        self._phases = 0

    def wait(self, phase: str) -> None:
        """Return once every rank has come here."""
        self.share(phase, None)

    def share(self, phase: str, value: Any) -> list[Any]:
        """Give a JSON-like value; returns those of all ranks, in rank order, once all have given theirs."""
        if self._store is None:
            return [value]
        place = self._next(phase)
        keys = {rank: f"{place}/{rank}" for rank in range(self.process.world_size)}
        self._store.set(keys[self.process.rank], json.dumps(value))
        self._wait(self._store, keys, phase)
        return [json.loads(given) for given in self._store.multi_get(list(keys.values()))]

    def from_main(self, phase: str, work: Callable[[], Any]) -> Any:
        """Rank 0 works, the others wait; all get the JSON-like result, or the UserError that it raised."""
        if self._store is None:
            return work()
        key = f"{self._next(phase)}/main"
        if self.process.is_main:
            try:
                result = work()
            except UserError as error:
                self._store.set(key, json.dumps({"error": str(error)}))
                raise
            self._store.set(key, json.dumps({"result": result}))
            return result
        self._wait(self._store, {0: key}, phase)
        answer = json.loads(self._store.multi_get([key])[0])
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["result"]

    def agree(self, subject: str, facts: Mapping[str, str]) -> None:
        """Compare facts; returns when all ranks have them alike.

        Raises UserError, the same on all ranks, naming what differs from rank 0.
        """
        # The subject is a value and no part of the key: ranks at different places meet, and are told.
        answers = self.share("agreement", [subject, dict(facts)])
        problems: dict[str, list[int]] = {}
        for rank, answer in enumerate(answers):
            problems.setdefault(difference(answers[0], answer), []).append(rank)
        problems.pop("", None)
        if problems:
            raise UserError.collect(
                f"the processes of this job disagree: {problem.replace('RANKS', ', '.join(map(str, ranks)))}; "
                "start all with the same command, program and data"
                for problem, ranks in problems.items()
            )

    def _next(self, phase: str) -> str:
        self._phases += 1
        return f"{self._name}/{self._phases} {phase}"

    def _wait(self, store: Store, keys: Mapping[int, str], phase: str) -> None:
        """Until all keys are there, by the rank that sets them; now and then one of those who wait says for whom.

        Polled: within the store's own `wait` no other thread of this process could use the store, as NCCL's
        watchdog must.
        """
        pause, say_at = _FIRST_PAUSE, time.monotonic() + self._said_after
        while not store.check(list(keys.values())):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if time.monotonic() > say_at:
                say_at = time.monotonic() + _SAID_AGAIN
                missing = [rank for rank, key in keys.items() if not store.check([key])]
                waiting = (rank for rank in range(self.process.world_size) if rank not in missing)
                if missing and self.process.rank == next(waiting, None):
                    ranks = "rank" if len(missing) == 1 else "ranks"
                    say_from_any_rank(f"waiting for {ranks} {', '.join(map(str, missing))}: {phase}")


def difference(first: Sequence[Any], other: Sequence[Any]) -> str:
    """What differs between rank 0's (subject, facts) and another's; "RANKS" stands for that one, "" for nothing."""
    if first[0] != other[0]:
        return f"rank 0 is at {first[0]}, RANKS at {other[0]}"
    names = [name for name in {**first[1], **other[1]} if first[1].get(name) != other[1].get(name)]
    shown = [
        f"{name} is {first[1].get(name, 'unknown')} on rank 0 and {other[1].get(name, 'unknown')} on rank RANKS"
        for name in names[:_SHOWN_DIFFERENCES]
    ]
    more = [f"and {len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more])
