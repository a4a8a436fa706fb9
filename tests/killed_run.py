"""The command line on small demo data, for processes that the tests kill."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from benchmark.datasets import demo

from benchmark.cli import main


def run(arguments: list[str], log: str) -> None:
    """Ends the process with the command's status; its output goes to ``log``."""
    torch.set_num_threads(1)
    stream = Path(log).open("a", encoding="utf-8")
    sys.stdout = sys.stderr = stream
    demo._LAYOUTS["cirr"] = replace(demo._LAYOUTS["cirr"], sizes=demo.Sizes(12, 6, 4, 6, 2, 3))
    status = main(arguments)
    stream.flush()
    os._exit(status)
