"""Read the authors' own checkpoints and write them as this program's weights; nothing in them is executed.

FILE holds a method's own weights: <dataset>-best.pth of SPIRIT, combiner*.pt of CLIP4Cir. --clip is the
CLIP that they were trained on: tuned_<dataset>.pt of SPIRIT, tuned_clip_*.pt of CLIP4Cir, or OpenAI's
(TorchScript) or open_clip's (safetensors, .bin, .pt) weights. Every tensor is checked by name and shape,
and what became of it is listed. `evaluate --checkpoint FOLDER` then scores what was written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.arguments import add_options

SUMMARY = "read the authors' checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the method's own weights, where it has any")
    parser.add_argument("--method", required=True, metavar="NAME", help="the method that the weights are of")
    parser.add_argument("--clip", metavar="FILE", help="weights of the CLIP whose features the method reads")
    add_options(
        parser,
        dataset="the one trained on; by default told from the files' names",
        backbone="CLIP's architecture; by default told from the shapes",
        variant="the method's named configuration; see `list variants`",
        set="backbone.preprocessing=…, method.encoder=untouched|finetuned, or any other setting; may be repeated",
        output="a new folder; by default below ./imported",
        plugins="a file that declares the method",
    )


def run(options: argparse.Namespace) -> int:
    from benchmark.interop.import_folder import told, write_import
    from benchmark.interop.importing import ImportRequest, check_import
    from benchmark.options import parse_assignments

    request = ImportRequest(
        method=options.method,
        file=Path(options.file) if options.file else None,
        clip=Path(options.clip) if options.clip else None,
        dataset=options.dataset or "",
        backbone=options.backbone or "",
        variant=options.variant or "",
        settings=parse_assignments(options.set or []),
        plugins=tuple(options.plugins or ()),
    )
    checked = check_import(request)
    print(told(checked, write_import(checked, Path(options.output) if options.output else None)))
    return 0
