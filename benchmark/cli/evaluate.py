"""Score a checkpoint that `run` wrote, under a dataset's protocols."""

from __future__ import annotations

import argparse

from benchmark.cli.run import add_data_arguments, common_values

SUMMARY = "score a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", required=True, metavar="NAME")
    parser.add_argument("--dataset", metavar="NAME", help="by default the one it was trained on")
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a run's folder or a weights file")
    parser.add_argument("--encoder", metavar="FILE", help="the encoder that it was trained on, if moved")
    parser.add_argument("--protocol", nargs="+", metavar="NAME")
    parser.add_argument("--output", metavar="PATH", help="folder for the record; by default beside the weights")
    add_data_arguments(parser)


def run(options: argparse.Namespace) -> int:
    from pathlib import Path

    from benchmark.checkpoint_evaluation import evaluate_checkpoint
    from benchmark.reporting import summary_lines

    values = common_values(options)
    record, folder = evaluate_checkpoint(
        options.method, Path(options.checkpoint), options.dataset or "", options.encoder or "", values
    )
    print("\n".join(summary_lines(record, folder)))
    return 0
