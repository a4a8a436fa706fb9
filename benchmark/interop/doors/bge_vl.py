"""Embeddings of BGE-VL (BAAI, MegaPairs, arXiv 2412.14475), the CLIP-based and the language-model-based ones.

Calls are those of the models' own cards: `encode` of base and large, `data_process` with the retrieval instruction of
MLLM-S1 and S2, whose embedding is the last token's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.interop.doors.door import OutsideModel, Rows, missing_library, run_door

INSTRUCTION = (
    "Retrieve the target image that best meets the combined criteria by using both the provided image and the image "
    "retrieval instructions: "
)


class BgeVlClip:
    def __init__(self, model: Any) -> None:
        self._model = model

    def embed_pictures(self, pictures: Sequence[Path]) -> Rows:
        return _rows(self._model.encode(images=[str(picture) for picture in pictures]))

    def embed_queries(self, references: Sequence[Path], texts: Sequence[str]) -> Rows:
        return _rows(self._model.encode(images=[str(picture) for picture in references], text=list(texts)))


class BgeVlMllm:
    def __init__(self, model: Any, instruction: str) -> None:
        self._model, self._instruction = model, instruction

    def embed_pictures(self, pictures: Sequence[Path]) -> Rows:
        return self._last_token(images=[str(picture) for picture in pictures], q_or_c="c")

    def embed_queries(self, references: Sequence[Path], texts: Sequence[str]) -> Rows:
        images = [str(picture) for picture in references]
        return self._last_token(text=list(texts), images=images, q_or_c="q", task_instruction=self._instruction)

    def _last_token(self, **given: Any) -> Rows:
        inputs = self._model.data_process(**given)
        if not inputs["attention_mask"][:, -1].all():
            raise UserError("the tokenizer pads behind the texts, where embeddings are read; give --batch 1")
        return _rows(self._model(**inputs, output_hidden_states=True)[:, -1, :])


def _rows(tensor: Any) -> Rows:
    found: Rows = tensor.detach().float().cpu().numpy()
    return found


def load(options: argparse.Namespace) -> OutsideModel:
    try:
        from transformers import AutoModel
    except ImportError:
        remedy = "pip install transformers==4.45.2, the version that the MLLM models' cards name"
        raise missing_library("transformers", remedy) from None
    # The card's way: the model's classes come with its weights, as code that is run.
    model = AutoModel.from_pretrained(options.model, trust_remote_code=True).eval().to(options.device)
    model.set_processor(options.model)
    return BgeVlMllm(model, options.instruction) if "mllm" in options.model.lower() else BgeVlClip(model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="BAAI/BGE-VL-base", help="a name at the hub or a folder; runs its code")
    parser.add_argument("--instruction", default=INSTRUCTION, help="before a query's text, of the MLLM models")
    parser.add_argument("--device", default="cpu")


main = partial(run_door, __doc__ or "", add_arguments, load)

if __name__ == "__main__":
    raise SystemExit(main())
