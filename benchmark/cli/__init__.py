"""The command line: one program, one module per command. Nothing imports it.

Heavy libraries are imported inside the commands, so that `--help` answers at once. Every failure
that a user can cause is one line on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from benchmark import __version__
from benchmark.errors import UserError
from benchmark.files import is_disk_full

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    # Waiting threads that spin take the cores from the thread that works; it must be set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    try:
        status: int = options.command.run(options)
        return status
    except UserError as error:
        if options.traceback:
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; the same command with --resume goes on from the last saved state", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output left (`| head`): that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if options.traceback or not (error.filename or is_disk_full(error)):
            raise
        return _fail(f"{error.filename or 'a file'}: {error.strerror}; choose another folder or mend this one")


def _fail(message: str, status: int = 2) -> int:
    rank = os.environ.get("RANK")
    prefix = f"error (rank {rank}): " if rank is not None and os.environ.get("WORLD_SIZE", "1") != "1" else "error: "
    for line in message.splitlines():
        print(prefix + line, file=sys.stderr)
    return status


def _commands() -> dict[str, ModuleType]:
    from benchmark.cli import data, evaluate, features, leaderboard, listing, parity, run, submit

    return {
        "run": run,
        "list": listing,
        "data": data,
        "features": features,
        "evaluate": evaluate,
        "parity": parity,
        "submit": submit,
        "leaderboard": leaderboard,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark",
        description="A benchmark harness for composed image retrieval.",
        epilog="`python -m benchmark COMMAND --help` tells a command's options.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in _commands().items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(command=module)
    return parser
