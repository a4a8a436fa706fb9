"""Score a checkpoint that `run` wrote, or anybody's embeddings or ranked lists, under a dataset's protocols.

Embeddings (npz or safetensors) and ranked lists (JSON lines, a TREC run, CIRR's server JSON) come
from models that this program does not know; the README shows their formats, and
`data export-queries` the queries and pictures by the names that they use.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cli.arguments import DATA, add_options, run_values
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.records.record import Record

EVERY_RANK = True
SUMMARY = "score a checkpoint, embeddings or ranked lists"

_OF_A_CHECKPOINT = ("method", "encoder")
_OF_FILES = ("name", "text_mode", "subset_rankings")
_OF_METHODS = ("limit", "device", "assets_root")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="PATH", help="a run's folder or a weights file")
    source.add_argument("--embeddings", metavar="FILE",
                        help="query and gallery embeddings with ids: .npz or .safetensors that holds queries, "
                        "query_ids, gallery, gallery_ids (of a category, dress/queries, …)")  # fmt: skip
    source.add_argument("--rankings", metavar="FILE",
                        help="a ranked list of names for every query: JSON lines "
                        '{"query": "id", "ranking": ["name", …]}, a TREC run, or the server JSON of CIRR or '
                        "CIRCO")  # fmt: skip
    parser.add_argument("--subset-rankings", metavar="FILE", help="with --rankings: ranked lists of the subsets")
    parser.add_argument("--encoder", metavar="FILE", help="the encoder that the checkpoint was trained on, if moved")
    parser.add_argument("--name", metavar="LABEL", help="title of a file's row; by default the file's name")
    add_options(
        parser,
        *DATA,
        "protocol",
        "overwrite",
        "subset",
        method="the checkpoint's method",
        dataset="by default the one that the checkpoint was trained on",
        text_mode="how captions became the queries of a file",
        output="folder for the record",
    )


def run(options: argparse.Namespace) -> int:
    from benchmark.pipeline.reporting import extra, format_summary

    if not options.checkpoint and os.environ.get("RANK", "0") != "0":
        # A file from outside is no work for several processes.
        return 0
    record, folder = _of_checkpoint(options) if options.checkpoint else _of_file(options)
    with extra("the table"):
        print(format_summary(record, folder))
    return 0


def _of_checkpoint(options: argparse.Namespace) -> tuple[Record, Path]:
    from benchmark.pipeline.checkpoint_evaluation import evaluate_checkpoint

    refuse(options, _OF_FILES, "is for files from outside; a checkpoint brings its own")
    if not options.method:
        raise UserError("--method is missing: name the checkpoint's method")
    values = run_values(options)
    return evaluate_checkpoint(
        options.method, Path(options.checkpoint), options.dataset or "", options.encoder or "", values
    )


def _of_file(options: argparse.Namespace) -> tuple[Record, Path]:
    refuse(options, (*_OF_A_CHECKPOINT, *_OF_METHODS), "means nothing for a file from outside, which is scored whole")
    if not options.dataset:
        raise UserError("--dataset is missing: name the one that the file is for")
    values, name = run_values(options), options.name or ""
    if options.embeddings:
        from benchmark.interop.embeddings import evaluate_embeddings

        refuse(options, ("subset_rankings",), "goes with --rankings; embeddings rank the subsets themselves")
        return evaluate_embeddings(Path(options.embeddings), options.dataset, name, **values)
    from benchmark.interop.rankings import evaluate_rankings

    subset = Path(options.subset_rankings) if options.subset_rankings else None
    return evaluate_rankings(Path(options.rankings), options.dataset, subset, name, **values)


def refuse(options: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Raise UserError for options that were given and would be ignored."""
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} {reason}; leave it out")
