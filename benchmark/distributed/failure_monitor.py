"""A job ends as one: what happens to a rank is told to all, and one line says it.

Rank 0 keeps the monitor, a thread with a connection to every rank (its own included). A rank that fails
tells its message; one that is killed is noticed since its connection closes, whatever it was computing,
and a machine that is lost by TCP's keep-alive. The monitor says what happened and to which rank, and ends
all. No heartbeat is counted, so a rank that computes for long is never taken for dead; a rank that waits in
a collective is ended all the same, since a thread of its own listens.

torchrun and DeepSpeed's launcher end the ranks of their own node, with a table or a status in place of the
line; across nodes, under srun and without a launcher nobody would, and a torch store says nothing of a
client that is gone.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_GRACE_SECONDS = 1.0
"""After the first failure, for the other ranks to tell theirs: mostly all fail alike."""
_ANSWER_SECONDS = 10.0
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_DIED = "ended without a word: killed, perhaps by the system for lack of memory"
_DIED_STATUS = 1
_INTERRUPTED_STATUS = 130


@dataclass(frozen=True)
class Failure:
    """Why a rank ended, and the exit status that it means."""

    message: str
    status: int


class _Connection:
    """A connection on which JSON objects go to and fro, a line each."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._begun = connection, b""
        # A lost machine closes nothing: the system asks after 10 s of silence, three times, 5 s apart.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall((json.dumps(message) + "\n").encode())
        except OSError:
            # Closed: whoever listens to it has noticed.
            pass

    def receive(self) -> list[dict[str, Any]] | None:
        """What has come, waiting for something; None once the other side is gone, or is no rank of ours."""
        try:
            come = self._socket.recv(65536)
            *lines, self._begun = (self._begun + come).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError):
            return None
        return messages if come and all(isinstance(message, dict) for message in messages) else None

    def close(self) -> None:
        self._socket.close()


class FailureMonitor:
    """Rank 0's thread that knows how every rank fares; ``address`` is where ranks connect."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._token = secrets.token_hex(16)
        if socket.has_dualstack_ipv6():
            self._server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        self._ranks: dict[int, _Connection] = {}
        self._left: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Port and secret, for the job's store."""
        return json.dumps([self._server.getsockname()[1], self._token])

    def wait_for_end(self) -> None:
        """Until every rank was told that the job ends; this process holds the monitor as long."""
        self._thread.join(_ANSWER_SECONDS)

    def _run(self) -> None:
        """Listen until all have left or one has failed, say it, and end all."""
        self._listen()
        for line in format_failures(self._failures):
            print(line, file=sys.stderr, flush=True)
        status = max((failure.status for failure in self._failures.values()), default=0)
        # Rank 0 last: with its end the monitor ends.
        for rank in sorted(self._ranks, reverse=True):
            self._ranks[rank].send({"end": status})

    def _listen(self) -> None:
        deadline: float | None = None
        with selectors.DefaultSelector() as connections:
            connections.register(self._server, selectors.EVENT_READ)
            while len(self._left) < self._world_size:
                wait = None if deadline is None else max(deadline - time.monotonic(), 0)
                for key, _ in connections.select(wait):
                    if key.fileobj is self._server:
                        # Whoever knocks and is gone again must not end this thread.
                        with suppress(OSError):
                            connection, _ = self._server.accept()
                            connections.register(connection, selectors.EVENT_READ, _Connection(connection))
                    elif not self._hear(key.data):
                        connections.unregister(key.fileobj)
                if not self._failures:
                    continue
                # One that was killed has no company to wait for: nobody else would say anything.
                if all(failure.message == _DIED for failure in self._failures.values()):
                    return
                deadline = deadline or time.monotonic() + _GRACE_SECONDS
                if time.monotonic() >= deadline or len(self._left | self._failures.keys()) == self._world_size:
                    return

    def _hear(self, connection: _Connection) -> bool:
        """Take in what a connection brought; False where nothing more will come of it."""
        messages = connection.receive()
        rank = next((rank for rank, known in self._ranks.items() if known is connection), None)
        for message in messages or ():
            if rank is None:
                if message.get("token") != self._token:
                    messages = None
                    break
                rank = int(message["rank"])
                self._ranks[rank] = connection
            elif "failed" in message:
                self._failures[rank] = Failure(message["failed"], message["status"])
            elif "left" in message:
                self._left.add(rank)
        if messages is None:
            if rank is None:
                connection.close()
            elif rank not in self._left:
                self._failures.setdefault(rank, Failure(_DIED, _DIED_STATUS))
        return messages is not None


def format_failures(failures: dict[int, Failure]) -> list[str]:
    """What the terminal shows: a message that several ranks share once, with their numbers.

    Where a rank told why it ended, those that merely died in its wake are left out.
    """
    spoken = {rank: failure for rank, failure in failures.items() if failure.message != _DIED}
    # A launcher that sees one rank fail interrupts the others.
    spoken = {rank: failure for rank, failure in spoken.items() if failure.status != _INTERRUPTED_STATUS} or spoken
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


class MonitoredRank:
    """One rank's connection to the monitor. When the job ends elsewhere, this process ends with it."""

    def __init__(self, rank: int, host: str, address: str, local_rank: int = 0) -> None:
        """Raises OSError where the monitor cannot be reached."""
        port, token = json.loads(address)
        self._rank, self._local_rank = rank, local_rank
        connection = socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
        connection.settimeout(None)
        self._connection = _Connection(connection)
        self._leaves = threading.Event()
        self._ended = threading.Event()
        self._status = 0
        self._connection.send({"rank": rank, "token": token})
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self) -> int:
        """This rank is done; returns when all are, or one has failed, with the job's exit status."""
        self._leaves.set()
        self._connection.send({"left": True})
        self._ended.wait()
        return self._status

    def fail(self, failure: Failure) -> bool:
        """Tell why this rank ends; True when the monitor has said it and ends the others."""
        self._leaves.set()
        self._connection.send({"failed": failure.message, "status": failure.status})
        return self._ended.wait(_ANSWER_SECONDS)

    def _listen(self) -> None:
        status: int | None = None
        while status is None and (messages := self._connection.receive()) is not None:
            status = next((message["end"] for message in messages if "end" in message), None)
        if status is None and (self._local_rank == 0 or self._rank == 1):
            # The monitor is gone, and rank 0 with it: one rank of each machine says so.
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
    # Rank 0's monitor may still be telling the others.
    time.sleep(0.1)
    os._exit(status)
