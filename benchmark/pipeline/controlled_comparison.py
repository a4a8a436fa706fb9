"""A controlled comparison: `run --fair` gives all methods the same encoder, data and effort.

What a method's paper decides for itself in "each paper's recipe" is decided here once for all of them:
the encoder (`untouched` weights, or one stage 1 that all share, both frozen), the text rule (the dataset's),
how pairs are drawn, the number of triplets seen, batch and negative group, schedule and precision,
the selection (`heldout`) and the search for the learning rate (`--lr-sweep`). What stays the method's:
its layers, its loss, its optimiser, and the rate around which the search lies.

The conditions are recipes of the stage named "fair" (`controlled_comparison.toml`), which stands for
every method's own stage; `--epochs`, `--batch-size`, `--negative-group` and `--text-mode` change a
condition for all methods of a comparison alike. They are a promise only: the tables
(`benchmark.leaderboards.controlled_comparison`) are made of records that are seen to share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.facts import DatasetInfo, Initialisation, MethodInfo, Recipe, choose_recipe
from benchmark.facts_file import read_facts

if TYPE_CHECKING:
    from benchmark.method import Specification
    from benchmark.options import RunOptions
    from benchmark.registry import Registry
    from benchmark.settings import MethodSettings

FAIR = "fair"
ENCODERS = ("untouched", "finetuned")


def shared_conditions() -> tuple[Recipe, ...]:
    """The recipes of the stage "fair"."""
    return read_facts(Path(__file__).with_suffix(".toml")).recipes


def refusal(info: MethodInfo, registry: Registry) -> str:
    """Why a method has no place in a controlled comparison, "" for one that has: its own word, else what is seen."""
    if info.outside_fair:
        return info.outside_fair
    specification = registry.specification(info.name)
    if specification.own_networks is not None:
        return "brings its own networks, and its file declares no adaptation to a common encoder"
    if "encoder" not in specification.settings.model_fields:
        return "has no setting method.encoder, by which a common encoder could be chosen"
    return ""


def problems_of(options: RunOptions, info: MethodInfo, registry: Registry) -> list[str]:
    """What contradicts `--fair` or `--lr-sweep` in the options, a line each."""
    found = []
    if options.lr_sweep and options.selection != "heldout":
        found.append(
            f"--lr-sweep chooses on held-out training triplets, and the selection is '{options.selection}'; "
            "add --selection heldout"
        )
    if not options.fair:
        return found
    reason = refusal(info, registry)
    if reason:
        found.append(f"--fair: {info.name} is not in this comparison: {reason}")
    if options.category:
        found.append(f"--category {options.category}: --fair trains all methods on the whole dataset; leave it out")
    if options.recipe:
        found.append(f"--recipe {options.recipe}: --fair fixes the recipe; leave one of them out")
    if "method.encoder" in options.set:
        found.append("--set method.encoder: --fair names the encoder; write --fair untouched, finetuned or both")
    if not options.lr_sweep:
        found.append("--fair tunes every method alike; leave lr_sweep = false out")
    return found


def fair_recipe(info: DatasetInfo, initialisation: Initialisation, own: Recipe) -> Recipe:
    """A method's own recipe under the conditions that all methods share."""
    shared = choose_recipe(shared_conditions(), FAIR, info.name, "", initialisation)
    return replace(
        own,
        name=FAIR,
        source=f"{shared.source}; the rest: {own.source}",
        settings={**own.settings, **_data_rule(info, shared), **shared.settings},
    )


def untrained_settings(info: DatasetInfo, initialisation: Initialisation) -> Mapping[str, Any]:
    """What a stage that trains nothing shares with the others: the same texts, the same pairs held out."""
    return _data_rule(info, choose_recipe(shared_conditions(), FAIR, info.name, "", initialisation))


def stages_on_any_encoder(
    specification: Specification, settings: MethodSettings, initialisation: Initialisation
) -> list[str]:
    """Names of the stages on either encoder: what `--set` says of a shared stage 1 leaves the other part alone."""
    if "encoder" not in type(settings).model_fields:
        return []
    chosen = [settings.model_copy(update={"encoder": encoder}) for encoder in ENCODERS]
    return [stage.name for each in chosen for stage in specification.stages(each, initialisation)]


def _data_rule(info: DatasetInfo, shared: Recipe) -> dict[str, Any]:
    return {"text_rule": info.text_rule, "pair_sampling": shared.settings.get("pair_sampling", "")}
