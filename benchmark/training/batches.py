"""What a training step is fed: the order of triplets, their strings, and tensors of a batch.

An epoch's order, its drawn strings and every random number are functions of (seed of the stage, epoch,
update), never of what was drawn before: a resumed run needs no generator's state, and the result
does not depend on which process computes a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from benchmark.dataset import Captions, IntArray, Triplets
from benchmark.errors import UserError
from benchmark.method import RowValues, Views
from benchmark.prefetching import handed_over
from benchmark.settings import TrainingSettings
from benchmark.text_rules import TextRule

SEED_SCHEME = "handed on from stage to stage"
"""How stages come by their seeds: encoders and states made by another scheme are other ones."""

# Streams of one seed: equal numbers for order and texts of an epoch would tie one to the other.
_ORDER, _TEXTS, _STEPS = 1, 2, 3


def stage_seed(seed: int, earlier: Iterable[str]) -> int:
    """The seed of all that a stage draws: where it starts, order, strings, pairs, pictures, dropout.

    It is the run's, handed on by the name of each ``earlier`` stage: no stage repeats the batches of
    another, and one that is first draws as it does alone.
    """
    for name in earlier:
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        # As wide as torch and NumPy both take a seed.
        seed = int.from_bytes(digest[:8], "big") >> 1
    return seed


@dataclass(frozen=True)
class EpochTable:
    """The training entries of one epoch: picture indices (N,), the string that each shows, the captions behind it.

    ``reversed_texts``: those that ask for the reference, where the text rule has any.
    """

    reference_picture: IntArray
    target_picture: IntArray
    texts: tuple[str, ...]
    captions: tuple[Captions, ...] = ()
    reversed_texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


def epoch_table(triplets: Triplets, rule: TextRule, seed: int, epoch: int) -> EpochTable:
    """Entries of an epoch; a rule may make several entries of a triplet and draw their strings."""
    rng = np.random.default_rng([seed, epoch, _TEXTS])
    entries = [(i, entry) for i, captions in enumerate(triplets.captions) for entry in rule.entries(captions)]
    texts = tuple(rule.draw(entry, rng) for _, entry in entries)
    backward = () if rule.draw_reversed is None else tuple(rule.draw_reversed(entry, rng) for _, entry in entries)
    source = [i for i, _ in entries]
    index, captions = np.asarray(source, dtype=np.int64), tuple(triplets.captions[i] for i in source)
    reference, target = triplets.reference_picture[index], triplets.target_picture[index]
    return EpochTable(reference, target, texts, captions, backward)


def all_training_strings(captions: Sequence[Captions], rule: TextRule) -> tuple[str, ...]:
    """The raw captions of all entries, in order, for a method's vocabulary."""
    return tuple(text for c in captions for entry in rule.entries(c) for text in entry)


