"""Which names a published number may have: the schema of `results/published.csv`.

The names are those of the datasets' own protocols, metrics and text modes; ``unclear`` stands for
what a source does not say. Averages carry their formula as their name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmark.evaluation.metrics import components

UNCLEAR = "unclear"
WHOLE, AVERAGE = "all", "average"
"""Categories: the only task of a dataset without categories; the mean over the categories."""

CONFIDENCE = "read"
SOURCE_KINDS: Mapping[str, str] = {
    "paper": "printed in the method's own paper",
    "code": "printed in the repository of the code",
    "listing": "an online list of results",
    "quoted": "printed as a baseline in another paper",
    "rerun": "run again by others than the method's authors",
    "survey": "printed in a survey's tables",
}
_SPELLINGS = (("R_s@", "R_subset@"), ("Recall@", "R@"))


@dataclass(frozen=True)
class Published:
    """What may be published of one dataset; ``name`` is the dataset's name on the shelf.

    ``splits``: the one that leaderboards report first.
    """

    name: str
    splits: tuple[str, ...]
    protocols: tuple[str, ...]
    text_modes: tuple[str, ...]
    metrics: tuple[str, ...]
    categories: tuple[str, ...] = (WHOLE,)

    @property
    def parts(self) -> tuple[str, ...]:
        """The categories that ``average`` is the mean of."""
        return tuple(name for name in self.categories if name not in (WHOLE, AVERAGE))


PUBLISHED: Mapping[str, Published] = {
    "CIRR": Published(
        "cirr",
        splits=("test1", "val"),
        protocols=("official",),
        text_modes=("single",),
        metrics=(
            *("R@1", "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "R_subset@3"),
            "(R@5+R_subset@1)/2",
        ),
    ),
    "FashionIQ": Published(
        "fashioniq",
        splits=("val",),
        protocols=("original", "original-noref", "val", "val-noref", UNCLEAR),
        text_modes=("joined", "per-caption", "both-orders", UNCLEAR),
        metrics=("R@10", "R@50", "mean(R@10,R@50)"),
        categories=(AVERAGE, "dress", "shirt", "toptee"),
    ),
    "Shoes": Published(
        "shoes",
        splits=("test",),
        protocols=("official", "official-noref", "val", "val-list", "val-list-noref", UNCLEAR),
        text_modes=("single",),
        metrics=("R@1", "R@10", "R@50", "mean(R@1,R@10,R@50)"),
    ),
    "Fashion200k": Published(
        "fashion200k",
        splits=("test",),
        protocols=("tirg", "spirit", UNCLEAR),
        text_modes=("template",),
        metrics=("R@1", "R@10", "R@50"),
    ),
}
"""By the dataset's name in the file."""


def schema_of(name: str) -> Published | None:
    """By the dataset's name on the shelf; None where nothing of it can be published."""
    return next((schema for schema in PUBLISHED.values() if schema.name == name), None)


def metric_name(printed: str) -> str:
    """This program's name of a metric: "R_s@1" is "R_subset@1"."""
    for theirs, ours in _SPELLINGS:
        printed = printed.replace(theirs, ours)
    return printed


def averages(metrics: Iterable[str]) -> list[str]:
    """Those of the metrics that are averages, each once, in order."""
    return [name for name in dict.fromkeys(metrics) if components(name)]
