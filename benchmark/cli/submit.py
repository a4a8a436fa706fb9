"""Write the files for the official test server of CIRR or CIRCO, or add the numbers that it returned.

The lists of the hidden split (CIRR's test1, CIRCO's test) come from a run's weights (RUN is its folder, or one of its
weights files), from embeddings, or from ranked lists, which are checked and cut. Nothing is written where a query is
missing, a name stands twice or does not belong, or the reference is ranked by a protocol that removes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.arguments import DATA, add_options, run_values
from benchmark.cli.evaluate import refuse
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.interop.submission import Submitted

SUMMARY = "write CIRR's or CIRCO's test server files, or add the server's numbers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's folder")
    parser.add_argument("--embeddings", metavar="FILE", help="embeddings of the test split, in place of a run")
    parser.add_argument("--rankings", metavar="FILE", help="ranked lists of the test split, in place of a run")
    parser.add_argument("--subset-rankings", metavar="FILE", help="with --rankings: those of CIRR's subsets")
    parser.add_argument("--server-numbers", metavar="FILE.json",
                        help='what the server returned, such as {"R@1": 40.1, "R_subset@1": 70.2}')  # fmt: skip
    parser.add_argument("--name", metavar="LABEL", help="title of a file's row; by default the file's name")
    parser.add_argument("--encoder", metavar="FILE", help="the encoder that RUN was trained on, if moved")
    add_options(
        parser, *DATA,
        output="where the files go; by default RUN/submission",
        dataset="of a file from outside: cirr, by default, or circo",
        protocol="of CIRCO's, official-noref leaves the references out",
        text_mode="how captions became the queries of a file",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    sources = [name for name in ("run", "embeddings", "rankings") if getattr(options, name)]
    if len(sources) != 1:
        raise UserError("name one source: RUN, --embeddings FILE or --rankings FILE")
    refuse(options, ("limit",), "would leave pairs out, and the server takes none but whole files")
    if options.server_numbers:
        return _add_numbers(options)
    print("\n".join(_submitted(options).lines()))
    return 0


def _add_numbers(options: argparse.Namespace) -> int:
    from benchmark.interop.server_files import add_server_numbers
    from benchmark.pipeline.reporting import format_summary

    if not options.run:
        raise UserError("--server-numbers are added to a run's record: name its folder, RUN")
    record = add_server_numbers(Path(options.run), Path(options.server_numbers), options.output or "")
    print(format_summary(record, Path(options.run)))
    return 0


def _submitted(options: argparse.Namespace) -> Submitted:
    from benchmark.interop.server_files import CIRR
    from benchmark.interop.submission import submit_embeddings, submit_rankings, submit_run

    values: dict[str, Any] = {k: v for k, v in run_values(options).items() if k != "output"}
    name, output, dataset = options.name or "", options.output or "", options.dataset or CIRR.dataset
    if options.run:
        refuse(options, ("name", "subset_rankings", "dataset", "text_mode"), "is for files from outside")
        return submit_run(Path(options.run), output, options.encoder or "", values)
    refuse(options, ("encoder", "device", "assets_root"), "means nothing for a file from outside")
    if options.embeddings:
        refuse(options, ("subset_rankings",), "goes with --rankings; embeddings rank the subsets themselves")
        return submit_embeddings(Path(options.embeddings), name, output, values, dataset)
    if not options.subset_rankings and dataset == CIRR.dataset:
        raise UserError("--subset-rankings is missing: the server takes a file of the subsets, too")
    subsets = Path(options.subset_rankings) if options.subset_rankings else None
    return submit_rankings(Path(options.rankings), subsets, name, output, values, dataset)
