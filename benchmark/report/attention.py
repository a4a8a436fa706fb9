"""What methods attend to, for some queries: drawn where their `explain` tells and their weights are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.errors import UserError
from benchmark.interop.run_model import model_of_run
from benchmark.report.browser import PictureTable
from benchmark.report.runs import Block, ReportedSide

_QUERIES = 8
_DIGITS = 4


def attention_of(
    sides: Sequence[ReportedSide], blocks: Sequence[Block], pictures: PictureTable, where: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """For each side whose method tells, examples with their maps; and why others that might tell are left out.

    A map of a picture's patches is shares ``(P,)``, or ``(P, P)``, what each patch attends to; any other map of
    places is ``(h, h)``. ``where``: keywords of `model_of_run`.
    """
    drawn, left_out = [], []
    for number, reported in enumerate(sides):
        block = next((b for b in blocks if number in b.ranked and b.data.dataset is not None), None)
        folder = reported.files[0].parent
        if block is None or reported.first.kind != "run" or not (folder / "weights").is_dir():
            continue
        try:
            examples, grids = _examples(folder, block, pictures, where)
        except UserError as error:
            left_out.append(f"{reported.label}: {str(error).splitlines()[0]}")
            continue
        if examples:
            drawn.append({"number": number, "label": reported.label, "grids": list(grids), "examples": examples})
    return drawn, left_out


def _examples(
    folder: Path, block: Block, pictures: PictureTable, where: dict[str, Any]
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    asked = [(query, facts) for category in block.asked.values() for query, facts in category.items()]
    chosen = [
        each for each in asked[:: max(1, len(asked) // _QUERIES)] if block.data.paths[each[1].reference].is_file()
    ]
    chosen = chosen[:_QUERIES]
    if not chosen:
        return [], ()
    model = model_of_run(folder, **where)
    # The texts are those of the task: its rule has been applied.
    found = model.explain(
        [block.data.paths[facts.reference] for _, facts in chosen], [facts.text for _, facts in chosen]
    )
    patches = sum(grid * grid for grid in model.grids)
    maps = {name: tensor for name, tensor in found.items() if _is_of_places(tensor, patches)}
    if not maps:
        return [], ()
    return [
        {
            "id": query,
            "text": facts.text,
            "reference": pictures.number(block.data, facts.reference),
            "maps": [{"name": name, "values": _rounded(tensor[i])} for name, tensor in maps.items()],
        }
        for i, (query, facts) in enumerate(chosen)
    ], model.grids


def _is_of_places(tensor: Tensor, patches: int) -> bool:
    """Whether a map's last dimensions are places of a picture: its patches, or a square of them."""
    if patches:
        return tensor.shape[1:] in ((patches,), (patches, patches))
    return tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2]


def _rounded(values: Tensor) -> Any:
    return [
        [round(v, _DIGITS) for v in row] if isinstance(row, list) else round(row, _DIGITS) for row in values.tolist()
    ]