@dataclass(frozen=True)
class GroupLayout:
    """How the negative groups of one batch lie on the job's processes, in order.

    Either every process has ``groups_per_rank`` whole groups, which are accumulated, or
    ``ranks_per_group`` processes share one group, whose encodings are gathered. ``rows_per_rank``:
    what a process has of one group.
    """

    groups_per_rank: int
    ranks_per_group: int
    rows_per_rank: int

    @classmethod
    def of(cls, settings: TrainingSettings, world_size: int) -> GroupLayout:
        """Raises UserError where batch, group and number of processes do not divide."""
        batch, group = settings.batch_size, settings.group
        if settings.keep_last and group != batch:
            raise UserError(
                f"keep_last keeps a last batch of another size, which negative_group {group} need not divide; "
                "leave one of the two out"
            )
        if batch % group:
            raise UserError(
                f"batch_size {batch} is not a multiple of negative_group {group}; "
                "change one of them with --batch-size or --negative-group"
            )
        groups = batch // group
        if groups % world_size == 0:
            return cls(groups // world_size, 1, group)
        # Equal shares only: gathering with exact gradients takes the same number of rows from every rank.
        if world_size % groups == 0 and group % (world_size // groups) == 0:
            return cls(1, world_size // groups, group * groups // world_size)
        named = f"{groups} negative groups" if groups > 1 else "one negative group"
        raise UserError(
            f"batch_size {batch}, {named} of {group}, cannot be spread evenly over {world_size} processes; "
            "change --batch-size, --negative-group or the number of processes"
        )

    def group_of(self, rank: int, part: int) -> int:
        """Number of the negative group, within the update, that a rank computes (its share of) as a part."""
        return (rank * self.groups_per_rank + part) // self.ranks_per_group


def require_batches(entries: int, settings: TrainingSettings, world_size: int = 1) -> None:
    """Raises UserError where an epoch has no batch, or keeps a last one that the processes cannot share evenly."""
    if settings.keep_last:
        left = entries % settings.batch_size
        if left % world_size:
            raise UserError(
                f"keep_last: the last batch of an epoch has {left} of its {entries} entries, which cannot be spread "
                f"evenly over {world_size} processes; change their number or --batch-size, or drop these entries with "
                "--set STAGE.keep_last=false"
            )
    elif entries < settings.batch_size:
        raise UserError(
            f"{entries} training entries are fewer than one batch of {settings.batch_size}; "
            "choose a smaller --batch-size (of an earlier stage: --set STAGE.batch_size=…)"
        )


def update_plan(entries: int, settings: TrainingSettings, seed: int, epoch: int) -> list[IntArray]:
    """Rows of the epoch table for each update of an epoch, shuffled; a last partial batch is dropped or kept."""
    batch = settings.batch_size
    require_batches(entries, settings)
    # A partial batch has other negatives, and no place on an even number of processes: recipes have to ask for it.
    end = entries if settings.keep_last else entries - batch + 1
    order = np.random.default_rng([seed, epoch, _ORDER]).permutation(entries).astype(np.int64)
    return [order[start : start + batch] for start in range(0, end, batch)]


@dataclass(frozen=True)
class Share:
    """What one process computes of one negative group: the rows ``own`` of the group's rows.

    ``group`` holds rows of the epoch table. What depends on the whole group, such as the width to
    which its texts are padded, is made of all of them on every process.
    """

    group: IntArray
    own: slice = field(default_factory=lambda: slice(None))

    @property
    def rows(self) -> IntArray:
        return self.group[self.own]


def rank_shares(rows: IntArray, settings: TrainingSettings, layout: GroupLayout, rank: int) -> list[Share]:
    """What a rank computes of one update's rows, one share per accumulated group; a last batch may be smaller."""
    size, place = settings.group, rank % layout.ranks_per_group
    numbers = (layout.group_of(rank, part) for part in range(layout.groups_per_rank))
    groups = [rows[number * size : (number + 1) * size] for number in numbers]
    own = len(groups[0]) // layout.ranks_per_group
    return [Share(group, slice(place * own, (place + 1) * own)) for group in groups]


def step_seed(seed: int, update: int, group: int) -> int:
    """Seed of all draws of one negative group in one update, wherever it is computed."""
    return int(np.random.SeedSequence([seed, update, group, _STEPS]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Batch:
    """Tensors of the rows of one negative group (or of this process's share of it)."""

    reference: Views
    target: Views
    text: Views


class TrainingSource(Protocol):
    """Gives an epoch's entries and then their tensors; features or pixels."""

    def start_epoch(self, epoch: int) -> int:
        """Draw the epoch's entries and give their number."""
        ...

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        """Tensors of the own rows of each share, in order."""
        ...


def with_row_values(batches: Iterable[Batch], shares: Sequence[Share], values: RowValues) -> Iterator[Batch]:
    """Batches whose texts' views have, beside their own, what is known of their rows of the epoch."""
    if not values:
        yield from batches
        return
    for share, batch in zip(shares, batches, strict=False):
        device = next(iter(batch.text.values())).device
        own = {name: handed_over(rows[torch.from_numpy(share.rows)], device) for name, rows in values.items()}
        yield Batch(batch.reference, batch.target, {**batch.text, **own})
