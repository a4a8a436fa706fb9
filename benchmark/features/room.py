"""What features of pictures take on the disk, and whether they are kept there: one rule for all that ask."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmark.backbone import GLOBAL, Output
from benchmark.errors import unknown_name
from benchmark.features.picture_filling import PATCHES
from benchmark.settings import KeepFeatures

GRIDS = (2, 3)


def bytes_needed(
    outputs: Mapping[str, Output], *, pictures: int, views: Sequence[str] = (GLOBAL,), grids: tuple[int, ...] = GRIDS
) -> int:
    """Bytes on disk of so many pictures in these views, of a backbone that gives these outputs of one."""
    return pictures * sum(view_output(view, outputs, grids).bytes for view in views)


def view_output(view: str, outputs: Mapping[str, Output], grids: tuple[int, ...]) -> Output:
    """What is kept of one picture in a view: (d), (P, d), or an output of the backbone as it is.

    Raises UserError where the backbone gives no such output.
    """
    if (GLOBAL if view == PATCHES else view) not in outputs:
        raise unknown_name("view", view, {*outputs, PATCHES} if GLOBAL in outputs else outputs)
    if view == PATCHES:
        return Output((sum(grid * grid for grid in grids), *outputs[GLOBAL].shape))
    return outputs[view]


def free_bytes(folder: Path) -> int:
    """On the disk of a folder, which may be yet to be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def has_room(needed: int, free: int) -> bool:
    return needed < free


def is_kept(keep: KeepFeatures, fits: Callable[[], bool]) -> bool:
    """Whether features go to the disk; ``fits`` is asked only where it decides."""
    return keep == "always" or (keep == "as fits" and fits())
