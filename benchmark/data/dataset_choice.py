"""The dataset that options name: in the data root, or the demo data where none is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchmark.data.annotated import require_counts
from benchmark.data.dictionaries import dictionaries_of
from benchmark.data.folders import locate_root
from benchmark.data.noise import NoisyDataset
from benchmark.data.one_category import one_category
from benchmark.data.partial import LimitedDataset, without_missing
from benchmark.data.released_files import side_files_of
from benchmark.dataset import Dataset
from benchmark.errors import UserError, unknown_name
from benchmark.options import RunOptions
from benchmark.progress import say
from benchmark.registry import Registry
from benchmark.text_rules import TEXT_RULES

EVALUATED = ""
"""In place of a split's name: the one that the dataset is evaluated on by default."""


def open_dataset(
    registry: Registry, options: RunOptions, needed: Sequence[str] = (EVALUATED,), where_there: Sequence[str] = ()
) -> Dataset:
    """The dataset as the options name it: in the data root, or the demo data where none is given.

    ``needed``: the splits that are read; of all others no file is asked for. ``where_there``: splits that are
    read beside them if all of their files are there and as they should be.
    """
    info = registry.datasets().get(options.dataset)
    if info is None:
        raise unknown_name("dataset", options.dataset, registry.datasets())
    unknown = options.data_root.keys() - registry.datasets().keys() - {"*"}
    if unknown:
        # Else the folder would be passed over, and the demo data taken in its place.
        name = min(unknown)
        raise UserError(
            f"--data-root {name}=…: {unknown_name('dataset', name, registry.datasets())} (a folder whose name holds "
            f"'=' is written ./{name}=…)"
        )
    root = options.data_root_of(options.dataset)
    if root is None and options.data_root and not options.demo:
        named = ", ".join(options.data_root)
        raise UserError(f"--data-root names a folder for {named} alone; add {options.dataset}=PATH, or ask for --demo")
    if root is not None and options.demo:
        raise UserError(f"--demo asks for the demo data and --data-root for {root}; leave one of them out")
    if root is None and not options.demo and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("no --data-root; in a job of several processes the demo data must be asked for with --demo")
    if root is None:
        folder = registry.demo_folder(options.dataset, options.cache_root)
        title = info.title
        say(f"No --data-root: synthetic demo pictures in {title}'s layout. Numbers say nothing about {title}.")
    else:
        folder = locate(registry, options.dataset, root)
    splits = tuple(dict.fromkeys(split or info.evaluation_split for split in needed))
    # What is trained on another dataset's triplets has no training split.
    there = [split for split in where_there if not (split == "train" and info.train_dataset)]
    wanted = (split or info.evaluation_split for split in there)
    also = tuple(split for split in wanted if split not in splits)
    try:
        dataset = _read(registry, options, folder, (*splits, *also), splits)
    except UserError:
        if not also:
            raise
        dataset = _read(registry, options, folder, splits, splits)  # raises what is wrong with the needed ones
        left_out = " and ".join(also)
        say(f"{folder}: split {left_out} is not here, or not as it should be; it is not needed now and left out")
        also = ()
    if options.limit is None:
        return dataset
    rules = [rule for rule in TEXT_RULES.values() if any(rule.mode in p.text_modes for p in dataset.protocols)]
    evaluated = [
        task
        for split in (*splits, *also)
        for protocol in dataset.protocols
        if split in protocol.splits and protocol.name in (options.protocol or (protocol.name,))
        for task in dataset.tasks(
            split,
            protocol.name,
            next(rule.name for rule in rules if rule.mode in protocol.text_modes),
        )
    ]
    return LimitedDataset(dataset, options.limit, tuple(evaluated))


def _read(
    registry: Registry, options: RunOptions, folder: Path, splits: tuple[str, ...], needed: tuple[str, ...]
) -> Dataset:
    """The splits, whole and of the published counts; with `--allow-missing` what is left of the needed ones."""
    dataset = registry.load_dataset(options.dataset, folder, splits)
    if options.category:
        dataset = one_category(dataset, options.category)
    side = side_files_of(dataset)
    released = [*dictionaries_of(dataset).values(), *(side.all if side else ())]
    if options.assets:
        for file in released:
            file.look_in(options.assets)
    if options.noise and "train" in splits:
        # Of all triplets in file order, before any is left out.
        dataset = NoisyDataset(dataset, options.noise, options.noise_seed, options.noise_scheme)
    if options.allow_missing:
        return without_missing(dataset, needed)
    require_counts(dataset)
    return dataset


def locate(registry: Registry, name: str, data_root: Path) -> Path:
    """A dataset's folder under ``data_root``; raises UserError naming what was looked for."""
    module = registry.dataset_module(name)
    return locate_root(module.INFO, module.LAYOUTS, data_root)
