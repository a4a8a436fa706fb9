"""One rank of a watched job, without torch: `watched_rank.py RANK WORLD FOLDER WHAT [SECONDS]`.

WHAT is what this rank does: "leaves", "fails MESSAGE STATUS", "is killed", or "waits" for ever in C.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from benchmark.distributed.failure_monitor import Failure, FailureMonitor, MonitoredRank


def main(rank: int, world: int, folder: Path, what: list[str]) -> int:
    address = folder / "address"
    monitor = FailureMonitor(world) if rank == 0 else None
    if monitor is not None:
        partial = folder / "partial"
        partial.write_text(monitor.address)
        partial.rename(address)
    while not address.exists():
        time.sleep(0.01)
    monitored = MonitoredRank(rank, "localhost", address.read_text(), local_rank=rank)
    (folder / f"there-{rank}").touch()
    while not all((folder / f"there-{other}").exists() for other in range(world)):
        time.sleep(0.01)
    status = 0
    if what[0] == "leaves":
        status = monitored.leave()
    elif what[0] == "fails":
        assert monitored.fail(Failure(what[1], int(what[2])))
        status = int(what[2])
    elif what[0] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(60)
    if monitor is not None:
        monitor.wait_for_end()
    return status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
