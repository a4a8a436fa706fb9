"""Pictures of a page: linked where they lie, or embedded small.

Terms of real datasets forbid passing pictures on: a page links them, relative to itself, and shows those that are
not there as missing. Demo pictures are drawn by this program and are embedded.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from benchmark.data.pictures import open_picture
from benchmark.errors import UserError

BUDGET = 13_000_000
"""Bytes of all embedded pictures of a page, base64 included: it stays under 20 MB with its queries."""
_SIDES = (192, 160, 128, 96, 72)
_SAMPLE = 40


def linked(paths: Mapping[str, Path], names: Iterable[str], page: Path) -> dict[str, str]:
    """Relative addresses of those pictures that are there, by name."""
    folder = page.resolve().parent
    found = {name: paths[name] for name in names if name in paths and paths[name].is_file()}
    return {name: quote(os.path.relpath(path.resolve(), folder).replace(os.sep, "/")) for name, path in found.items()}


def embedded(paths: Mapping[str, Path], names: Iterable[str], budget: int) -> dict[str, str]:
    """Addresses that hold the pictures themselves, as small as the budget asks, by name; unreadable ones are left out.

    Raises UserError where not even the smallest fit.
    """
    there = {name: paths[name] for name in names if name in paths and paths[name].is_file()}
    sample = list(there.values())[:: max(1, len(there) // _SAMPLE)]
    for side in _SIDES:
        sizes = [len(address) for path in sample if (address := _address(path, side))]
        if sum(sizes) / max(len(sizes), 1) * len(there) <= budget:
            return {name: address for name, path in there.items() if (address := _address(path, side))}
    raise UserError(
        f"--embed-pictures: {len(there):,} pictures do not fit into a page of 20 MB; report fewer runs, or leave it out"
    )


def _address(path: Path, side: int) -> str:
    """A data address of a JPEG that fits a square of that side; "" where the picture cannot be read."""
    try:
        image = open_picture(path).convert("RGBA")
    except UserError:
        return ""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    opaque = Image.new("RGB", image.size, (255, 255, 255))
    opaque.paste(image, mask=image.getchannel("A"))
    stream = io.BytesIO()
    opaque.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
