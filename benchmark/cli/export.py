"""Write a run's method, its encoder and its configuration as one safetensors file for use elsewhere.

`benchmark.exported.load(FILE)` gives a model that encodes pictures and strings and scores them. The
file is whole in itself: no data, run folder or further weights are needed with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.arguments import add_options

SUMMARY = "write a trained method as one file, to be used in a search service"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run's folder or a weights file")
    parser.add_argument("--output", metavar="FILE", help="by default METHOD-DATASET.safetensors in this folder")
    parser.add_argument("--encoder", metavar="FILE", help="the encoder that the run was trained on, if moved")
    add_options(parser, "assets_root", plugins="the file that declares the run's method")


def run(options: argparse.Namespace) -> int:
    from benchmark.interop.export import export, summary
    from benchmark.options import assets_root

    written = export(
        Path(options.run_folder),
        Path(options.output) if options.output else None,
        encoder=options.encoder or "",
        assets_root=assets_root(options.assets_root or ""),
        plugins=tuple(options.plugins or ()),
    )
    print(summary(written))
    return 0
