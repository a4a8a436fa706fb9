"""A job ends as one: what happens to a rank is told to all, and one line says it.

Rank 0 keeps a hub, a thread with a connection to every rank (its own included). A rank that fails
tells its message; one that is killed is noticed since its connection closes, whatever it was
computing, and a machine that is lost by TCP's keep-alive. The hub says what happened and which rank
it was, and ends all. No heartbeat is counted, so a rank that computes for long is never taken for
dead; a rank that waits in a collective is ended all the same, since a thread of its own listens.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_GRACE_SECONDS = 1.0
"""After the first failure, for the other ranks to tell theirs: mostly all fail alike."""
_ANSWER_SECONDS = 10.0
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_DIED = "ended without a word: killed, perhaps by the system for lack of memory"
_DIED_STATUS = 1


@dataclass(frozen=True)
class Failure:
    """Why a rank ended, and the exit status that it means."""

    message: str
    status: int


@dataclass
class _Rank:
    connection: socket.socket
    has_left: bool = False
    failure: Failure | None = None

    @property
    def is_done(self) -> bool:
        return self.has_left or self.failure is not None


@dataclass
class _Seats:
    """Who is there, guarded by a condition that is notified of every change."""

    ranks: dict[int, _Rank] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)


class Hub:
    """Rank 0's thread that knows how every rank fares; ``address`` is where ranks connect."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._seats = _Seats()
        self._token = secrets.token_hex(16)
        if socket.has_dualstack_ipv6():
            self._server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        self._ending = threading.Thread(target=self._end, daemon=True)
        self._ending.start()

    @property
    def address(self) -> str:
        """Port and secret, for the rendezvous store."""
        return json.dumps([self._server.getsockname()[1], self._token])

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            _keep_alive(connection)
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        """Follow one rank until its connection closes."""
        lines = _lines(connection)
        try:
            hello = next(lines)
            if hello.get("token") != self._token:
                connection.close()
                return
        except StopIteration:
            return
        rank = _Rank(connection)
        with self._seats.changed:
            self._seats.ranks[int(hello["rank"])] = rank
            self._seats.changed.notify_all()
        for line in lines:
            with self._seats.changed:
                if "failed" in line:
                    rank.failure = Failure(line["failed"], line["status"])
                rank.has_left = rank.has_left or "left" in line
                self._seats.changed.notify_all()
        with self._seats.changed:
            if not rank.is_done:
                rank.failure = Failure(_DIED, _DIED_STATUS)
            self._seats.changed.notify_all()

    def _end(self) -> None:
        """Wait until all have left or one has failed, say it, and end all."""
        seats = self._seats
        with seats.changed:
            seats.changed.wait_for(lambda: self._all_left() or any(r.failure for r in seats.ranks.values()))
            if any(rank.failure and rank.failure.message != _DIED for rank in seats.ranks.values()):
                seats.changed.wait_for(self._all_done, timeout=_GRACE_SECONDS)
            failures = {number: rank.failure for number, rank in seats.ranks.items() if rank.failure}
            # Rank 0 last: its end closes the hub.
            connections = [seats.ranks[number].connection for number in sorted(seats.ranks, reverse=True)]
        for line in told(failures):
            print(line, file=sys.stderr, flush=True)
        status = max((f.status for f in failures.values()), default=0)
        for connection in connections:
            _send(connection, {"end": status})

    def _all_left(self) -> bool:
        ranks = self._seats.ranks
        return len(ranks) == self._world_size and all(rank.has_left for rank in ranks.values())

    def _all_done(self) -> bool:
        ranks = self._seats.ranks
        return len(ranks) == self._world_size and all(rank.is_done for rank in ranks.values())

    def wait_for_end(self) -> None:
        """Until every rank was told that the job ends; this process holds the hub as long."""
        self._ending.join(_ANSWER_SECONDS)


def told(failures: dict[int, Failure]) -> list[str]:
    """What the terminal shows: a message that several ranks share once, with their numbers.

    Where a rank told why it ended, those that merely died in its wake are left out.
    """
    spoken = {rank: failure for rank, failure in failures.items() if failure.message != _DIED}
    ranks_of: dict[str, list[int]] = {}
    for rank, failure in sorted((spoken or failures).items()):
        ranks_of.setdefault(failure.message, []).append(rank)
    return [
        f"error ({_named(ranks)}): {line}" for message, ranks in ranks_of.items() for line in message.splitlines()
    ]


def _named(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


class Watch:
    """One rank's line to the hub. When the job ends elsewhere, this process ends with it."""

    def __init__(self, rank: int, host: str, address: str, local_rank: int = 0) -> None:
        """Raises OSError where the hub cannot be reached."""
        port, token = json.loads(address)
        self._rank, self._local_rank = rank, local_rank
        self._connection = socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
        self._connection.settimeout(None)
        _keep_alive(self._connection)
        self._leaves = threading.Event()
        self._ended = threading.Event()
        self._status = 0
        _send(self._connection, {"rank": rank, "token": token})
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self) -> int:
        """This rank is done; returns when all are, or one has failed, with the job's exit status."""
        self._leaves.set()
        _send(self._connection, {"left": True})
        self._ended.wait()
        return self._status

    def fail(self, failure: Failure) -> bool:
        """Tell why this rank ends; True when the hub has said it and ends the others."""
        self._leaves.set()
        _send(self._connection, {"failed": failure.message, "status": failure.status})
        return self._ended.wait(_ANSWER_SECONDS)

    def _listen(self) -> None:
        status: int | None = None
        for line in _lines(self._connection):
            status = line.get("end", status)
            if status is not None:
                break
        if status is None and (self._local_rank == 0 or self._rank == 1):
            # The hub is gone, and rank 0 with it: one rank of each machine says so.
            print(f"error (rank 0): {_DIED}", file=sys.stderr, flush=True)
        if self._leaves.is_set() and status is not None:
            self._status = status
            self._ended.set()
            return
        end_process(_DIED_STATUS if status is None else status)


def end_process(status: int) -> None:
    """End at once, whatever the main thread waits for; files are whole at any moment (`files.py`)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    # Rank 0's hub may still be telling the others.
    time.sleep(0.1)
    os._exit(status)


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """JSON objects, a line each, until the connection closes."""
    try:
        with connection.makefile("r", encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, ValueError):
        return


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    """A connection that is closed has been noticed by the one who listens to it."""
    try:
        connection.sendall((json.dumps(message) + "\n").encode())
    except OSError:
        pass


def _keep_alive(connection: socket.socket) -> None:
    """A lost machine closes nothing: the system asks after 10 s of silence, three times, 5 s apart."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
