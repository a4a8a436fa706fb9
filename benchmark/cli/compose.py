"""Whether a method composes: its ranks beside those of the picture alone and the text alone, on its own encoder.

Name a run, or the folder of its seeds: it has found out what either modality finds alone on its encoder. Or name three
runs of one dataset, in any order, the method's, one of image_only and one of text_only, made with the same encoder and
seed (`run --method M image_only text_only` makes them). A method that puts a picture's word into a sentence is held
against that sentence without the word, too.
"""

from __future__ import annotations

import argparse

SUMMARY = "what a method finds that neither modality finds alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder or record, or a folder of seeds")
    parser.add_argument("--format", default="markdown", choices=("markdown", "json"))
    parser.add_argument("--seed", type=int, default=0, help="of the random draws")


def run(options: argparse.Namespace) -> int:
    from benchmark.comparison.composition import compose
    from benchmark.comparison.composition_layout import format_composition

    print(format_composition(compose(*options.runs, seed=options.seed), options.format), end="")
    return 0
