"""The command line: one program, one module per command. Nothing imports it.

Heavy libraries are imported inside the commands, so that `--help` answers at once. Every failure
that a user can cause is one line on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmark import __version__
from benchmark.cli.streams import lasting_streams
from benchmark.distributed.process import adopt_launcher
from benchmark.errors import UserError, described, format_exit, format_unexpected
from benchmark.signals import handled_by

if TYPE_CHECKING:
    from benchmark.distributed.process_group import ProcessGroup


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status. In a job of several processes one line tells any rank's error."""
    with lasting_streams() as streams, handled_by(_interrupt):
        try:
            # Waiting threads that spin take the cores from the thread that works; it must be set before torch.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            status = _command(arguments)
            problem = streams.problem()
            return _fail(problem) if problem and not status else status
        except (UserError, KeyboardInterrupt) as error:
            return _fail(*(described(error) or ("", 1)))


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt


def _command(arguments: Sequence[str] | None) -> int:
    adopt_launcher()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return _alone(_options(arguments))
    from benchmark.distributed.process_group import join_process_group

    group = join_process_group()
    assert group is not None
    return _among_others(group, arguments)


def _alone(options: argparse.Namespace) -> int:
    try:
        return _work(options)
    except (Exception, KeyboardInterrupt) as error:
        told = described(error)
        if options.traceback and not isinstance(error, KeyboardInterrupt):
            traceback.print_exception(error)
        return _fail(*(told or (format_unexpected(error), 1)))


def _among_others(group: ProcessGroup, arguments: Sequence[str] | None) -> int:
    """One rank's part: only rank 0 prints, and commands that are no work for several are rank 0's."""
    with_traceback = False
    try:
        with _silence_unless(group.rank == 0):
            options = _options(arguments)
            with_traceback = options.traceback
            shared = getattr(options.command, "EVERY_RANK", False)
            status = _work(options) if shared or group.rank == 0 else 0
        return group.leave() or status
    except SystemExit as error:
        # argparse has told what is wrong, or shown its help.
        return group.fail(error) if error.code else group.leave()
    except (Exception, KeyboardInterrupt) as error:
        return group.fail(error, with_traceback)


def _work(options: argparse.Namespace) -> int:
    """Carry out the command. Code from outside that calls exit() has not done its work."""
    given = {name: value if isinstance(value, list) else [value] for name, value in vars(options).items()}
    empty = [name.replace("_", "-") for name, values in given.items() if "" in values]
    if empty:
        # Not as if it had not been given: `--data-root "$DATA"` must not become a run on demo data.
        raise UserError.collect(f"'{name}' is given empty; give a value, or leave it out" for name in empty)
    try:
        status: int = options.command.run(options)
        return status
    except SystemExit as stop:
        raise UserError(format_exit(stop)) from stop


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(arguments)
    if options.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    return options


@contextmanager
def _silence_unless(speaks: bool) -> Iterator[None]:
    if speaks:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _fail(message: str, status: int = 2) -> int:
    """Of a process that is alone, or has not met the others yet."""
    rank = os.environ.get("RANK", "?") if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    for line in message.splitlines():
        print(f"error (rank {rank}): {line}" if rank else f"error: {line}", file=sys.stderr)
    return status


def _commands() -> dict[str, ModuleType]:
    from benchmark.cli import (
        compare,
        compose,
        data,
        evaluate,
        export,
        features,
        importing,
        join,
        leaderboard,
        listing,
        parity,
        report,
        run,
        search,
        submit,
        throughput,
    )

    return {
        "run": run,
        "list": listing,
        "data": data,
        "features": features,
        "evaluate": evaluate,
        "import": importing,
        "export": export,
        "parity": parity,
        "submit": submit,
        "leaderboard": leaderboard,
        "compare": compare,
        "compose": compose,
        "join": join,
        "report": report,
        "search": search,
        "throughput": throughput,
    }


class _CommandParser(argparse.ArgumentParser):
    """A command's parser, which gets its arguments when the command is asked for: `--help` needs none of them."""

    command: ModuleType | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        command, self.command = self.command, None
        if command is not None:
            command.add_arguments(self)
            # Before the command or behind it.
            self.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            self.set_defaults(command=command)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark",
        description="A benchmark harness for composed image retrieval.",
        epilog="`python -m benchmark COMMAND --help` tells a command's options.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for name, module in _commands().items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.command = module
    return parser
