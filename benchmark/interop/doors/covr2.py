"""Embeddings of CoVR-2 (arXiv 2308.14746): BLIP-2 whose Q-Former reads the reference and the text.

The release is configured by hydra and PyTorch Lightning, so loading it is left to a function of yours (`--loader`,
its `load()` gives the model and the transform of its pictures). What is called of the model are BLIP-2's parts by their
names in LAVIS: `visual_encoder`, `ln_vision`, `query_tokens`, `Qformer`, `tokenizer`, `vision_proj`, `text_proj`.
Which of these the release calls, and that the 32 query tokens are projected, normalised and averaged, is supposed, not
read off it: believe no number before one that its authors print came out.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.interop.doors.door import OutsideModel, Rows, run_door


class Covr2:
    def __init__(self, model: Any, transform: Callable[[Any], Any], options: argparse.Namespace) -> None:
        self._model, self._transform, self._options = model, transform, options

    def embed_pictures(self, pictures: Sequence[Path]) -> Rows:
        seen, mask = self._seen(pictures)
        tokens = self._model.query_tokens.expand(len(pictures), -1, -1)
        output = self._model.Qformer.bert(
            query_embeds=tokens, encoder_hidden_states=seen, encoder_attention_mask=mask, return_dict=True
        )
        return _averaged(self._model.vision_proj(output.last_hidden_state))

    def embed_queries(self, references: Sequence[Path], texts: Sequence[str]) -> Rows:
        import torch

        seen, mask = self._seen(references)
        tokens = self._model.query_tokens.expand(len(references), -1, -1)
        words = self._model.tokenizer(
            list(texts), padding="longest", truncation=True, max_length=self._options.longest, return_tensors="pt"
        ).to(seen.device)
        ones = torch.ones(tokens.shape[:-1], dtype=torch.long, device=seen.device)
        output = self._model.Qformer.bert(
            words.input_ids, query_embeds=tokens, attention_mask=torch.cat([ones, words.attention_mask], dim=1),
            encoder_hidden_states=seen, encoder_attention_mask=mask, return_dict=True,
        )  # fmt: skip
        # The query tokens stand before the words.
        return _averaged(self._model.text_proj(output.last_hidden_state[:, : tokens.shape[1], :]))

    def _seen(self, pictures: Sequence[Path]) -> tuple[Any, Any]:
        import torch
        from PIL import Image

        opened = []
        for picture in pictures:
            with Image.open(picture) as image:
                opened.append(self._transform(image.convert("RGB")))
        seen = self._model.ln_vision(self._model.visual_encoder(torch.stack(opened).to(self._options.device)))
        return seen, torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device)


def _averaged(projected: Any) -> Rows:
    """(B, 32, d) to (B, d)."""
    import torch

    found: Rows = torch.nn.functional.normalize(projected.float(), dim=-1).mean(dim=1).detach().cpu().numpy()
    return found


def load(options: argparse.Namespace) -> OutsideModel:
    spec = importlib.util.spec_from_file_location("covr2_loader", options.loader)
    if spec is None or spec.loader is None or not options.loader.is_file():
        raise UserError(f"--loader {options.loader}: no Python file; write one whose load() gives model and transform")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "load"):
        raise UserError(f"--loader {options.loader}: has no load(); it must give the model and its pictures' transform")
    model, transform = module.load()
    return Covr2(model.eval().to(options.device), transform, options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--loader", type=Path, required=True, metavar="FILE.py", help="its load() gives (model, transform)"
    )
    parser.add_argument("--longest", type=int, default=64, help="tokens of a text that are read")
    parser.add_argument("--device", default="cuda")


main = partial(run_door, __doc__ or "", add_arguments, load)

if __name__ == "__main__":
    raise SystemExit(main())
