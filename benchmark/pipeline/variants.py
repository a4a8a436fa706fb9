"""Named configurations of methods: which one a run is, however its settings were given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from benchmark.errors import unknown_name
from benchmark.facts import Variant
from benchmark.options import RunOptions
from benchmark.settings import Settings, with_present_names

_SHRUNK = ("batch_size", "negative_group")

UNNAMED = "none"
"""`--variant none`: a run that bears no configuration's name, whatever its settings are."""


def chosen_variant(declared: Sequence[Variant], options: RunOptions) -> Variant | None:
    """The configuration that the options name, or the largest whose settings `--set` gives in full.

    So an ablation is named as one in its record even where it was put together by hand. Raises
    UserError for an unknown name.
    """
    if options.variant == UNNAMED:
        return None
    if options.variant:
        return variant_named(declared, options.method, options.variant)
    given = options.set.items()
    fitting = [variant for variant in declared if variant.settings.items() <= given]
    return max(fitting, key=lambda variant: len(variant.settings), default=None)


def variant_named(declared: Sequence[Variant], method: str, name: str) -> Variant:
    """Raises UserError naming the nearest of the method's configurations."""
    for variant in declared:
        if variant.name == name:
            return variant
    raise unknown_name(f"variant of {method}", name, {variant.name for variant in declared})


def contradictions(variant: Variant | None, settings: Mapping[str, Settings], limited: bool) -> Iterator[str]:
    """What keeps a run from being the configuration that it is named after, one line each.

    ``settings``: all of the run's, by group ("method", a stage's name). ``limited``: `--limit` shrank
    batches and their groups.
    """
    for key, value in variant.settings.items() if variant else ():
        group, _, name = key.partition(".")
        if group in settings:
            ((name, value),) = with_present_names(type(settings[group]), {name: value}).items()
        told = f"variant {variant.name if variant else ''} stands for {key}={json.dumps(value)}"
        if group not in settings:
            yield f"{told}, but this run has no {group}; choose another --variant, or leave out what removes it"
        elif not (limited and name in _SHRUNK) and (found := settings[group].model_dump(mode="json")[name]) != value:
            yield f"{told}, but this run has {json.dumps(found)}; leave one of the two out"
