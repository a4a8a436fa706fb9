"""Embeddings of VLM2Vec (TIGER-Lab, arXiv 2410.05160) by its own repository, branch `v1`.

Calls are those of the models' cards: a processor of a text and a picture, `model(qry=…)["qry_reps"]`,
`model(tgt=…)["tgt_reps"]`. To have it served by vLLM instead, see the door `endpoint`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.interop.doors.door import OutsideModel, Rows, missing_library, run_door

INSTRUCTION = "Given an image, find a similar everyday image with the described changes: {text}"
TARGET = "Represent the given image."


class Vlm2Vec:
    def __init__(self, model: Any, processor: Any, options: argparse.Namespace) -> None:
        self._model, self._processor, self._options = model, processor, options

    def embed_pictures(self, pictures: Sequence[Path]) -> Rows:
        return np.concatenate([self._embedded("tgt", picture, self._options.target) for picture in pictures])

    def embed_queries(self, references: Sequence[Path], texts: Sequence[str]) -> Rows:
        told = [self._options.instruction.replace("{text}", text) for text in texts]
        rows = [self._embedded("qry", picture, text) for picture, text in zip(references, told, strict=True)]
        return np.concatenate(rows)

    def _embedded(self, side: str, picture: Path, text: str) -> Rows:
        from PIL import Image

        with Image.open(picture) as image:
            inputs = self._processor(f"{self._options.picture_token} {text}", [image.convert("RGB")])
        inputs = {name: value.to(self._options.device) for name, value in inputs.items()}
        found: Rows = self._model(**{side: inputs})[f"{side}_reps"].detach().float().cpu().numpy()
        return found


def load(options: argparse.Namespace) -> OutsideModel:
    try:
        import torch
        from src.arguments import ModelArguments  # type: ignore[import-not-found, unused-ignore]
        from src.model import MMEBModel  # type: ignore[import-not-found, unused-ignore]
        from src.utils import load_processor  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        remedy = "clone its repository, branch v1, and run this inside of it, where its `src` is"
        raise missing_library("VLM2Vec", remedy) from None
    arguments = ModelArguments(
        model_name=options.model, pooling="last", normalize=True, model_backbone=options.backbone,
        num_crops=options.crops,
    )  # fmt: skip
    model = MMEBModel.load(arguments).eval()
    model = model.to(options.device, dtype=torch.bfloat16)
    return Vlm2Vec(model, load_processor(arguments), options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="TIGER-Lab/VLM2Vec-Full")
    parser.add_argument("--backbone", default="phi3_v", help="the repository's name of the model's family")
    parser.add_argument("--crops", type=int, default=16)
    parser.add_argument("--picture-token", default="<|image_1|>")
    parser.add_argument("--instruction", default=INSTRUCTION, help="of a query; {text} is its text")
    parser.add_argument("--target", default=TARGET, help="said of a gallery picture")
    parser.add_argument("--device", default="cuda")


main = partial(run_door, __doc__ or "", add_arguments, load)

if __name__ == "__main__":
    raise SystemExit(main())
