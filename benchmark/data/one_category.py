"""One category of a dataset that has several: some methods train a model for each, and evaluate it there alone.

It is the same data, of the same fingerprint; a part of it is trained on and evaluated.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from benchmark.dataset import Dataset
from benchmark.errors import UserError, unknown_name


@runtime_checkable
class _KnowsCategories(Protocol):
    @property
    def categories(self) -> tuple[str, ...]: ...


@runtime_checkable
class _HasCategories(_KnowsCategories, Protocol):
    """A dataset whose tasks are categories, each with triplets of its own."""

    def of_category(self, name: str) -> Dataset:
        """The same data with the triplets and tasks of one of its ``categories`` alone."""
        ...


def categories_of(dataset: Dataset) -> tuple[str, ...]:
    """Those of the whole data, of which a dataset may be one; empty where it has none."""
    return dataset.categories if isinstance(dataset, _KnowsCategories) else ()


def one_category(dataset: Dataset, name: str) -> Dataset:
    """A category of the dataset, as `--category` names it; raises UserError where it has none of that name."""
    if not isinstance(dataset, _HasCategories):
        raise UserError(f"--category {name}: {dataset.info.name} has no categories; leave it out")
    if name not in dataset.categories:
        raise unknown_name(f"--category of {dataset.label}", name, dataset.categories)
    return dataset.of_category(name)
