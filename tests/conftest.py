"""Shared by all tests: one thread, a cache of their own, and a small CIRR folder of drawn pictures."""

from __future__ import annotations

import compileall
import functools
import gc
import os
import signal
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from command_line import Command, Outcome

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core; benchmarks are timed in one process alone."""
    return 0 if config.getoption("benchmark_only") else len(os.sched_getaffinity(0))


def pytest_configure(config: pytest.Config) -> None:
    """The processes that tests start find the program compiled, where Python itself may keep no bytecode, too."""
    if not hasattr(config, "workerinput"):
        for folder in ("benchmark", "methods", "datasets"):
            compileall.compile_dir(ROOT / folder, quiet=2)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """A fifth of its time would go into looking for garbage among what is imported, which stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long are begun first: at the end one process would have such a file, and the others nothing."""
    seconds: defaultdict[Path, float] = defaultdict(float)
    for item in items:
        slow = item.get_closest_marker("slow")
        seconds[item.path] += slow.kwargs.get("seconds", 15) if slow else 0.25
    items.sort(key=lambda item: -seconds[item.path])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--method-file", action="append", default=[], metavar="FILE.py",
        help="a plug-in whose methods pass through the tests of every method, too",
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """No test reads or fills the user's cache, or depends on the user's variables."""
    import torch

    from benchmark import registry
    from benchmark.records import environment

    torch.set_num_threads(1)
    # A shell's background jobs ignore Ctrl-C, and so would the runs of tests that press it.
    for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, action)
    cache = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    for name in ("CIR_BENCHMARK_DATA", "CIR_BENCHMARK_ASSETS", "RANK", "WORLD_SIZE"):
        patch.delenv(name, raising=False)
    patch.setenv("CIR_BENCHMARK_CACHE", str(cache))
    if not pytestconfig.getoption("benchmark_only", False):
        # What tests write need not outlive a power cut.
        patch.setattr(os, "fsync", lambda descriptor: None)
        # The checkout stays as it is: its shelves' facts and its commit are read once, and not at every command.
        patch.setattr(environment, "_git", functools.cache(environment._git))
        read, read_once = registry.read_facts, functools.cache(registry.read_facts)
        patch.setattr(registry, "read_facts", lambda path: (read_once if ROOT in path.parents else read)(path))
    patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    yield cache
    patch.undo()


@pytest.fixture(scope="session")
def small_cirr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 training triplets and 24 queries over 24 pictures, drawn, in CIRR's layout."""
    from benchmark.datasets.demo.demo_data import Sizes, write_demo

    folder = tmp_path_factory.mktemp("data") / "cirr"
    write_demo("cirr", folder, Sizes(12, 6, 4, 6, 2, 3), workers=1)
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process, in an empty folder."""
    from benchmark.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return run
